"""diffusers' schedulers for straight flow paths, by name, and the noise levels they ask a velocity at."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

_FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
# "lower_order_final" and a last sigma of zero end both multistep solvers in a plain step onto the predicted data.
SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {}),
    "heun": ("FlowMatchHeunDiscreteScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", _FLOW),
    "dpm++": ("DPMSolverMultistepScheduler", {**_FLOW, "algorithm_type": "dpmsolver++"}),
}
"""Class and settings of every scheduler. Heun evaluates twice a step, the others once."""


class SchedulerError(ValueError):
    """A scheduler is unknown, or its folder does not describe one for flow matching."""


def make_scheduler(name: str, shift: float = 1.0) -> Any:
    """Make a scheduler.

    Args:
        name: one of `SCHEDULERS`.
        shift: time shift of its steps, above 1 for more of them at high noise.

    Raises:
        SchedulerError: for an unknown name.
    """
    if name not in SCHEDULERS:
        raise SchedulerError(f"There is no scheduler {name!r}. This version knows {', '.join(SCHEDULERS)}.")
    kind, settings = SCHEDULERS[name]
    return _class(kind)(**settings, **{"flow_shift" if settings else "shift": shift})


def shift_of(scheduler: Any) -> float:
    """Return the time shift of a scheduler."""
    return float(scheduler.config.get("flow_shift", scheduler.config.get("shift", 1.0)))


def open_scheduler(folder: Path) -> Any:
    """Open a scheduler folder.

    Raises:
        SchedulerError: where its config is missing, or of a class that does not walk straight flow paths.
    """
    try:
        config = json.loads((folder / "scheduler_config.json").read_text(encoding="utf-8"))
        kind = config["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SchedulerError(f"The scheduler in {folder} cannot be read ({error}). Fetch the folder again.") from error
    settings = dict(SCHEDULERS.values()).get(kind) if isinstance(kind, str) else None
    if settings is None or any(config.get(name) != value for name, value in settings.items()):
        raise SchedulerError(
            f"{folder} names the scheduler {kind}, whose settings do not walk straight flow paths. "
            f"This version knows {', '.join(name for name, _ in SCHEDULERS.values())}, with flow sigmas."
        )
    return _class(kind).from_config(config)


def noise_levels(scheduler: Any, steps: int, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """Prepare a scheduler and return the time steps to give it and the flow time in [0, 1] of each, noise first.

    `timesteps` of the multistep solvers are rounded to whole thousandths, so times are read from the sigmas, which are
    exact. A strength below 1 leaves out the noisiest steps, as image-to-image does.

    Raises:
        SchedulerError: where strength leaves no step, or lies outside (0, 1].
    """
    first = steps - min(int(steps * strength), steps)
    if not 0 < strength <= 1 or first == steps:
        raise SchedulerError(
            f"Strength {strength} of {steps} steps leaves nothing to draw. Strength lies in (0, 1], and strength times "
            "steps must be at least 1."
        )
    with warnings.catch_warnings():
        # diffusers hands tensors to np.array in a way NumPy 2 deprecates.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        scheduler.set_timesteps(steps)
    begin = first * scheduler.order
    scheduler.set_begin_index(begin)
    timesteps = scheduler.timesteps[begin:]
    return timesteps, scheduler.sigmas[begin : begin + len(timesteps)].float()


def _class(kind: str) -> Any:
    import diffusers  # noqa: PLC0415 - seconds, and most who know of schedulers never make one

    return getattr(diffusers, kind)
