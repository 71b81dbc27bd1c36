"""Executing training segments again: from the state a segment began with, through its very steps, to where it ended.

A replay takes the builder's number of threads and precision. On the same stack every bit comes out equal. Elsewhere
rounding differs, and grows with the steps; what is compared then is the distance of the two ends, relative to how far
the claimed one moved: |replayed - claimed| / |claimed - begin|.
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from paris.models import replay as models
from paris.models.cache import LatentCache
from paris.models.checkpoints import CheckpointError, load_state
from paris.models.distributed import local_device
from paris.models.precision import affordable
from paris.models.training import NonFiniteError, Trainer
from paris.protocol import envelope
from paris.protocol.errors import ParisError
from paris.protocol.genesis import Genesis
from paris.protocol.records import Checkpoint
from paris.registry.evidence import TRAIN, Evidence, in_words
from paris.registry.findings import Check, begun_from
from paris.registry.resolve import ResolvedUnit
from paris.registry.weights import network_of
from paris.registry.workshop import be_deterministic, new_trainer

TOLERANCE = 0.1
"""Distance up to which another stack's rounding may explain a difference; `make cheats` measures both sides."""
WARM_START = "weights"


@dataclass(frozen=True)
class Replayed:
    """What came of one segment.

    Attributes:
        check: What was found; None where it could not be executed.
        why_not: Why, a sentence.
        deviation: Relative distance of the ends; None as above.
        equal: Whether every bit agreed.
    """

    check: Check | None
    why_not: str = ""
    deviation: float | None = None
    equal: bool = False


@dataclass(frozen=True)
class Ground:
    """Everything a segment's execution begins from.

    Attributes:
        state: Folder of the parent's training state, or None.
        weights: Folder of weights to start from instead, or None: from nothing.
        claimed_state: Folder of the state its builder published at its end, or None.
        claimed: Folder of the published weights.
    """

    segment: Checkpoint
    cache: LatentCache
    state: Path | None
    weights: Path | None
    claimed_state: Path | None
    claimed: Path


async def replay_segment(evidence: Evidence, unit: ResolvedUnit, index: int) -> Replayed:
    """Execute one segment of a unit's lineage again and compare its end with what was published."""
    segment = unit.lineage[index]
    name = f"steps {segment.from_step} to {segment.to_step}"
    try:
        ground = await _ground(evidence, unit, index)
        if ground is None:
            return Replayed(None, f"{name}: nobody holds the training state they began with any more")
        recipes = await _recipes(evidence, unit.unit, segment)
        return await asyncio.to_thread(_execute, evidence, unit.unit, ground, recipes)
    except (CheckpointError, NonFiniteError) as error:
        return Replayed(Check("replay", ok=False, detail=f"{name}: {error}", level="replayed"))
    except ParisError as error:
        return Replayed(None, f"{name}: {in_words(error)}")


def same_stack(segment: Checkpoint, precision: str, threads: int) -> bool:
    """Whether a segment was made, as its builder says, with what would be used here: then bits should agree."""
    here = {
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "machine": platform.machine(),
        "threads": str(threads),
        "precision": precision,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "ranks": "1",
    }
    return all(segment.versions.get(name) == value for name, value in here.items())


async def _ground(evidence: Evidence, unit: ResolvedUnit, index: int) -> Ground | None:
    segment, state, weights = unit.lineage[index], None, None
    if index and begun_from(segment) == WARM_START:
        weights = await evidence.weights(unit, index - 1)
    elif index:
        state = await evidence.state(unit, index - 1)
        if state is None:
            return None
    elif segment.start:
        weights = await evidence.start()
    claimed_state = await evidence.state(unit, index)
    cache = await evidence.data(unit.unit, TRAIN)
    return Ground(segment, cache, state, weights, claimed_state, await evidence.weights(unit, index))


