"""Every expert's answer as flow velocity, whatever it was trained to predict: converted once, at the border.

Source: Heterogeneous Decentralized Diffusion Models (arXiv 2603.06741), with the noise levels matched first.

The ensemble walks the flow path x_t = (1 - t) x0 + t eps. An expert trained on a variance-preserving path
y_u = alpha(u) x0 + sigma(u) eps has never seen x_t, but it has seen a multiple of it. Let c = 1 / sqrt((1 - t)^2 + t^2)
and choose the u with alpha(u) = c (1 - t). As alpha^2 + sigma^2 = 1, sigma(u) = c t, so

    c x_t = c (1 - t) x0 + c t eps = alpha(u) x0 + sigma(u) eps = y_u

for the same x0 and the same eps: equal signal-to-noise ratio, and (c x_t, x0, eps) has the law of (y_u, x0, eps). Hence
E[eps | y_u = c x_t] = E[eps | x_t], likewise for x0, and an exact expert asked with (c x_t, u) gives, through

    noise expert:  x0_hat = (y_u - sigma eps_hat) / alpha,             v = eps_hat - x0_hat
    data expert:   eps_hat = (x_t - (1 - t) x0_hat) / t,               v = eps_hat - x0_hat

the exact flow velocity E[eps - x0 | x_t]. Asking it with x_t and t as they are would be wrong at every t but 0.

Where t is so near 1 that alpha would fall below `Clamps.alpha_min`, the division magnifies the expert's error without
bound (at t = 1 noise alone says nothing of x0), so the expert is asked at the last admissible u instead, with x_t
scaled to that u's noise: an exact answer for a state a hundredth of signal away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from paris.models.schedules import open_schedule, sigma, spread, wide

OBJECTIVES = ("velocity", "ddpm-noise", "ddpm-x0")
"""What an expert may have been trained to predict, by the names a genesis uses."""

SMALLEST_TIME = 1e-3
"""A data expert's noise is a difference over t; samplers stop here (diffusers' flow schedulers at 1/1000)."""


class ObjectiveError(ValueError):
    """An objective or one of its settings is unknown."""


@dataclass(frozen=True)
class Clamps:
    """The bounds of arXiv 2603.06741 on a converted answer; velocity experts are never touched.

    Attributes:
        x0_limit: predicted data is clamped to plus and minus this, in latent units.
        alpha_min: smallest signal share an expert is asked at, and divided by.
        damping: factor on the converted velocity at t = 1, reached linearly from 1 at `damp_from`. The paper damps
            above 0.85; the text we could read does not say how much. Any factor below 1 leaves noise that the sampler
            believes gone, and biases exact experts, so ours is 1: off.
        damp_from: time where damping begins.
    """

    x0_limit: float = 20.0
    alpha_min: float = 0.01
    damping: float = 1.0
    damp_from: float = 0.85


@dataclass(frozen=True)
class Prediction:
    """What an expert predicts, and on which noise schedule.

    Attributes:
        objective: one of `OBJECTIVES`.
        noise_schedule: "cosine" or "linear"; velocity experts have none and ignore it.
        clamps: bounds of the conversion.

    Raises:
        ObjectiveError: for an unknown objective.
        schedules.ScheduleError: for an unknown schedule.
    """

    objective: str = "velocity"
    noise_schedule: str = "cosine"
    clamps: Clamps = field(default_factory=Clamps)

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ObjectiveError(
                f"There is no objective {self.objective!r}. This version knows {', '.join(OBJECTIVES)}."
            )
        open_schedule(self.noise_schedule)

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Prediction:
        """Read the two names from a recipe or an index, where absent ones mean velocity."""
        return cls(
            str(settings.get("objective") or "velocity"),
            str(settings.get("noise_schedule") or "cosine"),
        )

    def names(self) -> dict[str, str]:
        """Return what `of` reads back."""
        if self.objective == "velocity":
            return {"objective": self.objective}
        return {"objective": self.objective, "noise_schedule": self.noise_schedule}

    def velocity(self, ask: Callable[[Tensor, Tensor], Tensor], x_BCHW: Tensor, t_B: Tensor) -> Tensor:
        """Ask an expert about the flow state x_t and return its velocity in fp32.

        Args:
            ask: the network with its text: (latents, times) -> prediction.
            x_BCHW: the flow state (1 - t) x0 + t eps.
            t_B: flow times in [0, 1].
        """
        if self.objective == "velocity":
            return ask(x_BCHW, t_B).float()
        schedule, t = open_schedule(self.noise_schedule), wide(t_B)
        length_B = ((1 - t).square() + t.square()).sqrt()
        matched_B = (1 - t) / length_B
        alpha_B = matched_B.clamp(min=self.clamps.alpha_min)
        scale_B = torch.where(alpha_B > matched_B, sigma(alpha_B) / t, 1 / length_B)
        y_BCHW = spread(scale_B, x_BCHW) * x_BCHW.float()
        answer = ask(y_BCHW, schedule.time(alpha_B).to(t_B.dtype)).float()
        if self.objective == "ddpm-noise":
            eps = answer
            x0 = self._bounded((y_BCHW - spread(sigma(alpha_B), eps) * eps) / spread(alpha_B, eps))
        else:
            x0 = self._bounded(answer)
            eps = (x_BCHW.float() - spread(1 - t, x0) * x0) / spread(t.clamp(min=SMALLEST_TIME), x0)
        return spread(self._damping(t), x0) * (eps - x0)

    def _bounded(self, x0: Tensor) -> Tensor:
        return x0.clamp(-self.clamps.x0_limit, self.clamps.x0_limit)

    def _damping(self, t_B: Tensor) -> Tensor:
        beyond_B = ((t_B - self.clamps.damp_from) / (1 - self.clamps.damp_from)).clamp(min=0)
        return 1 - (1 - self.clamps.damping) * beyond_B
