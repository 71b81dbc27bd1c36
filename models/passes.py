"""Forward and backward: a step's gradient, micro-batch by micro-batch, on one device or shared with other ranks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from paris.models import flops, memory
from paris.models.distributed import Ranks
from paris.models.feed import Part
from paris.models.objectives import Objective
from paris.models.precision import LossScale, autocast
from paris.models.recipe import Recipe


class Passes:
    """A network, what it learns, and in which precision.

    Args:
        network: a diffusers model on its device; FSDP2 cuts its parameters in place.
        objective: gives each sample's loss.
        recipe: batch and precision.
        scale: multiplies losses before the backward pass.
        ranks: who shares the batch.
        compiled: backend of `torch.compile` for these passes, or None.
        precision: of these passes.

    Attributes:
        config: the network's config.json.
        precision: as given.
        micro_batch: samples of one forward and backward pass.
    """

    def __init__(
        self,
        network: Any,
        objective: Objective,
        recipe: Recipe,
        scale: LossScale,
        ranks: Ranks,
        *,
        compiled: str | None,
        precision: str,
    ) -> None:
        self.network, self.objective, self.ranks = network.train(), objective, ranks
        self.config: dict[str, Any] = json.loads(network.to_json_string())
        self._kind, self._arguments = type(network), network.config
        self._inputs: tuple[Tensor, ...] = ()
        self._module: Any = ranks.wrap(network)
        self._forward = torch.compile(self._module, backend=compiled) if compiled else self._module
        self.device: torch.device = next(network.parameters()).device
        self._batch, self.precision, self._scale = recipe.batch, precision, scale
        share = ranks.share(recipe.batch)
        self._share = share.stop - share.start
        self._largest = min(-(-recipe.batch // recipe.accumulate), self._share)
        self.keep_micro_batch(self._largest)

    def backward(self, part: Part) -> tuple[Tensor, Tensor]:
        """Add the gradient of the whole batch's mean loss; return losses and times (B,) of this rank's samples."""
        return self._backward(part.split(self.micro_batch), sync=True)

    def keep_micro_batch(self, size: int) -> None:
        """Go on with the micro-batch of a state, as far as this rank's share of the batch allows."""
        self.micro_batch = min(size, self._share)

    def fit_memory(self, part: Part, weights_bytes: int) -> int:
        """Make the recipe's micro-batch small enough for the memory free now, by trying one and two samples; return it.

        Args:
            part: samples to try with.
            weights_bytes: what gradients and moments will take besides.
        """
        one, two = (memory.peak_bytes(partial(self._try, part, size), self.device) for size in (1, 2))
        room_bytes = memory.USED_SHARE * memory.free_bytes(self.device) - weights_bytes
        parts = -(-self._share // self._largest)
        self.micro_batch = self.ranks.least(memory.fitting(self._share, parts, room_bytes, one, two))
        return self.micro_batch

    def flops_per_image(self) -> float:
        """Return the FLOPs of one sample's forward and backward pass, after the first; 0 before."""
        return flops.training_flops(self._kind, self._arguments, self._inputs) if self._inputs else 0.0

    @contextmanager
    def with_weights(
        self, weights: Mapping[str, Tensor], put: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
    ) -> Iterator[Callable[..., Tensor]]:
        """Give the network with other weights; where they are sharded, by exchanging them for a while.

        Args:
            weights: by name, this rank's part of each.
            put: puts weights into the network and returns those from before.
        """
        if not self.ranks.sharded:
            yield lambda *inputs: functional_call(self.network, dict(weights), inputs)
            return
        before = put(weights)
        try:
            yield self._module
        finally:
            put(before)

    def _backward(self, parts: list[Part], *, sync: bool) -> tuple[Tensor, Tensor]:
        losses: list[Tensor] = []
        times: list[Tensor] = []
        for number, part in enumerate(parts, 1):
            here = part.to(self.device)
            with self.ranks.averaging(self._module, sync and number == len(parts)):
                with autocast(self.device, self.precision):
                    losses_B = self.objective.losses(self._ask, here.batch, here.draw)
                # Ranks are averaged, and each holds only its share of the batch.
                (losses_B.sum() * (self._scale.scale * (self.ranks.count / self._batch))).backward()
            losses.append(losses_B.detach())
            times.append(here.draw.t_B)
        return torch.cat(losses), torch.cat(times)

    def _ask(self, *inputs: Tensor) -> Tensor:
        self._inputs = self._inputs or flops.shape_of(inputs)
        out: Tensor = self._forward(*inputs)
        return out

    def _try(self, part: Part, size: int) -> None:
        # Sharded gradients that were not averaged would stay in FSDP's own keeping, so they are.
        self._backward(part.split(size)[:1], sync=self.ranks.sharded)
        self._module.zero_grad(set_to_none=True)
