"""From noise to latents along the ensemble's velocity, through a diffusers flow-matching scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paris.models.ensemble import Ensemble
from paris.models.flow import interpolate
from paris.models.randomness import Stream
from paris.models.schedulers import noise_levels
from paris.models.text import TextBatch
from paris.models.trace import Trace

OnStep = Callable[[int, Tensor, Tensor], Tensor | None]
"""Called after each evaluation with (its number from 0, timestep, latents); what it returns replaces the latents."""


@dataclass(frozen=True)
class Start:
    """Pictures to start from instead of noise.

    Attributes:
        latents_BCHW: encoded pictures.
        strength: how much of the way back to noise, and from there to data, is walked; 1 forgets the pictures.
    """

    latents_BCHW: Tensor
    strength: float


def initial_noise(shape: tuple[int, ...], seeds: Sequence[int]) -> Tensor:
    """Return noise (B, C, H, W): each picture's comes from its own seed alone, so a picture does not know its batch."""
    return torch.stack([torch.from_numpy(Stream.of("picture", str(seed)).normal(0, shape)) for seed in seeds])


def chances(experts: int, seeds: Sequence[int], step: int) -> Tensor:
    """Return uniform numbers (B, K) that routing by chance draws with, each picture's from its own seed."""
    return torch.stack([torch.from_numpy(Stream.of("routing", str(s)).uniform(step, (experts,))) for s in seeds])


def sample(
    ensemble: Ensemble,
    text: TextBatch,
    null: TextBatch,
    shape: tuple[int, ...],
    scheduler: Any,
    *,
    steps: int,
    guidance: float,
    seeds: Sequence[int],
    start: Start | None = None,
    labels_B: Tensor | None = None,
    on_step: OnStep | None = None,
    first_BQHW: Tensor | None = None,
) -> tuple[Tensor, Trace]:
    """Draw latents (B, C, H, W) for B prompts, on the device of the text.

    Args:
        ensemble: experts and router.
        text: B encoded prompts.
        null: B encoded negative prompts.
        shape: latent shape (C, H, W), of clips (C, F, H, W).
        scheduler: one of `paris.models.schedulers`.
        steps: scheduler steps.
        guidance: scale of classifier-free guidance.
        seeds: one a picture.
        start: pictures to start from.
        labels_B: clusters, for the strategy "oracle".
        on_step: watches, and may change, the latents.
        first_BQHW: first frames of clips, see `paris.models.conditions`.

    Raises:
        schedulers.SchedulerError: the start's strength leaves no step.
    """
    device = text.tokens_BLE.device
    timesteps, times_S = noise_levels(scheduler, steps, start.strength if start else 1.0)
    x = initial_noise(shape, seeds).to(device)
    if start and start.strength < 1:
        x = interpolate(start.latents_BCHW.to(x), x, times_S[0].expand(len(x)).to(device))
    by_chance = ensemble.routing.strategy == "sample"
    mixed = []
    for number, (timestep, time) in enumerate(zip(timesteps, times_S, strict=True)):
        chance_BK = chances(len(ensemble), seeds, number).to(device) if by_chance else None
        t_B = time.to(device).expand(len(x))
        chosen = {"chance_BK": chance_BK, "labels_B": labels_B, "first_BQHW": first_BQHW}
        mixed.append(ensemble.velocity(x, t_B, text, null, guidance, **chosen))
        x = scheduler.step(mixed[-1].velocity, timestep, x).prev_sample
        if on_step:
            changed = on_step(number, timestep, x)
            x = x if changed is None else changed
    return x, Trace(
        torch.stack([m.weights_BK for m in mixed]).cpu(),
        times_S,
        None
        if guidance == 1
        else torch.stack([m.null_weights_BK for m in mixed if m.null_weights_BK is not None]).cpu(),
    )
