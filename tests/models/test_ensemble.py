"""Mixing is the formula, however it is computed: grouped or naive, alone or in a batch, top-K or full."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from paris.models.ensemble import Ensemble, guided
from paris.models.routing import RoutingError, mixture_weights
from paris.models.sampling import initial_noise, sample

LOGITS = torch.tensor([[3.0, 1.0, 2.0], [0.0, 0.0, 5.0]]).log()


def test_full_weights_are_the_posterior():
    assert torch.allclose(mixture_weights(LOGITS[:1], "full", 1), torch.tensor([[3.0, 1.0, 2.0]]) / 6)


def test_top_2_keeps_the_best_two_and_renormalises():
    assert torch.allclose(mixture_weights(LOGITS[:1], "top-k", 2), torch.tensor([[0.6, 0.0, 0.4]]))


def test_top_1_is_the_winner_alone():
    assert mixture_weights(LOGITS, "top-k", 1).tolist() == [[1, 0, 0], [0, 0, 1]]


def test_top_k_of_equal_logits_keeps_exactly_k():
    assert (mixture_weights(torch.zeros(5, 8), "top-k", 3) > 0).sum(1).tolist() == [3] * 5


@pytest.mark.parametrize("k", [0, 4, -1])
def test_impossible_k_is_explained(k):
    with pytest.raises(RoutingError, match="Choose 1 to 3"):
        mixture_weights(LOGITS, "top-k", k)


def test_unknown_strategy_is_explained():
    with pytest.raises(RoutingError, match="top-k, full"):
        mixture_weights(LOGITS, "vote", 1)


@pytest.fixture
def build(make_expert, make_router):
    def build(strategy: str, k: int) -> Ensemble:
        return Ensemble([make_expert(seed) for seed in range(4)], make_router(4, 9), strategy, k)

    return build


@pytest.fixture
def inputs(texts):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 3, 32, 32, generator=generator)
    null = texts.select(torch.zeros(6, dtype=torch.int64))
    return x, torch.linspace(0.05, 0.95, 6), texts, null


@pytest.mark.parametrize(("strategy", "k"), [("top-k", 1), ("top-k", 2), ("top-k", 3), ("full", 1)])
def test_grouping_by_expert_equals_the_naive_loop(build, inputs, strategy, k):
    ensemble = build(strategy, k)
    x, t, text, null = inputs
    grouped, weights = ensemble.velocity(x, t, text, null, 2.5)
    naive = torch.zeros_like(x)
    for i in range(len(x)):
        row = torch.tensor([i])
        for index in range(4):
            if weights[i, index] > 0:
                texts = text.select(row), null.select(row)
                naive[i] += weights[i, index] * guided(ensemble.expert(index), x[row], t[row], texts, 2.5)[0]
    assert torch.allclose(grouped, naive, atol=1e-5)
    assert (weights > 0).sum(1).tolist() == [4 if strategy == "full" else k] * 6


def test_top_k_of_all_experts_is_the_full_ensemble(build, inputs):
    top, full = build("top-k", 4).velocity(*inputs, 3.0), build("full", 1).velocity(*inputs, 3.0)
    assert torch.allclose(top[0], full[0], atol=1e-6)
    assert torch.allclose(top[1], full[1], atol=1e-6)


def test_router_hears_the_prompt_not_the_negative(build, inputs):
    x, t, text, null = inputs
    ensemble = build("full", 1)
    assert torch.equal(ensemble.velocity(x, t, text, null, 3.0)[1], ensemble.velocity(x, t, text, text, 3.0)[1])


def test_guidance_by_hand(make_expert, inputs):
    x, t, text, null = inputs
    expert = make_expert(0)
    with_text = guided(expert, x, t, (text, null), 1.0)
    without = guided(expert, x, t, (null, text), 1.0)
    assert torch.allclose(guided(expert, x, t, (text, null), 0.0), without, atol=1e-5)
    assert torch.allclose(guided(expert, x, t, (text, null), 4.0), without + 4 * (with_text - without), atol=1e-4)


def test_unused_experts_are_never_loaded(tmp_path, make_expert, make_router, inputs):
    make_expert(0).save_pretrained(tmp_path / "0")
    router = make_router(2, 0)
    with torch.no_grad():
        router.head[-1].weight.zero_()
        router.head[-1].bias.copy_(torch.tensor([5.0, -5.0]))
    ensemble = Ensemble([tmp_path / "0", tmp_path / "not-there"], router, "top-k", 1)
    _, weights = ensemble.velocity(*inputs, 2.0)
    assert weights[:, 0].tolist() == [1.0] * 6


def test_noise_of_a_picture_comes_from_its_seed_alone():
    assert torch.equal(initial_noise((3, 4, 4), [5, 6, 7])[2], initial_noise((3, 4, 4), [7])[0])
    assert not torch.equal(*initial_noise((3, 4, 4), [5, 6]))


def test_a_picture_does_not_depend_on_its_batch(build, texts):
    def draw(rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.tensor(rows)
        null = texts.select(torch.zeros_like(index))
        latents, trace = sample(
            build("top-k", 2), texts.select(index), null, (3, 32, 32), FlowMatchEulerDiscreteScheduler(),
            steps=5, guidance=3.0, seeds=[40 + row for row in rows],
        )  # fmt: skip
        return latents, trace.weights_SBK

    (together, weights), (alone, weights_alone) = draw([0, 1, 2, 3]), draw([2])
    assert torch.allclose(together[2], alone[0], atol=1e-4)
    assert torch.allclose(weights[:, 2], weights_alone[:, 0], atol=1e-4)


class Teacher:
    """An ensemble that knows the answer: its velocity leads straight to one picture."""

    def __init__(self, data: torch.Tensor) -> None:
        self.data, self.times = data, []

    def velocity(self, x, t_B, text, null, guidance):
        self.times.append(float(t_B[0]))
        return (x - self.data) / t_B[:, None, None, None], torch.ones(len(x), 1)


def test_sampling_a_perfect_velocity_ends_in_the_data(texts):
    data = torch.randn(2, 3, 8, 8)
    teacher, steps = Teacher(data), []
    latents, trace = sample(
        teacher, texts, texts, (3, 8, 8), FlowMatchEulerDiscreteScheduler(),
        steps=8, guidance=1.0, seeds=[1, 2], on_step=lambda number, _: steps.append(number),
    )  # fmt: skip
    assert torch.allclose(latents, data, atol=1e-4)
    assert teacher.times[0] == 1.0
    assert teacher.times == sorted(teacher.times, reverse=True)
    assert steps == list(range(1, 9))
    assert trace.steps_drawn().tolist() == [[8], [8]]
