"""What a network needs, before it exists: parameters, memory by component, arithmetic.

Counted on tensors without memory, with one block and with two: all of it rises by the same with every further block.
Letters: P parameters, B batch, T picture tokens, D model width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from paris.models.flops import shape_of

FP32_BYTES, BF16_BYTES = 4, 2


@dataclass(frozen=True)
class Footprint:
    """The needs of one network.

    Attributes:
        parameters: P.
        flops: forward and backward of one sample, see `paris.models.flops`.
        activations_bytes: what forward keeps for backward, a sample, in fp32; about half of it under bf16 autocast.
        checkpointed_bytes: the same where each block keeps its input alone and computes the rest again.
    """

    parameters: int
    flops: int
    activations_bytes: int
    checkpointed_bytes: int

    @property
    def weights_bytes(self) -> dict[str, int]:
        """Return the weights alone, as an ensemble loads them, by precision."""
        return {"fp32": self.parameters * FP32_BYTES, "bf16": self.parameters * BF16_BYTES}

    @property
    def training_bytes(self) -> dict[str, int]:
        """Return the training state by component, all in fp32 whatever the precision of the passes; no activations."""
        each = self.parameters * FP32_BYTES
        return {"weights": each, "gradients": each, "adamw_moments": 2 * each, "average": each}


def footprint(kind: Any, arguments: Mapping[str, Any], inputs: tuple[Tensor, ...]) -> Footprint:
    """Count what a network needs.

    Args:
        kind: `DiT` or `Router`, or a class that is built and asked like them.
        arguments: its keyword arguments, with a `depth`.
        inputs: a batch of what its forward takes, of any size; the values do not matter.
    """
    sample, further = shape_of(inputs), int(arguments["depth"]) - 1
    networks = [_on_meta(kind, {**arguments, "depth": depth}) for depth in (1, 2)]
    (flat, flat_flops), (taller, taller_flops) = (step_needs(network, sample) for network in networks)

    def rising(first: float, second: float) -> int:
        return round(first + further * (second - first))

    patches = (int(arguments["height"]) // int(arguments["patch"])) ** 2
    return Footprint(
        parameters=rising(*(sum(parameter.numel() for parameter in network.parameters()) for network in networks)),
        flops=rising(flat_flops, taller_flops),
        activations_bytes=rising(flat, taller),
        checkpointed_bytes=flat + further * patches * int(arguments["width"]) * FP32_BYTES,
    )


def step_needs(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[int, float]:
    """Run forward and backward once: the bytes forward keeps for backward, weights not counted, and the FLOPs of both.

    Attention is counted as the fused kernels do it, which keep no T x T matrix.
    """
    weights = {_address(parameter.untyped_storage()) for parameter in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if (address := _address(storage)) not in weights:
            kept[address] = storage
        return saved

    attention, products = _FusedAttention(), FlopCounterMode(display=False)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved), attention, products:
        network(*inputs).sum().backward()
    return sum(storage.nbytes() for storage in kept.values()), products.get_total_flops() + attention.flops


class _Fused(torch.autograd.Function):
    """Attention as far as memory is concerned: queries, keys, values, answer and one number a row are kept."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1]))
        return out

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


class _FusedAttention(TorchFunctionMode):
    """Put `_Fused` in the place of PyTorch's attention, which without a device would choose the unfused one."""

    flops = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is functional.scaled_dot_product_attention:
            q, k, v = args[:3]
            # Two products of T x S x width a head forward, twice as many backward, two operations a multiply-add.
            self.flops += 12 * q.numel() * k.shape[-2]
            return _Fused.apply(q, k, v)
        return func(*args, **(kwargs or {}))


def _on_meta(kind: Callable[..., Any], arguments: Mapping[str, Any]) -> nn.Module:
    with torch.device("meta"):
        network: nn.Module = kind(**arguments)
    return network.train()


def _address(storage: torch.UntypedStorage) -> int:
    """Return what tells storages apart; those without memory all have the data pointer 0."""
    return int(storage._cdata)  # noqa: SLF001 (nothing public does)
