"""Doing a stretch of somebody's training again, from its first state to its last, to see whether it comes out equal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from paris.models import checkpoints
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
    shapes = {name: tensor.shape for name, tensor in replayed.groups["weights"].items()}
    before, _ = checkpoints.load_state(begin, shapes)
    after, note = checkpoints.load_state(claimed, shapes)
    moved = _distance(after["weights"], before["weights"])
    missed = _distance(after["weights"], replayed.groups["weights"])
    equal = checkpoints.state_digest(after, note) == replayed.digest()
    return Comparison(equal, missed / moved if moved else (0.0 if missed == 0 else math.inf))


def _distance(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float((left[name].double() - right[name]).square().sum()) for name in left))
