"""One file of latents and encoded captions a data set, memory-mapped and read at random; see `paris.models.ingestion`.

It is a safetensors file: latents are float16 or bfloat16, text is float16, each distinct caption is stored once, and
row 0 of the text is the null text of classifier-free guidance.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paris.models.text import TextBatch

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
