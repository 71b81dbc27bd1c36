"""How far an arm's velocity is from the truth, on held-out and on training pictures, by checkpoint and noise level.

Each picture is asked about at fixed times with fixed noise, the same for every arm. The experts answer once; every way
of mixing them is then a sum with the weights that `Routing` gives, as in `Ensemble.velocity`.
Letters: N questions, K experts, L noise levels. Wherever it says C H W, a clip has its frames too: C F H W.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.isoflop.data import MIRRORED, PLAIN, SPLITS, TEST, TRAIN, VALIDATION, Pictures
from benchmarks.isoflop.media import TEXT_DIM, Medium
from benchmarks.isoflop.plan import ROUTER_STEPS, SIZES, Arm
from benchmarks.isoflop.train import arm_folder, checkpoint, router_folder, steps_of
from paris.models.cache import Batch
from paris.models.calibration import ask, calibrate
from paris.models.centroids import Centroids
from paris.models.conditions import asked
from paris.models.conversion import Prediction
from paris.models.experts import load_expert
from paris.models.flops import shape_of, training_flops
from paris.models.flow import interpolate, velocity
from paris.models.kinds import ROUTERS, kind_in
from paris.models.networks import load_network
from paris.models.objectives import squared_errors
from paris.models.randomness import Stream
from paris.models.routing import Routing, oracle
from paris.models.text import TextBatch

LEVELS = 10
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
RECIPE = ("objective", "batch", "lr", "ema", "weight_decay", "text_dropout")


@dataclass(frozen=True)
class Questions:
    """What networks are asked about a split, and what they should say."""

    batch: Batch
    x_NCHW: Tensor
    t_N: Tensor
    truth_NCHW: Tensor
    level_N: Tensor

    @classmethod
    def of(cls, medium: Medium, pictures: Pictures, split: int, labels_P: Tensor | None) -> Questions:
        """Draw the questions of a split: always the same."""
        count, repeats = medium.asked[split]
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
    def answers(self, network: Any, prediction: Prediction) -> Tensor:
        """Return an expert's velocities (N, C, H, W), whatever it predicts."""
        parts = []
        for rows, x, t in self._parts():
            ask_it = partial(_asked, network, self.batch.text.select(rows))
            parts.append(prediction.velocity(ask_it, x, t))
        return torch.cat(parts)

    @torch.no_grad()
    def logits(self, router: Callable[..., Tensor]) -> Tensor:
        """Return a router's logits (N, K)."""
        return torch.cat([router(x, t, self.batch.text.pooled_BE[rows]).float() for rows, x, t in self._parts()])

    def errors(self, answer_NCHW: Tensor, wanted_N: Tensor | None = None) -> list[float]:
        """Return the mean squared error at each noise level, over all questions or the wanted ones."""
        losses_N = squared_errors(answer_NCHW, self.truth_NCHW)
        wanted_N = torch.ones_like(losses_N) if wanted_N is None else wanted_N.float()
        sums_L = torch.zeros(LEVELS).index_add(0, self.level_N, losses_N * wanted_N)
        counts_L = torch.zeros(LEVELS).index_add(0, self.level_N, wanted_N)
        return [round(float(mean), 6) for mean in sums_L / counts_L]

    def alone(self, answers_KNCHW: Tensor) -> list[dict[str, Any]]:
        """Return every expert's errors by noise level: on each cluster's pictures in turn, and on all."""
        clusters_KN = [self.batch.labels_B == number for number in range(len(answers_KNCHW))]
        return [
            {"clusters": [self.errors(answer, own) for own in clusters_KN], "all": self.errors(answer)}
            for answer in answers_KNCHW
        ]

    def _parts(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for rows in torch.arange(len(self.t_N)).split(ASK_BATCH):
            yield rows, self.x_NCHW[rows], self.t_N[rows]


def _asked(network: Any, text: TextBatch, x: Tensor, t_B: Tensor) -> Tensor:
    answer: Tensor = network(x, t_B, *asked(x, text))
    return answer


def mixed(answers_KNCHW: Tensor, weights_NK: Tensor) -> Tensor:
    """Return the sum of the experts' answers by their weights."""
    return torch.einsum("kn...,nk->n...", answers_KNCHW, weights_NK)


def measure(arm: Arm, pictures: Pictures, labels_P: Tensor | None, out: Path) -> dict[str, Any]:
    """Return everything that is told of an arm, as plain values."""
    questions = {split: Questions.of(arm.medium, pictures, split, labels_P) for split in arm.medium.asked}
    weights, about = ({}, {}) if labels_P is None else _weights(arm, pictures, labels_P, questions, out)
    recipe, network = arm.recipe(), SIZES[arm.size].network()
    flops = sample_flops(network, arm.medium)
    curve = []
    for step in steps_of(arm):
        experts = [load_expert(checkpoint(unit, step), torch.float32) for unit in unit_folders(arm, out)]
        errors, alone = {}, {}
        for split, asked_of in questions.items():
            answers = torch.stack([asked_of.answers(expert, Prediction(recipe.objective)) for expert in experts])
            ways = weights[split] if weights else {"monolith": torch.ones(len(asked_of.t_N), 1)}
            errors[SPLITS[split]] = {way: asked_of.errors(mixed(answers, w)) for way, w in ways.items()}
            if weights:
                alone[SPLITS[split]] = asked_of.alone(answers)
        done = arm.branch + step
        curve.append({"step": done, "flops": flops * arm.medium.batch * done, "errors": errors, "alone": alone})
    return {
        "arm": arm.name,
        "parameters": sum(p.numel() for p in network.parameters()),
        "flops_per_sample": flops,
        "recipe": {name: getattr(recipe, name) for name in RECIPE},
        "routers": about,
        "curve": curve,
    }


def sample_flops(network: Any, medium: Medium) -> float:
    """Return the FLOPs of forward and backward of one sample."""
    x, pooled = torch.zeros(1, *medium.shape), torch.zeros(1, TEXT_DIM)
    text = TextBatch(pooled[:, None], torch.ones(1, 1, dtype=torch.bool), pooled)
    seen = (pooled,) if type(network).__name__ in ROUTERS else asked(x, text)
    return training_flops(type(network), network.config, shape_of((x, torch.zeros(1), *seen)))


def unit_folders(arm: Arm, out: Path) -> list[Path]:
    """Return the folders of an arm's units, in the order of the clusters."""
    folder = arm_folder(out, arm.name)
    return [folder / "base"] if not arm.features else [folder / f"cluster-{number}" for number in range(arm.count)]


def router_in(folder: Path) -> Any:
    """Load a router, of pictures or of clips."""
    return load_network(kind_in(folder, ROUTERS), folder)


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
        router = router_in(router_folder(out, arm.clustering, blind=sight == "blind"))
        fitted = calibrate(ask(router, validation, CALIBRATION_ANSWERS))
        flops = sample_flops(router, arm.medium)
        about[sight] = {
            "flops": flops * arm.medium.batch * ROUTER_STEPS,
            "flops_per_sample": flops,
            "temperature": round(fitted.temperature, 4),
            "test_accuracy": round(calibrate(ask(router, test, CALIBRATION_ANSWERS)).accuracy, 4),
        }
        for split, asked_of in questions.items():
            logits_NK = asked_of.logits(router) / fitted.temperature
            for name, routing in ROUTINGS.items():
                if routing.k <= arm.count and not (name == "average" and sight == "blind"):
                    found[split][name if sight == "text" else f"{name}, blind"] = routing.weights(logits_NK)
    centroids = _centroids(pictures, labels_P, arm.count)
    for split, asked_of in questions.items():
        logits_NK = asked_of.logits(centroids)
        for k in (1, 2):
            found[split][f"router-free top-{k}"] = Routing("router-free", k).weights(logits_NK)
        found[split]["oracle"] = oracle(asked_of.batch.labels_B, arm.count)
    return found, about


def _centroids(pictures: Pictures, labels_P: Tensor, count: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Return the data centres of the clusters, asked like a router; to them a clip's frames are further channels."""
    cache = pictures.cache(pictures.rows(TRAIN, views=MIRRORED), labels_P)
    centroids = Centroids.measure(replace(cache, latents_NCHW=_without_time(cache.latents_NCHW)), count)
    return lambda x, t_B, pooled_BE: centroids(_without_time(x), t_B, pooled_BE)


def _without_time(x: Tensor) -> Tensor:
    return x if x.ndim == 4 else x.flatten(1, 2)
