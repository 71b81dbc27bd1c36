"""Exact experts and exact router on a mixture of Gaussians: each strategy, objective and sampler has a known answer."""

from __future__ import annotations

import math

import pytest
import torch
from mixtures import Mixture, Router, separate, tangled

from paris.models.centroids import Centroids
from paris.models.conversion import Clamps, Prediction
from paris.models.ensemble import Ensemble
from paris.models.routing import Routing, RoutingError
from paris.models.sampling import Start, initial_noise, sample
from paris.models.schedulers import SCHEDULERS, make_scheduler, noise_levels

MIXTURE = tangled()
K = len(MIXTURE.shares_KC)
MIXED_OBJECTIVES = [
    Prediction("velocity"),
    Prediction("ddpm-noise", "cosine"),
    Prediction("ddpm-x0", "linear"),
    Prediction("ddpm-noise", "linear"),
]


def ensemble(routing: Routing, predictions: list[Prediction] | None = None, *, blind: bool = False) -> Ensemble:
    return Ensemble(
        MIXTURE.experts(predictions), Router(MIXTURE, blind=blind), routing, predictions=predictions
    )  # fmt: skip


@pytest.fixture(scope="module")
def states():
    """States of text 1's own path, with that text for all samples and the null text beside it."""
    x, t = MIXTURE.noised(400, 3, text=1)
    return x, t, torch.ones(400, dtype=torch.int64), -torch.ones(400, dtype=torch.int64)


def velocity(mixing: Ensemble, states, guidance: float = 1.0, **more: torch.Tensor):
    x, t, texts, null = states
    return mixing.velocity(x, t, MIXTURE.texts(texts), MIXTURE.texts(null), guidance, **more)


def error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours - exact).abs().max())


def test_full_ensemble_is_the_marginal_velocity(states):
    x, t, texts, null = states
    assert error(velocity(ensemble(Routing("full")), states).velocity, MIXTURE.velocity(x, t, texts)) < 1e-4
    unconditional = x, t, null, null
    assert error(velocity(ensemble(Routing("full")), unconditional).velocity, MIXTURE.velocity(x, t, null)) < 1e-4


def test_full_ensemble_of_mixed_objectives_is_the_marginal_velocity(states):
    x, t, texts, _ = states
    mixing = ensemble(Routing("full"), MIXED_OBJECTIVES)
    assert error(velocity(mixing, states).velocity, MIXTURE.velocity(x, t, texts)) < 2e-4


@pytest.mark.parametrize(
    ("routing", "keeps"),
    [
        (Routing("top-k", 1), lambda p: p >= p.max()),
        (Routing("top-k", 3), lambda p: p > p.min()),
        (Routing("threshold", threshold=0.2), lambda p: (p >= 0.2) | (p >= p.max())),
        (Routing("nucleus", mass=0.7), lambda p: torch.tensor([float(p[p > share].sum()) < 0.7 for share in p])),
    ],
    ids=lambda value: getattr(value, "strategy", ""),
)
def test_a_truncated_ensemble_is_the_marginal_velocity_of_the_clusters_it_keeps(states, routing, keeps):
    """Renormalised posteriors are posteriors given that the cluster is among those kept."""
    x, t, texts, _ = states
    kept_BK = torch.stack([keeps(row) for row in MIXTURE.posterior(x, t, texts)])
    mixed = velocity(ensemble(routing), states)
    assert torch.equal(mixed.weights_BK > 0, kept_BK)
    assert error(mixed.velocity, MIXTURE.velocity(x, t, texts, kept_BK)) < 1e-4


def test_oracle_is_the_velocity_of_the_named_cluster(states):
    x, t, texts, _ = states
    labels = torch.arange(len(x)) % K
    mixed = velocity(ensemble(Routing("oracle")), states, labels_B=labels)
    assert error(mixed.velocity, MIXTURE.velocity(x, t, texts, torch.nn.functional.one_hot(labels, K) > 0)) < 1e-4


def test_an_oracle_that_is_told_nothing_or_nonsense_says_so(states):
    with pytest.raises(RoutingError, match="told none"):
        velocity(ensemble(Routing("oracle")), states)
    with pytest.raises(RoutingError, match="experts 0 to 3"):
        velocity(ensemble(Routing("oracle")), states, labels_B=torch.full((400,), 4))


