"""One file of latents and encoded captions a data set: shards are decoded and encoded once, then read at random.

The file is a safetensors file, memory-mapped on opening: latents and text are float16, each distinct caption is stored
once, and row 0 of the text is the null text of classifier-free guidance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paris.models.files import write_tensors
from paris.models.latents import Codec
from paris.models.shards import read_shard
from paris.models.text import TextBatch, TextEncoder

ENCODE_BATCH = 128
TENSORS = ("latents", "text_index", "labels", "tokens", "mask", "pooled")


class CacheError(ValueError):
    """A cache file is missing, damaged, or would be empty."""


@dataclass(frozen=True)
class Batch:
    """Training samples: float32 latents (B, C, H, W), their text, their cluster labels (B,), -1 where unknown."""

    latents_BCHW: Tensor
    text: TextBatch
    labels_B: Tensor

    def to(self, device: torch.device) -> Batch:
        """Send the samples to a device without waiting for it."""
        latents, labels = (part.to(device, non_blocking=True) for part in (self.latents_BCHW, self.labels_B))
        return Batch(latents, self.text.to(device), labels)


@dataclass(frozen=True)
class LatentCache:
    """A data set ready to train on; its tensors stay on disk until touched."""

    latents_NCHW: Tensor
    text_index_N: Tensor
    labels_N: Tensor
    texts: TextBatch

    def __len__(self) -> int:
        return len(self.latents_NCHW)

    @classmethod
    def open(cls, path: Path) -> LatentCache:
        """Memory-map a cache file.

        Raises:
            CacheError: where the file is not a whole cache.
        """
        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in TENSORS}
        except (OSError, SafetensorError) as error:
            raise CacheError(
                f"The cache {path} cannot be opened ({error}). It is rebuilt from the shards when it is removed."
            ) from error
        texts = TextBatch(tensors["tokens"], tensors["mask"], tensors["pooled"])
        return cls(tensors["latents"], tensors["text_index"], tensors["labels"], texts)

    def batch(self, indices: np.ndarray, drop_text: np.ndarray | None = None) -> Batch:
        """Return the given samples; those with drop_text True get the null text."""
        rows = torch.from_numpy(indices)
        text_rows = self.text_index_N[rows]
        if drop_text is not None:
            text_rows = text_rows.masked_fill(torch.from_numpy(drop_text), 0)
        tokens, mask, pooled = self.texts.select(text_rows).parts()
        return Batch(
            self.latents_NCHW[rows].float(), TextBatch(tokens.float(), mask, pooled.float()), self.labels_N[rows]
        )


def ingest(
    shards: Sequence[Path],
    codec: Codec,
    text: TextEncoder,
    out: Path,
    progress: Callable[[int], None] | None = None,
    *,
    picture_px: int = 32,
) -> LatentCache:
    """Encode shards into one cache file, written whole or not at all; equal shards and encoders give equal bytes.

    Args:
        shards: webdataset tars, read in this order.
        codec: makes latents of pictures.
        text: encodes captions.
        out: the file to write.
        progress: called with the number of samples encoded so far.
        picture_px: side the pictures are brought to.

    Raises:
        ShardError: naming the shard that is cut short or holds a bad sample.
        CacheError: where the shards hold no sample at all.
    """
    latents: list[Tensor] = []
    captions: list[str] = []
    labels: list[int] = []
    stream = (sample for shard in shards for sample in read_shard(shard))
    while samples := list(islice(stream, ENCODE_BATCH)):
        pictures = torch.from_numpy(np.stack([sample.pixels(picture_px) for sample in samples]))
        latents.append(codec.encode(pictures).half())
        captions += [sample.caption for sample in samples]
        labels += [sample.cluster for sample in samples]
        if progress:
            progress(len(captions))
    if not captions:
        raise CacheError(
            f"There is no sample in {len(shards)} shards, so there is nothing to train on. Check the data."
        )
    distinct = ["", *sorted(set(captions) - {""})]
    row_of = {caption: row for row, caption in enumerate(distinct)}
    tokens, mask, pooled = text.encode(distinct).parts()
    tensors = {
        "latents": torch.cat(latents),
        "text_index": torch.tensor([row_of[caption] for caption in captions]),
        "labels": torch.tensor(labels),
        "tokens": tokens.half(),
        "mask": mask,
        "pooled": pooled.half(),
    }
    write_tensors(tensors, out, {"codec": codec.kind, "text": text.identity()})
    return LatentCache.open(out)
