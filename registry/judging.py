"""What is a good sample: every source's candidates are judged by the same rules, and reasons are said.

A bad sample is counted and listed with its file and the reason, never fatal. Of near-duplicates the first one stays
and the others are left out: they would cross from training to hold-out data, and what is seen twice is learnt twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import faiss
import numpy as np

from paris.protocol.errors import UsageError
from paris.protocol.manifest import name_problem
from paris.registry.catalogue import Catalogue
from paris.registry.encoders import HASH_BITS, HASH_NAME
from paris.registry.looks import Look, Looker, batches, looked_at
from paris.registry.samples import Candidate, Rejects, Sample, Source

KEY_CHARS = 200
MOST_DISTANCE = 3
_OWN_FIELDS = frozenset({"caption", "text", "cluster", "group"})


@dataclass(frozen=True)
class Filters:
    """What a curator refuses besides what is broken; the defaults refuse nothing.

    Attributes:
        min_px: least length of the shorter side, in pixels.
        max_aspect: most that the longer side may be of the shorter.
        min_caption: fewest characters of a caption.
        max_caption: most characters of a caption; 0: any number.
        letters: least share of letters and spaces among a caption's characters, 0 to 1.
        dedupe: near-duplicates whose perceptual hashes of 64 bits differ in at most so many bits are left out, 0 to 3;
            None: they stay.
    """

    min_px: int = 0
    max_aspect: float = 0.0
    min_caption: int = 0
    max_caption: int = 0
    letters: float = 0.0
    dedupe: int | None = None

    def __post_init__(self) -> None:
        if self.dedupe is not None and not 0 <= self.dedupe <= MOST_DISTANCE:
            raise UsageError(
                f"near-duplicates are looked for up to {MOST_DISTANCE} bits apart, not {self.dedupe}",
                hint=f"Give --dedupe a number from 0 (equal hashes only) to {MOST_DISTANCE}",
            )

    def refuse_caption(self, caption: str) -> None:
        """Raise ValueError with the reason if a caption is refused."""
        if len(caption) < self.min_caption:
            raise ValueError(f"short caption: {len(caption)} characters")
        if self.max_caption and len(caption) > self.max_caption:
            raise ValueError(f"long caption: {len(caption)} characters")
        share = sum(char.isalpha() or char.isspace() for char in caption) / max(1, len(caption))
        if share < self.letters:
            raise ValueError(f"odd caption: only {share:.0%} of it are letters")

    def refuse_size(self, width: int, height: int) -> None:
        """Raise ValueError with the reason if a picture of this size is refused."""
        short, long = sorted((width, height))
        if short < self.min_px:
            raise ValueError(f"small picture: {width}x{height}")
        if self.max_aspect and long > self.max_aspect * short:
            raise ValueError(f"elongated picture: {width}x{height}")


class Duplicates:
    """Perceptual hashes seen so far. Two that differ in at most 3 bits agree in one of four quarters: the index.

    About 200 bytes of memory a sample, its key among them.
    """

    def __init__(self, distance: int) -> None:
        self._distance, self._keys = distance, list[str]()
        self._index = faiss.IndexBinaryMultiHash(HASH_BITS, MOST_DISTANCE + 1, HASH_BITS // (MOST_DISTANCE + 1))

    def refuse(self, key: str, bits: bytes) -> None:
        """Raise ValueError with the reason if a hash is near one that was seen; else remember it."""
        row = np.frombuffer(bits, dtype=np.uint8)[None]
        if self._keys:
            distances, found = self._index.search(row, 1)
            if found[0, 0] >= 0 and distances[0, 0] <= self._distance:
                raise ValueError(f"near duplicate: of {self._keys[found[0, 0]]}, {distances[0, 0]} bits apart")
        self._index.add(row)
        self._keys.append(key)


def read_samples(
    source: Source,
    rejects: Rejects | None = None,
    looker: Looker | None = None,
    filters: Filters = Filters(),
    taken: Catalogue | None = None,
) -> Iterator[Sample]:
    """Yield the good samples of `source` in its order; the others go to `rejects` with file and reason.

    Args:
        source: what to read.
        rejects: filled while iterating.
        looker: what to see in pictures besides whether they are whole, and where it is remembered.
        filters: what else is refused.
        taken: a catalogue that grows meanwhile, where keys are looked up; None: they are kept in memory.
    """
    rejects = Rejects() if rejects is None else rejects
    keys = set[str]()
    duplicates = None if filters.dedupe is None else Duplicates(filters.dedupe)
    for part in source.parts(rejects):
        for candidate, look in looked_at(looker or Looker(), batches(part.candidates(rejects))):
            try:
                sample = judge(candidate, look, source.split_key, filters)
                if sample.key in (keys if taken is None else taken):
                    raise ValueError("duplicate key")  # noqa: TRY301 - one place that lists rejects
                if duplicates and look:
                    duplicates.refuse(sample.key, look.vectors[HASH_NAME].astype(np.uint8).tobytes())
            except ValueError as refusal:
                rejects.add(candidate.key, str(refusal), candidate.file)
                continue
            if taken is None:
                keys.add(sample.key)
            yield sample


def judge(candidate: Candidate, look: Look | None, split_key: str, filters: Filters) -> Sample:
    """Return the sample a candidate becomes, or raise ValueError with the reason why none."""
    problem = "too long" if len(candidate.key) > KEY_CHARS else name_problem(candidate.key)
    if problem:
        raise ValueError(f"unsafe key: {problem}")
    caption = caption_of(candidate.fields)
    if caption is None:
        raise ValueError("missing caption")
    filters.refuse_caption(caption)
    if candidate.picture is None or look is None:
        raise ValueError("missing picture")
    if look.problem:
        raise ValueError(look.problem)
    filters.refuse_size(look.width, look.height)
    group = candidate.key if split_key == "key" else candidate.fields.get(split_key)
    if not is_text(group):
        raise ValueError(f"missing group: its field {split_key!r} holds no text")
    fields = {
        name: value
        for name, value in candidate.fields.items()
        if name not in _OWN_FIELDS and is_text(name) and is_text(value)
    }
    return Sample(candidate.key, candidate.picture, look.suffix, caption, group, fields, look.vectors)


def caption_of(fields: Mapping[str, Any]) -> str | None:
    """Return the caption among a sample's fields, on one line; None where there is none that is text."""
    caption = fields.get("caption", fields.get("text"))
    return " ".join(caption.split()) if is_text(caption) else None


def is_text(value: object) -> TypeGuard[str]:
    """Say whether a value is text with something in it that can be written (JSON can smuggle in lone surrogates)."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= char <= "\udfff" for char in value)
