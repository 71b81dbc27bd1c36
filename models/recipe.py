"""The numbers a unit is trained with, and the learning rate they imply at every step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

DECAY_SHARE = 0.2
"""The last fifth of the steps brings a "wsd" learning rate linearly to zero: what would otherwise stay as noise in the
weights settles (Zhai et al. 2022, arXiv 2106.04560, section 3.5)."""

PRECISIONS = ("bf16", "fp16", "fp32")
SCHEDULES = ("constant", "cosine", "wsd")


class RecipeError(ValueError):
    """A recipe lacks a number or holds an impossible one."""


@dataclass(frozen=True)
class Recipe:
    """How a unit is trained; a genesis writes the fractions as decimal strings.

    Attributes:
        steps: target steps of the unit.
        batch: samples a step.
        lr: peak learning rate of AdamW.
        warmup_steps: steps over which the learning rate rises linearly.
        ema: decay of the weight average once it has warmed up.
        weight_decay: of AdamW, on matrices only.
        text_dropout: share of samples that see the null text.
        grad_clip: largest gradient norm.
        precision: of forward and backward, by autocast: "bf16", "fp16" (with a dynamic loss scale) or "fp32"; weights
            are fp32 always.
        seed: mixed into every random stream.
        accumulate: micro-batches a step is split into, at least; a machine with little memory takes more.
        schedule: of the learning rate after warm-up: "constant"; "wsd" (warm-up, stable, decay), whose last fifth falls
            linearly to zero; or "cosine", which falls along half a cosine from the end of the warm-up to the last step.
        objective: what an expert predicts, see `paris.models.objectives.expert_objective`, as the next three.
        noise_schedule: of a DDPM objective.
        times: law of the noise levels; empty for the objective's usual one.
        time_shift: above 1 for more noise.
        first_frames: share of clips whose first frame the network is told, for image-to-video.
    """

    steps: int
    batch: int
    lr: float
    warmup_steps: int = 0
    ema: float = 0.999
    weight_decay: float = 0.0
    text_dropout: float = 0.1
    grad_clip: float = 1.0
    precision: str = "bf16"
    seed: int = 0
    accumulate: int = 1
    schedule: str = "wsd"
    objective: str = "velocity"
    noise_schedule: str = "cosine"
    times: str = ""
    time_shift: float = 1.0
    first_frames: float = 0.0

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Recipe:
        """Read a recipe from a mapping, ignoring what does not concern the trainer (such as the publish cadence).

        Raises:
            RecipeError: naming the number that is missing or wrong.
        """
        kinds = {"int": int, "float": float, "str": str}
        try:
            recipe = cls(**{f.name: kinds[str(f.type)](values[f.name]) for f in fields(cls) if f.name in values})
        except (TypeError, ValueError) as error:
            raise RecipeError(f"The training recipe cannot be read: {error}. Correct it in the genesis.") from error
        for problem in recipe.problems():
            raise RecipeError(f"The training recipe is impossible: {problem}. Correct it in the genesis.")
        return recipe

    def problems(self) -> list[str]:
        """Return what nobody can train with, a sentence each."""
        checks = {
            f"steps {self.steps}, batch {self.batch} and accumulate {self.accumulate} must be at least 1": (
                min(self.steps, self.batch, self.accumulate) >= 1
            ),
            f"a batch of {self.batch} cannot be split into {self.accumulate}": self.accumulate <= self.batch,
            f"lr {self.lr} and time_shift {self.time_shift} must be above 0": self.lr > 0 and self.time_shift > 0,
            f"precision {self.precision!r} is none of {', '.join(PRECISIONS)}": self.precision in PRECISIONS,
            f"first_frames {self.first_frames} is no share": 0 <= self.first_frames <= 1,
            f"schedule {self.schedule!r} is none of {', '.join(SCHEDULES)}": self.schedule in SCHEDULES,
        }
        return [problem for problem, fine in checks.items() if not fine]

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of one step: a function of the step alone, so that replay agrees."""
        warm = (step + 1) / (self.warmup_steps + 1)
        if self.schedule == "cosine":
            done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
            return self.lr * min(1.0, warm) * (1 + math.cos(math.pi * min(1.0, max(0.0, done)))) / 2
        left = (self.steps - step) / max(1, self.steps * DECAY_SHARE) if self.schedule == "wsd" else 1.0
        return self.lr * max(0.0, min(1.0, warm, left))

    def ema_decay(self, step: int) -> float:
        """Return the decay of the average after one step; it grows, so that a short training is not all start."""
        return warmed_decay(self.ema, step)


def warmed_decay(decay: float, step: int) -> float:
    """Return what a decay is after one step: smaller at first, by the rule of TensorFlow's moving averages."""
    return min(decay, (1 + step) / (10 + step))
