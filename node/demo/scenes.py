"""What the demo can show: pictures, or clips. Everything else about it is the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from paris.node.demo.prompts import CLIP_PROMPTS, PROMPTS


@dataclass(frozen=True)
class Scene:
    """One demo.

    Attributes:
        data: where its samples come from.
        preset: its networks.
        clusters: K, unless a person says otherwise.
        minutes: for the whole demo, likewise.
        batch: samples of a training step.
        lr: learning rate of experts, which start from the packaged base.
        most_router_steps: beyond that the small router was seen to learn the training samples by heart.
        guidance: scale of classifier-free guidance it is drawn with.
        prompts: what is drawn.
        grid: file it is drawn into.
        sheet: file that shows frames of the clips side by side; empty for pictures.
    """

    data: str
    preset: str
    clusters: int
    minutes: float
    batch: int
    lr: str
    most_router_steps: int
    guidance: float
    prompts: tuple[str, ...]
    grid: str
    sheet: str = ""


PICTURES: Final = Scene("sample:emoji", "tiny", 4, 10.0, 96, "0.0004", 250, 3.0, PROMPTS, "grid.png")
CLIPS: Final = Scene(
    "sample:emoji-clips", "video-tiny", 3, 12.0, 32, "0.0004", 250, 1.5, CLIP_PROMPTS, "grid.webp", "sheet.png"
)
