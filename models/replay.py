"""Doing a stretch of somebody's training again, from its first state to its last, to see whether it comes out equal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from paris.models import checkpoints
from paris.models.published import form_of
from paris.models.snapshots import Snapshot
from paris.models.training import Trainer


@dataclass(frozen=True)
class Comparison:
    """A replayed state beside the claimed one.

    Attributes:
        equal: whether every bit agrees, as it must on the same stack, with as many threads and ranks.
        deviation: distance of the two networks over the distance the claimed one moved in the stretch: what another
            stack's rounding makes of it is far below 1, another training is around 1 or above.
    """

    equal: bool
    deviation: float


def replay(trainer: Trainer, state: Path, *, until: int, micro_batch: int | None = None) -> Snapshot:
    """Train on from a state and return the one at a later step.

    Args:
        trainer: of the same unit, recipe, data and stack; whatever it did before is forgotten.
        state: folder of the state to begin at.
        until: step to end at.
        micro_batch: what the claimed state says it was made with, where somebody else made the state it began at.

    Raises:
        checkpoints.CheckpointError: the state cannot be loaded.
        NonFiniteError: a step was not finite.
        ValueError: the state is beyond that step already.
    """
    trainer.load(state)
    if trainer.step > until:
        raise ValueError(f"The state in {state} has {trainer.step} steps and cannot be replayed until {until}.")
    return retrace(trainer, until=until, micro_batch=micro_batch)


def retrace(trainer: Trainer, *, until: int, micro_batch: int | None = None) -> Snapshot:
    """Train on from where a trainer stands, as `replay` does from a state."""
    if micro_batch is not None:
        trainer.passes.keep_micro_batch(micro_batch)
    trainer.train(until)
    return trainer.snapshot()


def compare(replayed: Snapshot, begin: Path, claimed: Path) -> Comparison:
    """Compare a replayed state with the one its author published.

    Args:
        replayed: from `replay`.
        begin: folder of the state it began at.
        claimed: folder of the state it should be.

    Raises:
        checkpoints.CheckpointError: a state cannot be loaded.
    """
    before, _ = checkpoints.load_state(begin, _shapes(replayed))
    return compare_state(replayed, before["weights"], claimed)


def compare_state(replayed: Snapshot, before: Mapping[str, Tensor], claimed: Path) -> Comparison:
    """Do what `compare` does, given the weights the stretch began with."""
    after, note = checkpoints.load_state(claimed, _shapes(replayed))
    moved = _distance(after["weights"], before)
    missed = _distance(after["weights"], replayed.groups["weights"])
    equal = checkpoints.state_digest(after, note) == replayed.digest()
    return Comparison(equal, _relative(missed, moved))


def compare_export(replayed: Snapshot, before: Mapping[str, Tensor], claimed: Path) -> Comparison:
    """Compare a replayed state with the weights its author published, where the author's state is gone.

    What people draw with are these: the average, rounded to bf16. What rounding alone accounts for is taken off the
    distance.

    Args:
        replayed: from `replay`.
        before: the average the stretch began with.
        claimed: folder of the exported weights it should have.

    Raises:
        checkpoints.CheckpointError: weights cannot be loaded.
    """
    average = replayed.groups["average"]
    after = checkpoints.load_export(claimed, form_of(replayed.config), _shapes(replayed))
    rounded = {name: tensor.to(after[name].dtype) for name, tensor in average.items()}
    if all(torch.equal(rounded[name], after[name]) for name in after):
        return Comparison(equal=True, deviation=0.0)
    missed = math.sqrt(max(0.0, _distance(after, average) ** 2 - _distance(rounded, average) ** 2))
    return Comparison(equal=False, deviation=_relative(missed, _distance(after, before)))


def exports_average(replayed: Snapshot, state: Path, published: Path) -> bool:
    """Whether published weights are the average of a published state, rounded: what was trained is what is drawn with.

    Args:
        replayed: of the same network, for its shapes.
        state: folder of the state.
        published: folder of the exported weights.

    Raises:
        checkpoints.CheckpointError: one of them cannot be loaded.
    """
    groups, _ = checkpoints.load_state(state, _shapes(replayed))
    weights = checkpoints.load_export(published, form_of(replayed.config), _shapes(replayed))
    return all(torch.equal(groups["average"][name].to(weights[name].dtype), weights[name]) for name in weights)


def _shapes(snapshot: Snapshot) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in snapshot.groups["weights"].items()}


def _relative(missed: float, moved: float) -> float:
    return missed / moved if moved else (0.0 if missed == 0 else math.inf)


def _distance(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float((left[name].double() - right[name].double()).square().sum()) for name in left))
