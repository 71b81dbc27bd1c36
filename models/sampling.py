"""From noise to latents along the ensemble's velocity, through a diffusers flow-matching scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paris.models.ensemble import Ensemble
from paris.models.randomness import Stream
from paris.models.text import TextBatch

SCHEDULER_TIMES = 1000.0
"""Flow-matching schedulers of diffusers count time 0..1000; ours runs 0..1."""


@dataclass(frozen=True)
class Trace:
    """Which experts drew what: mixture weights (steps, B, K)."""

    weights_SBK: Tensor

    def steps_drawn(self) -> Tensor:
        """Return (B, K): in how many steps each expert had a part in each picture."""
        return (self.weights_SBK > 0).sum(dim=0)

    def mean_weights(self) -> Tensor:
        """Return (B, K): each expert's mean share of each picture."""
        return self.weights_SBK.mean(dim=0)


def initial_noise(shape: tuple[int, int, int], seeds: Sequence[int]) -> Tensor:
    """Return noise (B, C, H, W): each picture's comes from its own seed alone, so a picture does not know its batch."""
    return torch.stack([torch.from_numpy(Stream.of("picture", str(seed)).normal(0, shape)) for seed in seeds])


def sample(
    ensemble: Ensemble,
    text: TextBatch,
    null: TextBatch,
    shape: tuple[int, int, int],
    scheduler: Any,
    *,
    steps: int,
    guidance: float,
    seeds: Sequence[int],
    on_step: Callable[[int, Tensor], None] | None = None,
) -> tuple[Tensor, Trace]:
    """Draw latents (B, C, H, W) for B prompts.

    Args:
        ensemble: experts and router.
        text: B encoded prompts.
        null: B encoded negative prompts.
        shape: latent shape (C, H, W).
        scheduler: a diffusers scheduler for flow matching, such as FlowMatchEulerDiscreteScheduler.
        steps: scheduler steps.
        guidance: scale of classifier-free guidance.
        seeds: one a picture.
        on_step: called after each step with (step number from 1, latents).
    """
    scheduler.set_timesteps(steps)
    x = initial_noise(shape, seeds)
    weights = []
    for number, timestep in enumerate(scheduler.timesteps, start=1):
        t_B = (timestep.float() / SCHEDULER_TIMES).expand(len(x))
        v, weights_BK = ensemble.velocity(x, t_B, text, null, guidance)
        x = scheduler.step(v, timestep, x).prev_sample
        weights.append(weights_BK)
        if on_step:
            on_step(number, x)
    return x, Trace(torch.stack(weights))
