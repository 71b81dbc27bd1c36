"""Mixed precision: which dtype autocast uses, and the loss scale that keeps fp16 gradients from vanishing.

Source: Micikevicius et al. 2018 (arXiv 1710.03740, section 3.2). The scale lives on the device and belongs to the exact
training state: a training that resumes with another scale rounds its gradients otherwise.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def affordable(precision: str, device: torch.device) -> str:
    """Return the precision in which a recipe's passes should run on a device: its own, or "fp32".

    A CPU without units for a short type emulates it, many times slower than fp32 and no better. What comes out differs
    from the recipe's by less rounding, as another machine's would.
    """
    if device.type != "cpu" or precision == "fp32":
        return precision
    asked = {"bf16": "_is_mkldnn_bf16_supported", "fp16": "_is_mkldnn_fp16_supported"}[precision]
    return precision if getattr(torch.ops.mkldnn, asked)() else "fp32"


FIRST_SCALE = 2.0**16
SMALLEST_SCALE = 1.0
"""An overflow at this scale is no rounding matter any more: the training has diverged."""

GROWS_AFTER_STEPS = 2000
"""Steps without an overflow after which the scale is doubled."""


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Return the context in which a recipe's forward passes run."""
    return torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32")


class LossScale:
    """The factor a loss is multiplied with before the backward pass; 1 for ever where the precision is not fp16.

    Attributes:
        scale: the factor, a power of two.
        good_steps: steps since it last changed.
    """

    scale: Tensor
    good_steps: Tensor

    def __init__(self, precision: str, device: torch.device) -> None:
        self.used, self._device = precision == "fp16", device
        self.load({})

    def update(self, overflowed: Tensor) -> None:
        """Halve the scale after an overflow, double it after a long time without one: on the device, without waiting.

        Args:
            overflowed: scalar, whether this step's gradient was not finite.
        """
        if not self.used:
            return
        good = torch.where(overflowed, 0, self.good_steps + 1)
        grows = good >= GROWS_AFTER_STEPS
        grown = torch.where(grows, self.scale * 2, self.scale)
        self.scale = torch.where(overflowed, (self.scale / 2).clamp(min=SMALLEST_SCALE), grown)
        self.good_steps = torch.where(grows, 0, good)

    def state(self) -> dict[str, float]:
        """Return what `load` reads back exactly; empty where no scale is used. Waits for the device."""
        return {"scale": float(self.scale), "good_steps": int(self.good_steps)} if self.used else {}

    def load(self, state: dict[str, float]) -> None:
        """Take over a state, or begin anew where it is empty.

        Raises:
            ValueError: where the scale is no number a training can have reached.
        """
        scale = float(state.get("scale", FIRST_SCALE if self.used else 1.0))
        good = int(state.get("good_steps", 0))
        if not SMALLEST_SCALE <= scale < 2.0**120 or not 0 <= good < GROWS_AFTER_STEPS:
            raise ValueError(f"no training has the loss scale {scale} after {good} good steps")
        self.scale = torch.tensor(scale, dtype=torch.float32, device=self._device)
        self.good_steps = torch.tensor(good, dtype=torch.int64, device=self._device)
