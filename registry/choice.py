"""How many clusters? A row of numbers for each K, all of them before anything is trained.

* inertia: mean squared distance of a group to its cluster's mean direction, 2 (1 - cosine); falls with K.
* silhouette (Rousseeuw 1987): how much nearer a group is to its own cluster than to the next one, -1 to 1.
* size ratio: largest to smallest cluster, and what balance moved, see `paris.registry.clusters.Price`.
* separability: how often a linear classifier tells the cluster from what the router is told of a caption (5 folds); the
  router cannot do better on pure noise.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from paris.models.text import TextEncoder
from paris.protocol.errors import UsageError
from paris.registry.catalogue import Vectors
from paris.registry.clusters import Clustering, Cut, Labels, cut_up
from paris.registry.features import Progress, Survey, unit_rows
from paris.registry.tables import require

SAMPLE_GROUPS = 2000
FOLDS = 5


@dataclass(frozen=True)
class Row:
    """What one K would be.

    Attributes:
        clusters: K.
        inertia: see above.
        silhouette: on a sample of groups; 0 for one cluster.
        size_ratio: largest to smallest, in samples.
        moved: share of the samples that balance moved.
        separability: share of captions whose cluster a linear classifier finds; 1 for one cluster.
        chance: the same for one that always names the largest.
        problem: why there is no run with this K; the numbers are 0 then.
    """

    clusters: int
    inertia: float = 0.0
    silhouette: float = 0.0
    size_ratio: float = 0.0
    moved: float = 0.0
    separability: float = 0.0
    chance: float = 0.0
    problem: str = ""


def choices(
    found: Survey, counts: Sequence[int], cut: Cut, text: TextEncoder, progress: Progress = lambda *_: None
) -> Iterator[Row]:
    """Yield a row for every K asked for.

    Args:
        found: the surveyed data.
        counts: the Ks.
        cut: how groups are cut.
        text: the run's text encoder.
        progress: told ("cluster", Ks done, all Ks).

    Raises:
        ResourceError: scikit-learn is not installed.
    """
    require("sklearn")
    chosen = np.unique(np.linspace(0, len(found.groups) - 1, min(SAMPLE_GROUPS, len(found.groups))).astype(np.int64))
    told_SE = text.encode([found.texts[int(group)] for group in chosen]).pooled_BE.numpy()
    for done, count in enumerate(counts):
        progress("cluster", done, len(counts))
        try:
            yield _row(found, cut_up(found, count, cut), chosen, told_SE)
        except UsageError as error:
            yield Row(count, problem=error.what)


def _row(found: Survey, clustering: Clustering, chosen: Labels, told_SE: Vectors) -> Row:
    from sklearn.metrics import silhouette_score  # noqa: PLC0415 (an extra)

    assert clustering.price is not None
    labels_S, sizes = clustering.labels_G[chosen], [one.samples for one in clustering.clusters]
    several = 1 < len(np.unique(labels_S)) < len(chosen)
    silhouette = silhouette_score(unit_rows(found.vectors[chosen]), labels_S) if several else 0.0
    separability, chance = _separability(told_SE, labels_S)
    return Row(
        clusters=len(sizes),
        inertia=round(max(0.0, 2 * (1 - clustering.price.similarity)), 4),
        silhouette=round(float(silhouette), 4),
        size_ratio=round(sizes[0] / sizes[-1], 2),
        moved=round(clustering.price.moved, 4),
        separability=round(separability, 4),
        chance=round(chance, 4),
    )


def _separability(told_SE: Vectors, labels_S: Labels) -> tuple[float, float]:
    """Return (mean accuracy over the folds, the share of the largest cluster)."""
    from sklearn.exceptions import ConvergenceWarning  # noqa: PLC0415 (an extra)
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.model_selection import StratifiedKFold, cross_val_score  # noqa: PLC0415

    counts = np.unique(labels_S, return_counts=True)[1]
    if len(counts) < 2:
        return 1.0, 1.0
    kept = np.isin(labels_S, np.flatnonzero(np.bincount(labels_S) >= FOLDS))
    if len(np.unique(labels_S[kept])) < 2:
        return 0.0, float(counts.max() / counts.sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a bound from below does
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
        scores = cross_val_score(LogisticRegression(C=10, max_iter=200), told_SE[kept], labels_S[kept], cv=folds)
    return float(scores.mean()), float(counts.max() / counts.sum())
