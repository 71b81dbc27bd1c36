"""Features by which data are clustered: one unit vector for every group of near-duplicate samples.

Groups, not samples, are clustered: near-duplicates (say, one thing drawn in five styles) must not be torn apart, and a
group needs its text encoded only once. An encoder watches the samples go by and gives the vectors at the end, so that a
source is streamed once and never held in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from paris.models.text import TextEncoder
from paris.protocol.errors import UsageError
from paris.registry.media import thumbnails
from paris.registry.sources import Sample

Vectors = NDArray[np.float32]
Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total); total is 0 while nobody knows."""

TEXT_BATCH = 512
GRID_PX = 8
REPORT_EVERY = 256
# Experts gain from clusters that look alike, the router from clusters that read alike. On the packaged sample, K = 4:
# how much of the thumbnails' variance the clusters explain, and how often text alone predicts the cluster (logistic
# regression, 5 folds). Weight 0: 6 %, 0.97; 0.05: 9 %, 0.94; 0.1: 17 %, 0.87; 0.2: 24 %, 0.76; 0.3: 28 %, 0.68.
PIXEL_WEIGHT = 0.1


class GroupEncoder(Protocol):
    """Turns groups of samples into vectors."""

    @property
    def name(self) -> str:
        """What the genesis calls these features."""

    def see(self, group: int, sample: Sample) -> None:
        """Take note of a sample of group number `group`; new groups come with the next free number."""

    def vectors(self, progress: Progress) -> Vectors:
        """Return (groups, D) float32 with rows of unit length."""


class SharedWords:
    """What all captions of a group say: the words of the first one that every other one has too, in order.

    Words that tell near-duplicates apart ("flat style", "seen from behind") say nothing about the group.
    """

    def __init__(self) -> None:
        self._words: list[list[str]] = []
        self._first: list[str] = []

    def see(self, group: int, sample: Sample) -> None:
        """Add a caption to its group."""
        words = sample.caption.split()
        if group == len(self._words):
            self._words.append(words)
            self._first.append(sample.caption)
        else:
            present = set(words)
            self._words[group] = [word for word in self._words[group] if word in present]

    def texts(self) -> tuple[str, ...]:
        """Return one text a group; the first caption where the captions share no word."""
        return tuple(" ".join(words) or first for words, first in zip(self._words, self._first, strict=True))


class TextFeatures:
    """The sentence vector of what a group's captions share; equal texts are encoded once."""

    name = "text"

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self._words = SharedWords()

    def see(self, group: int, sample: Sample) -> None:
        """Take note of the caption."""
        self._words.see(group, sample)

    def vectors(self, progress: Progress) -> Vectors:
        """Return (groups, E) sentence vectors."""
        texts = self._words.texts()
        unique = sorted(set(texts))
        parts = []
        for start in range(0, len(unique), TEXT_BATCH):
            progress("encode", start, len(unique))
            parts.append(self._encoder.encode(unique[start : start + TEXT_BATCH]).pooled_BE.numpy())
        progress("encode", len(unique), len(unique))
        row_of = {text: row for row, text in enumerate(unique)}
        return unit_rows(np.concatenate(parts)[[row_of[text] for text in texts]])


class PixelFeatures:
    """Where which colours are, and how they change: each group's mean 8x8 RGB thumbnail, less that of the whole data.

    Of a clip it is the mean over its frames, and beside it that of the differences from frame to frame; a picture has
    zeros there.
    """

    name = "pixels"

    def __init__(self) -> None:
        self._sums: list[Vectors] = []

    def see(self, group: int, sample: Sample) -> None:
        """Add the sample's thumbnail to its group."""
        thumbnail = thumbnails(sample.picture, GRID_PX).ravel()
        if group == len(self._sums):
            self._sums.append(np.zeros_like(thumbnail))
        self._sums[group] += thumbnail

    def vectors(self, progress: Progress) -> Vectors:
        """Return (groups, 384) centred colours and changes."""
        colours_GD = unit_rows(np.stack(self._sums))  # a sum and a mean have one direction
        progress("encode", len(colours_GD), len(colours_GD))
        return unit_rows(colours_GD - colours_GD.mean(axis=0))


