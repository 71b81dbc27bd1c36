"""Looking at pictures: is each whole, how large is it, and what do encoders see in it; every look is remembered.

Candidates come in batches whose borders follow from their content, as rsync cuts files, so that a picture more or less
changes one batch and not all that follow. What was seen in a batch is kept on disk under the digest of its pictures,
one file for each encoder: whoever is killed, adds pictures, or asks for other features goes on from there. A network's
last bits depend on what it computes together; because a batch is remembered as a whole, a resumed pass and one from the
beginning agree bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from paris.models.decoding import count_frames, first_frame, spread_frames, suffix_of
from paris.models.decoding import frames as all_frames
from paris.registry import atomic
from paris.registry.encoders import CLIP_FRAMES, ImageEncoder
from paris.registry.samples import Candidate

BATCH_PICTURES = 256
BATCH_BYTES = 64_000_000
BORDER_ONE_IN = 64
WORKERS = os.cpu_count() or 1
WHOLE = "whole-2"
"""What the decoder says, as if it were an encoder: width and height, and in words what is wrong."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Batch:
    """Candidates that are looked at together.

    Attributes:
        candidates: in the source's order, those without a picture among them.
        digest: hex SHA-256 over the digests of their pictures.
    """

    candidates: tuple[Candidate, ...]
    digest: str

    def pictures(self) -> list[bytes]:
        """The pictures of those that have one."""
        return [candidate.picture for candidate in self.candidates if candidate.picture is not None]


def batches(candidates: Iterable[Candidate]) -> Iterator[Batch]:
    """Cut a stream of candidates where a picture's digest says so, at `BATCH_PICTURES` or `BATCH_BYTES`."""
    pending: list[Candidate] = []
    digest, count, size_bytes = hashlib.sha256(), 0, 0
    for candidate in candidates:
        pending.append(candidate)
        if candidate.picture is not None:
            one = hashlib.sha256(candidate.picture).digest()
            digest.update(one)
            count, size_bytes = count + 1, size_bytes + len(candidate.picture)
            border = int.from_bytes(one[:4], "big") % BORDER_ONE_IN == 0
            if border or count == BATCH_PICTURES or size_bytes >= BATCH_BYTES:
                yield Batch(tuple(pending), digest.hexdigest())
                pending, digest, count, size_bytes = [], hashlib.sha256(), 0, 0
    if pending:
        yield Batch(tuple(pending), digest.hexdigest())


@dataclass(frozen=True)
class Look:
    """What was seen in one picture.

    Attributes:
        suffix: of its format; empty if it is broken.
        problem: what is wrong with it; empty if nothing is.
        width: in pixels.
        height: in pixels.
        vectors: (D,) each, by the encoders' names.
    """

    suffix: str
    problem: str
    width: int
    height: int
    vectors: Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Seen:
    """What one encoder saw in the N pictures of a batch.

    Attributes:
        rows: (N, D) float32; zeros for a picture that is broken.
        notes: N texts; of `WHOLE` the suffix, or after a colon what is wrong.
    """

    rows: NDArray[np.float32]
    notes: tuple[str, ...] = ()

    def to_bytes(self) -> bytes:
        """The bytes of its file."""
        return bytes(save({"rows": np.ascontiguousarray(self.rows)}, {"notes": json.dumps(self.notes)}))


@dataclass(frozen=True)
class LookCache:
    """Looks on disk, by encoder and batch; `folder` None keeps nothing."""

    folder: Path | None = None

    def get(self, encoder: str, digest: str) -> Seen | None:
        """Return what an encoder of this identity saw in a batch, if it is there and whole."""
        path = self._path(encoder, digest)
        if path is None:
            return None
        try:
            with safe_open(path, "numpy") as file:
                return Seen(file.get_tensor("rows"), tuple(json.loads(file.metadata()["notes"])))
        except (OSError, SafetensorError):
            return None

    def put(self, encoder: str, digest: str, seen: Seen) -> None:
        """Keep what an encoder saw."""
        if self.folder is not None:
            self.put_bytes(encoder, digest, seen.to_bytes())

    def put_bytes(self, encoder: str, digest: str, data: bytes) -> None:
        """Keep what an encoder saw, as `Seen.to_bytes` wrote it."""
        if path := self._path(encoder, digest):
            atomic.write_bytes(path, data)

    def _path(self, encoder: str, digest: str) -> Path | None:
        return None if self.folder is None else self.folder / encoder / digest[:2] / f"{digest}.safetensors"


