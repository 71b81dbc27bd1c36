"""Cut surveyed data into K semantic clusters: k-means on unit vectors, kept reasonably balanced by prices.

Plain k-means gives clusters of very different sizes (6:1 on the packaged sample), while every expert costs its
contributor the same. A price on each cluster, raised while the cluster is too large, moves only the borders between
neighbours, so that clusters stay compact and a router can still tell them apart. What that costs is measured: see
`Price`. With `fine` the data are first cut into many small cells, and the cells into clusters (Decentralized Diffusion
Models, arXiv 2501.05450, section 3.2: 1024 cells): a cluster may then have any shape that cells add up to.

Of more than `TRAIN_GROUPS` groups an even sample makes centroids and prices, and all are assigned block by block.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import faiss
import numpy as np
from numpy.typing import NDArray

from paris.protocol.errors import UsageError
from paris.registry.catalogue import Vectors
from paris.registry.centroids import Centroids
from paris.registry.features import BLOCK_ROWS, Survey, unit_rows

RESTARTS = 5
START_ROUNDS = 10
ROUNDS = 30
PRICE_ROUNDS = 50
PRICE_STEP = 0.02
TRAIN_GROUPS = 262_144
WORDS = 12
WORD_GROUPS = 200_000
"""Words are counted in so many groups at most, evenly spread."""
_EMPTY_WORDS = frozenset({"and", "for", "from", "the", "with"})
_WORD = re.compile(r"[^\W\d_]{3,}")
Labels = NDArray[np.int64]
Sizes = NDArray[np.float64]


@dataclass(frozen=True)
class Cluster:
    """One cluster: its number, how many samples it has, and the words that set it apart, strongest first."""

    id: int
    samples: int
    words: tuple[str, ...]


@dataclass(frozen=True)
class Price:
    """What balance costs in purity.

    Attributes:
        moved: share of the samples that prices keep out of the cluster they are most similar to, 0 to 1.
        similarity: mean cosine of a sample to its cluster's centroid, with prices.
        free_similarity: the same if every sample went where it is most similar.
    """

    moved: float
    similarity: float
    free_similarity: float


@dataclass(frozen=True)
class Clustering:
    """A partition of all groups.

    Attributes:
        clusters: largest first; a cluster's id is its place here.
        groups: names of the groups.
        labels_G: cluster id of every group.
        centroids: how other samples find their cluster; None: nobody knows.
        price: what balance cost.
    """

    clusters: tuple[Cluster, ...]
    groups: Sequence[str] = field(repr=False)
    labels_G: Labels = field(compare=False, repr=False)
    centroids: Centroids | None = field(default=None, compare=False, repr=False)
    price: Price | None = None

    @functools.cached_property
    def cluster_of(self) -> Mapping[str, int]:
        """Cluster id by a group's name: for small data."""
        return dict(zip(self.groups, self.labels_G.tolist(), strict=True))


@dataclass(frozen=True)
class Cut:
    """How data are cut.

    Attributes:
        seed: of the first centroids.
        balance: wanted largest:smallest ratio, in samples; reached unless single groups are too large. 0: any ratio.
        fine: cells of the first stage; 0: one stage.
        spherical: whether centroids have unit length, so that nearest means the largest cosine.
    """

    seed: int = 0
    balance: float = 2.0
    fine: int = 0
    spherical: bool = True


def cluster(
    survey: Survey, count: int, *, seed: int = 0, balance: float = 2.0, fine: int = 0, spherical: bool = True
) -> Clustering:
    """Partition the groups of `survey` into `count` clusters; equal input gives equal output.

    Args:
        survey: the groups and their vectors.
        count: K, the number of clusters.
        seed: see `Cut`.
        balance: see `Cut`.
        fine: see `Cut`.
        spherical: see `Cut`.

    Raises:
        UsageError: there are too few different groups for so many clusters.
    """
    if not 1 <= count <= len(survey.groups):
        raise UsageError(
            f"{len(survey.groups)} groups of samples cannot be cut into {count} clusters",
            hint="Choose a number of clusters between 1 and the number of groups",
        )
    if fine and fine < count:
        raise UsageError(f"{fine} cells cannot make {count} clusters", hint="Give --fine a larger number, such as 1024")
    cut = Cut(seed, balance, fine, spherical)
    samples_G: Sizes = np.asarray(survey.samples, dtype=np.float64)
    trained, labels_T = _trained(survey.vectors, samples_G, count, cut)
    labels_G = trained.assign(survey.vectors) if labels_T is None else labels_T
    sizes_K = _sizes(labels_G, samples_G, count)
    if not sizes_K.all():
        raise UsageError(
            f"The data cannot be cut into {count} clusters",
            "Too many groups look the same to the features",
            "Use fewer clusters or other features",
        )
    return _named(survey, labels_G, sizes_K, trained)


