"""Pictures and clips laid out in a grid with their prompts underneath."""

from __future__ import annotations

import io
import math
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from paris.registry.atomic import write_bytes

CELL_PX = 160
CAPTION_PX = 38
MARGIN_PX = 8
CAPTION_CHARS = 28
SHEET_FRAMES = 8


def captioned_grid(images: list[Image.Image], captions: list[str], columns: int = 0) -> Image.Image:
    """Lay pictures out row by row, each enlarged to a readable cell with its caption below.

    Args:
        images: Pictures of any size.
        captions: One each.
        columns: Pictures a row; 0 for the squarest shape, wider than high, with the fewest empty cells.
    """
    side = math.ceil(len(images) ** 0.5)
    columns = columns or min(range(side, 2 * side + 1), key=lambda wide: -len(images) % wide)
    rows = -(-len(images) // columns)
    width, height = CELL_PX + 2 * MARGIN_PX, CELL_PX + CAPTION_PX + 2 * MARGIN_PX
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for i, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = (i % columns) * width + MARGIN_PX, (i // columns) * height + MARGIN_PX
        sheet.paste(image.resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS), (left, top))
        text = "\n".join(textwrap.wrap(caption, CAPTION_CHARS)[:2])
        draw.multiline_text((left + CELL_PX / 2, top + CELL_PX + 4), text, "#333333", font, "ma", align="center")
    return sheet


def captioned_grids(clips: list[list[Image.Image]], captions: list[str]) -> list[Image.Image]:
    """Lay clips of equal length out side by side: the grid of every frame."""
    return [captioned_grid(list(images), captions) for images in zip(*clips, strict=True)]


def contact_sheet(clips: list[list[Image.Image]], captions: list[str], shown: int = SHEET_FRAMES) -> Image.Image:
    """Lay some frames of each clip out in a row, at equal distances, each below the clip's caption and its number."""
    chosen = [sorted({i * len(clip) // shown for i in range(shown)}) for clip in clips]
    images = [clip[i] for clip, numbers in zip(clips, chosen, strict=True) for i in numbers]
    texts = [f"{caption} [{i + 1}]" for caption, numbers in zip(captions, chosen, strict=True) for i in numbers]
    return captioned_grid(images, texts, columns=len(chosen[0]))


def save_png(image: Image.Image, file: Path) -> None:
    """Write a PNG, whole or not at all."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    write_bytes(file, buffer.getvalue())
