"""Segments executed again: honest ones come out bit for bit, cheats are far off, what cannot be executed is said."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest
import torch
from audit_support import STEPS, UNIT, TrainedNetwork, deep, standing, unit_of
from network_simulator import CURATOR, EVE
from safetensors.torch import load, save

from paris.models.filenames import STATE, WEIGHTS
from paris.protocol.charter import Charter
from paris.registry import replay
from paris.registry.evidence import Evidence
from paris.registry.library import Library
from paris.registry.replay import Replayed, replay_segment
from paris.registry.resolve import ResolvedRun
from paris.registry.store import Store

HALF = STEPS // 2


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def trained(store: Store, tmp_path: Path) -> tuple[TrainedNetwork, Library]:
    network = TrainedNetwork(tmp_path / "ann")
    library = Library(store, network)
    network.train_really(library, UNIT)
    return network, library


def replayed(trained: tuple[TrainedNetwork, Library], tmp_path: Path, index: int) -> Replayed:
    network, library = trained
    unit = standing(network, library)
    run = ResolvedRun(network.run, network.genesis, {UNIT: unit})
    return asyncio.run(replay_segment(Evidence(library, run, network.providers, tmp_path / "auditor"), unit, index))


def cheated(trained: tuple[TrainedNetwork, Library], tmp_path: Path, until: int = STEPS, **changes: object) -> Replayed:
    """A second segment that is not what it says, on the honest first one."""
    network, library = trained
    trainer = network.trainer(library, UNIT, **changes)
    trainer.load(network.folder / f"{UNIT}-{HALF}")
    trainer.train(until)
    trainer.step = STEPS
    files = network.files_of(trainer, "cheat")
    network.publish(EVE, UNIT, STEPS, network.chains[UNIT][0], files=files, holdout_loss_micro=1)
    found = replayed(trained, tmp_path, 1)
    assert found.check
    return found


@pytest.mark.parametrize("index", [0, 1])
def test_an_honest_segment_comes_out_bit_for_bit(trained, tmp_path, index):
    found = replayed(trained, tmp_path, index)
    assert found.equal
    assert found.deviation == 0
    assert found.check
    assert found.check.ok
    assert "every bit as published" in found.check.detail


@pytest.mark.parametrize("index", [0, 1])
def test_more_steps_asked_for_later_accuse_nobody_who_trained_before(trained, tmp_path, index):
    """The learning rate follows the steps, so what was trained by the old number is executed by it."""
    network, library = trained
    before = network.genesis.training.expert
    assert before.schedule == "wsd"
    training = network.genesis.training.model_copy(update={"expert": before.model_copy(update={"steps": 4 * STEPS})})
    later = network.genesis.model_copy(update={"version": 2, "prev": network.run, "training": training})
    charter = Charter.begin(network.genesis, network.run)
    amended = dataclasses.replace(charter, genesis=later, versions=(network.run, network.serve(CURATOR, b"version 2")))
    unit = standing(network, library)
    for run, equal in ((ResolvedRun(network.run, later, {UNIT: unit}, amended), True),
                       (ResolvedRun(network.run, later, {UNIT: unit}), index == 0)):  # fmt: skip
        evidence = Evidence(library, run, network.providers, tmp_path / "auditor")
        assert asyncio.run(replay_segment(evidence, unit, index)).equal is equal


def lose_state(network: TrainedNetwork, library: Library, index: int) -> None:
    entry = network.entry(network.chains[UNIT][index], STATE)
    network.forget(entry.sha256)
    library.store.remove(entry.sha256)


def test_the_published_weights_stand_in_for_a_state_that_is_gone(trained, tmp_path):
    lose_state(*trained, 1)
    assert replayed(trained, tmp_path, 1).equal


def test_a_lost_state_at_the_beginning_is_said_and_held_against_nobody(trained, tmp_path):
    lose_state(*trained, 0)
    found = replayed(trained, tmp_path, 1)
    assert found.check is None
    assert "nobody holds the training state" in found.why_not
    report = deep(*trained, tmp_path / "auditor", replay=2)
    said = unit_of(report)
    assert any("nobody holds the training state" in missing for missing in said.not_checked)
    assert said.level == "replayed", "the first segment begins with nothing that could be lost"
    assert [check.detail[:10] for check in said.checks if check.level == "replayed"] == ["steps 0 to"]


def test_another_seed(trained, tmp_path):
    found = cheated(trained, tmp_path, seed=1)
    assert not found.check.ok
    assert found.deviation > 2 * replay.TOLERANCE


def test_skipped_steps(trained, tmp_path):
    found = cheated(trained, tmp_path, until=HALF + HALF // 2)
    assert not found.check.ok


def test_a_smaller_learning_rate_than_the_recipe_says(trained, tmp_path):
    assert not cheated(trained, tmp_path, lr="0.001").check.ok


def test_another_order_of_sums_is_forgiven(trained, tmp_path):
    """Batches in two stand for another stack. Whoever says nothing of its micro-batch has lost its state."""
    network, library = trained
    trainer = network.trainer(library, UNIT, accumulate=2)
    split = trainer.passes.micro_batch
    trainer.load(network.folder / f"{UNIT}-{HALF}")
    trainer.passes.keep_micro_batch(split)
    trainer.train(STEPS)
    files = network.files_of(trainer, "split")
    del files[STATE]
    network.publish(EVE, UNIT, STEPS, network.chains[UNIT][0], files=files, holdout_loss_micro=1)
    unit = standing(network, library)
    assert unit.lineage[-1].signer == EVE.peer_id
    found = replayed(trained, tmp_path, 1)
    assert found.check
    assert found.check.ok
    assert found.deviation < 0.01


def test_weights_that_are_not_the_states(trained, tmp_path):
    network, _library = trained
    files = {path.name: path.read_bytes() for path in (network.folder / f"{UNIT}-{STEPS}").iterdir()}
    files[WEIGHTS] = save({name: w * 1.01 for name, w in load(files[WEIGHTS]).items()})
    network.publish(EVE, UNIT, STEPS, network.chains[UNIT][0], files=files, holdout_loss_micro=1)
    found = replayed(trained, tmp_path, 1)
    assert found.check
    assert not found.check.ok
    assert "not those of the published training state" in found.check.detail


def test_a_state_of_other_steps_than_its_statement(trained, tmp_path):
    """The parent publishes a state with other steps in it than it signs: nothing can honestly continue from that."""
    network, _library = trained
    later = {path.name: path.read_bytes() for path in (network.folder / f"{UNIT}-{STEPS}").iterdir()}
    first = network.publish(EVE, UNIT, HALF, files=later, holdout_loss_micro=2)
    network.publish(EVE, UNIT, STEPS, first, files=later, holdout_loss_micro=1)
    found = replayed(trained, tmp_path, 1)
    assert found.check
    assert not found.check.ok
    assert f"has {STEPS} steps, its statement says {HALF}" in found.check.detail


def test_a_state_that_is_no_state_fails(trained, tmp_path):
    network, _library = trained
    files = {path.name: path.read_bytes() for path in (network.folder / f"{UNIT}-{STEPS}").iterdir()}
    first = network.publish(EVE, UNIT, HALF, files={**files, STATE: b"junk"}, holdout_loss_micro=2)
    network.publish(EVE, UNIT, STEPS, first, files=files, holdout_loss_micro=1)
    found = replayed(trained, tmp_path, 1)
    assert found.check
    assert not found.check.ok


def test_the_builders_threads_and_precision_are_taken_within_reason(trained):
    network, library = trained
    segment = standing(network, library).lineage[-1]

    def saying(**versions: str):
        builder = segment.predicate.run_details.builder.model_copy(update={"version": versions})
        details = segment.predicate.run_details.model_copy(update={"builder": builder})
        predicate = segment.predicate.model_copy(update={"run_details": details})
        return segment.model_copy(update={"predicate": predicate})

    assert replay._threads(saying(threads="1")) == 1
    for hostile in ("0", "-4", "9999", "9" * 99, "many", ""):
        assert 1 <= replay._threads(saying(threads=hostile)) <= 1024
    assert replay._precision(saying(precision="fp32"), "bf16") == "fp32"
    assert not replay.same_stack(saying(threads="1"), "fp32", 1)
