"""How many samples fit into memory at once: one number, measured once, that then belongs to the training state.

Micro-batches change the order in which gradients are summed and nothing else, but that decides the last bits. So the
choice is made when a training begins, is said in the log, and is kept by whoever resumes or replays it.
"""

from __future__ import annotations

from collections.abc import Callable

import psutil
import torch
from torch import Tensor

USED_SHARE = 0.8
"""Of what is free: the rest is for fragments, for the codec, and for whoever else uses the machine."""

BACKWARD_FACTOR = 2.0
"""On a CPU only what forward keeps for backward can be counted; gradients of activations need about as much again."""


def free_bytes(device: torch.device) -> int:
    """Return what a device has left, memory that PyTorch holds in reserve included."""
    if device.type == "cuda":
        reserve = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + reserve
    return int(psutil.virtual_memory().available)


def peak_bytes(step: Callable[[], object], device: torch.device) -> float:
    """Run forward and backward passes once and return what they needed beyond what was there before."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return float(torch.cuda.max_memory_allocated(device) - before)
    kept: dict[int, int] = {}

    def keep(saved: Tensor) -> Tensor:
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        step()
    return BACKWARD_FACTOR * sum(kept.values())


def fitting(batch: int, parts: int, room_bytes: float, one_bytes: float, two_bytes: float) -> int:
    """Return the largest micro-batch of equal parts that fits.

    Args:
        batch: samples of a whole step on this device.
        parts: smallest number of micro-batches allowed.
        room_bytes: what forward and backward may use.
        one_bytes: what they need for one sample.
        two_bytes: what they need for two.
    """
    each_bytes = max(two_bytes - one_bytes, 1.0)
    most = max(1, 1 + int((room_bytes - one_bytes) / each_bytes))
    needed = max(parts, -(-batch // most))
    return -(-batch // min(needed, batch))
