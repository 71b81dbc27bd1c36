"""Clusters: deterministic, balanced, largest first, described by the words that set them apart."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
from registry_support import COLOURS, coloured, survey_of

from paris.protocol.errors import UsageError
from paris.registry.clusters import cluster
from paris.registry.features import Survey, unit_rows


def blobs(sizes, dim=8, spread=0.3, seed=0):
    """A survey of Gaussian blobs around the first axes; each group has one sample and its blob's word."""
    rng = np.random.default_rng(seed)
    centres = np.repeat(np.arange(len(sizes)), sizes)
    vectors = unit_rows(np.eye(dim)[centres] + spread * rng.standard_normal((len(centres), dim)))
    names = tuple(f"g{number:04d}" for number in range(len(centres)))
    words = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta")
    texts = tuple(f"a common {words[centre]} thing" for centre in centres)
    return Survey(names, (1,) * len(names), texts, vectors, "blobs", "0" * 64)


def sizes_of(clustering):
    return [one.samples for one in clustering.clusters]


def test_plain_groups_are_found_whole():
    found = cluster(survey_of(coloured(30)), 4)
    colours = {group: group.partition("-")[0] for group in found.cluster_of}
    pairs = {(colours[group], number) for group, number in found.cluster_of.items()}
    assert len(pairs) == 4
    assert sizes_of(found) == [60] * 4
    assert {word for one in found.clusters for word in one.words[:1]} == set(COLOURS)


def test_equal_input_gives_equal_clusters():
    data = blobs([120, 80, 60, 40])
    assert cluster(data, 4) == cluster(blobs([120, 80, 60, 40]), 4)
    assert cluster(data, 4, seed=3) == cluster(data, 4, seed=3)


def test_clusters_are_numbered_by_size():
    found = cluster(blobs([40, 100, 70]), 3, balance=10)
    assert sizes_of(found) == sorted(sizes_of(found), reverse=True)
    assert [one.id for one in found.clusters] == [0, 1, 2]
    counts = Counter(found.cluster_of.values())
    assert [counts[number] for number in range(3)] == sizes_of(found)


@pytest.mark.parametrize("balance", [1.5, 2.0, 3.0])
def test_prices_keep_lopsided_data_balanced(balance):
    data = blobs([600, 100, 60, 40], spread=0.25)
    assert max(sizes_of(cluster(data, 4, balance=100))) > 3 * min(sizes_of(cluster(data, 4, balance=100)))
    sizes = sizes_of(cluster(data, 4, balance=balance))
    assert max(sizes) <= balance * min(sizes)


def test_sizes_count_samples_not_groups():
    data = blobs([50, 50], spread=0.1)
    heavy = dataclasses.replace(data, samples=(3,) * 50 + (1,) * 50)
    assert sizes_of(cluster(heavy, 2, balance=10)) == [150, 50]


def test_words_that_are_everywhere_describe_nothing():
    for one in cluster(blobs([50, 40, 30]), 3, balance=10).clusters:
        assert one.words[0] in {"alpha", "beta", "gamma"}
        assert "common" not in one.words[:1]


def test_one_cluster_holds_everything_and_still_has_words():
    found = cluster(blobs([5, 5]), 1)
    assert sizes_of(found) == [10]
    assert set(found.clusters[0].words[:2]) <= {"common", "thing"}


@pytest.mark.parametrize("count", [0, -1, 11])
def test_more_clusters_than_groups_or_none_is_a_usage_error(count):
    with pytest.raises(UsageError, match="cannot be cut"):
        cluster(blobs([5, 5]), count)


def test_data_that_look_all_the_same_cannot_be_cut():
    data = blobs([20])
    same = dataclasses.replace(data, vectors=np.repeat(data.vectors[:1], 20, axis=0))
    with pytest.raises(UsageError, match="look the same"):
        cluster(same, 3)


def test_as_many_clusters_as_groups_is_allowed():
    data = blobs([1, 1, 1], spread=0.01)
    assert sizes_of(cluster(data, 3)) == [1, 1, 1]
