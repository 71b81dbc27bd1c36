"""A run that is really trained, in seconds: micro experts on coloured squares, published to the simulated network."""

from __future__ import annotations

import asyncio
from pathlib import Path

import torch
from network_simulator import ANN, CLUSTERS, NOW_S, NetworkSimulator, genesis_fields

from paris.models.training import Trainer
from paris.protocol.records import Recipe
from paris.registry.audit import Depth, audit
from paris.registry.evidence import HOLDOUT, TRAIN, Evidence
from paris.registry.findings import Audit, UnitAudit
from paris.registry.library import Library
from paris.registry.recipes import PLANS
from paris.registry.resolve import ResolvedRun, ResolvedUnit, resolve
from paris.registry.weights import network_of
from paris.registry.workshop import EVALUATION_SAMPLES, new_trainer

UNIT = "cluster-0"
STEPS = 24
EXPERTS = tuple(f"cluster-{number}" for number in range(CLUSTERS))
SOFTWARE = {"torch": torch.__version__, "threads": "1", "precision": "fp32"}


def short_plan() -> dict[str, object]:
    """Recipes of a few steps, large ones."""
    changes = {"steps": STEPS, "publish_every": STEPS // 2, "lr": "0.003", "warmup_steps": 2, "ema": "0.9"}
    expert = Recipe.parse({**PLANS["micro"].expert.model_dump(mode="json"), **changes})
    router = Recipe.parse({**PLANS["micro"].router.model_dump(mode="json"), **changes})
    return {"expert": expert.model_dump(mode="json"), "router": router.model_dump(mode="json")}


class TrainedNetwork(NetworkSimulator):
    """The simulator with real trainings in it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(training=short_plan())
        self.folder = folder
        self.chains: dict[str, list[str]] = {}

    def trainer(self, library: Library, unit: str, **changes: object) -> Trainer:
        recipe = {**self.genesis.recipe(unit).model_dump(mode="json"), **changes}
        cache = asyncio.run(self._evidence(library).data(unit, TRAIN))
        return new_trainer(self.run, unit, network_of(self.genesis, unit)[1], recipe, cache, threads=1)

    def claim(self, library: Library, unit: str, trainer: Trainer) -> int:
        holdout = asyncio.run(self._evidence(library).data(unit, HOLDOUT))
        return round(trainer.evaluate(holdout, EVALUATION_SAMPLES) * 1e6)

    def files_of(self, trainer: Trainer, name: str) -> dict[str, bytes]:
        folder = self.folder / name
        trainer.save(folder)
        trainer.export(folder)
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    def train_really(self, library: Library, unit: str, trainer: Trainer | None = None) -> list[str]:
        """Two segments, each published with its training state."""
        trainer = trainer or self.trainer(library, unit)
        chain: list[str] = []
        for step in (STEPS // 2, STEPS):
            begun = "memory" if chain else "start"
            trainer.train(step)
            chain.append(
                self.publish(
                    ANN, unit, step, chain[-1] if chain else None, files=self.files_of(trainer, f"{unit}-{step}"),
                    holdout_loss_micro=self.claim(library, unit, trainer), internal={"begun_from": begun},
                    versions=SOFTWARE, finished_s=NOW_S + step, loss_trace_micro=[(step, 1)],
                )
            )  # fmt: skip
        self.chains[unit] = chain
        return chain

    def _evidence(self, library: Library) -> Evidence:
        return Evidence(library, ResolvedRun(self.run, self.genesis), self.providers, self.folder / "own")


def resolved(network: NetworkSimulator, library: Library) -> ResolvedRun:
    return asyncio.run(resolve(library, network.run, network.providers))


def deep(network: NetworkSimulator, library: Library, folder: Path, **depth: object) -> Audit:
    """An audit that measures."""
    how = Depth(**{"secret": "s", "folder": folder, **depth})
    return asyncio.run(audit(library, resolved(network, library), network.providers, depth=how))


def unit_of(report: Audit, unit: str = UNIT) -> UnitAudit:
    return next(found for found in report.units if found.unit == unit)


def standing(network: NetworkSimulator, library: Library, unit: str = UNIT) -> ResolvedUnit:
    return resolved(network, library).units[unit]


__all__ = ["EXPERTS", "STEPS", "UNIT", "TrainedNetwork", "deep", "genesis_fields", "standing", "unit_of"]
