"""Measuring experts again, on draws that follow from the auditor's secret; `registry/checks.py` judges the numbers.

Each cluster has three sets of draws, equal for all experts that are measured on them: `published` (the ones behind its
claim), `again` (the same samples and times with secret noise) and `elsewhere` (samples that are not among the published
ones, with secret noise: hold-out samples where there are enough others, else training samples).
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paris.models.cache import LatentCache
from paris.models.checkpoints import CheckpointError
from paris.models.distributed import local_device
from paris.models.evaluation import Probe, opposite, predict_nothing, public_probe, sample_losses, secret_probe
from paris.models.filenames import CONFIG, WEIGHTS
from paris.models.kinds import EXPERTS, ROUTERS, kind_in
from paris.models.networks import load_network
from paris.models.objectives import Objective
from paris.protocol.errors import ParisError, RecordError
from paris.registry import checks
from paris.registry.evidence import HOLDOUT, TRAIN, Evidence, in_words
from paris.registry.findings import Check, Measured
from paris.registry.resolve import ResolvedUnit
from paris.registry.weights import weight_faults
from paris.registry.workshop import EVALUATION_SAMPLES, ROUTER, objective_of

ENOUGH_UNSEEN = 64
MOST_LOSS = 1e6
PUBLISHED, AGAIN, ELSEWHERE = "published", "again", "elsewhere"
NOBODY = "nobody"
TURNED = "turned"


@dataclass(frozen=True)
class Examined:
    """What one measurement found."""

    checks: tuple[Check, ...]
    measured: Measured | None = None
    not_checked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draws:
    """The draws of one unit's data.

    Attributes:
        sets: Cache and probe by name of the set.
        where: What `elsewhere` is, in words.
        unseen: Whether that are hold-out samples.
    """

    objective: Objective
    sets: Mapping[str, tuple[LatentCache, Probe]]
    where: str
    unseen: bool


@dataclass
class Examiner:
    """Measures checkpoints of a run.

    Contract: every network is loaded once and measured on all data it is needed for; one is in memory at a time. All
    numbers follow from the secret.

    Attributes:
        evidence: Where files come from.
        secret: What nobody else may know before the report is out.
        samples: Of each set of secret draws, at most.
        most_rivals: Other experts to compare with, at most; None: all.
    """

    evidence: Evidence
    secret: str
    samples: int = EVALUATION_SAMPLES
    most_rivals: int | None = None
    _draws: dict[str, Draws] = field(default_factory=dict)
    _losses: dict[tuple[str, str], dict[str, np.ndarray]] = field(default_factory=dict)
    _faults: dict[str, str | None] = field(default_factory=dict)

    async def examine(self, unit: ResolvedUnit, index: int) -> Examined:
        """Measure one checkpoint of a unit's lineage.

        Whatever is wrong with the data, or with what it would be compared with, is not held against it.
        """
        name, clusters = f"{unit.unit}@{index}", {unit.unit, *self._rivals(unit, index)}
        try:
            for cluster in clusters:
                await self._draw(cluster)
        except ParisError as error:
            return _not_measured(error)
        try:
            await self._measure(name, unit, await self.evidence.weights(unit, index), clusters)
        except (CheckpointError, RecordError) as error:
            return Examined((Check("answers", ok=False, detail=str(error), level="evaluated"),))
        except ParisError as error:
            return _not_measured(error)
        rivals, passed_over = [], []
        for rival in sorted(clusters - {unit.unit}):
            if why := await self._unfit(rival, clusters):
                passed_over.append(f"it was not compared with {rival}: {why}")
            else:
                rivals.append(rival)
        examined = self._conclude(name, unit, index, rivals)
        return replace(examined, not_checked=(*examined.not_checked, *passed_over))

    async def _unfit(self, rival: str, clusters: set[str]) -> str | None:
        """Measure another expert; why nobody can be compared with it, where nobody can."""
        unit = self.evidence.resolved.units[rival]
        try:
            weights = await self.evidence.weights(unit, -1)
            if rival not in self._faults:
                files = weights / CONFIG, weights / WEIGHTS
                found = await asyncio.to_thread(weight_faults, *files, self.evidence.genesis, rival)
                self._faults[rival] = found[0] if found else None
            if fault := self._faults[rival]:
                return fault
            await self._measure(rival, unit, weights, clusters)
        except CheckpointError as error:
            return str(error)
        except ParisError as error:
            return in_words(error)
        losses = [self._losses[rival, cluster][which] for cluster in clusters for which in (AGAIN, ELSEWHERE)]
        answers = checks.finite_answers(np.concatenate(losses))
        return None if answers.ok else answers.detail

    def _rivals(self, unit: ResolvedUnit, index: int) -> list[str]:
        """Other experts that learn in the same units of loss and are as far, or of which nothing better is known."""
        genesis, step = self.evidence.genesis, unit.lineage[index].to_step
        recipe = genesis.recipe(unit.unit)
        others = [
            other.unit
            for other in self.evidence.resolved.units.values()
            if other.lineage and other.unit != unit.unit and genesis.cluster(other.unit) and genesis.cluster(unit.unit)
        ]
        alike = [other for other in others if genesis.recipe(other) == recipe]
        near = [other for other in alike if self.evidence.resolved.units[other].step <= step or unit.complete]
        most = len(near) if self.most_rivals is None else min(self.most_rivals, len(near))
        return sorted(random.Random(f"rivals {self.secret} {unit.unit}").sample(near, most))

    async def _draw(self, unit: str) -> None:
        if unit in self._draws:
            return
        recipe = self.evidence.genesis.recipe(unit).model_dump(mode="json")
        objective, rng = objective_of(unit, recipe), np.random.default_rng(_number(f"rows {self.secret} {unit}"))
        holdout = await self.evidence.data(unit, HOLDOUT)
        published = public_probe(objective, holdout, EVALUATION_SAMPLES)
        shape, times = tuple(holdout.latents_NCHW.shape[1:]), published.draw.t_B
        unseen = np.setdiff1d(np.arange(len(holdout)), published.rows)
        other, where = (holdout, "hold-out samples that no claim is about") if len(unseen) >= ENOUGH_UNSEEN else (
            await self.evidence.data(unit, TRAIN, random.Random(f"shard {self.secret} {unit}")), "training samples",
        )  # fmt: skip
        rows = unseen if other is holdout else np.arange(len(other))
        rows = rng.permutation(rows)[: self.samples]
        self._draws[unit] = Draws(
            objective,
            {
                PUBLISHED: (holdout, published),
                AGAIN: (holdout, secret_probe(published.rows, times, shape, f"again {self.secret} {unit}")),
                ELSEWHERE: (other, secret_probe(rows, times, shape, f"elsewhere {self.secret} {unit}")),
            },
            where,
            other is holdout,
        )

    async def _measure(self, name: str, unit: ResolvedUnit, weights: Path, clusters: set[str]) -> None:
        todo = [cluster for cluster in sorted(clusters) if (name, cluster) not in self._losses]
        if todo:
            found = await asyncio.to_thread(self._measured, unit.unit, weights, todo)
            self._losses |= {(name, cluster): losses for cluster, losses in found.items()}

    def _measured(self, unit: str, weights: Path, clusters: list[str]) -> dict[str, dict[str, np.ndarray]]:
        torch.set_num_threads(self.evidence.threads)
        device = local_device()
        network: Any = load_network(kind_in(weights, ROUTERS if unit == ROUTER else EXPERTS), weights)
        torch.nn.Module.to(network, device)
        found: dict[str, dict[str, np.ndarray]] = {}
        for cluster in clusters:
            draws = self._draws[cluster]
            wanted = draws.sets if cluster == unit else {k: v for k, v in draws.sets.items() if k != PUBLISHED}
            found[cluster] = {
                name: sample_losses(draws.objective, network, cache, probe, device)
                for name, (cache, probe) in wanted.items()
            }
            if cluster == unit:
                cache, probe = draws.sets[AGAIN]
                found[cluster][TURNED] = sample_losses(draws.objective, opposite(network), cache, probe, device)
                found[cluster][NOBODY] = self._nothing(unit, cache, probe, device)
        return found

    def _nothing(self, unit: str, cache: LatentCache, probe: Probe, device: torch.device) -> np.ndarray:
        if unit == ROUTER:
            return np.full(len(probe), math.log(len(self.evidence.genesis.clusters)))
        return sample_losses(self._draws[unit].objective, predict_nothing, cache, probe, device)

    def _conclude(self, name: str, unit: ResolvedUnit, index: int, rivals: list[str]) -> Examined:
        draws, own = self._draws[unit.unit], self._losses[name, unit.unit]
        claimed = unit.lineage[index].holdout_loss_micro
        answers = checks.finite_answers(np.concatenate([own[PUBLISHED], own[AGAIN], own[ELSEWHERE]]))
        if not answers.ok:
            return Examined((answers,))
        last = unit.lineage[index].to_step >= unit.target_steps
        secret = own[ELSEWHERE] if draws.unseen else own[AGAIN]
        leads = {
            cluster: np.median(self._leads(name, cluster, rivals, AGAIN, ELSEWHERE), axis=0)
            for cluster in (unit.unit, *rivals)
        }
        here, there = (self._leads(name, unit.unit, rivals, which) for which in (AGAIN, ELSEWHERE))
        found = [
            answers,
            checks.claimed_loss(claimed, own[PUBLISHED]),
            checks.secret_loss(claimed, own[PUBLISHED], secret),
            checks.learned(own[AGAIN], own[NOBODY], last=last),
            checks.right_sign(own[AGAIN], own[TURNED]),
            checks.not_only_public(here, there, draws.where),
        ]
        cluster = checks.own_cluster(unit.unit, leads) if rivals else None
        missing = [] if cluster or unit.unit == ROUTER else ["nothing shows whose cluster's data it was trained on"]
        if not draws.unseen:
            missing.append("no hold-out samples are left that a claim is not about; training samples stood in for them")
        tolerance = checks.secret_tolerance((claimed or 0) / 1e6, own[PUBLISHED], secret)
        measured = Measured(_micro(float(secret.mean())), _micro(tolerance), len(secret))
        return Examined((*found, *([cluster] if cluster else [])), measured, tuple(missing))

    def _leads(self, name: str, cluster: str, rivals: list[str], *which: str) -> np.ndarray:
        """Losses of an expert minus those of each rival (R, N) on some draws; without rivals, its losses (1, N)."""
        losses = (self._losses[one, cluster] for one in (name, *rivals))
        own, *others = (np.concatenate([found[draws] for draws in which]) for found in losses)
        leads: np.ndarray = own - np.stack(others or [np.zeros_like(own)])
        return leads


def _not_measured(error: ParisError) -> Examined:
    return Examined((), None, (f"hold-out loss was not measured again: {in_words(error)}",))


def _micro(loss: float) -> int:
    """Millionths, as far as records can say it."""
    return round(min(loss, MOST_LOSS) * 1e6)


def _number(text: str) -> int:
    return random.Random(text).getrandbits(64)
