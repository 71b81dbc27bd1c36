"""How alike networks are, number by number; read tensor by tensor, so that networks of any size fit in memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from safetensors import safe_open
from torch import Tensor


def likeness(files: Sequence[Path], start: Path | None = None) -> np.ndarray:
    """Return how alike the ways of networks of one architecture are (K, K).

    Entry (a, b) is the cosine of a - s and b - s over all matrices; s are the weights all started from, or zero. Copies
    are at 1, whatever they are scaled by, and stay near it under noise; independent trainings are near 0. Products are
    float64: the square of a large float32 is infinite in float32.

    Args:
        files: exported weights (K).
        start: weights they all started from, if there are such.

    Raises:
        safetensors.SafetensorError: a file is no safetensors file, or lacks a tensor of the first.
    """
    count = len(files)
    products = np.zeros((count, count))
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(file, framework="pt")) for file in files]
        begun = stack.enter_context(safe_open(start, framework="pt")) if start else None
        for name in opened[0].keys():  # noqa: SIM118 (a safetensors file is no mapping)
            tensors: list[Tensor] = [file.get_tensor(name) for file in opened]
            if tensors[0].ndim < 2:
                continue
            rows = np.stack([tensor.double().flatten().numpy() for tensor in tensors])
            if begun is not None:
                rows -= begun.get_tensor(name).double().flatten().numpy()
            products += rows @ rows.T
    lengths = np.sqrt(np.diag(products))
    scale = np.outer(lengths, lengths)
    alike: np.ndarray = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    return alike