def test_sampling_all_experts_is_the_full_ensemble(states):
    chance = torch.rand(400, K, generator=torch.Generator().manual_seed(0))
    mixed = velocity(ensemble(Routing("sample", K)), states, chance_BK=chance)
    assert error(mixed.velocity, velocity(ensemble(Routing("full")), states).velocity) < 1e-5


def test_sampled_experts_are_drawn_with_their_posterior_and_mix_to_its_velocity():
    """One state, many draws: frequencies and mean velocity within four standard deviations."""
    draws = 4000
    x, t = (part.expand(draws, *part.shape[1:]) for part in MIXTURE.noised(1, 8, low=0.6, high=0.6))
    texts = torch.zeros(draws, dtype=torch.int64)
    posterior, exact = MIXTURE.posterior(x[:1], t[:1], texts[:1])[0], MIXTURE.velocity(x[:1], t[:1], texts[:1])[0]
    assert posterior.max() < 0.9, "a state with nothing to choose would prove nothing"
    chance = torch.rand(draws, K, generator=torch.Generator().manual_seed(1))
    mixed = velocity(ensemble(Routing("sample", 1)), (x, t, texts, texts), chance_BK=chance)
    bound = 4 * (posterior * (1 - posterior) / draws).sqrt()
    assert bool(((mixed.weights_BK.mean(0) - posterior).abs() <= bound).all())
    assert bool(((mixed.velocity.mean(0) - exact).abs() <= 4 * mixed.velocity.std(0) / draws**0.5).all())


def test_nucleus_sampling_never_draws_from_the_tail(states):
    chance = torch.rand(400, K, generator=torch.Generator().manual_seed(2))
    drawn = velocity(ensemble(Routing("sample", 1, mass=0.5)), states, chance_BK=chance).weights_BK
    inside = velocity(ensemble(Routing("nucleus", mass=0.5)), states).weights_BK > 0
    assert not bool((drawn[~inside] > 0).any())


def test_temperature_tempers_the_posterior(states):
    x, t, texts, _ = states
    tempered = MIXTURE.posterior(x, t, texts).double().pow(1 / 2.5)
    weights = velocity(ensemble(Routing("full", temperature=2.5)), states).weights_BK
    assert torch.allclose(weights, (tempered / tempered.sum(-1, keepdim=True)).float(), atol=1e-5)


def test_router_free_weights_are_exact_for_isotropic_clusters():
    mixture = separate()
    latents, labels, _ = mixture.data(60_000, 4)
    none = torch.empty(0)
    centres = Centroids(1, torch.empty(0, 2), none, none, torch.empty(0, 0), none, none)
    for k in range(3):
        centres = centres.with_cluster(latents[labels == k], torch.empty(int((labels == k).sum()), 0))
    x, t = mixture.noised(500, 5)
    texts = mixture.texts(torch.zeros(500, dtype=torch.int64))
    routing = Routing("router-free", 3)
    mixing = Ensemble(mixture.experts(), Router(mixture), routing, centroids=centres)
    mixed = mixing.velocity(x, t, texts, texts, 1.0)
    assert error(mixed.weights_BK, mixture.posterior(x, t, torch.zeros(500))) < 0.02
    assert mixing.router.calls == 0
    fewer = Ensemble(mixture.experts()[1:], Router(mixture), Routing("full"), centroids=centres.without_cluster(0))
    fewer.routing = Routing("router-free", 2)
    only = mixture.posterior(x, t, torch.zeros(500))[:, 1:]
    assert error(fewer.weights(x, t, texts), only / only.sum(-1, keepdim=True)) < 0.05


def test_guidance_with_two_weight_vectors_is_guidance_of_the_whole_mixture(states):
    x, t, texts, null = states
    u_text, u_null = MIXTURE.velocity(x, t, texts), MIXTURE.velocity(x, t, null)
    mixed = velocity(ensemble(Routing("full", guidance_weights="exact")), states, 4.0)
    assert error(mixed.velocity, u_null + 4 * (u_text - u_null)) < 1e-3
    assert error(mixed.weights_BK, MIXTURE.posterior(x, t, texts)) < 1e-5
    assert error(mixed.null_weights_BK, MIXTURE.posterior(x, t, null)) < 1e-5


