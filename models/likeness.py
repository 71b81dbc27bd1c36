"""How alike networks are, number by number: read tensor by tensor, so that any number of any size fit in memory."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from safetensors import safe_open
from torch import Tensor


def likeness(files: Sequence[Path], start: Path | None = None) -> np.ndarray:
    """Return how far networks of one architecture lie apart, relative to how far they went (K, K).

    Entry (a, b) is |a - b| over the root mean square of |a - s| and |b - s|, over all matrices; s are the weights all
    started from, or zero. Copies are at 0, networks that went independent ways at about the root of two.

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
            rows = np.stack([tensor.float().flatten().numpy() for tensor in tensors])
            if begun is not None:
                rows -= begun.get_tensor(name).float().flatten().numpy()
            products += rows.astype(np.float32) @ rows.T
    squares = np.diag(products)
    apart = np.maximum(squares[:, None] + squares[None, :] - 2 * products, 0)
    went = (squares[:, None] + squares[None, :]) / 2
    return np.sqrt(np.divide(apart, went, out=np.zeros_like(apart), where=went > 0))
