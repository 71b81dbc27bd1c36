"""What an expert is trained to predict: targets by hand, noise schedules by their formulae, times by their laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from paris.models.cache import Batch
from paris.models.conversion import Clamps, ObjectiveError, Prediction
from paris.models.objectives import DdpmObjective, Draw, Times, VelocityObjective, expert_objective
from paris.models.randomness import Stream
from paris.models.schedules import SCHEDULES, ScheduleError, open_schedule, sigma
from paris.models.text import TextBatch

DATA, NOISE = torch.tensor([2.0, -4.0]).reshape(1, 2, 1, 1), torch.tensor([-1.0, 8.0]).reshape(1, 2, 1, 1)
TIME = torch.tensor([0.25])
TEXT = TextBatch(torch.zeros(1, 1, 4), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 4))
BATCH = Batch(DATA, TEXT, torch.zeros(1, dtype=torch.int64))


def asked_and_target(objective) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network is shown, and the only answer whose loss is zero."""
    shown = []

    def network(y, t, tokens, mask):
        shown.append(y)
        return answer

    answer = torch.zeros_like(DATA, requires_grad=True)
    losses_B = objective.losses(network, BATCH, Draw(NOISE, TIME))
    (slope,) = torch.autograd.grad(losses_B.mean(), answer)
    return shown[0], -slope * answer.numel() / 2


def test_velocity_target_by_hand():
    shown, target = asked_and_target(VelocityObjective())
    assert shown.flatten().tolist() == [1.25, -1.0]
    assert target.flatten().tolist() == [-3.0, 12.0]


