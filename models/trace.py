"""Who drew what: the weight of every expert at every step of every picture, as numbers, JSON and a picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from paris.models.files import write_json

STRIP_HEIGHT_PX = 64
STEP_PX = 12
MARGIN_PX = 10
LEGEND_PX = 20
# Okabe and Ito's eight colours, which colour-blind people can tell apart.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000")


@dataclass(frozen=True)
class Drawn:
    """One expert's part in one picture: it had weight in `steps` steps, `weight` on average over all steps."""

    expert: int
    steps: int
    weight: float


@dataclass(frozen=True, eq=False)
class Trace(Sequence[list[Drawn]]):
    """The routing of some pictures; indexed, it gives each picture's experts, busiest first.

    Attributes:
        weights_SBK: mixture weights of every evaluation (a Heun step has two).
        times_S: flow time of every evaluation.
        null_weights_SBK: weights of guidance's null half, where they are its own.
    """

    weights_SBK: Tensor
    times_S: Tensor
    null_weights_SBK: Tensor | None = None

    def __len__(self) -> int:
        return self.weights_SBK.shape[1]

    @overload
    def __getitem__(self, index: int) -> list[Drawn]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[Drawn]]: ...
    def __getitem__(self, index: int | slice) -> list[Drawn] | list[list[Drawn]]:
        """Return who drew one picture, or several."""
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        shares = zip(self.steps_drawn()[index].tolist(), self.mean_weights()[index].tolist(), strict=True)
        parts = [Drawn(k, int(steps), round(weight, 4)) for k, (steps, weight) in enumerate(shares) if steps]
        return sorted(parts, key=lambda part: (-part.steps, -part.weight, part.expert))

    def __iter__(self) -> Iterator[list[Drawn]]:
        return (self[i] for i in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trace) and torch.equal(self.weights_SBK, other.weights_SBK)

    __hash__ = None  # type: ignore[assignment]

    def steps_drawn(self) -> Tensor:
        """Return (B, K): in how many evaluations each expert had a part in each picture."""
        return (self.weights_SBK > 0).sum(dim=0)

    def mean_weights(self) -> Tensor:
        """Return (B, K): each expert's mean share of each picture."""
        return self.weights_SBK.mean(dim=0)

    def as_json(self) -> dict[str, Any]:
        """Return times and, for every picture and evaluation, the experts with weight."""
        pictures = [{"steps": _sparse(self.weights_SBK[:, i])} for i in range(len(self))]
        if self.null_weights_SBK is not None:
            for i, picture in enumerate(pictures):
                picture["null_steps"] = _sparse(self.null_weights_SBK[:, i])
        times = [round(t, 6) for t in self.times_S.tolist()]
        return {"experts": self.weights_SBK.shape[2], "times": times, "pictures": pictures}

    def save(self, file: Path) -> None:
        """Write the trace as JSON, atomically."""
        write_json(self.as_json(), file)

    def picture(self, captions: Sequence[str] = ()) -> Image.Image:
        """Draw one strip a picture: steps from noise (left) to data, each a bar of its experts' weights."""
        steps, pictures, experts = self.weights_SBK.shape
        row = STRIP_HEIGHT_PX + LEGEND_PX
        width = max(steps * STEP_PX, 40 * experts) + 2 * MARGIN_PX
        sheet = Image.new("RGB", (width, pictures * row + LEGEND_PX + 2 * MARGIN_PX), "white")
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
        for expert in range(experts):
            left = MARGIN_PX + 40 * expert
            draw.rectangle((left, MARGIN_PX, left + 9, MARGIN_PX + 9), fill=_colour(expert))
            draw.text((left + 13, MARGIN_PX - 2), str(expert), "#333333", font)
        for i in range(pictures):
            top = MARGIN_PX + LEGEND_PX + i * row
            if i < len(captions):
                draw.text((MARGIN_PX, top), captions[i][: width // 7], "#333333", font)
            for step in range(steps):
                corner = (MARGIN_PX + step * STEP_PX, top + LEGEND_PX - 3)
                _draw_bar(draw, corner, self.weights_SBK[step, i].tolist())
        return sheet


def _sparse(weights_SK: Tensor) -> list[dict[str, float]]:
    """Return, for every step, only the experts that have weight."""
    return [{str(k): round(w, 6) for k, w in enumerate(weights) if w > 0} for weights in weights_SK.tolist()]


def _draw_bar(draw: ImageDraw.ImageDraw, corner: tuple[int, int], weights: list[float]) -> None:
    left, top = corner
    above = 0.0
    for expert, weight in enumerate(weights):
        if weight > 0:
            upper, lower = (top + round(share * STRIP_HEIGHT_PX * 0.95) for share in (above, above + weight))
            draw.rectangle((left, upper, left + STEP_PX - 2, max(upper, lower - 1)), fill=_colour(expert))
            above += weight


def _colour(expert: int) -> str:
    return COLOURS[expert % len(COLOURS)]
