"""Believing a router, and changing who it routes to: calibration, centres, one row more, one row less."""

from __future__ import annotations

import math

import pytest
import torch
from mixtures import Mixture, separate

from paris.models.cache import LatentCache
from paris.models.calibration import Answers, ask, calibrate, calibration_error, fit_temperature
from paris.models.centroids import Centroids, pooled
from paris.models.checkpoints import CheckpointError
from paris.models.growth import GrowthError, drop_expert, fit_new_row, fit_row, grow_router
from paris.models.presets import PRESETS
from paris.models.router import Router
from paris.models.text import TextBatch


def truthful(count: int = 20_000, sharpness: float = 1.0) -> Answers:
    """Labels drawn from the softmax of the logits themselves, which are then told `sharpness` times too loudly."""
    generator = torch.Generator().manual_seed(3)
    logits = 2 * torch.randn(count, 4, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    return Answers(logits * sharpness, labels, torch.rand(count, generator=generator))


def test_a_truthful_router_needs_no_temperature():
    report = calibrate(truthful())
    assert report.temperature == pytest.approx(1, abs=0.03)
    assert report.error < 0.015


@pytest.mark.parametrize("sharpness", [0.25, 3.0, 10.0])
def test_temperature_undoes_over_and_underconfidence(sharpness):
    report = calibrate(truthful(sharpness=sharpness))
    assert report.temperature == pytest.approx(sharpness, rel=0.03)
    assert report.error > 0.05
    assert report.error_after < 0.015
    assert report.loss_after < report.loss


def test_fitted_temperature_is_the_minimum():
    answers = truthful(2000, 2.0)
    best = fit_temperature(answers.logits_NK, answers.labels_N)

    def loss(temperature):
        return float(torch.nn.functional.cross_entropy(answers.logits_NK / temperature, answers.labels_N))

    assert loss(best) <= min(loss(best * 1.01), loss(best / 1.01))


def test_hopeless_and_perfect_routers_get_a_finite_temperature():
    logits = torch.eye(3).repeat(10, 1)
    right, wrong = torch.arange(3).repeat(10), torch.arange(3).roll(1).repeat(10)
    assert 0.01 <= fit_temperature(logits, right) < 0.1
    assert fit_temperature(logits, wrong) == pytest.approx(100, rel=0.1)


def test_calibration_error_by_hand():
    """Two answers at confidence 0.9, one right: a gap of 0.4; one at 0.6, right: a gap of 0.4."""
    logits = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4]]).log()
    assert calibration_error(logits, torch.tensor([0, 1, 0]), bins=10) == pytest.approx(0.4, abs=1e-6)


def test_accuracy_is_told_by_noise_level():
    logits = torch.tensor([[1.0, 0.0]]).repeat(4, 1)
    answers = Answers(logits, torch.tensor([0, 0, 1, 0]), torch.tensor([0.1, 0.2, 0.7, 0.999]))
    report = calibrate(answers, levels=2)
    assert [(level.low, level.high, level.answers, level.accuracy) for level in report.levels] == [
        (0.0, 0.5, 2, 1.0),
        (0.5, 1.0, 2, 0.5),
    ]
    assert report.accuracy == 0.75
    assert report.as_json()["levels"][1]["accuracy"] == 0.5


def test_asking_twice_asks_the_same_and_dropped_text_is_the_null_text(cache, make_router):
    router, heard = make_router(2, 1), []
    router.register_forward_pre_hook(lambda _, inputs: heard.append(inputs[2]))
    first, second = (ask(router, cache, 60) for _ in range(2))
    assert torch.equal(first.logits_NK, second.logits_NK)
    assert len(first.labels_N) == 60
    ask(router, cache, 60, drop_text=True)
    assert torch.equal(heard[-1], cache.texts.pooled_BE[:1].float().expand(60, -1))


# -- one expert more or less -------------------------------------------------------------------------------------------


def gaussian_answers(mixture: Mixture, count: int, seed: int):
    """Noised samples at one level of equal-variance clusters, whose log-odds are linear in x: features that suffice."""
    t = torch.full((count,), 0.4)
    x0, labels, _ = mixture.data(count, seed)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed + 1))
    x = 0.6 * x0 + 0.4 * noise
    return x, t, labels


