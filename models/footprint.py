"""What a network needs, before it exists: parameters, memory by component, arithmetic.

Counted on tensors without memory, with one block of each kind and with two: all of it rises by the same with every
further block.
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
DEPTHS = ("depth", "dual", "single")
"""Arguments of the networks here that say how many blocks of a kind there are."""


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
        kind: `DiT` or `Router`, `VideoExpert` or `VideoRouter`, or a class that is built and asked like them.
        arguments: its keyword arguments, with those of `DEPTHS` that it has.
        inputs: a batch of what its forward takes, of any size; the values do not matter.
    """
    sample = shape_of(inputs)
    further = {name: int(arguments[name]) - 1 for name in DEPTHS if name in arguments}
    flat = {**arguments, **dict.fromkeys(further, 1)}
    networks = [_on_meta(kind, {**flat, **taller}) for taller in ({}, *({name: 2} for name in further))]
    kept, flops = zip(*(step_needs(network, sample) for network in networks), strict=True)

    def rising(first: float, *taller: float) -> int:
        return round(
            first + sum(count * (second - first) for count, second in zip(further.values(), taller, strict=True))
        )

    tokens = (int(arguments["height"]) // int(arguments["patch"])) ** 2
    if "frames" in arguments:
        tokens *= int(arguments["frames"]) // int(arguments.get("patch_frames", 1))
    if "dual" in arguments:  # the text is a stream of its own
        tokens += sample[2].shape[1]
    return Footprint(
        parameters=rising(*(sum(parameter.numel() for parameter in network.parameters()) for network in networks)),
        flops=rising(*flops),
        activations_bytes=rising(*kept),
        checkpointed_bytes=kept[0] + sum(further.values()) * tokens * int(arguments["width"]) * FP32_BYTES,
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
            q, k, v = args[:3] or tuple((kwargs or {})[name] for name in ("query", "key", "value"))
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
