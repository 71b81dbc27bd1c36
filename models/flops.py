"""How much arithmetic a training step is, and how much of it the hardware could do.

FLOPs model: every matrix product and attention of forward and backward counts two operations a multiply-add, as in
PaLM (Chowdhery et al. 2022, arXiv 2204.02311, appendix B); norms, activations, the optimiser and recomputation under
activation checkpointing count nothing. So a model FLOPs utilisation (MFU) of 1 is training as fast as bare products.
They are counted by PyTorch's own counter on tensors without memory, so that a preset of any size takes a second.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

MATMUL_SIDE = {"cpu": 512, "cuda": 8192}
MATMUL_REPEATS = 10


def shape_of(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return one sample of a network's inputs, without numbers."""
    return tuple(torch.empty_like(x[:1], device="meta") for x in inputs)


def training_flops(kind: Any, config: Any, inputs: tuple[Tensor, ...]) -> float:
    """Return the FLOPs of forward and backward of one sample.

    Args:
        kind: class of the network, a diffusers model.
        config: its config.
        inputs: from `shape_of`.
    """
    with torch.device("meta"):
        twin: nn.Module = kind.from_config(config)
        with FlopCounterMode(display=False) as counter:
            twin.train()(*inputs).sum().backward()
    return float(counter.get_total_flops())


@functools.cache
def matmul_flops_per_s(device: torch.device, dtype: torch.dtype) -> float:
    """Return what bare matrix products of this dtype reach here at best, with as many threads as training has."""
    side = MATMUL_SIDE.get(device.type, 512)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    # Which side is transposed decides the speed on some machines, and training has both.
    return 2 * side**3 / min(_timed(product, device) for product in (lambda: a @ b.T, lambda: a.T @ b) * MATMUL_REPEATS)


def _timed(work: Callable[[], object], device: torch.device) -> float:
    start_s = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start_s