def test_guidance_with_one_weight_vector_is_the_papers_and_another_law(states):
    x, t, texts, null = states
    shared = velocity(ensemble(Routing("full", guidance_weights="shared")), states, 4.0)
    paper = torch.zeros_like(x)
    for k, weight in enumerate(MIXTURE.posterior(x, t, texts).T):
        only = torch.arange(K).expand(len(x), K) == k
        v_text, v_null = (MIXTURE.velocity(x, t, each, only) for each in (texts, null))
        paper += weight[:, None, None, None] * (v_null + 4 * (v_text - v_null))
    assert error(shared.velocity, paper) < 1e-3
    exact = velocity(ensemble(Routing("full", guidance_weights="exact")), states, 4.0)
    assert error(shared.velocity, exact.velocity) > 0.5


def test_one_and_two_weight_vectors_agree_where_text_tells_nothing_of_the_cluster():
    shares, means, variances = (part[:, :1] for part in (MIXTURE.shares_KC, MIXTURE.means_KCD, MIXTURE.variances_KC))
    even = Mixture(shares.expand(K, 2) / 2, means.expand(K, 2, 2), variances.expand(K, 2))
    x, t = even.noised(100, 6)
    text, null = (even.texts(torch.full((100,), which)) for which in (0, -1))
    both = [
        Ensemble(even.experts(), Router(even), Routing("full", guidance_weights=name)).velocity(x, t, text, null, 5.0)
        for name in ("exact", "shared")
    ]
    assert error(both[0].velocity, both[1].velocity) < 1e-3


def test_guidance_of_two_halves_asks_each_expert_once_a_step_and_each_row_only_where_it_counts(states):
    mixing = ensemble(Routing("top-k", 2))
    mixed = velocity(mixing, states, 3.0)
    for index, expert in enumerate(mixing.experts.sources):
        rows = (mixed.weights_BK[:, index] > 0).sum() + (mixed.null_weights_BK[:, index] > 0).sum()
        assert [len(y) for y, _ in expert.asked] == [int(rows)]
    assert sum(len(expert.asked[0][0]) for expert in mixing.experts.sources) == 2 * 2 * 400


def test_guidance_of_mixed_objectives_is_the_same_guidance(states):
    plain, mixed = (velocity(ensemble(Routing("full"), kinds), states, 3.0) for kinds in (None, MIXED_OBJECTIVES))
    assert error(plain.velocity, mixed.velocity) < 2e-3


# -- objectives at the border ------------------------------------------------------------------------------------------


