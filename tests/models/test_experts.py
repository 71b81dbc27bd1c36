"""Experts under a memory cap: who is loaded, who leaves, and that a cap is never exceeded."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from paris.models.checkpoints import CheckpointError
from paris.models.experts import ExpertPool, MemoryCapError, load_expert, weights_count


@pytest.fixture
def folders(tmp_path, make_expert) -> list[Path]:
    for seed in range(4):
        make_expert(seed).save_pretrained(tmp_path / str(seed))
    return [tmp_path / str(seed) for seed in range(4)]


class Loader:
    """The real loader, which remembers what it loaded and in which thread; a gate can hold it back."""

    def __init__(self) -> None:
        self.loaded: list[tuple[str, bool]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, folder: Path, dtype: torch.dtype):
        self.gate.wait()
        self.loaded.append((folder.name, threading.current_thread() is threading.main_thread()))
        return load_expert(folder, dtype)


@pytest.fixture
def loader() -> Loader:
    return Loader()


def pool_of(folders, loader, experts: float | None = None, **more) -> ExpertPool:
    pool = ExpertPool(folders, load=loader, **more)
    pool.memory_bytes = None if experts is None else int(experts * pool.size_bytes(0))
    return pool


def test_size_is_read_from_the_header_and_is_what_the_weights_take(folders, loader):
    pool = pool_of(folders, loader)
    network = pool.get(0)
    assert pool.size_bytes(0) == sum(p.numel() * p.element_size() for p in network.parameters())
    assert pool_of(folders, loader, dtype=torch.bfloat16).size_bytes(0) * 2 == pool.size_bytes(0)


def test_without_a_cap_every_expert_is_loaded_once_and_stays(folders, loader):
    pool = pool_of(folders, loader)
    for index in (0, 1, 0, 3, 1):
        pool.get(index)
    assert [name for name, _ in loader.loaded] == ["0", "1", "3"]
    assert pool.resident == [0, 3, 1]


def test_under_a_cap_the_least_recently_used_leaves(folders, loader):
    pool = pool_of(folders, loader, 2.5)
    for index in (0, 1, 0, 2):
        pool.get(index)
        assert pool.used_bytes() <= pool.memory_bytes
    assert pool.resident == [0, 2]
    pool.get(1)
    assert pool.resident == [2, 1]


def test_an_expert_that_left_and_came_back_is_the_same(folders, loader):
    pool = pool_of(folders, loader, 1)
    before = {name: p.clone() for name, p in pool.get(0).named_parameters()}
    pool.get(1)
    assert all(torch.equal(before[name], p) for name, p in pool.get(0).named_parameters())


def test_a_cap_below_one_expert_is_explained(folders, loader):
    with pytest.raises(MemoryCapError, match="Raise the cap"):
        pool_of(folders, loader, 0.9).get(0)
    assert not loader.loaded


def test_a_prefetched_expert_is_loaded_once_and_in_a_thread(folders, loader):
    pool = pool_of(folders, loader, 2)
    pool.get(0)
    pool.prefetch(1)
    pool.prefetch(1)
    pool.get(1)
    assert loader.loaded == [("0", True), ("1", False)]


def test_prefetch_keeps_the_expert_in_use_and_the_cap(folders, loader):
    pool = pool_of(folders, loader, 2)
    pool.get(0)
    pool.get(1)
    loader.gate.clear()
    pool.prefetch(2)
    assert pool.resident == [1]
    assert pool.used_bytes() == pool.memory_bytes
    loader.gate.set()
    assert pool.get(2) is pool.get(2)


def test_prefetch_does_nothing_where_two_do_not_fit(folders, loader):
    pool = pool_of(folders, loader, 1.5)
    pool.get(0)
    pool.prefetch(1)
    assert pool.used_bytes() == pool.size_bytes(0)
    assert pool.resident == [0]


def test_a_prefetched_expert_nobody_asked_for_is_the_first_to_leave(folders, loader):
    pool = pool_of(folders, loader, 2)
    pool.get(0)
    pool.prefetch(1)
    pool.get(2)
    assert pool.resident == [0, 2]
    assert pool.used_bytes() <= pool.memory_bytes


def test_a_broken_prefetched_expert_is_reported_when_it_is_needed(folders, loader):
    pool = pool_of(folders, loader)
    weights = folders[1] / "diffusion_pytorch_model.safetensors"
    pool.size_bytes(1)
    weights.write_bytes(weights.read_bytes()[:-10])
    pool.prefetch(1)
    with pytest.raises(CheckpointError, match="cannot be read"):
        pool.get(1)


def test_experts_on_hand_come_first_in_a_step(folders, loader):
    pool = pool_of(folders, loader)
    pool.get(3)
    assert pool.in_order([0, 1, 3]) == [3, 0, 1]


def test_networks_that_were_given_are_never_dropped(make_expert, loader):
    networks = [make_expert(0), make_expert(1)]
    pool = ExpertPool(networks, memory_bytes=1, load=loader)
    pool.prefetch(1)
    assert [pool.get(i) for i in (0, 1)] == networks
    assert pool.used_bytes() == 0
    assert not loader.loaded


class Traveller(torch.nn.Module):
    """Remembers where it was sent: this machine may have no second device."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def _apply(self, fn, recurse=True):
        self.seen.append(str(fn(torch.zeros(1)).device))
        return self


@pytest.mark.parametrize("offload", [True, False])
def test_experts_that_leave_an_accelerator_wait_in_memory_where_asked(folders, offload):
    loads = []

    def load(folder, dtype):
        loads.append(folder.name)
        return Traveller()

    pool = ExpertPool(folders, device="meta", offload=offload, load=load)
    pool.memory_bytes = pool.size_bytes(0)
    first = pool.get(0)
    pool.get(1)
    assert (pool.get(0) is first) == offload
    assert loads == (["0", "1"] if offload else ["0", "1", "0"])
    assert first.seen == (["meta", "cpu", "meta"] if offload else ["meta"])


def test_missing_weights_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="Fetch them again"):
        weights_count(tmp_path)