def test_a_new_row_recovers_the_exact_posterior():
    """Mean total variation below 0.01 from the closed form, of 20,000 answers; the old rows are the exact logits."""
    means = torch.tensor([[[-1.0, 0.0]], [[1.0, 0.5]], [[0.0, 1.5]], [[0.6, -1.0]]], dtype=torch.float64)
    whole = Mixture(torch.tensor([[0.4], [0.3], [0.2], [0.1]], dtype=torch.float64), means, torch.full((4, 1), 0.3))
    old = Mixture(whole.shares_KC[:3], means[:3], whole.variances_KC[:3])
    x, t, labels = gaussian_answers(whole, 20_000, 0)
    offset = 0.6 * means[:3, 0]
    variance = 0.36 * 0.3 + 0.16
    flat = x.flatten(1).double()
    logits = old.shares_KC[:, 0].log() + flat @ offset.T / variance - offset.square().sum(-1) / (2 * variance)
    assert torch.allclose(logits.softmax(-1).float(), old.posterior(x, t, torch.zeros(len(x))), atol=1e-5)
    weight, bias, _ = fit_row(flat, logits, labels)
    x, t, _ = gaussian_answers(whole, 5000, 9)
    flat = x.flatten(1).double()
    logits = old.shares_KC[:, 0].log() + flat @ offset.T / variance - offset.square().sum(-1) / (2 * variance)
    ours = torch.cat([logits, (flat @ weight + bias)[:, None]], dim=1).softmax(-1)
    distance = (ours - whole.posterior(x, t, torch.zeros(5000))).abs().sum(-1) / 2
    assert float(distance.mean()) < 0.01