def converted(prediction: Prediction, x: torch.Tensor, t: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    expert = MIXTURE.experts([prediction] * K)[2]
    text = MIXTURE.texts(texts)
    return prediction.velocity(lambda y, u: expert(y, u, text.tokens_BLE, text.mask_BL), x, t)


@pytest.mark.parametrize("objective", ["ddpm-noise", "ddpm-x0"])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_an_exact_ddpm_expert_converts_to_the_exact_flow_velocity(states, objective, schedule):
    x, t, texts, _ = states
    only = torch.arange(K).expand(len(x), K) == 2
    assert error(converted(Prediction(objective, schedule), x, t, texts), MIXTURE.velocity(x, t, texts, only)) < 2e-4


@pytest.mark.parametrize("objective", ["ddpm-noise", "ddpm-x0"])
def test_an_expert_asked_at_the_flow_time_without_matching_the_noise_is_wrong(states, objective):
    """What the matching is for; if it did nothing, the test before this one could not fail."""
    x, t, texts, _ = states
    expert, text = MIXTURE.experts([Prediction(objective)] * K)[2], MIXTURE.texts(texts)
    answer = expert(x, t, text.tokens_BLE, text.mask_BL)
    spread = t[:, None, None, None]
    v = answer - (x - spread * answer) / (1 - spread) if objective == "ddpm-noise" else (x - answer) / spread
    only = torch.arange(K).expand(len(x), K) == 2
    assert error(v, MIXTURE.velocity(x, t, texts, only)) > 0.5


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_pure_noise_is_asked_about_a_hundredth_of_signal_away(schedule):
    """At t = 1 a noise expert cannot tell x0 at all; the answer a hundredth of signal away is off by about as much."""
    x, t = MIXTURE.noised(200, 7, low=1.0, high=1.0)
    texts = torch.zeros(200, dtype=torch.int64)
    only = torch.arange(K).expand(len(x), K) == 2
    v = converted(Prediction("ddpm-noise", schedule), x, t, texts)
    assert bool(torch.isfinite(v).all())
    assert error(v, MIXTURE.velocity(x, t, texts, only)) < 0.05


def test_damping_below_one_biases_even_exact_experts(states):
    x, t = MIXTURE.noised(200, 9, low=0.99, high=0.99)
    texts = torch.zeros(200, dtype=torch.int64)
    damped = converted(Prediction("ddpm-noise", clamps=Clamps(damping=0.9)), x, t, texts)
    plain = converted(Prediction("ddpm-noise"), x, t, texts)
    factor = 1 - 0.1 * (0.99 - 0.85) / 0.15
    assert torch.allclose(damped, plain * factor, atol=1e-5)
    calm = torch.full((400,), 0.8)
    same = (
        converted(Prediction("ddpm-noise", clamps=Clamps(damping=d)), states[0], calm, states[2]) for d in (1.0, 0.5)
    )
    assert torch.equal(*same)


# -- samples -----------------------------------------------------------------------------------------------------------

STEPS = {"euler": 100, "heun": 30, "unipc": 30, "dpm++": 40}


def drawn(mixture: Mixture, name: str, steps: int, count: int, predictions=None, **more) -> torch.Tensor:
    text = mixture.texts(torch.zeros(count, dtype=torch.int64))
    mixing = Ensemble(mixture.experts(predictions), Router(mixture), Routing("full"), predictions=predictions)
    latents, _ = sample(
        mixing, text, text, mixture.shape, make_scheduler(name), steps=steps, guidance=1.0, seeds=range(count), **more
    )
    return latents.flatten(1).double()


@pytest.mark.parametrize(
    ("name", "predictions"), [*((name, None) for name in SCHEDULERS), ("unipc", MIXED_OBJECTIVES[:3])]
)
def test_samples_match_the_mixture(name, predictions):
    """Shares within four binomial deviations, means and variances within four of theirs and the solver's own bias."""
    mixture, count = separate(), 3000
    x = drawn(mixture, name, STEPS[name], count, predictions)
    nearest = (x[:, None] - mixture.means_KCD[:, 0]).square().sum(-1).argmin(-1)
    for k, share in enumerate(mixture.shares_KC[:, 0].tolist()):
        own, variance = x[nearest == k], float(mixture.variances_KC[k, 0])
        assert abs(len(own) / count - share) < 4 * math.sqrt(share * (1 - share) / count)
        assert (own.mean(0) - mixture.means_KCD[k, 0]).abs().max() < 4 * math.sqrt(variance / len(own)) + 0.02
        assert abs(float(own.var(0).mean()) / variance - 1) < 4 / math.sqrt(len(own)) + 0.06


@pytest.mark.parametrize("name", SCHEDULERS)
def test_image_to_image_walks_the_known_map_of_a_gaussian(name):
    """For one Gaussian the flow is linear: x_0 = m + s_0 / s_t (x_t - (1 - t) m), s_t^2 = (1 - t)^2 s_0^2 + t^2."""
    mean, variance, steps, strength = torch.tensor([1.0, -2.0], dtype=torch.float64), 0.3, 200, 0.5
    mixture = Mixture(torch.ones(1, 1, dtype=torch.float64), mean[None, None], torch.full((1, 1), variance))
    start = torch.tensor([[0.5, 0.0], [2.0, -1.0]])
    x = drawn(mixture, name, steps, 2, start=Start(start[..., None, None], strength))
    t = float(noise_levels(make_scheduler(name), steps, strength)[1][0])
    assert abs(t - strength) < 0.01
    noised = (1 - t) * start + t * initial_noise(mixture.shape, range(2)).flatten(1)
    scale = math.sqrt(variance / ((1 - t) ** 2 * variance + t**2))
    assert error(x, mean + scale * (noised - (1 - t) * mean)) < 0.02
