"""How far a router's probabilities can be believed, by noise level, and the temperature that mends them.

Source: Guo et al. 2017 (arXiv 1706.04599): expected calibration error (section 2), temperature scaling (section 4.2).
A mixture weight is a probability, so a router that is right but too sure of itself mixes wrongly. Letters: N answers,
K experts.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from paris.models.cache import LatentCache
from paris.models.objectives import RoutingObjective, draw
from paris.models.randomness import Stream

BATCH = 128
LEVELS = 10
CONFIDENCE_BINS = 15
NEWTON_STEPS = 50
SHARPEST, FLATTEST = 0.01, 100.0


@dataclass(frozen=True)
class Answers:
    """What a router said about noised samples: logits (N, K), true clusters (N,), times (N,)."""

    logits_NK: Tensor
    labels_N: Tensor
    times_N: Tensor


@dataclass(frozen=True)
class Level:
    """Answers at times from `low` to `high`: how many, and the share that named the right cluster."""

    low: float
    high: float
    answers: int
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """A router's report.

    Attributes:
        answers: number of noised samples asked about.
        accuracy: share whose cluster is the most probable one.
        loss: mean cross-entropy, in nats.
        error: expected calibration error, in [0, 1].
        temperature: what the logits should be divided by.
        loss_after: cross-entropy with that temperature.
        error_after: expected calibration error with that temperature.
        levels: accuracy by noise level.
    """

    answers: int
    accuracy: float
    loss: float
    error: float
    temperature: float
    loss_after: float
    error_after: float
    levels: tuple[Level, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return asdict(self)


@torch.no_grad()
def ask(router: Any, cache: LatentCache, answers: int, *, drop_text: bool = False) -> Answers:
    """Ask a router about noised samples at times uniform in [0, 1): the same ones whenever it is asked.

    Args:
        router: called as (latents, times, pooled text) -> logits; a `Router` or `paris.models.centroids.Centroids`.
        cache: samples with labels; asked about repeatedly, with new noise, where `answers` exceeds them.
        answers: how many.
        drop_text: give the null text instead of each sample's own.
    """
    objective, streams = RoutingObjective(), (Stream.of("calibration", "noise"), Stream.of("calibration", "time"))
    order = Stream.of("calibration", "samples").batch_indices(0, answers, len(cache))
    logits, labels, times = [], [], []
    for number, start in enumerate(range(0, answers, BATCH)):
        rows = order[start : start + BATCH]
        batch = cache.batch(rows, rows >= 0 if drop_text else None)
        randomness = draw(objective, streams, number, tuple(batch.latents_BCHW.shape))
        logits.append(objective.logits(router, batch, randomness))
        labels.append(batch.labels_B)
        times.append(randomness.t_B)
    return Answers(torch.cat(logits), torch.cat(labels), torch.cat(times))


def calibrate(answers: Answers, levels: int = LEVELS) -> Calibration:
    """Report on a router's answers and fit its temperature on them."""
    logits_NK, labels_N = answers.logits_NK.double(), answers.labels_N
    temperature = fit_temperature(logits_NK, labels_N)
    right_N = (logits_NK.argmax(-1) == labels_N).double()
    return Calibration(
        answers=len(labels_N),
        accuracy=float(right_N.mean()),
        loss=float(functional.cross_entropy(logits_NK, labels_N)),
        error=calibration_error(logits_NK, labels_N),
        temperature=temperature,
        loss_after=float(functional.cross_entropy(logits_NK / temperature, labels_N)),
        error_after=calibration_error(logits_NK / temperature, labels_N),
        levels=tuple(_levels(right_N, answers.times_N, levels)),
    )


def calibration_error(logits_NK: Tensor, labels_N: Tensor, bins: int = CONFIDENCE_BINS) -> float:
    """Return the mean gap between confidence and accuracy over bins of equal width in confidence."""
    confidence_N, guess_N = logits_NK.softmax(-1).max(-1)
    right_N = (guess_N == labels_N).to(confidence_N)
    place_N = (confidence_N * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=confidence_N.dtype).index_add(0, place_N, right_N - confidence_N)
    return float(gaps.abs().sum() / len(labels_N))


def fit_temperature(logits_NK: Tensor, labels_N: Tensor) -> float:
    """Return the temperature of least cross-entropy, by Newton's method: the loss is convex in 1 / temperature."""
    logits_NK = logits_NK.double()
    own_N = logits_NK.gather(-1, labels_N[:, None])[:, 0]
    inverse = 1.0
    for _ in range(NEWTON_STEPS):
        posterior_NK = (logits_NK * inverse).softmax(-1)
        mean_N = (posterior_NK * logits_NK).sum(-1)
        slope = float((mean_N - own_N).mean())
        bend = float(((posterior_NK * logits_NK.square()).sum(-1) - mean_N.square()).mean())
        # A step changes 1 / T by at most a factor of two, so that flat stretches cannot throw it far away.
        target = inverse - slope / max(bend, 1e-12)
        following = min(max(target, inverse / 2, 1 / FLATTEST), inverse * 2, 1 / SHARPEST)
        if abs(following - inverse) < 1e-10 * inverse:
            break
        inverse = following
    return 1 / inverse


def _levels(right_N: Tensor, times_N: Tensor, levels: int) -> list[Level]:
    place_N = (times_N * levels).long().clamp(max=levels - 1)
    report = []
    for level in range(levels):
        here = right_N[place_N == level]
        accuracy = float(here.mean()) if len(here) else float("nan")
        report.append(Level(level / levels, (level + 1) / levels, len(here), accuracy))
    return report
