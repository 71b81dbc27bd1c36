"""The numbers a unit is trained with, and the learning rate they imply at every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

DECAY_SHARE = 0.2
"""The last fifth of the steps brings the learning rate linearly to zero (warm-up, stable, decay)."""


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
        precision: "bf16" (autocast, fp32 weights) or "fp32".
        seed: mixed into every random stream.
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
        if recipe.batch < 1 or recipe.lr <= 0 or recipe.precision not in {"bf16", "fp32"}:
            raise RecipeError(
                f"The training recipe is impossible: batch {recipe.batch} must be at least 1, lr {recipe.lr} above 0, "
                f"precision {recipe.precision!r} bf16 or fp32. Correct it in the genesis."
            )
        return recipe

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of one step: a function of the step alone, so that replay agrees."""
        decay_steps = max(1, self.steps * DECAY_SHARE)
        return self.lr * max(0.0, min(1.0, (step + 1) / (self.warmup_steps + 1), (self.steps - step) / decay_steps))

    def ema_decay(self, step: int) -> float:
        """Return the decay of the average after one step; it grows, so that a short training is not all start."""
        return min(self.ema, (1 + step) / (10 + step))
