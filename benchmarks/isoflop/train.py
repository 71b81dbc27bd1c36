"""Train what an arm needs, with the project's own trainer; killed anywhere, the same command goes on.

Folders: `OUT/arms/<arm>/<unit>/step-000500/` hold averaged weights as others would fetch them, `state/` what a resume
needs; routers lie in `OUT/routers/<clusters>-<text or blind>/`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.isoflop.data import MIRRORED, TRAIN, Pictures
from benchmarks.isoflop.plan import ROUTER_STEPS, SIZES, Arm, PlanError
from paris.models.cache import LatentCache
from paris.models.checkpoints import WEIGHTS
from paris.models.objectives import Objective, RoutingObjective, expert_objective
from paris.models.randomness import Stream
from paris.models.recipe import Recipe
from paris.models.training import Trainer

Say = Callable[[str], None]


def arm_folder(out: Path, arm: str) -> Path:
    """Return where an arm's units lie."""
    return out / "arms" / arm


def checkpoint(unit: Path, step: int) -> Path:
    """Return the folder of a unit's weights at a step."""
    return unit / f"step-{step:06d}"


def router_folder(out: Path, clustering: str, *, blind: bool) -> Path:
    """Return where a router's weights lie."""
    return checkpoint(out / "routers" / f"{clustering}-{'blind' if blind else 'text'}", ROUTER_STEPS)


def steps_of(arm: Arm) -> list[int]:
    """Return the steps at which an arm's units are kept."""
    return list(range(SIZES[arm.size].every, arm.steps + 1, SIZES[arm.size].every))


def train_arm(arm: Arm, pictures: Pictures, labels_P: Tensor | None, out: Path, say: Say) -> None:
    """Train every unit of an arm.

    Raises:
        PlanError: the one model it begins from is not there yet.
    """
    base = checkpoint(arm_folder(out, arm.base) / "base", arm.branch) if arm.branch else None
    if base and not (base / WEIGHTS).exists():
        raise PlanError(f"{arm.name} begins from step {arm.branch} of {arm.base}, which is not there: run that first.")
    for number in range(arm.count):
        unit = "base" if labels_P is None else f"cluster-{number}"
        cache = pictures.cache(rows_of(arm, number, pictures, labels_P))
        torch.manual_seed(arm.seed)
        train_unit(
            SIZES[arm.size].network(),
            expert_objective(asdict(arm.recipe())),
            cache,
            arm.recipe(),
            (arm.name, unit),
            arm_folder(out, arm.name) / unit,
            steps_of(arm),
            say,
            start=base,
        )


def train_routers(arm: Arm, pictures: Pictures, labels_P: Tensor, out: Path, say: Say) -> None:
    """Train the router that sees text and the one that does not, for the clusters of any number of arms."""
    cache = pictures.cache(pictures.rows(TRAIN, views=MIRRORED), labels_P)
    for blind in (False, True):
        folder = router_folder(out, arm.clustering, blind=blind)
        torch.manual_seed(0)
        train_unit(
            arm.router(blind=blind),
            RoutingObjective(),
            cache,
            arm.router_recipe(),
            (arm.clustering, "router", str(blind)),
            folder.parent,
            [ROUTER_STEPS],
            say,
        )


def rows_of(arm: Arm, number: int, pictures: Pictures, labels_P: Tensor | None) -> Tensor:
    """Return the views a unit trains on: its cluster's and, with an overlap, some of all the others'."""
    every = pictures.rows(TRAIN, views=MIRRORED)
    if labels_P is None:
        return every
    own = pictures.rows(TRAIN, views=MIRRORED, wanted_P=labels_P == number)
    others = pictures.rows(TRAIN, views=MIRRORED, wanted_P=labels_P != number)
    wanted = round(arm.overlap / (1 - arm.overlap) * len(own))
    chance = Stream.of(arm.clustering, "overlap", str(number), str(arm.seed)).at(0).permutation(len(others))
    return torch.cat([own, others[torch.from_numpy(chance[:wanted])]])


def train_unit(
    network: Any,
    objective: Objective,
    cache: LatentCache,
    recipe: Recipe,
    key: tuple[str, ...],
    folder: Path,
    steps: list[int],
    say: Say,
    *,
    start: Path | None = None,
) -> None:
    """Train one network up to the last of some steps, keeping its averaged weights at each."""
    if (checkpoint(folder, steps[-1]) / WEIGHTS).exists():
        return
    trainer = Trainer(network, objective, cache, recipe, ("isoflop", *key), threads=1)
    if (folder / "state").exists():
        trainer.load(folder / "state")
    elif start:
        trainer.start_from(start)
    losses = [0.0]
    for step in (step for step in steps if step >= trainer.step):
        trainer.train(step, on_report=lambda report: losses.append(report.loss))
        trainer.save(folder / "state")
        trainer.export(checkpoint(folder, step))
        say(f"{' '.join(key)}: step {step}, loss {losses[-1]:.4f}")
