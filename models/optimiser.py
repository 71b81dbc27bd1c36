"""One update: clip, AdamW, averages; what is not finite never reaches the weights, and the host never waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from paris.models.checkpoints import MOMENTS
from paris.models.distributed import Ranks, local, part_of, whole
from paris.models.precision import SMALLEST_SCALE, LossScale

BETAS = (0.9, 0.99)
EPSILON = 1e-8
NORM_EPSILON = 1e-6
"""As in `torch.nn.utils.clip_grad_norm_`."""


class Optimiser:
    """AdamW (Loshchilov & Hutter 2019) and exponential averages of a network's weights.

    Everything here is this rank's part of each tensor, which is the whole tensor unless FSDP2 cut it.

    Args:
        network: its parameters may be shards already.
        weight_decay: on matrices only.
        averages: names of the averages to keep.
        scale: of the loss whose gradients arrive.
        ranks: who shares them.

    Attributes:
        parameters: trainable leaves by name.
        averages: averaged weights by name of the average, then of the parameter.
        adam: the torch optimiser over `parameters`.
        refused: scalar, whether a step was refused; nothing is updated from then on.
        refused_step: scalar, the first such step.
    """

    refused: Tensor
    refused_step: Tensor

    def __init__(
        self, network: nn.Module, weight_decay: float, averages: Sequence[str], scale: LossScale, ranks: Ranks
    ) -> None:
        self._given, self._scale, self._ranks = dict(network.named_parameters()), scale, ranks
        self.parameters: dict[str, Tensor] = {
            name: p if local(p) is p else nn.Parameter(local(p.detach())) for name, p in self._given.items()
        }
        self.averages = {a: {name: p.detach().clone() for name, p in self.parameters.items()} for a in averages}
        matrices = [self.parameters[name] for name, p in self._given.items() if p.ndim > 1]
        vectors = [self.parameters[name] for name, p in self._given.items() if p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        self.adam = torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON, fused=True)
        self.forget_failure()

    @property
    def updates(self) -> int:
        """How often AdamW changed the weights: steps, less those that overflowed in fp16. Waits for the device."""
        state = self.adam.state.get(next(iter(self.parameters.values())))
        return int(state["step"]) if state else 0

    def step(self, step: int, loss: Tensor, *, rate: float, clip: float, decays: Mapping[str, float]) -> None:
        """Update weights and averages by the gradients that lie on the network, and remove these.

        Args:
            step: its number, for the message should it be refused.
            loss: scalar, mean over all ranks' samples.
            rate: learning rate.
            clip: largest gradient norm.
            decays: of every average.
        """
        norm = self._unscaled_norm()
        finite = torch.isfinite(norm)
        bad = ~torch.isfinite(loss) | (~finite & (self._scale.scale <= SMALLEST_SCALE))
        self.refused_step = torch.where(bad & ~self.refused, step, self.refused_step)
        self.refused = self.refused | bad
        self._scale.update(~finite)
        for group in self.adam.param_groups:
            group["lr"] = rate
        # Fused AdamW clips as it reads: a pass of its own over all gradients was measured to cost 2 % of a step. It
        # skips the whole update on the device where found_inf is 1: no host sync, no bad weight.
        self.adam.grad_scale = ((norm + NORM_EPSILON) / clip).clamp(min=1.0)  # type: ignore[attr-defined]
        self.adam.found_inf = (self.refused | ~finite).float()  # type: ignore[attr-defined]
        self.adam.step()
        for tensor in (*self._given.values(), *self.parameters.values()):
            tensor.grad = None
        weights = [p.detach() for p in self.parameters.values()]
        for name, average in self.averages.items():
            torch._foreach_lerp_(list(average.values()), weights, 1 - decays[name])

    def shapes(self) -> dict[str, torch.Size]:
        """Return the shape of every whole parameter."""
        return {name: p.shape for name, p in self._given.items()}

    def groups(self, *, copy: bool) -> dict[str, dict[str, Tensor]]:
        """Return weights, averages and moments in the host's memory, whole; on other ranks than the first, none.

        Args:
            copy: whether they may still be in use after the next step.
        """
        groups = {"weights": self.parameters, **self.averages}
        if self.adam.state:
            for moment in MOMENTS:
                groups[moment] = {name: self.adam.state[p][moment] for name, p in self.parameters.items()}
        return {group: self._on_host(named, copy=copy) for group, named in groups.items()}

    def adopt(self, groups: Mapping[str, Mapping[str, Tensor]], updates: int) -> None:
        """Take over whole tensors, by group.

        Args:
            groups: "weights"; averages, begun at the weights where missing; moments, zeros where missing.
            updates: how often AdamW has changed these weights; 0 empties the moments.
        """
        parts = {group: self._parts(named) for group, named in groups.items()}
        self.put(parts["weights"])
        for name, average in self.averages.items():
            for parameter, values in average.items():
                values.copy_(parts.get(name, parts["weights"])[parameter])
        self.adam.state.clear()
        self.forget_failure()
        if updates:
            for name, leaf in self.parameters.items():
                means = {moment: torch.zeros_like(leaf, requires_grad=False) for moment in MOMENTS}
                for moment in parts.keys() & set(MOMENTS):
                    means[moment].copy_(parts[moment][name])
                self.adam.state[leaf] = {"step": torch.tensor(float(updates), device=leaf.device), **means}

    @torch.no_grad()
    def put(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Put this rank's part of some weights into the network and return the ones from before."""
        before = {name: p.detach().clone() for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])
        return before

    def forget_failure(self) -> None:
        """Update again."""
        device = next(iter(self.parameters.values())).device
        self.refused = torch.zeros((), dtype=torch.bool, device=device)
        self.refused_step = torch.zeros((), dtype=torch.int64, device=device)

    def _unscaled_norm(self) -> Tensor:
        for name, given in self._given.items():
            if given is not self.parameters[name] and given.grad is not None:
                self.parameters[name].grad = local(given.grad)
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        if self._scale.used:
            torch._foreach_mul_(gradients, 1 / self._scale.scale)
        norm = get_total_norm(gradients)
        return self._ranks.total(norm.square()).sqrt() if self._ranks.sharded else norm

    def _parts(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: part_of(tensor, self._given[name]) for name, tensor in named.items()}

    def _on_host(self, named: Mapping[str, Tensor], *, copy: bool) -> dict[str, Tensor]:
        full = ((name, whole(tensor.detach(), self._given[name])) for name, tensor in named.items())
        return {name: tensor.to("cpu", copy=copy) for name, tensor in full if self._ranks.first}