def cut_up(survey: Survey, count: int, cut: Cut) -> Clustering:
    """Partition as a `Cut` says, see `cluster`."""
    return cluster(survey, count, seed=cut.seed, balance=cut.balance, fine=cut.fine, spherical=cut.spherical)


def _trained(vectors_GD: Vectors, samples_G: Sizes, count: int, cut: Cut) -> tuple[Centroids, Labels | None]:
    """Return the centroids, and the labels too where all groups took part."""
    every = -(-len(vectors_GD) // TRAIN_GROUPS)
    vectors_TD, samples_T = np.ascontiguousarray(vectors_GD[::every]), samples_G[::every]
    if cut.fine:
        return _two_stages(vectors_TD, samples_T, count, cut), None
    trained, labels_T = _best_of(vectors_TD, samples_T, count, cut)
    return trained, labels_T if every == 1 else None


def _two_stages(vectors_TD: Vectors, samples_T: Sizes, count: int, cut: Cut) -> Centroids:
    """Cut cells, then cut the cells into clusters as if each were one group with its samples."""
    fine = min(cut.fine, len(vectors_TD))
    cells_FD = _start(vectors_TD, fine, cut)
    cells = Centroids.nearest(cells_FD, spherical=cut.spherical)
    sizes_F = _sizes(cells.assign(vectors_TD), samples_T, fine)
    used = np.flatnonzero(sizes_F)
    _, labels_U = _best_of(unit_rows(cells_FD[used]), sizes_F[used], count, cut)
    return Centroids(cells_FD[used], cells.prices_M[used], labels_U)


def _best_of(vectors_GD: Vectors, samples_G: Sizes, count: int, cut: Cut) -> tuple[Centroids, Labels]:
    starts = (_balanced_kmeans(vectors_GD, samples_G, count, cut, restart) for restart in range(RESTARTS))
    _, centroids, labels_G = max(starts, key=lambda outcome: outcome[0])
    return centroids, labels_G


def _start(vectors_GD: Vectors, count: int, cut: Cut, restart: int = 0) -> Vectors:
    """Return (count, D) centroids of plain k-means."""
    kmeans = faiss.Kmeans(
        vectors_GD.shape[1],
        count,
        niter=START_ROUNDS,
        seed=cut.seed + restart,
        spherical=cut.spherical,
        min_points_per_centroid=1,
        max_points_per_centroid=max(256, len(vectors_GD) // count + 1),
    )
    kmeans.train(vectors_GD)
    return unit_rows(kmeans.centroids) if cut.spherical else np.ascontiguousarray(kmeans.centroids)


def _balanced_kmeans(
    vectors_GD: Vectors, samples_G: Sizes, count: int, cut: Cut, restart: int
) -> tuple[float, Centroids, Labels]:
    """Return (mean similarity to the own centroid, centroids, labels) of one start of k-means with prices."""
    centroids_KD, prices_K = _start(vectors_GD, count, cut, restart), np.zeros(count)
    labels_G: Labels = np.full(len(vectors_GD), -1)
    for _ in range(ROUNDS):
        previous_G = labels_G
        nearest = Centroids.nearest(centroids_KD, spherical=cut.spherical)
        similarity_GK = vectors_GD @ centroids_KD.T - nearest.prices_M.astype(np.float32)
        labels_G = _assign(similarity_GK, samples_G, prices_K, cut.balance)
        sums_KD = _sums(vectors_GD, samples_G, labels_G, count)
        sizes_K1 = np.maximum(_sizes(labels_G, samples_G, count), 1)[:, None]
        last_KD, centroids_KD = centroids_KD, unit_rows(sums_KD) if cut.spherical else _float32(sums_KD / sizes_K1)
        if np.array_equal(labels_G, previous_G):
            break
    own_G = np.einsum("gd,gd->g", vectors_GD, centroids_KD[labels_G])
    nearest = Centroids.nearest(last_KD, spherical=cut.spherical)
    made = Centroids(last_KD, nearest.prices_M + prices_K, np.arange(count))
    return float(np.average(own_G, weights=samples_G)), made, labels_G


def _float32(values: NDArray[np.floating]) -> Vectors:
    return np.ascontiguousarray(values, dtype=np.float32)


def _sums(vectors_GD: Vectors, samples_G: Sizes, labels_G: Labels, count: int) -> Vectors:
    """Return (K, D) the sum of every cluster's vectors, each counted as often as it has samples."""
    sums_KD = np.zeros((count, vectors_GD.shape[1]), dtype=np.float32)
    for start in range(0, len(vectors_GD), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        members_KB = np.eye(count, dtype=np.float32)[:, labels_G[rows]] * samples_G[rows].astype(np.float32)
        sums_KD += members_KB @ vectors_GD[rows]
    return sums_KD


def _assign(similarity_GK: Vectors, samples_G: Sizes, prices_K: Sizes, balance: float) -> Labels:
    """Give every group to its most similar cluster after price; `prices_K` changes in place."""
    count = similarity_GK.shape[1]
    for _ in range(PRICE_ROUNDS):
        labels_G: Labels = np.argmax(similarity_GK - prices_K, axis=1)
        sizes_K = _sizes(labels_G, samples_G, count)
        if not balance or sizes_K.max() <= balance * sizes_K.min():
            break
        prices_K += PRICE_STEP * np.log(np.maximum(sizes_K, 1) / sizes_K.mean())
    return labels_G


def _sizes(labels_G: Labels, samples_G: Sizes, count: int) -> Sizes:
    """Return the number of samples of every cluster."""
    return np.bincount(labels_G, weights=samples_G, minlength=count).astype(np.float64)


def _named(survey: Survey, labels_G: Labels, sizes_K: Sizes, centroids: Centroids) -> Clustering:
    """Number the clusters by size and describe them; equal sizes go by the first group's name."""
    first: dict[int, str] = {}
    for name, label in zip(survey.groups, map(int, labels_G), strict=True):
        first[label] = min(name, first.get(label, name))
    order = sorted(range(len(sizes_K)), key=lambda k: (-sizes_K[k], first[k]))
    id_of = np.argsort(order)
    ids_G: Labels = id_of[labels_G]
    words = _telling_words(survey, ids_G, len(order))
    clusters = tuple(Cluster(new, int(sizes_K[old]), words[new]) for new, old in enumerate(order))
    numbered = Centroids(centroids.vectors_MD, centroids.prices_M, id_of[centroids.cluster_M])
    return Clustering(clusters, survey.groups, ids_G, numbered, _price(survey, ids_G, len(order)))


def _price(survey: Survey, ids_G: Labels, count: int) -> Price:
    """Hold every group against the clusters' means."""
    samples_G: Sizes = np.asarray(survey.samples, dtype=np.float64)
    means_KD = unit_rows(_sums(survey.vectors, samples_G, ids_G, count))
    moved = own = best = 0.0
    for start in range(0, len(ids_G), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        similarity_BK = survey.vectors[rows] @ means_KD.T
        own_B = np.take_along_axis(similarity_BK, ids_G[rows, None], axis=1)[:, 0]
        best_B = similarity_BK.max(axis=1)
        moved += float(samples_G[rows][own_B < best_B].sum())
        own, best = own + float(own_B @ samples_G[rows]), best + float(best_B @ samples_G[rows])
    return Price(*(round(total / float(samples_G.sum()), 6) for total in (moved, own, best)))


def _telling_words(survey: Survey, ids_G: Labels, count: int) -> list[tuple[str, ...]]:
    """Return each cluster's words by their share of its divergence from the whole: p(w | k) log(p(w | k) / p(w)).

    Unlike tf-idf with few clusters, a word that is everywhere equally frequent ("style") gets exactly nothing.
    """
    per_cluster: list[Counter[str]] = [Counter() for _ in range(count)]
    every = -(-len(ids_G) // WORD_GROUPS)
    for number, (text, samples) in enumerate(zip(survey.texts, survey.samples, strict=True)):
        if number % every == 0:
            for word in set(_WORD.findall(text.casefold())) - _EMPTY_WORDS:
                per_cluster[ids_G[number]][word] += int(samples)
    whole = sum(per_cluster, Counter())
    total = whole.total()

    def strength(words: Counter[str], word: str) -> tuple[float, int, str]:
        share = words[word] / words.total()
        divergence = float(share * np.log(share * total / whole[word]))
        return -round(divergence, 9), -words[word], word

    return [tuple(sorted(words, key=lambda word: strength(words, word))[:WORDS]) for words in per_cluster]