class CombinedFeatures:
    """Several features side by side, each with a weight: the squared distances add up with these weights."""

    def __init__(self, parts: Sequence[tuple[GroupEncoder, float]]) -> None:
        self._parts = parts

    @property
    def name(self) -> str:
        """Names of the parts, joined by a plus."""
        return "+".join(part.name for part, _ in self._parts)

    def see(self, group: int, sample: Sample) -> None:
        """Show the sample to every part."""
        for part, _ in self._parts:
            part.see(group, sample)

    def vectors(self, progress: Progress) -> Vectors:
        """Return (groups, sum of the parts' D)."""
        weighted = [np.float32(weight) ** 0.5 * part.vectors(progress) for part, weight in self._parts]
        return unit_rows(np.concatenate(weighted, axis=1))


@dataclass(frozen=True)
class Survey:
    """What one pass over a source found.

    Attributes:
        groups: names of the groups, in order of appearance.
        samples: number of samples of each group.
        texts: what the captions of each group share.
        vectors: (groups, D) features, unit rows.
        features: name of the features.
        digest_hex: SHA-256 over all samples (key, group, caption, picture) in order: equal data, equal digest.
    """

    groups: tuple[str, ...]
    samples: tuple[int, ...]
    texts: tuple[str, ...]
    vectors: Vectors
    features: str
    digest_hex: str


def open_features(name: str, encoder: TextEncoder, pixel_weight: float = PIXEL_WEIGHT) -> GroupEncoder:
    """Return the features called `name`: "text", "pixels" or "text+pixels".

    Args:
        name: what to look at.
        encoder: text encoder; "pixels" does not use it.
        pixel_weight: share of the pixels in "text+pixels".

    Raises:
        UsageError: there are no such features.
    """
    match name:
        case "text":
            return TextFeatures(encoder)
        case "pixels":
            return PixelFeatures()
        case "text+pixels":
            return CombinedFeatures([(TextFeatures(encoder), 1 - pixel_weight), (PixelFeatures(), pixel_weight)])
    raise UsageError(f"There are no features called {name!r}", hint='Choose "text", "pixels" or "text+pixels"')


def survey(samples: Iterable[Sample], encoder: GroupEncoder, progress: Progress = lambda *_: None) -> Survey:
    """Pass once over the samples, group them and encode the groups.

    Raises:
        UsageError: there is no sample.
    """
    sizes: dict[str, int] = {}
    numbers: dict[str, int] = {}
    words = SharedWords()
    digest = hashlib.sha256()
    for done, sample in enumerate(samples):
        if done % REPORT_EVERY == 0:
            progress("read", done, 0)
        if sample.group not in numbers:
            numbers[sample.group] = len(numbers)
        sizes[sample.group] = sizes.get(sample.group, 0) + 1
        words.see(numbers[sample.group], sample)
        encoder.see(numbers[sample.group], sample)
        digest.update(fingerprint(sample))
    if not numbers:
        raise UsageError("There is no usable sample in the data", hint="Every sample needs a picture and a caption")
    total = sum(sizes.values())
    progress("read", total, total)
    vectors = encoder.vectors(progress)
    return Survey(tuple(numbers), tuple(sizes.values()), words.texts(), vectors, encoder.name, digest.hexdigest())


def fingerprint(sample: Sample) -> bytes:
    """Return 32 bytes that change with anything that goes into a shard."""
    fields = (
        sample.key,
        sample.suffix,
        sample.caption,
        sample.group,
        *(f"{k}={v}" for k, v in sorted(sample.fields.items())),
    )
    text = "\0".join(fields).encode()
    return hashlib.sha256(hashlib.sha256(text).digest() + hashlib.sha256(sample.picture).digest()).digest()


def unit_rows(vectors_GD: NDArray[np.floating]) -> Vectors:
    """Scale every row to length one; a row of zeros stays."""
    lengths_G1 = np.linalg.norm(vectors_GD, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors_GD / np.maximum(lengths_G1, 1e-12), dtype=np.float32)
