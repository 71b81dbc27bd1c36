"""Variance-preserving noise schedules: y_u = alpha(u) x0 + sigma(u) eps with alpha^2 + sigma^2 = 1, data at u = 0.

Sources: the cosine schedule of Nichol & Dhariwal 2021 (arXiv 2102.09672, equation 17); the linear one of Ho et al. 2020
(arXiv 2006.11239) in the continuous form of Song et al. 2021 (arXiv 2011.13456, equation 33), whose betas of 0.1 to 20
a unit of time are Ho's 0.0001 to 0.02 a step of a thousand.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

COSINE_OFFSET = 0.008
LINEAR_BETAS = (0.1, 20.0)


class ScheduleError(ValueError):
    """A noise schedule is unknown."""


class Schedule(Protocol):
    """One variance-preserving path; times and alphas are (B,) and of double precision inside."""

    def alpha(self, u_B: Tensor) -> Tensor:
        """Return the signal's share, falling from 1."""
        ...

    def time(self, alpha_B: Tensor) -> Tensor:
        """Return the u whose signal share is alpha: the inverse of `alpha`, which may lie beyond 1 for a tiny alpha."""
        ...


class Cosine:
    """The square of alpha is a squared cosine, offset so that the first steps are not too small."""

    _start = COSINE_OFFSET / (1 + COSINE_OFFSET) * math.pi / 2

    def alpha(self, u_B: Tensor) -> Tensor:
        """Return the signal's share."""
        angle_B = (wide(u_B) + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2
        return (angle_B.cos() / math.cos(self._start)).clamp(0, 1)

    def time(self, alpha_B: Tensor) -> Tensor:
        """Return the time of a signal share."""
        angle_B = (wide(alpha_B) * math.cos(self._start)).acos()
        return (angle_B * 2 / math.pi * (1 + COSINE_OFFSET) - COSINE_OFFSET).clamp(min=0)


class Linear:
    """The noise rate beta(u) rises linearly; alpha(u) = exp(-(b u + (B - b) u^2 / 2) / 2), never quite 0."""

    def alpha(self, u_B: Tensor) -> Tensor:
        """Return the signal's share."""
        low, high = LINEAR_BETAS
        u = wide(u_B)
        return (-(low * u + (high - low) * u.square() / 2) / 2).exp()

    def time(self, alpha_B: Tensor) -> Tensor:
        """Return the time of a signal share, the positive root of the quadratic."""
        low, high = LINEAR_BETAS
        root_B = (low**2 - 4 * (high - low) * wide(alpha_B).log()).sqrt()
        return (root_B - low) / (high - low)


SCHEDULES: dict[str, Schedule] = {"cosine": Cosine(), "linear": Linear()}
"""Noise schedules by the names a genesis uses."""


def open_schedule(name: str) -> Schedule:
    """Return a schedule by name.

    Raises:
        ScheduleError: for a name this version does not know.
    """
    if name not in SCHEDULES:
        raise ScheduleError(f"There is no noise schedule {name!r}. This version knows {', '.join(SCHEDULES)}.")
    return SCHEDULES[name]


def sigma(alpha_B: Tensor) -> Tensor:
    """Return the noise's share sqrt(1 - alpha^2) of a variance-preserving path."""
    return (1 - wide(alpha_B).square()).clamp(min=0).sqrt()


def wide(x_B: Tensor) -> Tensor:
    """Return double precision where the device has it: near u = 0 single precision loses all of sigma."""
    return x_B.double() if x_B.device.type != "mps" else x_B.float()


def spread(x_B: Tensor, like: Tensor) -> Tensor:
    """Give one number a sample the shape that multiplies latents, in fp32."""
    return x_B.to(torch.float32).reshape(-1, *[1] * (like.ndim - 1))
