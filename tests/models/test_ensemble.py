"""Mixing is the formula, however it is computed: grouped or naive, alone or in a batch, under a memory cap or not."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from paris.models.conversion import Prediction
from paris.models.ensemble import Ensemble, Mixed
from paris.models.experts import ExpertPool
from paris.models.presets import PRESETS
from paris.models.router import Router
from paris.models.routing import Routing, RoutingError
from paris.models.sampling import chances, initial_noise, sample


@pytest.fixture
def build(make_expert, make_router):
    def build(strategy: str, k: int, **more) -> Ensemble:
        return Ensemble([make_expert(seed) for seed in range(4)], make_router(4, 9), Routing(strategy, k, **more))

    return build


@pytest.fixture
def inputs(texts):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 3, 32, 32, generator=generator)
    null = texts.select(torch.zeros(6, dtype=torch.int64))
    return x, torch.linspace(0.05, 0.95, 6), texts, null


def ask(expert, x, t, text):
    """One bare pass of one expert."""
    with torch.no_grad():
        return expert(x, t, text.tokens_BLE, text.mask_BL)


@pytest.mark.parametrize("guidance_weights", ["exact", "shared"])
@pytest.mark.parametrize(("strategy", "k"), [("top-k", 1), ("top-k", 2), ("top-k", 3), ("full", 1)])
def test_grouping_by_expert_equals_the_naive_loop(build, inputs, strategy, k, guidance_weights):
    ensemble = build(strategy, k, guidance_weights=guidance_weights)
    x, t, text, null = inputs
    mixed = ensemble.velocity(x, t, text, null, 2.5)
    naive = torch.zeros_like(x)
    for i in range(len(x)):
        row = torch.tensor([i])
        for index in range(4):
            for half, weights, share in ((text, mixed.weights_BK, 2.5), (null, mixed.null_weights_BK, -1.5)):
                v = ask(ensemble.expert(index), x[row], t[row], half.select(row))
                naive[i] += share * weights[i, index] * v[0]
    assert torch.allclose(mixed.velocity, naive, atol=1e-5)
    assert (mixed.weights_BK > 0).sum(1).tolist() == [4 if strategy == "full" else k] * 6


def test_top_k_of_all_experts_is_the_full_ensemble(build, inputs):
    top, full = build("top-k", 4).velocity(*inputs, 3.0), build("full", 1).velocity(*inputs, 3.0)
    assert torch.allclose(top[0], full[0], atol=1e-6)
    assert torch.allclose(top[1], full[1], atol=1e-6)


def test_each_half_hears_its_own_text(build, inputs):
    x, t, text, null = inputs
    ensemble = build("full", 1)
    one, other = ensemble.velocity(x, t, text, null, 3.0), ensemble.velocity(x, t, text, text, 3.0)
    assert torch.equal(one.weights_BK, other.weights_BK)
    assert not torch.allclose(one.null_weights_BK, other.null_weights_BK, atol=1e-3)
    assert torch.equal(one.null_weights_BK, ensemble.weights(x, t, null))


def test_one_expert_a_step_is_guided_inside_itself(build, inputs):
    mixed = build("top-k", 1).velocity(*inputs, 3.0)
    assert torch.equal(mixed.weights_BK, mixed.null_weights_BK)


def test_a_blind_router_is_asked_once(make_expert, inputs):
    blind = Router(**{**PRESETS["micro"].router, "text_dim": 0}, clusters=2).eval()
    calls = []
    blind.register_forward_hook(lambda *_: calls.append(1))
    mixed = Ensemble([make_expert(0), make_expert(1)], blind).velocity(*inputs, 3.0)
    assert len(calls) == 1
    assert torch.equal(mixed.weights_BK, mixed.null_weights_BK)


def test_guidance_by_hand(make_expert, make_router, inputs):
    x, t, text, null = inputs
    ensemble = Ensemble([make_expert(0)], make_router(1, 0), Routing("full"))
    with_text, without = (ask(ensemble.expert(0), x, t, half) for half in (text, null))
    assert torch.allclose(ensemble.velocity(*inputs, 1.0).velocity, with_text, atol=1e-5)
    assert torch.allclose(ensemble.velocity(*inputs, 0.0).velocity, without, atol=1e-5)
    assert torch.allclose(ensemble.velocity(*inputs, 4.0).velocity, without + 4 * (with_text - without), atol=1e-4)


def test_a_router_temperature_divides_the_logits(build, inputs):
    x, t, text, _ = inputs
    plain, tempered = build("full", 1), build("full", 1)
    tempered.router_temperature = 3.0
    expected = (plain.weights(x, t, text).log() / 3).softmax(-1)
    assert torch.allclose(tempered.weights(x, t, text), expected, atol=1e-5)


def test_routing_without_a_router_needs_data_centres(build, inputs):
    with pytest.raises(RoutingError, match="no data centres"):
        build("router-free", 2).velocity(*inputs, 1.0)


def test_objectives_pair_with_experts(make_expert, make_router):
    with pytest.raises(RoutingError, match="1 experts and 2 objectives"):
        Ensemble([make_expert(0)], make_router(1, 0), predictions=[Prediction(), Prediction()])


def test_what_is_in_memory_does_not_change_a_bit(tmp_path, make_expert, make_router, inputs):
    """Under a cap that holds one expert, experts come and go in another order; sums must not notice."""
    for seed in range(4):
        make_expert(seed).save_pretrained(tmp_path / str(seed))
    folders = [tmp_path / str(seed) for seed in range(4)]
    roomy, tight = ExpertPool(folders), ExpertPool(folders)
    tight.memory_bytes = tight.size_bytes(0)
    router = make_router(4, 9)
    ensembles = [Ensemble(pool, router, Routing("full")) for pool in (roomy, tight)]
    for _ in range(2):
        one, other = (ensemble.velocity(*inputs, 3.0).velocity for ensemble in ensembles)
        assert torch.equal(one, other)
    assert len(roomy.resident) == 4
    assert len(tight.resident) == 1


def test_unused_experts_are_never_loaded(tmp_path, make_expert, make_router, inputs):
    make_expert(0).save_pretrained(tmp_path / "0")
    router = make_router(2, 0)
    with torch.no_grad():
        router.head[-1].weight.zero_()
        router.head[-1].bias.copy_(torch.tensor([5.0, -5.0]))
    ensemble = Ensemble([tmp_path / "0", tmp_path / "not-there"], router, Routing("top-k", 1))
    assert ensemble.velocity(*inputs, 2.0).weights_BK[:, 0].tolist() == [1.0] * 6


def test_noise_of_a_picture_comes_from_its_seed_alone():
    assert torch.equal(initial_noise((3, 4, 4), [5, 6, 7])[2], initial_noise((3, 4, 4), [7])[0])
    assert not torch.equal(*initial_noise((3, 4, 4), [5, 6]))


@pytest.mark.parametrize("strategy", ["top-k", "sample"])
def test_a_picture_does_not_depend_on_its_batch(build, texts, strategy):
    """Within rounding: a matrix product of another size may round otherwise (seen: 6e-7 of 3.3)."""

    def draw(rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        index = torch.tensor(rows)
        null = texts.select(torch.zeros_like(index))
        latents, trace = sample(
            build(strategy, 2), texts.select(index), null, (3, 32, 32), FlowMatchEulerDiscreteScheduler(),
            steps=5, guidance=3.0, seeds=[40 + row for row in rows],
        )  # fmt: skip
        return latents, trace.weights_SBK

    (together, weights), (alone, weights_alone) = draw([0, 1, 2, 3]), draw([2])
    assert torch.allclose(together[2], alone[0], atol=1e-5)
    assert torch.allclose(weights[:, 2], weights_alone[:, 0], atol=1e-5)
    assert torch.equal(weights[:, 2] > 0, weights_alone[:, 0] > 0)


def test_experts_drawn_by_chance_change_from_step_to_step_and_seed_to_seed():
    first, later = chances(64, [1, 2], 0), chances(64, [1, 2], 1)
    assert torch.equal(first[1], chances(64, [2], 0)[0])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, later)


class Teacher:
    """An ensemble that knows the answer: its velocity leads straight to one picture."""

    def __init__(self, data: torch.Tensor) -> None:
        self.data, self.times = data, []

    routing = Routing("full")

    def velocity(self, x, t_B, text, null, guidance, **more):
        self.times.append(float(t_B[0]))
        return Mixed((x - self.data) / t_B[:, None, None, None], torch.ones(len(x), 1), None)


def test_sampling_a_perfect_velocity_ends_in_the_data(texts):
    data = torch.randn(2, 3, 8, 8)
    teacher, steps = Teacher(data), []
    latents, trace = sample(
        teacher, texts, texts, (3, 8, 8), FlowMatchEulerDiscreteScheduler(),
        steps=8, guidance=1.0, seeds=[1, 2], on_step=lambda number, *_: steps.append(number),
    )  # fmt: skip
    assert torch.allclose(latents, data, atol=1e-4)
    assert teacher.times[0] == 1.0
    assert teacher.times == sorted(teacher.times, reverse=True)
    assert steps == list(range(8))
    assert trace.steps_drawn().tolist() == [[8], [8]]
