"""Cut the packaged sample data from the full emoji tar: 32x32 lossless WebP, captions that name the style.

Usage: python scripts/make_sample_images.py EMOJI_IMAGES_TAR registry/sample
Equal input gives equal bytes: members are sorted, times and owners are zero.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

SIDE_PX = 32
SHARDS = 4
STYLE_WORDS = {
    "noto": "noto style",
    "twemoji": "twemoji style",
    "fluent-3d": "3d style",
    "fluent-color": "gradient style",
    "fluent-flat": "flat style",
}


def read_samples(source: Path) -> list[tuple[str, bytes, dict[str, object]]]:
    """Return (key, 64x64 picture bytes, metadata) of every sample, sorted by key."""
    pictures: dict[str, bytes] = {}
    metadata: dict[str, dict[str, object]] = {}
    with tarfile.open(source) as tar:
        for member in tar:
            stream = tar.extractfile(member)
            if stream is None:
                continue
            key, _, suffix = member.name.rpartition(".")
            if suffix == "webp":
                pictures[key] = stream.read()
            elif suffix == "json":
                metadata[key] = json.load(stream)
    return [(key, pictures[key], metadata[key]) for key in sorted(pictures)]


def shrink(picture: bytes) -> bytes:
    """Reduce a picture to SIDE_PX by averaging, so that the cut adds no ringing."""
    image = Image.open(io.BytesIO(picture)).convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
    out = io.BytesIO()
    image.save(out, "WEBP", lossless=True, method=6)
    return out.getvalue()


def caption(meta: dict[str, object]) -> str:
    """Name the subject first, then the drawing style, then up to four tags."""
    tags = meta["tags"]
    assert isinstance(tags, list)
    head = f"{meta['label']}, {STYLE_WORDS[str(meta['style'])]}"
    return f"{head}: {', '.join(map(str, tags[:4]))}" if tags else head


def write_shards(entries: Iterable[tuple[str, dict[str, object], bytes]], folder: Path, name: str, shards: int) -> None:
    """Deal (key, metadata, webp) round-robin into gzipped webdataset tars."""
    dealt = list(entries)
    for shard in range(shards):
        path = folder / f"{name}-{shard:03d}.tar.gz"
        with (
            path.open("wb") as raw,
            gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            for key, meta, picture in dealt[shard::shards]:
                text = json.dumps(meta, ensure_ascii=False, sort_keys=True)
                for suffix, data in (("json", text.encode()), ("webp", picture)):
                    info = tarfile.TarInfo(f"{key}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))


def pictures(source: Path) -> Iterator[tuple[str, dict[str, object], bytes]]:
    for key, picture, meta in read_samples(source):
        kept = {name: meta[name] for name in ("label", "group", "style", "codepoint", "license")}
        yield key, {"caption": caption(meta), **kept}, shrink(picture)


if __name__ == "__main__":
    write_shards(pictures(Path(sys.argv[1])), Path(sys.argv[2]), "emoji", SHARDS)
