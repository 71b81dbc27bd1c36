"""What an encoded picture or clip of a data set may be, and how frames that lie apart become one clip.

A clip is an MP4 or WebM, an animated WebP, GIF or PNG; or frames that lie apart, which become an animated WebP without
loss: a folder of pictures with a caption beside the folder, or shard members `<key>.<number>.<picture suffix>`. How
bytes become frames is `paris.models.decoding`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from paris.models.decoding import FRAME_PIXELS, DecodeError, first_frame, frames, suffix_of

PICTURE_SUFFIXES = frozenset({"webp", "png", "jpg", "jpeg"})
SUFFIXES = PICTURE_SUFFIXES | {"gif", "mp4", "webm"}
"""Of files that are samples."""

MOST_APART = 10_000
APART_PIXELS = 8 * FRAME_PIXELS
"""Of all frames that become one clip: they are in memory at once, at four bytes a pixel."""

APART_MS = 125
"""Frames that lie apart do not say how fast they are; networks do not ask."""

_APART = re.compile(rf"([0-9]{{1,9}})\.({'|'.join(sorted(PICTURE_SUFFIXES))})")


def checked_suffix(data: bytes) -> str:
    """Decode a picture or clip wholly and return the suffix of its format.

    Raises:
        ValueError: it cannot be; with the reason.
    """
    try:
        for _ in frames(data):
            pass
        return suffix_of(data)
    except DecodeError as error:
        raise ValueError(f"broken picture: {error}") from error


def frames_apart(parts: Mapping[str, bytes]) -> list[bytes]:
    """Return the frames among a sample's members, by suffix after the key: "000.png", "001.png" and so on, in order."""
    numbered = [(int(found[1]), data) for suffix, data in parts.items() if (found := _APART.fullmatch(suffix))]
    return [data for _, data in sorted(numbered, key=lambda pair: pair[0])]


def joined(pictures: Iterable[bytes]) -> bytes:
    """Return one clip, an animated WebP without loss, made of encoded pictures.

    No more of them are decoded than it takes to see that they are none.

    Raises:
        ValueError: one is broken, their sizes differ, there are none or too many.
    """
    images: list[Image.Image] = []
    pixels = 0
    for image in map(_decoded, pictures):
        pixels += image.width * image.height
        if images and image.size != images[0].size:
            first, other = (f"{one.width}x{one.height}" for one in (images[0], image))
            raise ValueError(f"broken clip: frames of {first} and of {other}")
        if len(images) == MOST_APART or pixels > APART_PIXELS:
            raise ValueError(f"broken clip: more than {MOST_APART:,} frames, or {APART_PIXELS:,} pixels together")
        images.append(image)
    if not images:
        raise ValueError("broken clip: no frames")
    out = io.BytesIO()
    images[0].save(out, "WEBP", save_all=True, append_images=images[1:], duration=APART_MS, loop=0, lossless=True)
    return out.getvalue()


def _decoded(picture: bytes) -> Image.Image:
    try:
        return first_frame(picture)
    except DecodeError as error:
        raise ValueError(f"broken frame: {error}") from error


def thumbnails(data: bytes, side_px: int) -> NDArray[np.float32]:
    """Return (2, side, side, 3): the mean of a clip's frames, and of the absolute differences from frame to frame.

    Raises:
        ValueError: the bytes are no picture and no clip.
    """
    sums, before, count = np.zeros((2, side_px, side_px, 3), np.float32), None, 0
    for frame in frames(data):
        small = np.asarray(frame.resize((side_px, side_px), Image.Resampling.BOX), dtype=np.float32)
        sums += np.stack([small, np.abs(small - (small if before is None else before))])
        before, count = small, count + 1
    return sums / np.float32(max(count, 1))