async def _recipes(evidence: Evidence, unit: str, segment: Checkpoint) -> list[dict[str, Any]]:
    """The unit's recipe, and as earlier versions of the genesis had it where the learning rate follows the steps.

    Which version its builder followed no statement says.
    """
    recipes = {recipe.steps: recipe for recipe in [evidence.genesis.recipe(unit)]}
    charter = evidence.resolved.charter
    for digest in reversed(charter.versions[:-1]) if charter else ():
        signed = envelope.verify(await evidence.library.blob(digest, evidence.providers), "genesis")
        recipe = Genesis.parse(signed.payload).recipe(unit)
        if recipe.schedule != "constant" and recipe.steps >= segment.to_step:
            recipes.setdefault(recipe.steps, recipe)
    return [recipe.model_dump(mode="json") for recipe in recipes.values()]


def _execute(evidence: Evidence, unit: str, ground: Ground, recipes: Sequence[dict[str, Any]]) -> Replayed:
    """Execute by each recipe until one comes out equal; otherwise the nearest counts."""
    nearest: Replayed | None = None
    for recipe in recipes:
        found = _execute_by(evidence, unit, ground, recipe)
        if found.equal or found.deviation is None:
            return found
        if nearest is None or nearest.deviation is None or found.deviation < nearest.deviation:
            nearest = found
    assert nearest
    return nearest


def _execute_by(evidence: Evidence, unit: str, ground: Ground, recipe: dict[str, Any]) -> Replayed:
    segment = ground.segment
    precision, threads = _precision(segment, recipe["precision"]), _threads(segment)
    be_deterministic()
    trainer = new_trainer(
        evidence.run, unit, network_of(evidence.genesis, unit)[1], recipe, ground.cache,
        threads=threads, precision=precision,
    )  # fmt: skip
    if ground.state:
        trainer.load(ground.state)
    elif ground.weights:
        trainer.start_from(ground.weights, segment.from_step)
    if trainer.step != segment.from_step:
        detail = f"the state it began with has {trainer.step} steps, its statement says {segment.from_step}"
        return Replayed(Check("replay", ok=False, detail=detail, level="replayed"))
    begun = trainer.snapshot()
    ended = models.retrace(trainer, until=segment.to_step, micro_batch=_micro_batch(trainer, ground))
    if ground.claimed_state:
        if not models.exports_average(ended, ground.claimed_state, ground.claimed):
            detail = "the published weights are not those of the published training state"
            return Replayed(Check("replay", ok=False, detail=detail, level="replayed"))
        found = models.compare_state(ended, begun.groups["weights"], ground.claimed_state)
    else:
        found = models.compare_export(ended, begun.groups["average"], ground.claimed)
    return _told(segment, found, same=same_stack(segment, precision, threads))


def _told(segment: Checkpoint, found: models.Comparison, *, same: bool) -> Replayed:
    name = f"steps {segment.from_step} to {segment.to_step} executed again"
    if found.equal:
        detail, held = f"{name}: every bit as published", True
    else:
        stack = "on the same stack, by its statement" if same else "on another stack"
        held = found.deviation <= TOLERANCE
        detail = (
            f"{name} {stack}: ends {found.deviation:.4f} of its way apart, "
            f"rounding explains up to {TOLERANCE}{'' if held else ': this was another training'}"
        )
    check = Check("replay", ok=held, detail=detail, level="replayed")
    return Replayed(check, deviation=found.deviation, equal=found.equal)


def _precision(segment: Checkpoint, asked: str) -> str:
    """The recipe's precision, or fp32 where the builder's machine could not afford it; as far as this one can."""
    return "fp32" if segment.versions.get("precision") == "fp32" else affordable(asked, local_device())


def _threads(segment: Checkpoint) -> int:
    """The builder's threads, which decide the order of sums, as far as there are so many cores here."""
    said = segment.versions.get("threads", "")
    most = os.cpu_count() or 1
    return min(int(said), most) if said.isdecimal() and 0 < len(said) < 4 and int(said) else most


def _micro_batch(trainer: Trainer, ground: Ground) -> int | None:
    """What the state at the end says it was made with; None: as the one at the beginning."""
    if ground.claimed_state is None:
        return None
    shapes = {name: tensor.shape for name, tensor in trainer.parameters.items()}
    _, note = load_state(ground.claimed_state, shapes)
    return int(note["micro_batch"])