@pytest.mark.parametrize(("kind", "target"), [("noise", NOISE), ("data", DATA)])
def test_ddpm_target_by_hand(kind, target):
    shown, found = asked_and_target(DdpmObjective(kind, "cosine"))
    alpha = math.cos((0.25 + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)
    expected = alpha * DATA + math.sqrt(1 - alpha**2) * NOISE
    assert torch.allclose(shown, expected, atol=1e-6)
    assert torch.allclose(found, target)


def test_linear_schedule_is_hos_thousand_steps():
    """Within a thousandth of the product of Ho's 1 - beta_i, as a continuous limit can be."""
    u = torch.arange(1, 1001, dtype=torch.float64) / 1000
    discrete = (1 - torch.linspace(0.0001, 0.02, 1000, dtype=torch.float64)).cumprod(0).sqrt()
    assert (SCHEDULES["linear"].alpha(u) - discrete).abs().max() < 1e-3


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_run_from_data_to_noise_and_back(name):
    schedule, u = open_schedule(name), torch.linspace(0, 1, 201, dtype=torch.float64)
    alpha = schedule.alpha(u)
    assert alpha[0] == pytest.approx(1)
    assert alpha[-1] < 0.01
    assert bool((alpha.diff() < 0).all())
    assert torch.allclose(alpha.square() + sigma(alpha).square(), torch.ones_like(u))
    assert torch.allclose(schedule.time(alpha[1:-1]), u[1:-1], atol=1e-7)


def test_unknown_names_are_explained():
    with pytest.raises(ScheduleError, match="cosine, linear"):
        open_schedule("square")
    with pytest.raises(ObjectiveError, match="velocity, ddpm-noise, ddpm-x0"):
        Prediction("score")
    with pytest.raises(ScheduleError, match="cosine, linear"):
        expert_objective({"objective": "ddpm-x0", "noise_schedule": "square"})
    with pytest.raises(ObjectiveError, match="uniform, logit-normal"):
        expert_objective({"times": "normal"})
    for shift in ("0", "-1", "nan", "three"):
        with pytest.raises(ObjectiveError, match="time"):
            expert_objective({"time_shift": shift})


def test_conversion_by_hand():
    """x0 = (y - sigma eps) / alpha, v = eps - x0; the answers are the true noise and the true data."""
    x_t = 0.75 * DATA + 0.25 * NOISE
    for objective, answer in (("ddpm-noise", NOISE), ("ddpm-x0", DATA)):
        asked = []

        def expert(y, u, answer=answer, asked=asked):
            asked.append((y, u))
            return answer

        v = Prediction(objective).velocity(expert, x_t, TIME)
        assert torch.allclose(v, torch.tensor([-3.0, 12.0]).reshape(1, 2, 1, 1), atol=1e-5)
        (y, u) = asked[0]
        assert torch.allclose(y, x_t / math.sqrt(0.625))
        ratio = sigma(SCHEDULES["cosine"].alpha(u)) / SCHEDULES["cosine"].alpha(u)
        assert float(ratio) == pytest.approx(0.25 / 0.75, rel=1e-5)


def test_a_velocity_expert_is_asked_about_the_state_itself():
    seen = []
    v = Prediction().velocity(lambda y, u: (seen.append((y, u)), y)[1], DATA, TIME)
    assert seen[0] == (DATA, TIME)
    assert torch.equal(v, DATA)


@pytest.mark.parametrize("objective", ["ddpm-noise", "ddpm-x0"])
def test_wild_answers_are_clamped(objective):
    """At nearly pure noise a small error of the noise is a huge one of the data: bounded by 20."""
    t = torch.tensor([0.985])
    v = Prediction(objective).velocity(lambda y, _: y + 1000, DATA, t)
    x0 = (DATA - t * v) if objective == "ddpm-x0" else 1000 + DATA / math.hypot(0.985, 0.015) - v
    assert bool(((x0.abs() - 20).abs() < 0.01).all())
    loose = Prediction(objective, clamps=Clamps(x0_limit=1e9)).velocity(lambda y, _: y + 1000, DATA, t)
    assert not torch.allclose(loose, v)


def test_the_expert_is_never_asked_beyond_the_last_level():
    times = torch.tensor([0.0, 0.995, 1.0])
    for schedule in SCHEDULES:
        asked = []

        def expert(y, u, asked=asked):
            asked.append(u)
            return y

        Prediction("ddpm-noise", schedule).velocity(expert, DATA.expand(3, 2, 1, 1), times)
        (u,) = asked
        assert 0 <= float(u[0]) < 1e-6
        assert u[1] == u[2]
        assert float(SCHEDULES[schedule].alpha(u[2].double())) == pytest.approx(0.01, rel=1e-3)


def test_names_come_back_from_an_index():
    for prediction in (Prediction(), Prediction("ddpm-noise", "linear"), Prediction("ddpm-x0", "cosine")):
        assert Prediction.of(prediction.names()) == prediction
    assert Prediction.of({}) == Prediction()


def test_recipe_names_choose_the_objective():
    assert isinstance(expert_objective({}), VelocityObjective)
    assert expert_objective({}).law == Times("logit-normal")
    noise = expert_objective({"objective": "ddpm-noise", "noise_schedule": "linear", "time_shift": "2.5"})
    assert (noise.predicts_noise, noise.schedule, noise.law) == (True, SCHEDULES["linear"], Times("uniform", 2.5))
    data = expert_objective({"objective": "ddpm-x0", "times": "logit-normal"})
    assert (data.predicts_noise, data.schedule, data.law) == (False, SCHEDULES["cosine"], Times("logit-normal"))


def test_times_follow_their_law():
    """Medians of 20,000 draws: 1/2, moved to s / (1 + s) by a shift s; a third of uniform times lies below 1/3."""
    stream = Stream.of("times")
    for law in ("uniform", "logit-normal"):
        for shift in (1.0, 3.0):
            times = Times(law, shift).draw(stream, 0, 20_000)
            assert times.dtype == np.float32
            assert np.median(times) == pytest.approx(shift / (1 + shift), abs=0.015)
            assert 0 <= times.min() <= times.max() < 1
    assert (Times("uniform").draw(stream, 0, 20_000) < 1 / 3).mean() == pytest.approx(1 / 3, abs=0.014)


def test_velocity_times_are_the_same_numbers_as_ever():
    """Runs that are under way draw these; a change would break their replay."""
    times = VelocityObjective().times(Stream.of("fixed"), 7, 4)
    normal = Stream.of("fixed").normal(7, (4,))
    np.testing.assert_array_equal(times, (1 / (1 + np.exp(-normal))).astype(np.float32))
