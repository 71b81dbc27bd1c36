"""Encoded pictures and clips to frames: PNG, JPEG, WebP and GIF through Pillow, MP4 and WebM through PyAV.

What a file is follows from its bytes, never from its name. PyAV is told the one container and the few codecs it may
use: FFmpeg knows hundreds, some of which read other files. A picture is a clip of one frame.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from PIL import Image, ImageSequence

PILLOW: Final = {"WEBP": "webp", "PNG": "png", "JPEG": "jpg", "GIF": "gif"}
"""Suffix of each format that Pillow reads here."""

FRAME_PIXELS = 64_000_000
CLIP_PIXELS = 4_000_000_000
"""Of all frames together: a minute of full HD at 30 frames a second."""

_CONTAINERS: Final = {"mp4": "mov", "webm": "matroska"}
_CODECS: Final = ("h264", "hevc", "mpeg4", "vp8", "vp9", "av1", "libdav1d", "libvpx", "libvpx-vp9")


class DecodeError(ValueError):
    """The bytes are no picture and no clip, or too large a one."""


def suffix_of(data: bytes) -> str:
    """Return "webp", "png", "jpg", "gif", "mp4" or "webm" after a file's first bytes.

    Raises:
        DecodeError: it is none of them.
    """
    if data[4:8] == b"ftyp":
        return "mp4"
    if data[:4] == b"\x1a\x45\xdf\xa3":
        return "webm"
    with _pillow(data) as image:
        return PILLOW[str(image.format)]


def count_frames(data: bytes) -> int:
    """Return how many frames a clip says it has, 1 for a picture, without decoding them.

    Raises:
        DecodeError: as `suffix_of`, or what it says is beyond the limits.
    """
    if (suffix := suffix_of(data)) not in _CONTAINERS:
        with _pillow(data) as image:
            return getattr(image, "n_frames", 1)
    with _pyav(data, suffix) as file:
        return sum(packet.size > 0 for packet in file.demux(video=0))


def frames(data: bytes) -> Iterator[Image.Image]:
    """Yield a clip's frames as RGB, in order; a picture has one.

    Raises:
        DecodeError: the bytes cannot be decoded wholly, or are beyond the limits.
    """
    pixels = 0
    for frame in _frames(data, suffix_of(data)):
        pixels += frame.width * frame.height
        if pixels > CLIP_PIXELS:
            raise DecodeError(f"its frames have more than {CLIP_PIXELS:,} pixels together")
        yield frame


def spread_frames(data: bytes, count: int) -> list[Image.Image]:
    """Return `count` frames at equal distances over a clip, the first one first; a short clip's frames are repeated.

    Raises:
        DecodeError: as `frames`.
    """
    there = count_frames(data)
    wanted = [index * there // count for index in range(count)]
    chosen: list[Image.Image] = []
    for index, frame in enumerate(frames(data)):
        chosen += [frame] * wanted.count(index)
        if len(chosen) == count:
            return chosen
    return chosen + [chosen[-1]] * (count - len(chosen))


def first_frame(data: bytes) -> Image.Image:
    """Return a clip's first frame, or the picture.

    Raises:
        DecodeError: as `frames`.
    """
    return next(frames(data))


def _frames(data: bytes, suffix: str) -> Iterator[Image.Image]:
    if suffix not in _CONTAINERS:
        with _pillow(data) as image:
            for frame in ImageSequence.Iterator(image):
                yield frame.convert("RGB")
        return
    with _pyav(data, suffix) as file:
        seen = False
        for frame in file.decode(video=0):
            seen = True
            yield frame.to_image()
        if not seen:
            raise DecodeError("there is no frame in it")


@contextmanager
def _pillow(data: bytes) -> Iterator[Image.Image]:
    try:
        with Image.open(io.BytesIO(data), formats=tuple(PILLOW)) as image:
            _require_bounded(image.width, image.height)
            yield image
    except (DecodeError, MemoryError):
        raise
    except Exception as error:
        # What Pillow raises over damaged bytes is in no list: IndexError, struct.error and others besides its own.
        raise DecodeError(type(error).__name__) from error


@contextmanager
def _pyav(data: bytes, suffix: str) -> Iterator[Any]:
    try:
        import av  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise DecodeError(f"{suffix} needs PyAV, which is not installed: pip install 'paris-node[video]'") from error
    try:
        options = {"codec_whitelist": ",".join(_CODECS)}
        with av.open(io.BytesIO(data), format=_CONTAINERS[suffix], options=options) as file:
            _require_known(file.streams.video)
            yield file
    except (DecodeError, MemoryError):
        raise
    except Exception as error:
        raise DecodeError(type(error).__name__) from error


def _require_known(videos: Sequence[Any]) -> None:
    """Refuse a file whose first video FFmpeg must not, cannot or should not decode."""
    if not videos:
        raise DecodeError("there are no pictures in it")
    stream = videos[0].codec_context
    if stream is None:
        raise DecodeError("its pictures are encoded in a way nobody knows")
    if stream.name not in _CODECS:
        raise DecodeError(f"it is encoded as {stream.name}, not as one of {', '.join(_CODECS)}")
    _require_bounded(stream.width, stream.height)


def _require_bounded(width: int, height: int) -> None:
    if width * height > FRAME_PIXELS:
        raise DecodeError(f"{width}x{height} is more than {FRAME_PIXELS:,} pixels")
