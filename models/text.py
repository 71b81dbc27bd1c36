"""Captions to numbers behind one small interface; the networks that do it are in `paris.models.text_networks`."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

HUB_FILES = ["*.json", "*.safetensors", "merges.txt", "spiece.model"]
"""What is fetched of a network's repository on the Hub."""


class TextEncoderError(ValueError):
    """A text encoder could not be opened."""


@dataclass(frozen=True)
class TextBatch:
    """Encoded captions.

    Attributes:
        tokens_BLE: float32 text tokens; tokens past the caption's end are zero.
        mask_BL: True where a token counts.
        pooled_BE: one float32 vector a caption, unit length for MiniLM.
    """

    tokens_BLE: Tensor
    mask_BL: Tensor
    pooled_BE: Tensor

    def repeat(self, count: int) -> TextBatch:
        """Return a batch of one caption repeated count times (without copying)."""
        return TextBatch(*(part.expand(count, *part.shape[1:]) for part in self.parts()))

    def select(self, rows: Tensor) -> TextBatch:
        """Return the given rows."""
        return TextBatch(*(part[rows] for part in self.parts()))

    def to(self, device: torch.device) -> TextBatch:
        """Send the text to a device without waiting for it."""
        return TextBatch(*(part.to(device, non_blocking=True) for part in self.parts()))

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return tokens, mask and pooled vectors."""
        return self.tokens_BLE, self.mask_BL, self.pooled_BE


class TextEncoder(Protocol):
    """What the cache and the pipeline ask of a text encoder."""

    dim: int
    tokens: int

    def encode(self, captions: list[str]) -> TextBatch:
        """Encode captions; the null text of guidance is the encoding of the empty string."""
        ...

    def identity(self) -> dict[str, str]:
        """Return kind, name and sha256 (of the weights file), as a genesis pins them."""
        ...


class Remembering:
    """A text encoder that keeps the captions it saw last: people ask again, and guidance wants "" every time.

    Args:
        encoder: encodes what is new.
        most: captions kept; one of T5's, of 256 tokens, takes 4 MB.
    """

    def __init__(self, encoder: TextEncoder, most: int = 64) -> None:
        self._encoder, self._most = encoder, most
        self.dim, self.tokens = encoder.dim, encoder.tokens
        self._known: OrderedDict[str, TextBatch] = OrderedDict()

    def encode(self, captions: list[str]) -> TextBatch:
        """Encode captions, each different new one once."""
        if new := [caption for caption in dict.fromkeys(captions) if caption not in self._known]:
            batch = self._encoder.encode(new)
            self._known |= {caption: batch.select(torch.tensor([row])) for row, caption in enumerate(new)}
        parts = zip(*(self._known[caption].parts() for caption in captions), strict=True)
        encoded = TextBatch(*(torch.cat(rows) for rows in parts))
        for caption in captions:
            self._known.move_to_end(caption)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return encoded

    def identity(self) -> dict[str, str]:
        """Return the encoder's own."""
        return self._encoder.identity()


def open_text_encoder(kind: str, name: str, tokens: int) -> TextEncoder:
    """Open a text encoder.

    Args:
        kind: "minilm", "clip" or "t5".
        name: for MiniLM only a label; else a local folder or a name on the Hugging Face Hub.
        tokens: text tokens L to return.

    Raises:
        TextEncoderError: where the kind is unknown, or the weights are not there or not whole.
    """
    from paris.models.text_networks import open_network  # noqa: PLC0415 - seconds, and who has a cache encodes nothing

    return open_network(kind, name, tokens)
