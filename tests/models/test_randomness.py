"""Randomness is a function of (names, step): nothing runs on, nothing collides, every epoch sees every sample once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris.models.randomness import Stream

STREAM = Stream.of("run", "cluster-0", "noise")


def test_numbers_are_pinned_for_all_time():
    """A change here would make every published checkpoint impossible to replay."""
    assert STREAM.key == 0x7E539A2E78A206F6BC1BF285F3E9BDB9
    np.testing.assert_array_equal(
        STREAM.normal(3, (3,)),
        np.array([-1.0757566690444946, 0.6689850687980652, -0.25113406777381897], dtype=np.float32),
    )
    np.testing.assert_array_equal(
        STREAM.uniform(3, (2,)), np.array([0.7534217238426208, 0.2074645757675171], dtype=np.float32)
    )
    assert STREAM.batch_indices(1, 4, 10).tolist() == [0, 5, 2, 7]


def test_a_step_does_not_depend_on_the_steps_before_it():
    alone = STREAM.normal(5, (4, 4))
    for step in range(5):
        STREAM.normal(step, (100,))
    np.testing.assert_array_equal(STREAM.normal(5, (4, 4)), alone)


def test_neighbouring_steps_share_no_numbers_even_for_huge_draws():
    first, second = STREAM.normal(0, (200_000,)), STREAM.normal(1, (200_000,))
    assert not np.intersect1d(first[-1000:], second[:1000]).size
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01


@pytest.mark.parametrize(
    "names", [("run", "cluster-1", "noise"), ("run", "cluster-0", "time"), ("runcluster-0", "noise")]
)
def test_other_names_give_other_numbers(names):
    assert not np.array_equal(Stream.of(*names).normal(0, (8,)), STREAM.normal(0, (8,)))


def test_names_cannot_be_cut_elsewhere_to_the_same_stream():
    assert Stream.of("ab", "c") != Stream.of("a", "bc") != Stream.of("abc")


@given(population=st.integers(1, 50), batch=st.integers(1, 70), epochs=st.integers(1, 3))
def test_every_epoch_visits_every_sample_once(population, batch, epochs):
    steps = -(-population * epochs // batch)
    seen = np.concatenate([STREAM.batch_indices(step, batch, population) for step in range(steps)])
    for epoch in range(epochs):
        assert sorted(seen[epoch * population : (epoch + 1) * population]) == list(range(population))


def test_epochs_differ_in_order():
    first, second = (STREAM.batch_indices(epoch, 30, 30).tolist() for epoch in range(2))
    assert first != second


def test_empty_data_is_named():
    with pytest.raises(ValueError, match="data set is empty"):
        STREAM.batch_indices(0, 4, 0)