@pytest.fixture
def three_kinds() -> LatentCache:
    """Three clusters that differ in brightness; the third is the new one."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(96) % 3
    level = torch.tensor([-0.8, 0.8, 0.0])[labels][:, None, None, None]
    latents = 0.2 * torch.randn(96, 3, 32, 32, generator=generator) + level
    texts = TextBatch(
        torch.zeros(2, 16, 384), torch.ones(2, 16, dtype=torch.bool), torch.randn(2, 384, generator=generator)
    )
    return LatentCache(latents.half(), torch.ones(96, dtype=torch.int64), labels, texts)


def test_growing_changes_only_the_new_row(make_router, three_kinds):
    router = make_router(2, 3)
    grown = grow_router(router)
    before = {name: tensor.clone() for name, tensor in grown.state_dict().items()}
    untrained = calibrate(ask(grown, three_kinds, 600)).loss
    fit_new_row(grown, three_kinds, answers=2000)
    after = grown.state_dict()
    changed = [name for name in after if not torch.equal(before[name], after[name])]
    assert sorted(changed) == ["head.4.bias", "head.4.weight"]
    for name, tensor in router.state_dict().items():
        assert torch.equal(after[name][: len(tensor)] if name in changed else after[name], tensor)
    report = calibrate(ask(grown, three_kinds, 600))
    assert report.loss < untrained
    assert grown.config["clusters"] == 3


def test_a_grown_router_finds_the_new_cluster_and_forgets_no_old_one(three_kinds):
    """A router trained on two clusters only; the third is told apart as far as its features can."""
    torch.manual_seed(0)
    router = Router(**PRESETS["micro"].router, clusters=2)
    optimiser = torch.optim.AdamW(router.parameters(), 3e-3)
    old = (three_kinds.labels_N < 2).nonzero().flatten()
    for _ in range(80):
        rows = old[torch.randint(len(old), (32,))]
        x0, t = three_kinds.latents_NCHW[rows].float(), torch.rand(32)
        x = (1 - t)[:, None, None, None] * x0 + t[:, None, None, None] * torch.randn_like(x0)
        pooled_BE = three_kinds.texts.pooled_BE[1].expand(32, -1)
        loss = torch.nn.functional.cross_entropy(router(x, t, pooled_BE), three_kinds.labels_N[rows])
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    grown = grow_router(router.eval())
    loss = fit_new_row(grown, three_kinds, answers=3000)
    answers = ask(grown, three_kinds, 600)
    clear = answers.times_N < 0.8
    right = (answers.logits_NK.argmax(-1) == answers.labels_N)[clear].double()
    assert loss < 0.5 * math.log(3)
    assert min(float(right[answers.labels_N[clear] == k].mean()) for k in range(3)) > 0.85
    among_old = answers.logits_NK[:, :2].softmax(-1)
    assert torch.allclose(among_old, ask(router, three_kinds, 600).logits_NK.softmax(-1), atol=1e-6)


def test_dropping_an_expert_renormalises_the_others(make_router, texts):
    router = make_router(4, 2)
    x, t = torch.randn(6, 3, 32, 32), torch.linspace(0, 1, 6)
    full = router(x, t, texts.pooled_BE).softmax(-1)
    for gone in range(4):
        smaller = drop_expert(router, gone)
        rest = torch.cat([full[:, :gone], full[:, gone + 1 :]], dim=1)
        assert torch.allclose(smaller(x, t, texts.pooled_BE).softmax(-1), rest / rest.sum(-1, keepdim=True), atol=1e-5)
        assert smaller.config["clusters"] == 3


def test_dropping_what_was_grown_gives_the_router_back(make_router):
    router = make_router(2, 3)
    again = drop_expert(grow_router(router), 2)
    assert all(
        torch.equal(a, b) for a, b in zip(router.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_impossible_changes_are_explained(make_router):
    with pytest.raises(GrowthError, match="cannot be dropped"):
        drop_expert(make_router(2, 0), 2)
    with pytest.raises(GrowthError, match="one must stay"):
        drop_expert(make_router(1, 0), 0)
    for labels in (torch.zeros(4), torch.full((4,), 2)):
        with pytest.raises(GrowthError, match="of its own cluster and of others"):
            fit_row(torch.randn(4, 2), torch.zeros(4, 2), labels.long())
    router = make_router(2, 0)
    router.head[-1] = torch.nn.GELU()
    with pytest.raises(GrowthError, match="cannot grow or shrink"):
        grow_router(router)


# -- centres -----------------------------------------------------------------------------------------------------------


def test_pooling_by_hand():
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert pooled(x, 2).tolist() == [[2.5, 4.5, 10.5, 12.5]]
    assert torch.equal(pooled(x, 8), x.flatten(1))


def test_centres_find_the_clusters_of_a_cache_and_hear_its_text(three_kinds):
    centres = Centroids.measure(three_kinds, 3)
    answers = ask(centres, three_kinds, 600)
    assert (answers.logits_NK.argmax(-1) == answers.labels_N)[answers.times_N < 0.8].double().mean() > 0.95
    assert 0.01 < centres.temperature <= 100
    at_noise = centres(torch.randn(5, 3, 32, 32), torch.ones(5), three_kinds.texts.pooled_BE[:1].expand(5, -1))
    assert torch.allclose(at_noise.softmax(-1), torch.full((5, 3), 1 / 3), atol=1e-4), "noise alone leaves the prior"


def test_text_is_evidence_and_the_null_text_is_none():
    generator = torch.Generator().manual_seed(1)
    pooled_BE = torch.nn.functional.normalize(torch.randn(3, 8, generator=generator), dim=-1)
    texts = TextBatch(torch.zeros(3, 1, 8), torch.ones(3, 1, dtype=torch.bool), pooled_BE)
    labels = torch.arange(40) % 2
    cache = LatentCache(torch.randn(40, 1, 4, 4, generator=generator), labels + 1, labels, texts)
    centres = Centroids.measure(cache, 2)
    x, t = torch.randn(2, 1, 4, 4), torch.ones(2)
    assert centres(x, t, pooled_BE[1:]).argmax(-1).tolist() == [0, 1]
    silent = centres(x, t, pooled_BE[:1].expand(2, -1)).softmax(-1)
    assert torch.allclose(silent, torch.full((2, 2), 0.5), atol=1e-4)
    deaf = Centroids.measure(cache, 2, use_text=False)
    assert torch.allclose(deaf(x, t, pooled_BE[1:]).softmax(-1), torch.full((2, 2), 0.5), atol=1e-4)


def test_adding_a_cluster_leaves_the_others_logits_alone():
    mixture = separate()
    latents, labels, _ = mixture.data(2000, 2)
    none = torch.empty(0)
    two = Centroids(1, torch.empty(0, 2), none, none, torch.empty(0, 0), none, none)
    for k in range(2):
        two = two.with_cluster(latents[labels == k], torch.empty(int((labels == k).sum()), 0))
    three = two.with_cluster(latents[labels == 2], torch.empty(int((labels == 2).sum()), 0))
    x, t = mixture.noised(50, 3)
    assert torch.equal(three(x, t, torch.empty(50, 0))[:, :2], two(x, t, torch.empty(50, 0)))
    back = three.without_cluster(2)
    assert torch.equal(back(x, t, torch.empty(50, 0)), two(x, t, torch.empty(50, 0)))
    with pytest.raises(ValueError, match="without samples"):
        two.with_cluster(latents[:0], torch.empty(0, 0))


def test_centres_are_saved_and_damaged_ones_refused(tmp_path, three_kinds):
    centres = Centroids.measure(three_kinds, 3)
    centres.save(tmp_path)
    again = Centroids.open(tmp_path)
    x, t, text = torch.randn(2, 3, 32, 32), torch.rand(2), three_kinds.texts.pooled_BE
    assert torch.equal(again(x, t, text), centres(x, t, text))
    file = tmp_path / "centroids.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="cannot be read"):
        Centroids.open(tmp_path)
    centres.centres_KF[0, 0] = torch.nan
    centres.save(tmp_path)
    with pytest.raises(CheckpointError, match="not finite"):
        Centroids.open(tmp_path)
