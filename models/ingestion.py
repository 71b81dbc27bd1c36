"""Shards to one cache file: decoded and encoded once, interrupted anywhere and gone on with, in bounded memory.

Each shard, and each few thousand captions, become a part: a small safetensors file that is whole or not there. Parts
that an interrupted ingestion left behind are used again; the last step joins them by copying. What an ingestion holds
in memory are one shard's latents, a few thousand encoded captions, and all captions as text.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paris.models.cache import CacheError, LatentCache
from paris.models.files import Rows, write_rows, write_tensors
from paris.models.latents import Codec
from paris.models.shards import ShardError, ShardSample, read_shard
from paris.models.text import TextEncoder
from paris.models.videocodec import clip_frames

ENCODE_BATCH = 128
"""Pictures that are encoded at once, or about as many frames of clips."""
CAPTIONS_A_PART = 4096
PROBE_PX = 64


@dataclass(frozen=True)
class Encoding:
    """How pictures or clips become latents.

    Attributes:
        codec: makes latents of them, on its device.
        picture_px: side the pictures are brought to.
        frames: of a clip; None where the codec is of pictures.
        dtype: of stored latents, float16 or bfloat16; half floats are finer, bfloat16 reaches further.
        device: where the codec computes.
    """

    codec: Codec
    picture_px: int = 32
    frames: int | None = None
    dtype: torch.dtype = torch.float16
    device: torch.device | None = None

    def latents(self, samples: Sequence[ShardSample], pool: ThreadPoolExecutor) -> Tensor:
        """Return a batch's latents as they are stored.

        Raises:
            ShardError: naming the first sample whose latents are not finite, or beyond what the dtype can hold.
        """
        decoded = pool.map(lambda sample: sample.pixels(self.picture_px, self.frames), samples)
        pictures = torch.stack([torch.from_numpy(pixels) for pixels in decoded])
        latents = self.codec.encode(pictures if self.device is None else pictures.to(self.device)).to(self.dtype).cpu()
        bad = ~torch.isfinite(latents).flatten(1).all(1)
        if bool(bad.any()):
            worst = samples[int(bad.nonzero()[0])]
            raise ShardError(
                f"The shard {worst.shard} holds a sample {worst.key!r} whose latents are not finite in {self.dtype}. "
                "One such sample would end the training: leave it out, or use another codec or dtype."
            )
        return latents


def picture_size(codec: Codec, shape: Sequence[int]) -> tuple[int, int | None]:
    """Return the side in pixels, and the frames of a clip, whose latents have the shape (C, H, W) or (C, F, H, W)."""
    frame = [1] * (len(shape) - 3)
    side_px = int(shape[-1]) * PROBE_PX // codec.encode(torch.zeros(1, 3, *frame, PROBE_PX, PROBE_PX)).shape[-1]
    return side_px, clip_frames(codec, shape[1]) if frame else None


def ingest(
    shards: Sequence[Path],
    codec: Codec,
    text: TextEncoder,
    out: Path,
    progress: Callable[[int], None] | None = None,
    *,
    picture_px: int = 32,
    frames: int | None = None,
    dtype: torch.dtype = torch.float16,
    device: torch.device | None = None,
) -> LatentCache:
    """Encode shards into one cache file, written whole or not at all; equal shards and encoders give equal bytes.

    Two processes that make the same file take turns, and the second finds it made.

    Args:
        shards: webdataset tars, read in this order.
        codec: makes latents of pictures, or of clips where `frames` are given.
        text: encodes captions.
        out: the file to write; parts lie in a folder beside it until it is whole.
        progress: called with the number of samples encoded so far, those of earlier attempts included.
        picture_px: side the pictures are brought to.
        frames: of a clip; None for pictures.
        dtype: of the latents in the file.
        device: where the codec was moved to.

    Raises:
        ShardError: naming the shard that is cut short or holds a bad sample.
        CacheError: where the shards hold no sample at all.
    """
    made_before = out.exists()
    name = hashlib.sha256(str(out.absolute()).encode()).hexdigest()[:24]
    with FileLock(Path(tempfile.gettempdir()) / f"paris-ingest-{name}.lock"):
        if made_before or not out.exists():
            _ingest(shards, Encoding(codec, picture_px, frames, dtype, device), text, out, progress)
    return LatentCache.open(out)


def _ingest(
    shards: Sequence[Path], encoding: Encoding, text: TextEncoder, out: Path, progress: Callable[[int], None] | None
) -> None:
    folder = out.with_name(f"{out.name}.parts")
    pictures: list[Path] = []
    captions: list[str] = []
    labels: list[int] = []
    for number, shard in enumerate(shards):
        part = _shard_part(shard, encoding, folder / f"shard-{number:05d}.safetensors", progress, len(captions))
        if part is not None:
            note = _note(part) or {}
            captions += note["captions"]
            labels += note["labels"]
            pictures.append(part)
    if not captions:
        raise CacheError(
            f"There is no sample in {len(shards)} shards, so there is nothing to train on. Check the data."
        )
    distinct = ["", *sorted(set(captions) - {""})]
    row_of = {caption: row for row, caption in enumerate(distinct)}
    texts = [
        _text_part(distinct[start : start + CAPTIONS_A_PART], text, folder / f"text-{start:09d}.safetensors")
        for start in range(0, len(distinct), CAPTIONS_A_PART)
    ]
    index, clusters = torch.tensor([row_of[caption] for caption in captions]), torch.tensor(labels)
    tensors = {
        "text_index": Rows(torch.int64, (len(captions),), [index]),
        "labels": Rows(torch.int64, (len(captions),), [clusters]),
        "latents": _joined("latents", pictures, len(captions)),
        "tokens": _joined("tokens", texts, len(distinct)),
        "pooled": _joined("pooled", texts, len(distinct)),
        "mask": _joined("mask", texts, len(distinct)),
    }
    write_rows(tensors, out, {"codec": encoding.codec.kind, "text": text.identity()})
    shutil.rmtree(folder, ignore_errors=True)


def _shard_part(
    shard: Path, encoding: Encoding, part: Path, progress: Callable[[int], None] | None, before: int
) -> Path | None:
    """Return a shard's part, made now unless an earlier attempt did; None where the shard is empty."""
    what = {
        "shard": shard.name,
        "bytes": shard.stat().st_size,
        "changed_ns": shard.stat().st_mtime_ns,
        "codec": encoding.codec.kind,
        "picture_px": encoding.picture_px,
        "frames": encoding.frames,
        "dtype": str(encoding.dtype),
    }
    made = _note(part) or {}
    if made.get("what") == what:
        if progress:
            progress(before + len(made["captions"]))
        return part
    latents: list[Tensor] = []
    captions: list[str] = []
    labels: list[int] = []
    stream = read_shard(shard)
    with ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="decode") as pool:
        while samples := list(islice(stream, max(1, ENCODE_BATCH // (encoding.frames or 1)))):
            latents.append(encoding.latents(samples, pool))
            captions += [sample.caption for sample in samples]
            labels += [sample.cluster for sample in samples]
            if progress:
                progress(before + len(captions))
    if not captions:
        return None
    write_tensors({"latents": torch.cat(latents)}, part, {"what": what, "captions": captions, "labels": labels})
    return part


def _text_part(captions: list[str], text: TextEncoder, part: Path) -> Path:
    """Return the part of some captions, made now unless an earlier attempt did."""
    digest = hashlib.sha256(json.dumps(captions).encode()).hexdigest()
    what = {"captions": digest, "text": text.identity(), "tokens": text.tokens}
    if (_note(part) or {}).get("what") != what:
        tokens, mask, pooled = text.encode(captions).parts()
        tensors = {"tokens": tokens.half(), "mask": mask.contiguous(), "pooled": pooled.half()}
        write_tensors(tensors, part, {"what": what})
    return part


def _note(part: Path) -> dict[str, Any] | None:
    """Return what a part says of itself; None where there is none, or one that cannot be read."""
    try:
        with safe_open(part, framework="pt") as file:
            note: dict[str, Any] = json.loads(file.metadata()["note"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return note


def _joined(name: str, parts: Sequence[Path], count: int) -> Rows:
    with safe_open(parts[0], framework="pt") as file:
        first = file.get_tensor(name)
    return Rows(first.dtype, (count, *first.shape[1:]), _pieces(name, parts))


def _pieces(name: str, parts: Sequence[Path]) -> Iterator[Tensor]:
    for part in parts:
        with safe_open(part, framework="pt") as file:
            yield file.get_tensor(name)
