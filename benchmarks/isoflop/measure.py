"""How far an arm's velocity is from the truth, on held-out and on training pictures, by checkpoint and noise level.

Each picture is asked about at fixed times with fixed noise, the same for every arm. The experts answer once; every way
of mixing them is then a sum with the weights that `Routing` gives, as in `Ensemble.velocity`.
Letters: N questions, K experts, L noise levels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.isoflop.data import MIRRORED, PLAIN, SPLITS, TEST, TRAIN, VALIDATION, Pictures
from benchmarks.isoflop.plan import BATCH, LATENTS, ROUTER_STEPS, SIZES, TEXT_DIM, Arm
from benchmarks.isoflop.train import arm_folder, checkpoint, router_folder, steps_of
from paris.models.cache import Batch
from paris.models.calibration import ask, calibrate
from paris.models.centroids import Centroids
from paris.models.conditions import asked
from paris.models.dit import DiT
from paris.models.flops import shape_of, training_flops
from paris.models.flow import interpolate, velocity
from paris.models.networks import load_network
from paris.models.objectives import squared_errors
from paris.models.randomness import Stream
from paris.models.router import Router
from paris.models.routing import Routing, oracle

LEVELS = 10
ASKED = {TRAIN: (600, 2), VALIDATION: (400, 3), TEST: (1000, 2)}
"""Pictures of each split, at most, and questions about each, at different noise levels."""

ASK_BATCH = 256
SOFT = 3.0
"""Divides a calibrated router's logits once more: knowing the cluster is not knowing the better expert."""

EVENLY = 1e9
"""A temperature at which every expert weighs the same."""

ROUTINGS = {
    "top-1": Routing("top-k", 1),
    "top-2": Routing("top-k", 2),
    "top-3": Routing("top-k", 3),
    "threshold": Routing("threshold", threshold=0.05),
    "full": Routing("full"),
    "full, soft": Routing("full", temperature=SOFT),
    "average": Routing("full", temperature=EVENLY),
}
CALIBRATION_ANSWERS = 1500
RECIPE = ("batch", "lr", "ema", "weight_decay", "text_dropout")

Errors = dict[str, list[float]]
"""By way of mixing, the mean squared error of the velocity at each noise level."""


