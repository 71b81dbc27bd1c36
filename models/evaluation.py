"""Measuring a network on hold-out data: the same samples, noise and times whenever and wherever it is asked.

Whoever trains can know these draws; a `secret` probe has samples and noise that nobody could know beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paris.models.cache import Batch, LatentCache
from paris.models.objectives import Draw, Objective, RoutingObjective, draw
from paris.models.randomness import Stream

BATCH = 128

Network = Callable[..., Tensor]


@dataclass(frozen=True)
class Probe:
    """What a network is measured with, sample by sample.

    Attributes:
        rows: rows of a cache (N,).
        draw: noise and time of each.
    """

    rows: np.ndarray
    draw: Draw

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, cache: LatentCache, device: torch.device) -> Iterator[tuple[Batch, Draw]]:
        """Yield the samples with their randomness, so many at a time, on a device."""
        for start in range(0, len(self), BATCH):
            part = slice(start, start + BATCH)
            here = Draw(self.draw.eps_BCHW[part], self.draw.t_B[part])
            yield cache.batch(self.rows[part]).to(device), here.to(device)


def public_probe(objective: Objective, holdout: LatentCache, samples: int) -> Probe:
    """Return the draws behind every published hold-out loss, of so many samples or all."""
    count = min(samples, len(holdout))
    rows = Stream.of("evaluation", "samples").batch_indices(0, count, len(holdout))
    streams = (Stream.of("evaluation", "noise"), Stream.of("evaluation", "time"))
    shape = tuple(holdout.latents_NCHW.shape[1:])
    sizes = [min(BATCH, count - start) for start in range(0, count, BATCH)]
    parts = [draw(objective, streams, number, (size, *shape)) for number, size in enumerate(sizes)]
    joined = Draw(torch.cat([part.eps_BCHW for part in parts]), torch.cat([part.t_B for part in parts]))
    return Probe(rows, joined)


def secret_probe(rows: np.ndarray, times_B: Tensor, shape: tuple[int, ...], seed: str) -> Probe:
    """Return these rows with noise that follows from a secret, at given times.

    Times are shared with the probe it is compared to: a loss varies most by its time, so differences of pairs of equal
    time vary far less than losses do.

    Args:
        rows: of the cache (N,).
        times_B: as many times; fewer are used again from the first on.
        shape: of one sample (C, H, W).
        seed: the secret.
    """
    count = len(rows)
    noise = Stream.of("audit", seed).normal(0, (count, *shape))
    return Probe(rows, Draw(torch.from_numpy(noise), times_B[torch.arange(count) % len(times_B)]))


@torch.no_grad()
def sample_losses(
    objective: Objective, network: Network, cache: LatentCache, probe: Probe, device: torch.device
) -> np.ndarray:
    """Return the loss of each of a probe's samples (N,), float64."""
    found = [objective.losses(network, batch, given).double() for batch, given in probe.batches(cache, device)]
    losses: np.ndarray = torch.cat(found).cpu().numpy()
    return losses


@torch.no_grad()
def mean_loss(
    objective: Objective, network: Network, holdout: LatentCache, samples: int, device: torch.device
) -> float:
    """Return the mean loss of a network over so many hold-out samples, or all."""
    total = 0.0
    probe = public_probe(objective, holdout, samples)
    for batch, randomness in probe.batches(holdout, device):
        total += float(objective.losses(network, batch, randomness).double().sum())
    return total / len(probe)


@torch.no_grad()
def accuracy(
    objective: RoutingObjective, network: Network, holdout: LatentCache, samples: int, device: torch.device
) -> float:
    """Return the share of hold-out samples whose cluster a router names, over all noise levels."""
    right = 0
    probe = public_probe(objective, holdout, samples)
    for batch, randomness in probe.batches(holdout, device):
        right += int((objective.logits(network, batch, randomness).argmax(-1) == batch.labels_B).sum())
    return right / len(probe)


def predict_nothing(x_BCHW: Tensor, *_: Tensor) -> Tensor:
    """Stand for a network that knows nothing: it predicts zero."""
    return torch.zeros_like(x_BCHW)


def opposite(network: Network) -> Network:
    """Return the network with the sign of its answer turned around."""
    return lambda *inputs: -network(*inputs)
