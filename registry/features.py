"""Features by which data are clustered: one unit vector for every group of near-duplicate samples.

Groups, not samples, are clustered: near-duplicates (say, one thing drawn in five styles) must not be torn apart, and a
group needs its text encoded only once. Features watch the samples go by and give the vectors at the end, so that a
source is streamed once and never held in memory; what they collect lies on disk, in the catalogue's folder.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from paris.models.text import TextEncoder, TextEncoderError, open_text_encoder
from paris.protocol.errors import ResourceError, UsageError
from paris.registry.catalogue import Catalogue, Rows, Vectors
from paris.registry.encoders import IMAGE_ENCODERS, ImageEncoder, Pixels, open_image_encoder
from paris.registry.looks import LookCache, Seen, frames_of
from paris.registry.samples import Sample

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total); total is 0 while nobody knows."""

TEXT_BATCH = 512
REPORT_EVERY = 256
BLOCK_ROWS = 65_536
# Experts gain from clusters that look alike, the router from clusters that read alike. On the packaged sample, K = 4:
# how much of the thumbnails' variance the clusters explain, and how often text alone predicts the cluster (logistic
# regression, 5 folds). Weight 0: 6 %, 0.97; 0.05: 9 %, 0.94; 0.1: 17 %, 0.87; 0.2: 24 %, 0.76; 0.3: 28 %, 0.68.
PIXEL_WEIGHT = 0.1
TEXT: Final = "text"


class Features(Protocol):
    """Turns groups of samples into vectors."""

    @property
    def name(self) -> str:
        """What the genesis calls these features."""

    def see(self, group: int, sample: Sample, catalogue: Catalogue) -> None:
        """Take note of a sample of group number `group`; new groups come with the next free number."""

    def vectors(self, catalogue: Catalogue, progress: Progress) -> Vectors:
        """Return (groups, D) float32 with rows of unit length."""

    @property
    def means(self) -> Mapping[str, Vectors]:
        """What was taken off each part's vectors, (D,) by name, so that new samples can be seen in the same way."""


class TextFeatures:
    """The sentence vector of what a group's captions share; equal texts are encoded once.

    Args:
        encoder: of texts.
        cache: what was encoded before, batch by batch.
        name: what the genesis calls it.
    """

    def __init__(self, encoder: TextEncoder, cache: LookCache | None = None, name: str = TEXT) -> None:
        self.name, self._encoder, self._cache = name, encoder, cache or LookCache()
        self.means: Mapping[str, Vectors] = {}

    def see(self, group: int, sample: Sample, catalogue: Catalogue) -> None:
        """Do nothing: the catalogue keeps the texts."""

    def vectors(self, catalogue: Catalogue, progress: Progress) -> Vectors:
        """Return (groups, E) sentence vectors."""
        found = catalogue.matrix(self.name, self._encoder.dim)
        done = 0
        for texts, groups in text_batches(catalogue):
            progress("encode", done, catalogue.groups)
            rows = self._encoded(texts)
            for row, members in zip(rows, groups, strict=True):
                found[members] = row
                done += len(members)
        progress("encode", catalogue.groups, catalogue.groups)
        return to_units(found)

    def _encoded(self, texts: Sequence[str]) -> Vectors:
        folder, digest = text_identity(self._encoder), text_digest(texts)
        seen = self._cache.get(folder, digest)
        if seen is None:
            seen = Seen(self._encoder.encode(list(texts)).pooled_BE.numpy())
            self._cache.put(folder, digest, seen)
        return seen.rows


def text_batches(catalogue: Catalogue) -> Iterator[tuple[list[str], list[list[int]]]]:
    """Yield up to `TEXT_BATCH` different texts at a time, sorted, and for each the groups that have it."""
    equal = (
        (text, [group for _, group in pairs])
        for text, pairs in groupby(catalogue.texts_in_order(), key=lambda pair: pair[0])
    )
    while batch := list(islice(equal, TEXT_BATCH)):
        yield [text for text, _ in batch], [groups for _, groups in batch]


def text_identity(encoder: TextEncoder) -> str:
    """Name of a folder that changes with anything that changes an encoder's vectors."""
    parts = [f"{key}={value}" for key, value in sorted(encoder.identity().items())]
    return "text-" + hashlib.sha256("\0".join([*parts, str(encoder.tokens)]).encode()).hexdigest()[:16]


