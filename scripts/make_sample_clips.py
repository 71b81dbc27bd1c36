"""Cut the packaged sample clips from the full tar of emoji clips: 16 frames of 32x32, animated WebP without loss.

Usage: python scripts/make_sample_clips.py EMOJI_CLIPS_TAR registry/sample
Equal input gives equal bytes. Levels are rounded to multiples of 8 first (41.8 dB), which halves the size: clips that
move a little leave few pixels alone, and as they are they would take 15.8 MB.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from make_sample_images import read_samples, write_shards
from PIL import Image, ImageSequence

SIDE_PX = 32
SHARDS = 2
LEVELS = 8
WHITE_FROM = 255 - LEVELS
KEPT = ("caption", "label", "group", "style", "codepoint", "license")


def shrink(clip: bytes) -> bytes:
    """Reduce a clip to SIDE_PX by averaging and round its levels; what is nearly white becomes white."""
    source = Image.open(io.BytesIO(clip))
    frames = []
    for frame in ImageSequence.Iterator(source):
        small = np.asarray(frame.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)).astype(int)
        rounded = (small + LEVELS // 2) // LEVELS * LEVELS
        frames.append(Image.fromarray(np.where(rounded > WHITE_FROM, 255, rounded).astype(np.uint8)))
    out = io.BytesIO()
    each_ms = int(source.info["duration"])
    frames[0].save(
        out, "WEBP", save_all=True, append_images=frames[1:], duration=each_ms, loop=0, lossless=True, method=6
    )
    return out.getvalue()


def clips(source: Path) -> Iterator[tuple[str, dict[str, object], bytes]]:
    for key, clip, meta in read_samples(source):
        yield key, {name: meta[name] for name in KEPT}, shrink(clip)


if __name__ == "__main__":
    write_shards(clips(Path(sys.argv[1])), Path(sys.argv[2]), "emoji-clips", SHARDS)
