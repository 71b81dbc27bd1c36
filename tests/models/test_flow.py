"""The sign convention, by hand: t = 0 data, t = 1 noise, v = noise - data, in formulae, target and sampler."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from paris.models.flow import data_from_velocity, interpolate, logit_normal, shift_times, velocity

DATA = torch.tensor([[2.0, -4.0]])
NOISE = torch.tensor([[-1.0, 8.0]])


@pytest.mark.parametrize(
    ("t", "expected"), [(0.0, [2.0, -4.0]), (0.25, [1.25, -1.0]), (0.5, [0.5, 2.0]), (1.0, [-1.0, 8.0])]
)
def test_path_runs_from_data_at_0_to_noise_at_1(t, expected):
    assert interpolate(DATA, NOISE, torch.tensor([t])).tolist() == [expected]


def test_velocity_is_noise_minus_data():
    assert velocity(DATA, NOISE).tolist() == [[-3.0, 12.0]]


def test_velocity_is_the_derivative_of_the_path():
    step = interpolate(DATA, NOISE, torch.tensor([0.75])) - interpolate(DATA, NOISE, torch.tensor([0.25]))
    assert torch.equal(step / 0.5, velocity(DATA, NOISE))


def test_data_is_found_back_from_any_time():
    for t in (0.25, 0.5, 1.0):
        times = torch.tensor([t])
        assert torch.equal(data_from_velocity(interpolate(DATA, NOISE, times), velocity(DATA, NOISE), times), DATA)


def test_each_sample_has_its_own_time():
    pair = interpolate(DATA.repeat(2, 1), NOISE.repeat(2, 1), torch.tensor([0.0, 1.0]))
    assert pair.tolist() == [[2.0, -4.0], [-1.0, 8.0]]


def test_scheduler_walks_the_true_velocity_from_noise_to_data():
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(7)
    assert scheduler.timesteps[0] == 1000
    x = NOISE.clone()
    for timestep in scheduler.timesteps:
        x = scheduler.step(velocity(DATA, NOISE), timestep, x).prev_sample
    assert torch.allclose(x, DATA, atol=1e-5)


def test_logit_normal_times_by_hand():
    times = logit_normal(np.array([0.0, np.log(3.0), -np.log(3.0)]))
    assert times.dtype == np.float32
    np.testing.assert_allclose(times, [0.5, 0.75, 0.25], rtol=1e-6)


def test_shifted_times_by_hand():
    np.testing.assert_allclose(shift_times(np.array([0.0, 0.25, 0.5, 1.0]), 3.0), [0.0, 0.5, 0.75, 1.0])
    np.testing.assert_array_equal(shift_times(np.array([0.3]), 1.0), [0.3])


def test_a_shift_divides_the_signal_to_noise_ratio_by_its_square():
    times = np.linspace(0.05, 0.95, 7)
    ratio = ((1 - times) / times) ** 2
    shifted = shift_times(times, 2.5)
    np.testing.assert_allclose(((1 - shifted) / shifted) ** 2, ratio / 2.5**2)
