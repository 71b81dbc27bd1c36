"""Cut surveyed data into K semantic clusters: k-means on unit vectors, kept reasonably balanced by prices.

Plain k-means gives clusters of very different sizes (6:1 on the packaged sample), while every expert costs its
contributor the same. A price on each cluster, raised while the cluster is too large, moves only the borders between
neighbours, so that clusters stay compact and a router can still tell them apart.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from paris.protocol.errors import UsageError
from paris.registry.features import Survey, Vectors, unit_rows

RESTARTS = 5
START_ROUNDS = 10
ROUNDS = 30
PRICE_ROUNDS = 50
PRICE_STEP = 0.02
WORDS = 12
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
class Clustering:
    """A partition of all groups.

    Attributes:
        clusters: largest first; a cluster's id is its place here.
        cluster_of: cluster id of every group.
    """

    clusters: tuple[Cluster, ...]
    cluster_of: Mapping[str, int]


def cluster(survey: Survey, count: int, *, seed: int = 0, balance: float = 2.0) -> Clustering:
    """Partition the groups of `survey` into `count` clusters; equal input gives equal output.

    Args:
        survey: the groups and their vectors.
        count: K, the number of clusters.
        seed: of the first centroids.
        balance: wanted largest:smallest ratio, in samples; reached unless single groups are too large.

    Raises:
        UsageError: there are too few different groups for so many clusters.
    """
    if not 1 <= count <= len(survey.groups):
        raise UsageError(
            f"{len(survey.groups)} groups of samples cannot be cut into {count} clusters",
            hint="Choose a number of clusters between 1 and the number of groups",
        )
    samples_G: Sizes = np.asarray(survey.samples, dtype=np.float64)
    starts = (
        _balanced_kmeans(survey.vectors, samples_G, count, seed + restart, balance) for restart in range(RESTARTS)
    )
    _, labels_G = max(starts, key=lambda outcome: outcome[0])
    sizes_K = _sizes(labels_G, samples_G, count)
    if not sizes_K.all():
        raise UsageError(
            f"The data cannot be cut into {count} clusters",
            "Too many groups look the same to the features",
            "Use fewer clusters or other features",
        )
    return _named(survey, labels_G, sizes_K)


def _balanced_kmeans(
    vectors_GD: Vectors, samples_G: Sizes, count: int, seed: int, balance: float
) -> tuple[float, Labels]:
    """Return (mean similarity to the own centroid, labels) of one start of spherical k-means with prices."""
    kmeans = faiss.Kmeans(
        vectors_GD.shape[1],
        count,
        niter=START_ROUNDS,
        seed=seed,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=max(256, len(vectors_GD) // count + 1),
    )
    kmeans.train(vectors_GD)
    centroids_KD, prices_K = unit_rows(kmeans.centroids), np.zeros(count)
    labels_G: Labels = np.full(len(vectors_GD), -1)
    for _ in range(ROUNDS):
        previous_G = labels_G
        labels_G = _assign(vectors_GD @ centroids_KD.T, samples_G, prices_K, balance)
        members_KG = np.eye(count, dtype=np.float32)[:, labels_G] * samples_G.astype(np.float32)
        centroids_KD = unit_rows(members_KG @ vectors_GD)
        if np.array_equal(labels_G, previous_G):
            break
    own_G = np.einsum("gd,gd->g", vectors_GD, centroids_KD[labels_G])
    return float(np.average(own_G, weights=samples_G)), labels_G


def _assign(similarity_GK: Vectors, samples_G: Sizes, prices_K: Sizes, balance: float) -> Labels:
    """Give every group to its most similar cluster after price; `prices_K` changes in place."""
    count = similarity_GK.shape[1]
    for _ in range(PRICE_ROUNDS):
        labels_G: Labels = np.argmax(similarity_GK - prices_K, axis=1)
        sizes_K = _sizes(labels_G, samples_G, count)
        if sizes_K.max() <= balance * sizes_K.min():
            break
        prices_K += PRICE_STEP * np.log(np.maximum(sizes_K, 1) / sizes_K.mean())
    return labels_G


def _sizes(labels_G: Labels, samples_G: Sizes, count: int) -> Sizes:
    """Return the number of samples of every cluster."""
    return np.bincount(labels_G, weights=samples_G, minlength=count).astype(np.float64)


def _named(survey: Survey, labels_G: Labels, sizes_K: Sizes) -> Clustering:
    """Number the clusters by size and describe them; equal sizes go by the first group's name."""
    first = [
        min(g for g, label in zip(survey.groups, labels_G, strict=True) if label == k) for k in range(len(sizes_K))
    ]
    order = sorted(range(len(sizes_K)), key=lambda k: (-sizes_K[k], first[k]))
    id_of = {old: new for new, old in enumerate(order)}
    ids = [id_of[int(label)] for label in labels_G]
    words = _telling_words(survey, ids, len(order))
    clusters = tuple(Cluster(new, int(sizes_K[old]), words[new]) for new, old in enumerate(order))
    return Clustering(clusters, dict(zip(survey.groups, ids, strict=True)))


def _telling_words(survey: Survey, ids: list[int], count: int) -> list[tuple[str, ...]]:
    """Return each cluster's words by their share of its divergence from the whole: p(w | k) log(p(w | k) / p(w)).

    Unlike tf-idf with few clusters, a word that is everywhere equally frequent ("style") gets exactly nothing.
    """
    per_cluster: list[Counter[str]] = [Counter() for _ in range(count)]
    for text, samples, k in zip(survey.texts, survey.samples, ids, strict=True):
        for word in set(_WORD.findall(text.casefold())) - _EMPTY_WORDS:
            per_cluster[k][word] += samples
    whole = sum(per_cluster, Counter())
    total = whole.total()

    def strength(words: Counter[str], word: str) -> tuple[float, int, str]:
        share = words[word] / words.total()
        divergence = float(share * np.log(share * total / whole[word]))
        return -round(divergence, 9), -words[word], word

    return [tuple(sorted(words, key=lambda word: strength(words, word))[:WORDS]) for words in per_cluster]
