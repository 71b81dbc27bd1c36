"""Which experts a strategy keeps, by hand, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paris.models.routing import STRATEGIES, Routing, RoutingError, best, nucleus, oracle, perturbed

LOGITS = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, 5.0]]).log()


def kept(routing: Routing, **more: torch.Tensor) -> list[list[float]]:
    return [[round(w, 4) for w in row] for row in routing.weights(LOGITS, **more).tolist()]


def test_full_weights_are_the_posterior():
    assert kept(Routing("full"))[0] == [0.5, 0.1667, 0.3333]


def test_top_2_keeps_the_best_two_and_renormalises():
    assert kept(Routing("top-k", 2))[0] == [0.6, 0.0, 0.4]


def test_top_1_is_the_winner_alone():
    assert kept(Routing("top-k", 1)) == [[1, 0, 0], [0, 0, 1]]


def test_top_k_of_equal_logits_keeps_exactly_k():
    assert (Routing("top-k", 3).weights(torch.zeros(5, 8)) > 0).sum(1).tolist() == [3] * 5


def test_threshold_keeps_who_reaches_it_and_always_somebody():
    assert kept(Routing("threshold", threshold=0.2))[0] == [0.6, 0.0, 0.4]
    assert kept(Routing("threshold", threshold=1.0)) == [[1, 0, 0], [0, 0, 1]]
    assert kept(Routing("threshold", threshold=0.0))[0] == [0.5, 0.1667, 0.3333]


def test_nucleus_keeps_the_fewest_that_reach_the_mass():
    assert kept(Routing("nucleus", mass=0.5))[0] == [1, 0, 0]
    assert kept(Routing("nucleus", mass=0.51))[0] == [0.6, 0.0, 0.4]
    assert kept(Routing("nucleus", mass=0.9))[0] == [0.5, 0.1667, 0.3333]
    assert kept(Routing("nucleus")) == kept(Routing("nucleus", mass=0.9))


def test_sample_draws_by_the_numbers_it_is_given():
    """The Gumbel noise of a chance near 1 is large, near 0 small."""
    sure = torch.full((2, 3), 0.5)
    sure[:, 1] = 1 - 1e-7
    weights = Routing("sample", 1).weights(LOGITS, sure)
    assert weights[0].tolist() == [0, 1, 0]
    assert weights[1].tolist() == [0, 0, 1], "an impossible expert is never drawn"


def test_chance_of_zero_is_no_trap():
    weights = Routing("sample", 2).weights(LOGITS[:1], torch.zeros(1, 3))
    assert bool(torch.isfinite(weights).all())
    assert float(weights.sum()) == pytest.approx(1)


def test_a_temperature_sharpens_or_evens_out():
    assert kept(Routing("full", temperature=0.5))[0] == [0.6429, 0.0714, 0.2857]
    assert kept(Routing("full", temperature=1e6))[0] == [0.3333, 0.3333, 0.3333]


def test_oracle_is_one_hot():
    assert oracle(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    with pytest.raises(RoutingError, match="experts 0 to 2"):
        oracle(torch.tensor([-1]), 3)


def test_k_beyond_the_experts_is_explained():
    with pytest.raises(RoutingError, match="Choose 1 to 3"):
        Routing("top-k", 4).weights(LOGITS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("k", 0),
        ("threshold", 2.0),
        ("mass", 0.0),
        ("temperature", 0.0),
        ("strategy", "vote"),
        ("guidance_weights", "x"),
    ],
)
def test_impossible_numbers_and_unknown_names_are_explained(name, value):
    with pytest.raises(RoutingError, match=str(value)):
        Routing(**{name: value})


@pytest.mark.parametrize("strategy", ["sample", "oracle"])
def test_a_strategy_that_lacks_what_decides_it_says_so(strategy):
    with pytest.raises(RoutingError, match="Logits alone do not decide"):
        Routing(strategy).weights(LOGITS)


LOGIT_ROWS = st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=8)


@given(LOGIT_ROWS, st.sampled_from(sorted(set(STRATEGIES) - {"oracle"})), st.integers(1, 2), st.integers(0, 2**32))
def test_weights_sum_to_one_are_never_negative_and_keep_the_order(row, strategy, k, seed):
    logits = torch.tensor([row])
    chance = torch.rand(1, len(row), generator=torch.Generator().manual_seed(seed))
    weights = Routing(strategy, k, threshold=0.3, mass=0.8).weights(logits, chance)[0]
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
    assert bool((weights >= 0).all())
    some = weights > 0
    assert torch.equal(weights[some].argsort(stable=True), logits.softmax(-1)[0][some].argsort(stable=True))
    if strategy not in {"threshold", "nucleus", "full"}:
        assert int(some.sum()) <= k


@given(LOGIT_ROWS, st.floats(0.01, 1.0))
def test_a_nucleus_reaches_its_mass_with_nobody_to_spare(row, mass):
    posterior = torch.tensor([row], dtype=torch.float64).softmax(-1)
    inside = nucleus(posterior, mass)
    total = float(posterior[inside].sum())
    assert total >= mass - 1e-9
    assert total - float(posterior[inside].min()) < mass


def test_helpers_by_hand():
    assert best(torch.tensor([[0.1, 0.7, 0.2]]), 2).tolist() == [[False, True, True]]
    score = perturbed(torch.tensor([[0.5, 0.0]]), torch.tensor([[0.5, 0.9]]))[0]
    assert float(score[0]) == pytest.approx(-0.3266, abs=1e-4)
    assert float(score[1]) == -torch.inf
