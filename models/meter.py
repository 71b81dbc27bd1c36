"""What a training says about itself: loss, loss by noise level, speed, share of the hardware's peak.

Sums stay on the device between reports, so that the host never waits for a step.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from paris.models.distributed import Ranks

NOISE_BINS = 8


@dataclass(frozen=True)
class Report:
    """The steps since the report before.

    Attributes:
        step: steps done in all.
        loss: mean loss.
        loss_by_noise: mean loss of the samples whose time lay in each eighth of [0, 1], data first; None where no
            sample's did.
        images_per_s: samples trained on a second, of all ranks together.
        mfu: model FLOPs utilisation, see `paris.models.flops`; None where nobody measured the peak.
    """

    step: int
    loss: float
    loss_by_noise: tuple[float | None, ...]
    images_per_s: float
    mfu: float | None


class Meter:
    """Adds up what steps say until somebody asks.

    Attributes:
        flops_per_image: of forward and backward, for `Report.mfu`; 0 for unknown.
        peak_flops_per_s: of this device and precision, all ranks together; 0 for unknown.
    """

    def __init__(self, device: torch.device, ranks: Ranks) -> None:
        self._device, self._ranks = device, ranks
        self.flops_per_image, self.peak_flops_per_s = 0.0, 0.0
        self.restart()

    def restart(self) -> None:
        """Forget everything and start the clock."""
        self._sums = torch.zeros(2, NOISE_BINS, device=self._device)
        self._begin_s = time.perf_counter()

    def add(self, losses_B: Tensor, times_B: Tensor) -> None:
        """Count some samples' losses at their times, on the device."""
        bins_B = (times_B * NOISE_BINS).long().clamp(0, NOISE_BINS - 1)
        # A product with one-hot rows, unlike a scattered sum, adds in the same order every time on every device, and
        # `one_hot` itself would wait for the device to see whether every number is in range.
        hot_BN = (bins_B[:, None] == torch.arange(NOISE_BINS, device=self._device)).to(losses_B.dtype)
        self._sums += torch.stack([losses_B, torch.ones_like(losses_B)]) @ hot_BN

    def report(self, step: int) -> Report:
        """Wait for the device, return what there is since the last report, and start anew."""
        sums, counts = self._ranks.total(self._sums).tolist()
        took_s = max(time.perf_counter() - self._begin_s, 1e-9)
        per_s = sum(counts) / took_s
        mfu = per_s * self.flops_per_image / self.peak_flops_per_s if self.peak_flops_per_s else None
        by_noise = tuple(total / count if count else None for total, count in zip(sums, counts, strict=True))
        self.restart()
        return Report(step, sum(sums) / max(sum(counts), 1), by_noise, per_s, mfu)
