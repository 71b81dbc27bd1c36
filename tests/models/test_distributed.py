"""Two processes train what one would: copied or sharded weights, each rank its share of the same batches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranked_training import new_trainer, small_cache
from safetensors.torch import load_file

from paris.models.checkpoints import load_state
from paris.models.distributed import ALONE, DistributedError, Ranks
from paris.models.filenames import STATE, WEIGHTS
from paris.models.published import as_ours, form_of
from paris.models.replay import compare
from paris.models.snapshots import Snapshot

HERE = Path(__file__).parent
TOLERANCE = 1e-4
"""Of the distance trained: gradients are summed in another order, and Adam magnifies rounding of tiny ones."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """What one process makes of a training, and what two make of it in both ways."""
    folder = tmp_path_factory.mktemp("ranks")
    cache = small_cache()
    alone = new_trainer(cache, ALONE)
    alone.save(folder / "alone" / "begin")
    reports = []
    alone.train(6, reports.append)
    alone.save(folder / "alone" / "half")
    loss = alone.evaluate(cache, 20)
    alone.train(12, reports.append)
    alone.save(folder / "alone" / "whole")
    (folder / "alone" / "said.json").write_text(json.dumps([loss, [report.loss for report in reports]]))
    environment = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, str(HERE / "ranked_training.py"), str(folder)]
    processes = [subprocess.Popen(command, env={**environment, "RANK": str(rank)}) for rank in range(2)]
    try:
        assert [process.wait(timeout=200) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return folder


def shortfall(folder: Path, name: str) -> float:
    """How far a state is from the one a single process reached, over the distance that one moved."""
    shapes = {name: tensor.shape for name, tensor in weights_of(folder / "alone" / "begin").items()}
    groups, note = load_state(folder / name, shapes)
    return compare(Snapshot(groups, note, {}, {}), folder / "alone" / "begin", folder / "alone" / "whole").deviation


def weights_of(state: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(state / STATE)
    return {name.partition(".")[2]: tensor for name, tensor in tensors.items() if name.startswith("weights.")}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["copied", "sharded"])
@pytest.mark.parametrize("state", ["whole", "resumed", "taken-over"])
def test_two_processes_train_the_network_one_process_would(folder, how, state):
    """Micro-batches, a resume, and taking over a single process's state included."""
    assert shortfall(folder, f"{how}/{state}") < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("how", ["copied", "sharded"])
def test_resume_with_as_many_processes_is_exact(folder, how):
    """Bit for bit, where micro-batches are kept too, as a state keeps them."""
    whole, resumed = (load_file(folder / how / state / STATE) for state in ("whole", "resumed"))
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize("sharded", ["False", "True"])
def test_ranks_agree_on_losses_and_on_when_to_stop(folder, sharded):
    said = [json.loads((folder / f"said-{rank}.json").read_text())[sharded] for rank in range(2)]
    evaluated, losses = json.loads((folder / "alone" / "said.json").read_text())
    assert said[0] == said[1]
    assert said[0]["evaluated"] == pytest.approx(evaluated, rel=1e-4)
    assert said[0]["losses"] == pytest.approx(losses, rel=1e-4)
    assert said[0]["stopped_at"] == 10, "one rank was told to stop, and both have to"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["copied", "sharded"])
def test_what_is_published_is_one_whole_file(folder, how):
    exported = load_file(folder / how / "export" / WEIGHTS)
    config = json.loads((folder / how / "export" / "config.json").read_text())
    assert config["_class_name"] == "PixArtTransformer2DModel"
    expected = form_of(as_ours(config)).to_file(weights_of(folder / "alone" / "whole"))
    assert {n: t.shape for n, t in exported.items()} == {n: t.shape for n, t in expected.items()}


def test_a_batch_that_cannot_be_shared_equally_is_refused():
    assert [Ranks(rank, 3).share(9) for rank in range(3)] == [slice(0, 3), slice(3, 6), slice(6, 9)]
    with pytest.raises(DistributedError, match="divides 8"):
        Ranks(0, 3).share(8)
