"""The flow-matching convention of every run: t = 0 is data, t = 1 is noise, the target is noise minus data.

Source: Lipman et al. 2023 (arXiv 2210.02747) with the straight path of Liu et al. 2023 (arXiv 2209.03003), in Paris's
orientation; logit-normal times and the time shift from Esser et al. 2024 (arXiv 2403.03206, sections 3.1 and 5.3.2).
"""

from __future__ import annotations

import numpy as np
from torch import Tensor


def interpolate(x0: Tensor, eps: Tensor, t_B: Tensor) -> Tensor:
    """Return x_t = (1 - t) x0 + t eps, one time per sample."""
    t = t_B.reshape(-1, *[1] * (x0.ndim - 1))
    return (1 - t) * x0 + t * eps


def velocity(x0: Tensor, eps: Tensor) -> Tensor:
    """Return the target v = d x_t / dt = eps - x0."""
    return eps - x0


def data_from_velocity(x_t: Tensor, v: Tensor, t_B: Tensor) -> Tensor:
    """Return the data a velocity points to: x0 = x_t - t v."""
    return x_t - t_B.reshape(-1, *[1] * (x_t.ndim - 1)) * v


def logit_normal(normal_B: np.ndarray, mean: float = 0.0, deviation: float = 1.0) -> np.ndarray:
    """Turn standard normal numbers into times in (0, 1) that favour the middle, where the task is hardest."""
    times: np.ndarray = 1 / (1 + np.exp(-(mean + deviation * normal_B)))
    return times.astype(np.float32)


def shift_times(times_B: np.ndarray, shift: float) -> np.ndarray:
    """Move times towards noise: t -> s t / (1 + (s - 1) t), which divides the signal-to-noise ratio by s squared.

    Larger pictures need more noise to hide as much (Esser et al. 2024, equation 23); a shift of 1 changes nothing.
    """
    shifted: np.ndarray = shift * times_B / (1 + (shift - 1) * times_B)
    return shifted