def text_digest(texts: Sequence[str]) -> str:
    """Hex SHA-256 of a batch of texts."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


class ImageFeatures:
    """The mean of what an encoder sees in a group's pictures.

    Args:
        encoder: of pictures; used here only for samples that come without its vector.
        centred: whether the mean of the whole data is taken off, for vectors that all point one way.
        means: what to take off instead, by name, for samples that join other data.
    """

    def __init__(
        self, encoder: ImageEncoder, *, centred: bool = False, means: Mapping[str, Vectors] | None = None
    ) -> None:
        self._encoder, self._centred = encoder, centred
        self.means = {name: mean for name, mean in (means or {}).items() if name == encoder.name}
        self._sums: Rows | None = None

    @property
    def name(self) -> str:
        """The encoder's."""
        return self._encoder.name

    def see(self, group: int, sample: Sample, catalogue: Catalogue) -> None:
        """Add the sample's vector to its group."""
        if self._sums is None:
            self._sums = Rows(catalogue.file(self.name), self._encoder.dim)
        vector = sample.vectors.get(self.name)
        if vector is None:
            vector = self._encoder.encode([self._encoder.prepare(frames_of(sample.picture), sample.picture)])[0]
        self._sums.add(group, vector)

    def vectors(self, catalogue: Catalogue, progress: Progress) -> Vectors:
        """Return (groups, D); a sum and a mean have one direction."""
        assert self._sums is not None
        found = to_units(self._sums.array(catalogue.groups))
        if self._centred:
            if self.name not in self.means:
                sum_D = np.sum([rows.sum(axis=0, dtype=np.float64) for rows in blocks(found)], axis=0)
                self.means = {self.name: (sum_D / len(found)).astype(np.float32)}
            for rows in blocks(found):
                np.subtract(rows, self.means[self.name], out=rows)
            found = to_units(found)
        progress("encode", len(found), len(found))
        return found


class PixelFeatures(ImageFeatures):
    """Where which colours are, and how they change: each group's mean thumbnail, less that of the whole data."""

    def __init__(self) -> None:
        super().__init__(Pixels(), centred=True)


class CombinedFeatures:
    """Several features side by side, each with a weight: the squared distances add up with these weights."""

    def __init__(self, parts: Sequence[tuple[Features, float]], name: str | None = None) -> None:
        self._parts = parts
        self.name = name or "+".join(part.name for part, _ in parts)

    @property
    def means(self) -> Mapping[str, Vectors]:
        """The parts'."""
        return {name: mean for part, _ in self._parts for name, mean in part.means.items()}

    def see(self, group: int, sample: Sample, catalogue: Catalogue) -> None:
        """Show the sample to every part."""
        for part, _ in self._parts:
            part.see(group, sample, catalogue)

    def vectors(self, catalogue: Catalogue, progress: Progress) -> Vectors:
        """Return (groups, sum of the parts' D)."""
        parts = [(part.vectors(catalogue, progress), np.float32(weight) ** 0.5) for part, weight in self._parts]
        found = catalogue.matrix("features", sum(vectors.shape[1] for vectors, _ in parts))
        column = 0
        for vectors, scale in parts:
            for start in range(0, len(found), BLOCK_ROWS):
                rows = slice(start, start + BLOCK_ROWS)
                found[rows, column : column + vectors.shape[1]] = scale * vectors[rows]
            column += vectors.shape[1]
        return to_units(found)


@dataclass(frozen=True)
class Survey:
    """What one pass over a source found. At scale the sequences and vectors read from disk.

    Attributes:
        groups: names of the groups, in order of appearance.
        samples: number of samples of each group.
        texts: what the captions of each group share.
        vectors: (groups, D) features, unit rows.
        features: name of the features.
        digest_hex: SHA-256 over all samples (key, group, caption, picture) in order: equal data, equal digest.
        catalogue: of the samples; None where there are only groups.
        means: what the features took off, see `Features.means`.
    """

    groups: Sequence[str]
    samples: Sequence[int] | NDArray[np.int64]
    texts: Sequence[str]
    vectors: Vectors
    features: str
    digest_hex: str
    catalogue: Catalogue | None = None
    means: Mapping[str, Vectors] = field(default_factory=dict)


_PART = re.compile(r"(?P<name>[a-z0-9-]+)(:(?P<weight>0?\.[0-9]+|1(\.0*)?))?")


def parse_features(spec: str) -> dict[str, float]:
    """Return the weight of each part of features such as "text", "text+pixels" or "dinov2+text:0.3"; they sum to one.

    A part without a weight gets an equal share of what the others leave; `pixels` beside others gets `PIXEL_WEIGHT`.

    Raises:
        UsageError: it cannot be read.
    """
    choice = f"Choose from {', '.join([*TEXTS, *IMAGE_ENCODERS])}, joined by + and weighed like dinov2+text:0.3"
    found = [(part, _PART.fullmatch(part)) for part in spec.split("+")]
    given: dict[str, float | None] = {}
    for part, match in found:
        name = match["name"] if match else part
        if match is None or name not in {*TEXTS, *IMAGE_ENCODERS} or name in given:
            raise UsageError(f"There are no features called {part!r}", f"They were asked for as {spec!r}", choice)
        given[name] = float(match["weight"]) if match["weight"] else None
    if len(given) > 1 and given.get("pixels", 0.0) is None:
        given["pixels"] = PIXEL_WEIGHT
    rest = 1 - sum(weight for weight in given.values() if weight is not None)
    free = sum(weight is None for weight in given.values())
    if rest < -1e-9 or (free and rest <= 0) or (not free and rest > 1e-9):
        raise UsageError(f"The weights of {spec!r} do not add up to 1", hint="Leave one part without a weight")
    return {name: rest / free if weight is None else weight for name, weight in given.items()}


