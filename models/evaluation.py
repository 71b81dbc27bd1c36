"""Measuring a network on hold-out data: the same samples, noise and times whenever and wherever it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from paris.models.cache import Batch, LatentCache
from paris.models.objectives import Draw, Objective, RoutingObjective, draw
from paris.models.randomness import Stream

BATCH = 128

Network = Callable[..., Tensor]


def mean_loss(
    objective: Objective, network: Network, holdout: LatentCache, samples: int, device: torch.device
) -> float:
    """Return the mean loss of a network over so many hold-out samples, or all."""
    total = 0.0
    for batch, randomness in _batches(objective, holdout, samples, device):
        total += float(objective.losses(network, batch, randomness).double().sum())
    return total / min(samples, len(holdout))


def accuracy(
    objective: RoutingObjective, network: Network, holdout: LatentCache, samples: int, device: torch.device
) -> float:
    """Return the share of hold-out samples whose cluster a router names, over all noise levels."""
    right = 0
    for batch, randomness in _batches(objective, holdout, samples, device):
        right += int((objective.logits(network, batch, randomness).argmax(-1) == batch.labels_B).sum())
    return right / min(samples, len(holdout))


def _batches(
    objective: Objective, holdout: LatentCache, samples: int, device: torch.device
) -> Iterator[tuple[Batch, Draw]]:
    order = Stream.of("evaluation", "samples").batch_indices(0, min(samples, len(holdout)), len(holdout))
    streams = (Stream.of("evaluation", "noise"), Stream.of("evaluation", "time"))
    for number, start in enumerate(range(0, len(order), BATCH)):
        batch = holdout.batch(order[start : start + BATCH]).to(device)
        randomness = draw(objective, streams, number, tuple(batch.latents_BCHW.shape))
        with torch.no_grad():
            yield batch, randomness.to(device)