@dataclass(frozen=True)
class Looker:
    """Looks at batches with the same encoders.

    Attributes:
        encoders: what is to be seen besides whether a picture is whole.
        cache: what was seen before.
    """

    encoders: Sequence[ImageEncoder] = ()
    cache: LookCache = LookCache()
    _network: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def __call__(self, batch: Batch) -> list[Look | None]:
        """Return one look a candidate; None for one without a picture."""
        seen = self.seen(batch)
        names = {encoder.identity: encoder.name for encoder in self.encoders}
        looks = iter([_look(seen, names, place) for place in range(len(seen[WHOLE].notes))])
        return [None if candidate.picture is None else next(looks) for candidate in batch.candidates]

    def seen(self, batch: Batch) -> dict[str, Seen]:
        """Return what each encoder sees in a batch, by its identity, from the cache where it is there."""
        found = {name: self.cache.get(name, batch.digest) for name in (WHOLE, *(e.identity for e in self.encoders))}
        known = {name: seen for name, seen in found.items() if seen is not None}
        if len(known) < len(found):
            lacking = [encoder for encoder in self.encoders if encoder.identity not in known]
            for name, fresh in self._see(batch.pictures(), lacking).items():
                self.cache.put(name, batch.digest, fresh)
                known[name] = fresh
        return known

    def _see(self, pictures: Sequence[bytes], encoders: Sequence[ImageEncoder]) -> dict[str, Seen]:
        """Decode every picture once and show it to the encoders; only what they prepared of it stays in memory."""
        notes: list[str] = []
        sizes = np.zeros((len(pictures), 2), dtype=np.float32)
        prepared: dict[str, list[NDArray[np.float32]]] = {encoder.name: [] for encoder in encoders}
        whole: list[int] = []
        for place, picture in enumerate(pictures):
            try:
                frames = frames_of(picture)
                shown = [encoder.prepare(frames, picture) for encoder in encoders]
                notes.append(suffix_of(picture))
            except ValueError as error:
                notes.append(f":broken picture: {error}")
                continue
            sizes[place] = frames[0].size
            whole.append(place)
            for encoder, array in zip(encoders, shown, strict=True):
                prepared[encoder.name].append(array)
        seen = {WHOLE: Seen(sizes, tuple(notes))}
        for encoder in encoders:
            with self._network:
                vectors = encoder.encode(prepared[encoder.name])
            rows = np.zeros((len(pictures), encoder.dim), dtype=np.float32)
            rows[whole] = vectors
            seen[encoder.identity] = Seen(rows)
        return seen


def frames_of(picture: bytes) -> list[Image.Image]:
    """Decode a picture, or a clip wholly, and return its frames, of a clip those at equal distances.

    Raises:
        ValueError: it cannot be decoded.
    """
    count = count_frames(picture)
    if count == 1:
        return [first_frame(picture)]
    for _ in all_frames(picture):
        pass
    return spread_frames(picture, min(count, CLIP_FRAMES))


def _look(seen: Mapping[str, Seen], names: Mapping[str, str], place: int) -> Look:
    suffix, _, problem = seen[WHOLE].notes[place].partition(":")
    width, height = (int(side) for side in seen[WHOLE].rows[place])
    return Look(suffix, problem, width, height, {name: seen[one].rows[place] for one, name in names.items()})


def looked_at(looker: Looker, found: Iterable[Batch]) -> Iterator[tuple[Candidate, Look | None]]:
    """Yield every candidate with its look, in order; the next batches are decoded meanwhile, a few at a time."""
    with ThreadPoolExecutor(WORKERS) as pool:
        for batch, looks in in_order(pool, looker, found):
            yield from zip(batch.candidates, looks, strict=True)


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[_Item], _Result], items: Iterable[_Item]
) -> Iterator[tuple[_Item, _Result]]:
    """Yield (item, its result) in order while a bounded number of others are being worked at."""
    waiting: deque[tuple[_Item, Future[_Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) > WORKERS:
                first, result = waiting.popleft()
                yield first, result.result()
        while waiting:
            first, result = waiting.popleft()
            yield first, result.result()
    finally:
        for _, result in waiting:
            result.cancel()
