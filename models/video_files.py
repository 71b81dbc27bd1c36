"""Clips as files: animated WebP and GIF through Pillow, MP4 (H.264) through PyAV."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from paris.models.files import write_bytes

KINDS: Final = (".mp4", ".gif", ".webp")
GIF_TICK_MS = 10
"""GIF tells time in hundredths of a second."""


class ClipFileError(ValueError):
    """A clip cannot be written as asked."""


def require_writable(out: Path) -> None:
    """Refuse a name no clip can be written as, before the clip is made.

    Raises:
        ClipFileError: no such kind of file, or PyAV is not installed.
    """
    if out.suffix.lower() not in KINDS:
        raise ClipFileError(f"{out.name} cannot be written: clips are written as {', '.join(KINDS)}.")
    if out.suffix.lower() == ".mp4" and not find_spec("av"):
        raise ClipFileError(
            "MP4 needs PyAV, which is not installed: pip install 'paris-node[video]', or write .webp or .gif."
        )


def write_clip(frames: Sequence[Image.Image], fps: float, out: Path) -> None:
    """Write a clip, atomically, as what the name's ending says; GIF and WebP repeat without end.

    Args:
        frames: pictures of one size.
        fps: frames a second.
        out: ends in .mp4, .gif or .webp.

    Raises:
        ClipFileError: as `require_writable`; no frames, frames of several sizes, or no speed.
    """
    require_writable(out)
    kind = out.suffix.lower()
    if not frames or not fps > 0 or len({frame.size for frame in frames}) > 1:
        raise ClipFileError(f"{out.name} cannot be written: a clip needs frames of one size, and a speed above 0.")
    pictures = [frame.convert("RGB") for frame in frames]
    write_bytes(_mp4(pictures, fps) if kind == ".mp4" else _animated(pictures, fps, kind), out)


def _animated(pictures: list[Image.Image], fps: float, kind: str) -> bytes:
    buffer = io.BytesIO()
    each_ms = round(1000 / fps)
    if kind == ".gif":
        each_ms = max(1, round(each_ms / GIF_TICK_MS)) * GIF_TICK_MS
    quality = {"quality": 90} if kind == ".webp" else {}
    pictures[0].save(
        buffer, kind[1:], save_all=True, append_images=pictures[1:], duration=each_ms, loop=0, **quality
    )  # fmt: skip
    return buffer.getvalue()


def _mp4(pictures: list[Image.Image], fps: float) -> bytes:
    import av  # noqa: PLC0415 (an extra)

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = pictures[0].size
        # Halved colours need even sides; players know them best.
        stream.pix_fmt = "yuv420p" if not (stream.width % 2 or stream.height % 2) else "yuv444p"
        for picture in pictures:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
        file.mux(stream.encode(None))
    return buffer.getvalue()
