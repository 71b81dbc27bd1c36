"""The named checks that numbers go through. Each says which cheat it is there for and why it works.

Losses are arrays of float64, one a sample, of equal samples, noise and times where two are compared. A difference of
such pairs varies by what the two networks make of a sample, not by how hard the sample is: that is what lets a few
hundred samples tell. SE is the standard error of a mean, sd / sqrt(n).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from paris.protocol.progress import TOLERANCE_PERCENT, unbelievable
from paris.protocol.records import Checkpoint
from paris.registry.findings import Check

SIGMAS = 4.0
"""How many standard errors a difference must have to be held against somebody: by chance alone once in 30,000."""
ALIKE = 0.8
"""Cosine of two experts' ways above which one is the other's copy; honest ones are near 0, see `make cheats`."""


def mean_and_error(differences: np.ndarray) -> tuple[float, float]:
    """The mean of paired differences and its standard error, sd / sqrt(n); of one alone, infinity."""
    count = len(differences)
    error = float(differences.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    return float(differences.mean()), error


def distinct_files(unit: str, weights: Sequence[str], others: Mapping[str, str]) -> Check:
    """Catches weights published twice: a parent's as its child's (no step done), the start's, or another unit's.

    Training changes some bit of every checkpoint, so equal digests mean that nothing was trained in between. Only
    digests are compared: this costs no download.

    Args:
        unit: Name of the unit.
        weights: Digests of its weights files, oldest first.
        others: What else they must not be: names by digest.
    """
    for older, newer in pairwise(weights):
        if older == newer:
            return Check("distinct", ok=False, detail="two of its checkpoints are one and the same file")
    if weights and (name := others.get(weights[-1])):
        return Check("distinct", ok=False, detail=f"the weights of {unit} are those of {name}, byte for byte")
    return Check("distinct", ok=True, detail=f"no two of {len(weights)} checkpoints are the same, nor another unit's")


def no_copy(unit: str, alike: Mapping[str, float]) -> Check:
    """Catches an expert copied from another cluster's and disguised by noise, by scaling, or by a few steps.

    Experts train on other data with other randomness; what they have in common is where they start, and that is
    subtracted. What is left of two honest trainings, in millions of dimensions, is nearly orthogonal. A copy points
    the same way, until the noise on it is as large as all that was learned, and then little of that is left. Numbers so
    large that their products are none leave no cosine, and hide no other one.

    Args:
        unit: Name of the unit.
        alike: Cosines with the other experts by name, as `paris.models.likeness` measures them.
    """
    comparable = {name: cosine for name, cosine in alike.items() if math.isfinite(cosine)}
    if not comparable:
        return Check("copies", ok=True, detail="there is no other expert to compare with")
    nearest = max(comparable, key=lambda name: comparable[name])
    near = f"the most alike is {nearest}, cosine {alike[nearest]:.3f}"
    if alike[nearest] > ALIKE:
        return Check("copies", ok=False, detail=f"one of {unit} and {nearest} is a copy: {near}, honest ones near 0")
    return Check("copies", ok=True, detail=near)


def believable_claims(lineage: Sequence[Checkpoint], nothing_micro: int | None) -> Check:
    """Catches claims that contradict each other.

    A loss worse than knowing nothing, or far worse than the parent's, and training losses of steps that are not the
    segment's need no measurement.

    Args:
        lineage: Oldest first.
        nothing_micro: Loss of knowing nothing in millionths, where it follows from the run.
    """
    for number, segment in enumerate(lineage):
        if problem := unbelievable(segment, lineage[number - 1] if number else None, nothing_micro):
            return Check("claims", ok=False, detail=f"at step {segment.to_step} {problem}")
        outside = [step for step, _ in segment.loss_trace_micro if not segment.from_step < step <= segment.to_step]
        if outside:
            detail = f"the segment up to step {segment.to_step} shows losses of step {outside[0]}"
            return Check("claims", ok=False, detail=detail)
    return Check("claims", ok=True, detail="every claimed loss agrees with those before it")


def finite_answers(losses: np.ndarray) -> Check:
    """Catches weights that are finite and answer with numbers that are not: everything else compares only numbers."""
    bad = int((~np.isfinite(losses)).sum())
    detail = f"{bad} of {len(losses)} answers are not finite" if bad else f"all {len(losses)} answers are finite"
    return Check("answers", ok=not bad, detail=detail, level="evaluated")


def claimed_loss(claimed_micro: int | None, measured: np.ndarray) -> Check:
    """Catches an inflated claim: a hold-out loss said to be lower than it is.

    The builder's claim is a mean over draws that follow from the run alone, so it is repeated on the very same ones:
    nothing is left between the two but rounding (bf16 weights, another machine), which the tolerance of
    `paris.protocol.progress` covers. No luck with samples can excuse a difference.

    Args:
        claimed_micro: The claim in millionths.
        measured: Losses on the same draws.
    """
    if claimed_micro is None:
        return Check("claim", ok=False, detail="it claims no hold-out loss", level="evaluated")
    claimed, found = claimed_micro / 1e6, float(measured.mean())
    detail = f"claims {claimed:.4f}, measured on the same {len(measured)} draws {found:.4f}"
    held = found * 100 <= claimed * (100 + TOLERANCE_PERCENT)
    return Check("claim", ok=held, detail=detail, level="evaluated")


def secret_tolerance(claimed: float, public: np.ndarray, secret: np.ndarray) -> float:
    """How far a secret measurement may lie above a claim: 2 % of it (rounding) + 4 SE of the paired differences.

    Pair i is one loss on the published draws and one on secret ones of the same time t_i; most of what makes losses
    vary is their time, which cancels. SE = sd(secret_i - public_i) / sqrt(n).
    """
    count = min(len(public), len(secret))
    _, error = mean_and_error(secret[:count] - public[:count])
    return claimed * TOLERANCE_PERCENT / 100 + SIGMAS * error


def secret_loss(claimed_micro: int | None, public: np.ndarray, secret: np.ndarray) -> Check:
    """Catches a network that is good on the published draws only: trained on their samples, or on their very noise.

    Samples, as far as the hold-out data are more than the published ones, and noise follow from the auditor's secret:
    nobody could train for them. What is good in general is as good there; the tolerance is `secret_tolerance`.

    Args:
        claimed_micro: The claim in millionths.
        public: Losses on the published draws (N,).
        secret: Losses on secret ones, of the same times.
    """
    claimed, found = (claimed_micro or 0) / 1e6, float(secret.mean())
    tolerance = secret_tolerance(claimed, public, secret)
    detail = f"claims {claimed:.4f}, measured on {len(secret)} secret draws {found:.4f}, tolerance {tolerance:.4f}"
    return Check("secret", ok=found <= claimed + tolerance, detail=detail, level="evaluated")


def learned(losses: np.ndarray, nothing: np.ndarray, *, last: bool) -> Check:
    """Catches untrained noise: weights of the right shapes that know nothing.

    What predicts zero knows nothing and costs nothing. Random weights do worse than that; a training does better from
    its first hundred steps on. A checkpoint on the way may still be level, the last one may not.

    Args:
        losses: Of the network.
        nothing: Of predicting zero, on the same draws.
        last: Whether the checkpoint completes its unit.
    """
    gain, error = mean_and_error(losses - nothing)
    zero = float(nothing.mean())
    detail = f"{-gain:.4f} ± {error:.4f} better than the {zero:.4f} of knowing nothing"
    worse = gain > zero * TOLERANCE_PERCENT / 100
    level = gain >= 0 if math.isinf(error) else gain > -SIGMAS * error
    return Check("learned", ok=not worse and not (last and level), detail=detail, level="evaluated")


def right_sign(losses: np.ndarray, turned: np.ndarray) -> Check:
    """Catches the wrong sign: a network that predicts -v, by another convention or to do harm.

    Turned around, its answers would be right: where that makes the loss lower, the sign is wrong. A network that
    knows nothing is not accused: turning its answers changes nothing on average.

    Args:
        losses: Of the network.
        turned: Of its answers with the sign turned, on the same draws.
    """
    gain, error = mean_and_error(losses - turned)
    wrong = gain > SIGMAS * error
    detail = f"turned around, its answers are {'better' if gain > 0 else 'worse'} by {abs(gain):.4f} ± {error:.4f}"
    return Check("sign", ok=not wrong, detail=detail, level="evaluated")


def own_cluster(unit: str, leads: Mapping[str, np.ndarray]) -> Check | None:
    """Catches an expert that was trained on another cluster's data.

    On each cluster's data an expert is compared with the median of the others: its lead there, a mean of pairs. How
    well it was trained shifts all its leads alike; where it leads most is what it was trained on. So the lead on its
    own cluster is set against that on every other one: the difference of two independent means, SE from both. Another
    cluster must come out ahead by more than chance to be held against it.

    From three others on, one that answers badly on purpose moves no median far. Of two it does: in a run of three
    clusters it can convict an honest expert, and asking both to agree would let every wrong cluster through, because
    the expert whose data it is never sees that lead.

    None where nothing can be said: a lead elsewhere that could be chance, or nothing to compare with.

    Args:
        unit: Name of the unit.
        leads: The expert's losses minus the median of the others', by the cluster whose data they are on.
    """
    own, own_error = mean_and_error(leads[unit])
    worst: tuple[float, str, float, float] | None = None
    for name, lead in leads.items():
        if name != unit:
            other, other_error = mean_and_error(lead)
            error = math.hypot(own_error, other_error)
            z = (own - other) / error if error else 0.0
            worst = max(worst or (z, name, own - other, error), (z, name, own - other, error))
    if worst is None or abs(worst[0]) <= SIGMAS / 2:
        return None
    z, name, behind, error = worst
    if z > 0:
        detail = f"among the experts it does best on the data of {name}, by {behind:.4f} ± {error:.4f}"
        return Check("cluster", ok=False, detail=detail, level="evaluated")
    detail = f"among the experts it does best on its own data, by {-behind:.4f} ± {error:.4f} before those of {name}"
    return Check("cluster", ok=True, detail=detail, level="evaluated")


def not_only_public(public: np.ndarray, elsewhere: np.ndarray, where: str) -> Check:
    """Catches an expert trained on the published hold-out samples.

    It is measured on them and on other samples of its cluster, with secret noise, each time relative to experts that
    saw neither: so samples that happen to be easy count for nothing. An honest expert is as good elsewhere, or, on
    what it was trained on, better; one that learned the published samples is better there and nowhere else.

    It is compared with each of the others by itself, and the median of them counts, of an even number the lower one:
    more than half must say so. In a mean, one that answers badly on purpose, and only here, would convict anybody.

    Args:
        public: Its losses minus each other's, on published hold-out samples (R, N); or of one (N,).
        elsewhere: The same on other samples.
        where: What those are, in words.
    """
    gaps = [_difference(*pair) for pair in zip(np.atleast_2d(elsewhere), np.atleast_2d(public), strict=True)]
    gaps.sort(key=lambda found: found[0] - SIGMAS * found[1])
    gap, error = gaps[(len(gaps) - 1) // 2]
    ok = gap <= SIGMAS * error
    relation = "worse" if gap > 0 else "better"
    detail = f"on {where} it is {relation} by {abs(gap):.4f} ± {error:.4f} than on the published hold-out samples"
    return Check("public-only", ok=ok, detail=detail, level="evaluated")


def _difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """The difference of two independent means, and its standard error."""
    (first, error), (second, other_error) = mean_and_error(one), mean_and_error(other)
    return first - second, math.hypot(error, other_error)