@dataclass(frozen=True)
class Questions:
    """What networks are asked about a split, and what they should say."""

    batch: Batch
    x_NCHW: Tensor
    t_N: Tensor
    truth_NCHW: Tensor
    level_N: Tensor

    @classmethod
    def of(cls, pictures: Pictures, split: int, labels_P: Tensor | None) -> Questions:
        """Draw the questions of a split: always the same."""
        count, repeats = ASKED[split]
        order = Stream.of("isoflop", "questions", SPLITS[split]).at(0)
        every = pictures.rows(split, views=PLAIN).numpy()
        rows = torch.from_numpy(order.permutation(every)[:count]).repeat(repeats)
        turn_N = torch.arange(len(rows)) // (len(rows) // repeats)
        level_N = (torch.arange(len(rows)) + turn_N * (LEVELS // repeats)) % LEVELS
        batch = pictures.cache(rows, labels_P).batch(torch.arange(len(rows)).numpy())
        eps = torch.from_numpy(order.standard_normal(tuple(batch.latents_BCHW.shape), dtype="float32"))
        t_N = (level_N + 0.5) / LEVELS
        return cls(batch, interpolate(batch.latents_BCHW, eps, t_N), t_N, velocity(batch.latents_BCHW, eps), level_N)

    @torch.no_grad()
    def answers(self, network: Any) -> Tensor:
        """Return an expert's velocities (N, C, H, W)."""
        parts = [network(x, t, *asked(x, self.batch.text.select(rows))) for rows, x, t in self._parts()]
        return torch.cat(parts)

    @torch.no_grad()
    def logits(self, router: Any) -> Tensor:
        """Return a router's logits (N, K)."""
        return torch.cat([router(x, t, self.batch.text.pooled_BE[rows]).float() for rows, x, t in self._parts()])

    def errors(self, answer_NCHW: Tensor) -> list[float]:
        """Return the mean squared error at each noise level."""
        losses_N = squared_errors(answer_NCHW, self.truth_NCHW)
        sums_L = torch.zeros(LEVELS).index_add(0, self.level_N, losses_N)
        means_L = sums_L / torch.bincount(self.level_N, minlength=LEVELS)
        return [round(float(mean), 6) for mean in means_L]

    def _parts(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for rows in torch.arange(len(self.t_N)).split(ASK_BATCH):
            yield rows, self.x_NCHW[rows], self.t_N[rows]


def mixed(answers_KNCHW: Tensor, weights_NK: Tensor) -> Tensor:
    """Return the sum of the experts' answers by their weights."""
    return torch.einsum("knchw,nk->nchw", answers_KNCHW, weights_NK)


def measure(arm: Arm, pictures: Pictures, labels_P: Tensor | None, out: Path) -> dict[str, Any]:
    """Return everything that is told of an arm, as plain values."""
    questions = {split: Questions.of(pictures, split, labels_P) for split in ASKED}
    weights, about = ({}, {}) if labels_P is None else _weights(arm, pictures, labels_P, questions, out)
    flops = sample_flops(SIZES[arm.size].network())
    curve = []
    for step in steps_of(arm):
        folders = [checkpoint(unit, step) for unit in unit_folders(arm, out)]
        networks = [load_network(DiT, folder) for folder in folders]
        errors = {}
        for split, asked_of in questions.items():
            answers = torch.stack([asked_of.answers(network) for network in networks])
            ways = weights[split] if weights else {"monolith": torch.ones(len(asked_of.t_N), 1)}
            errors[SPLITS[split]] = {way: asked_of.errors(mixed(answers, w)) for way, w in ways.items()}
        curve.append({"step": arm.branch + step, "flops": flops * BATCH * (arm.branch + step), "errors": errors})
    return {
        "arm": arm.name,
        "parameters": sum(p.numel() for p in SIZES[arm.size].network().parameters()),
        "flops_per_sample": flops,
        "recipe": {
            name: getattr(arm.recipe(), name) for name in ("batch", "lr", "ema", "weight_decay", "text_dropout")
        },
        "routers": about,
        "curve": curve,
    }


def sample_flops(network: Any) -> float:
    """Return the FLOPs of forward and backward of one sample."""
    x = torch.zeros(1, LATENTS["channels"], LATENTS["height"], LATENTS["height"])
    pooled = torch.zeros(1, TEXT_DIM)
    text = (pooled,) if isinstance(network, Router) else (pooled[:, None], torch.ones(1, 1, dtype=torch.bool))
    return training_flops(type(network), network.config, shape_of((x, torch.zeros(1), *text)))


def unit_folders(arm: Arm, out: Path) -> list[Path]:
    """Return the folders of an arm's units, in the order of the clusters."""
    folder = arm_folder(out, arm.name)
    return [folder / "base"] if not arm.features else [folder / f"cluster-{number}" for number in range(arm.count)]


def _weights(
    arm: Arm, pictures: Pictures, labels_P: Tensor, questions: dict[int, Questions], out: Path
) -> tuple[dict[int, dict[str, Tensor]], dict[str, Any]]:
    """Return the weights (N, K) of every way of mixing, by split, and what is told of the routers.

    Temperatures of routers are fitted on validation pictures.
    """
    found: dict[int, dict[str, Tensor]] = {split: {} for split in questions}
    about: dict[str, Any] = {}
    validation, test = (pictures.cache(pictures.rows(split), labels_P) for split in (VALIDATION, TEST))
    for sight in ("text", "blind"):
        router = load_network(Router, router_folder(out, arm.clustering, blind=sight == "blind"))
        fitted = calibrate(ask(router, validation, CALIBRATION_ANSWERS))
        flops = sample_flops(router)
        about[sight] = {
            "flops": flops * BATCH * ROUTER_STEPS,
            "flops_per_sample": flops,
            "temperature": round(fitted.temperature, 4),
            "test_accuracy": round(calibrate(ask(router, test, CALIBRATION_ANSWERS)).accuracy, 4),
        }
        for split, asked_of in questions.items():
            logits_NK = asked_of.logits(router) / fitted.temperature
            for name, routing in ROUTINGS.items():
                if routing.k <= arm.count and not (name == "average" and sight == "blind"):
                    found[split][name if sight == "text" else f"{name}, blind"] = routing.weights(logits_NK)
    centroids = Centroids.measure(pictures.cache(pictures.rows(TRAIN, views=MIRRORED), labels_P), arm.count)
    for split, asked_of in questions.items():
        logits_NK = asked_of.logits(centroids)
        for k in (1, 2):
            found[split][f"router-free top-{k}"] = Routing("router-free", k).weights(logits_NK)
        found[split]["oracle"] = oracle(asked_of.batch.labels_B, arm.count)
    return found, about
