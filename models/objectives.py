"""What a unit learns: an expert the flow velocity, DDPM noise or data; the router the cluster of a noised picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from paris.models.cache import Batch
from paris.models.conditions import asked, first_frames, given
from paris.models.conversion import ObjectiveError, Prediction
from paris.models.flow import interpolate, logit_normal, shift_times, velocity
from paris.models.randomness import Stream
from paris.models.schedules import open_schedule, sigma, spread

TIME_LAWS = ("uniform", "logit-normal")


@dataclass(frozen=True)
class Draw:
    """The randomness of one batch: noise like the latents, one time a sample, and whose first frame is given.

    Attributes:
        eps_BCHW: noise, (B, C, F, H, W) for clips.
        t_B: times.
        given_B: True where a clip's first frame is a condition; None where nobody's is.
    """

    eps_BCHW: Tensor
    t_B: Tensor
    given_B: Tensor | None = None

    def to(self, device: torch.device) -> Draw:
        """Send the numbers to a device without waiting for it."""
        return self._each(lambda part: part.to(device, non_blocking=True))

    def rows(self, rows: slice) -> Draw:
        """Return those of some samples."""
        return self._each(lambda part: part[rows])

    def pinned(self) -> Draw:
        """Return a copy in page-locked memory."""
        return self._each(lambda part: part.pin_memory())

    def _each(self, change: Callable[[Tensor], Tensor]) -> Draw:
        return Draw(change(self.eps_BCHW), change(self.t_B), None if self.given_B is None else change(self.given_B))


class Objective(Protocol):
    """One loss a sample, over a batch and its randomness."""

    def times(self, stream: Stream, step: int, batch: int) -> np.ndarray:
        """Draw the times of one step."""
        ...

    def losses(self, network: Callable[..., Tensor], batch: Batch, draw: Draw) -> Tensor:
        """Return each sample's loss (B,) in fp32; the loss of a batch is their mean."""
        ...


@dataclass(frozen=True)
class Times:
    """The law of the times a unit is trained at.

    Attributes:
        law: "uniform" or "logit-normal".
        shift: above 1 for more noise, see `paris.models.flow.shift_times`.

    Raises:
        ObjectiveError: for an unknown law, or a shift that is not above 0.
    """

    law: str = "logit-normal"
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.law not in TIME_LAWS or not self.shift > 0:
            raise ObjectiveError(
                f"Times cannot be drawn by law {self.law!r} with shift {self.shift}: this version knows the laws "
                f"{', '.join(TIME_LAWS)}, and a shift is above 0. Correct the recipe in the genesis."
            )

    def draw(self, stream: Stream, step: int, batch: int) -> np.ndarray:
        """Return float32 times (B,) of one step."""
        uniform = self.law == "uniform"
        times = stream.uniform(step, (batch,)) if uniform else logit_normal(stream.normal(step, (batch,)))
        return times if self.shift == 1 else shift_times(times, self.shift).astype(np.float32)


class VelocityObjective:
    """Mean squared error of the predicted flow velocity eps - x0."""

    def __init__(self, times: Times | None = None) -> None:
        self.law = times or Times("logit-normal")

    def times(self, stream: Stream, step: int, batch: int) -> np.ndarray:
        """Draw the times of one step."""
        return self.law.draw(stream, step, batch)

    def losses(self, network: Callable[..., Tensor], batch: Batch, draw: Draw) -> Tensor:
        """Return each sample's loss (B,) in fp32."""
        x_t = interpolate(batch.latents_BCHW, draw.eps_BCHW, draw.t_B)
        v = network(x_t, draw.t_B, *asked(x_t, batch.text, first_frames(batch.latents_BCHW, draw.given_B)))
        return squared_errors(v, velocity(batch.latents_BCHW, draw.eps_BCHW))


class DdpmObjective:
    """Mean squared error of the noise, or of the data, on a variance-preserving path (Ho et al. 2020, section 3.2).

    Times are the schedule's own u in [0, 1]. The error is not weighted: in the velocity's terms (arXiv 2603.06741) a
    noise expert then counts low noise more, a data expert high noise.

    Args:
        target: "noise" or "data".
        noise_schedule: "cosine" or "linear".
        times: law of u, uniform if None.
    """

    def __init__(self, target: str, noise_schedule: str = "cosine", times: Times | None = None) -> None:
        self.predicts_noise = target == "noise"
        self.schedule, self.law = open_schedule(noise_schedule), times or Times("uniform")

    def times(self, stream: Stream, step: int, batch: int) -> np.ndarray:
        """Draw the times of one step."""
        return self.law.draw(stream, step, batch)

    def losses(self, network: Callable[..., Tensor], batch: Batch, draw: Draw) -> Tensor:
        """Return each sample's loss (B,) in fp32."""
        x0, eps = batch.latents_BCHW, draw.eps_BCHW
        alpha_B = self.schedule.alpha(draw.t_B)
        y = spread(alpha_B, x0) * x0 + spread(sigma(alpha_B), x0) * eps
        answer = network(y, draw.t_B, *asked(y, batch.text, first_frames(x0, draw.given_B)))
        return squared_errors(answer, eps if self.predicts_noise else x0)


class RoutingObjective:
    """Cross-entropy of the cluster label, times uniform: the router is asked at every noise level."""

    def times(self, stream: Stream, step: int, batch: int) -> np.ndarray:
        """Draw the times of one step."""
        return stream.uniform(step, (batch,))

    def losses(self, network: Callable[..., Tensor], batch: Batch, draw: Draw) -> Tensor:
        """Return each sample's loss (B,) in fp32."""
        return functional.cross_entropy(self.logits(network, batch, draw), batch.labels_B, reduction="none")

    def logits(self, network: Callable[..., Tensor], batch: Batch, draw: Draw) -> Tensor:
        """Return cluster logits (B, K) of the noised batch."""
        x_t = interpolate(batch.latents_BCHW, draw.eps_BCHW, draw.t_B)
        first = given(first_frames(batch.latents_BCHW, draw.given_B))
        out: Tensor = network(x_t, draw.t_B, batch.text.pooled_BE, *first).float()
        return out


def squared_errors(answer_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Return the mean squared error of each sample (B,) in fp32."""
    return (answer_BCHW.float() - target_BCHW).square().flatten(1).mean(1)


def expert_objective(settings: Mapping[str, Any]) -> Objective:
    """Return the objective a recipe names: `objective`, `noise_schedule`, `times`, `time_shift`, each optional.

    A velocity expert's times are logit-normal unless named, a DDPM expert's uniform; the shift may be a decimal string.

    Raises:
        ObjectiveError: for a name this version does not know, or an impossible shift.
        schedules.ScheduleError: for an unknown noise schedule.
    """
    prediction = Prediction.of(settings)
    usual = "logit-normal" if prediction.objective == "velocity" else "uniform"
    try:
        times = Times(str(settings.get("times") or usual), float(settings.get("time_shift") or 1))
    except ValueError as error:
        raise ObjectiveError(f"The time law of the recipe cannot be used: {error}") from error
    if prediction.objective == "velocity":
        return VelocityObjective(times)
    return DdpmObjective("noise" if prediction.objective == "ddpm-noise" else "data", prediction.noise_schedule, times)


def draw(objective: Objective, streams: tuple[Stream, Stream], step: int, shape: tuple[int, ...]) -> Draw:
    """Return noise and times of one step from a (noise, time) pair of streams; shape is that of the batch."""
    noise, time = streams
    return Draw(torch.from_numpy(noise.normal(step, shape)), torch.from_numpy(objective.times(time, step, shape[0])))
