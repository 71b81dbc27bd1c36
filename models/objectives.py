"""What a unit learns: an expert the flow velocity, the router the cluster of a noised picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from paris.models.cache import Batch
from paris.models.flow import interpolate, logit_normal, velocity
from paris.models.randomness import Stream


@dataclass(frozen=True)
class Draw:
    """The randomness of one batch: noise like the latents, and one time a sample."""

    eps_BCHW: Tensor
    t_B: Tensor

    def to(self, device: torch.device) -> Draw:
        """Send the numbers to a device without waiting for it."""
        return Draw(self.eps_BCHW.to(device, non_blocking=True), self.t_B.to(device, non_blocking=True))


class Objective(Protocol):
    """One loss over a batch and its randomness."""

    def times(self, stream: Stream, step: int, batch: int) -> np.ndarray:
        """Draw the times of one step."""
        ...

    def loss(self, network: Callable[..., Tensor], batch: Batch, draw: Draw) -> Tensor:
        """Return the scalar loss in fp32."""
        ...


class VelocityObjective:
    """Mean squared error of the predicted velocity, times logit-normal."""

    def times(self, stream: Stream, step: int, batch: int) -> np.ndarray:
        """Draw the times of one step."""
        return logit_normal(stream.normal(step, (batch,)))

    def loss(self, network: Callable[..., Tensor], batch: Batch, draw: Draw) -> Tensor:
        """Return the scalar loss in fp32."""
        x_t = interpolate(batch.latents_BCHW, draw.eps_BCHW, draw.t_B)
        v = network(x_t, draw.t_B, batch.text.tokens_BLE, batch.text.mask_BL)
        return functional.mse_loss(v.float(), velocity(batch.latents_BCHW, draw.eps_BCHW))


class RoutingObjective:
    """Cross-entropy of the cluster label, times uniform: the router is asked at every noise level."""

    def times(self, stream: Stream, step: int, batch: int) -> np.ndarray:
        """Draw the times of one step."""
        return stream.uniform(step, (batch,))

    def loss(self, network: Callable[..., Tensor], batch: Batch, draw: Draw) -> Tensor:
        """Return the scalar loss in fp32."""
        return functional.cross_entropy(self.logits(network, batch, draw), batch.labels_B)

    def logits(self, network: Callable[..., Tensor], batch: Batch, draw: Draw) -> Tensor:
        """Return cluster logits (B, K) of the noised batch."""
        x_t = interpolate(batch.latents_BCHW, draw.eps_BCHW, draw.t_B)
        out: Tensor = network(x_t, draw.t_B, batch.text.pooled_BE).float()
        return out


def draw(objective: Objective, streams: tuple[Stream, Stream], step: int, shape: tuple[int, ...]) -> Draw:
    """Return noise and times of one step from a (noise, time) pair of streams; shape is that of the batch."""
    noise, time = streams
    return Draw(torch.from_numpy(noise.normal(step, shape)), torch.from_numpy(objective.times(time, step, shape[0])))