TEXTS: Final = (TEXT, "minilm", "clip-text")
_OTHER_TEXTS = {
    "minilm": ("minilm", "all-MiniLM-L6-v2", 64),
    "clip-text": ("clip", "openai/clip-vit-large-patch14", 77),
}


def open_image_encoders(spec: str, weights: Mapping[str, str] | None = None) -> tuple[ImageEncoder, ...]:
    """Return what must look at the pictures for features called `spec`.

    Raises:
        UsageError: there are no such features.
        ResourceError: an encoder's weights are not here.
    """
    return tuple(open_image_encoder(name, weights) for name in parse_features(spec) if name not in TEXTS)


def open_features(
    spec: str,
    encoder: TextEncoder,
    *,
    images: Sequence[ImageEncoder] | None = None,
    cache: LookCache | None = None,
    weights: Mapping[str, str] | None = None,
    means: Mapping[str, Vectors] | None = None,
) -> Features:
    """Return the features called `spec`, see `parse_features`.

    Args:
        spec: what to look at.
        encoder: the run's text encoder, for "text".
        images: the picture encoders, if they are open already.
        cache: what was encoded before.
        weights: folders of weights by encoder, see `open_image_encoder`.
        means: what other data's features took off, see `Features.means`.

    Raises:
        UsageError: there are no such features.
        ResourceError: an encoder's weights are not here.
    """
    shares = parse_features(spec)
    opened = {one.name: one for one in (open_image_encoders(spec, weights) if images is None else images)}
    parts: list[tuple[Features, float]] = []
    for name, share in shares.items():
        if name in TEXTS:
            text = encoder if name == TEXT else _other_text(name, weights or {})
            parts.append((TextFeatures(text, cache, name), share))
        else:
            parts.append((ImageFeatures(opened[name], centred=name == "pixels", means=means), share))
    return parts[0][0] if len(parts) == 1 else CombinedFeatures(parts, spec)


def text_encoders(spec: str, encoder: TextEncoder, weights: Mapping[str, str] | None = None) -> list[TextEncoder]:
    """Return the text encoders of features called `spec`: the run's own for "text", others by name."""
    names = [name for name in parse_features(spec) if name in TEXTS]
    return [encoder if name == TEXT else _other_text(name, weights or {}) for name in names]


@functools.cache
def opened_text(kind: str, name: str, tokens: int) -> TextEncoder:
    """Return a text encoder, opened once.

    Raises:
        ResourceError: it is not here.
    """
    try:
        return open_text_encoder(kind, name, tokens)
    except TextEncoderError as error:
        raise ResourceError(str(error)) from error


def _other_text(name: str, weights: Mapping[str, str]) -> TextEncoder:
    kind, published, tokens = _OTHER_TEXTS[name]
    return opened_text(kind, weights.get(name, published), tokens)


def survey(
    samples: Iterable[Sample],
    features: Features,
    progress: Progress = lambda *_: None,
    catalogue: Catalogue | None = None,
) -> Survey:
    """Pass once over the samples, group them and encode the groups.

    Args:
        samples: what to group.
        features: what to look at.
        progress: told ("read", samples so far, 0), then ("encode", groups so far, all groups).
        catalogue: where it is written down; None: in memory.

    Raises:
        UsageError: there is no sample.
    """
    catalogue = Catalogue() if catalogue is None else catalogue
    digest = hashlib.sha256()
    for done, sample in enumerate(samples):
        if done % REPORT_EVERY == 0:
            progress("read", done, 0)
        known = fingerprint(sample)
        features.see(catalogue.add(sample, known), sample, catalogue)
        digest.update(known)
    if not catalogue.samples:
        raise UsageError("There is no usable sample in the data", hint="Every sample needs a picture and a caption")
    progress("read", catalogue.samples, catalogue.samples)
    vectors = features.vectors(catalogue, progress)
    sizes = catalogue.sizes()
    return Survey(
        catalogue.names(),
        sizes,
        catalogue.texts(),
        vectors,
        features.name,
        digest.hexdigest(),
        catalogue,
        features.means,
    )


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


def blocks(rows_GD: Vectors) -> Iterator[Vectors]:
    """Yield the rows a block at a time, not copied."""
    return (rows_GD[start : start + BLOCK_ROWS] for start in range(0, len(rows_GD), BLOCK_ROWS))


def to_units(rows_GD: Vectors) -> Vectors:
    """Scale every row to length one where it stands, and return the same rows; a row of zeros stays."""
    for rows in blocks(rows_GD):
        rows[:] = unit_rows(rows)
    return rows_GD


def unit_rows(vectors_GD: NDArray[np.floating]) -> Vectors:
    """Return the rows scaled to length one; a row of zeros stays."""
    lengths_G1 = np.linalg.norm(vectors_GD, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors_GD / np.maximum(lengths_G1, 1e-12), dtype=np.float32)
