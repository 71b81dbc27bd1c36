"""What a source of data gives: candidates that nobody has judged yet, and the samples that good ones become."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from paris.registry import atomic

REJECTS_IN_MEMORY = 1000


@dataclass(frozen=True)
class Candidate:
    """What a source found under one key, not judged yet.

    Attributes:
        key: name of the sample, webdataset style: no dot in the last part.
        picture: encoded picture or clip, None if there is none.
        fields: the caption (under "caption") and whatever else is known; the values come from JSON.
        file: the file it lies in, for people; a row or member is named too.
    """

    key: str
    picture: bytes | None
    fields: Mapping[str, Any]
    file: str = ""


@dataclass(frozen=True)
class Sample:
    """One good captioned picture or clip.

    Attributes:
        key: unique within its source.
        picture: encoded picture or clip, untouched; frames that lay apart are one clip here.
        suffix: "webp", "png", "jpg", "gif", "mp4" or "webm", after its content.
        caption: not empty.
        group: samples of one group are near-duplicates and stay together; the key if nothing is known.
        fields: further fields of text, such as the licence.
        vectors: what encoders saw in the picture, (D,) each, by their names.
    """

    key: str
    picture: bytes
    suffix: str
    caption: str
    group: str
    fields: Mapping[str, str] = field(default_factory=dict)
    vectors: Mapping[str, NDArray[np.float32]] = field(default_factory=dict, compare=False, repr=False)


class Reject(NamedTuple):
    """A sample that was left out: its key (or its shard, table or line), the reason, and the file it lies in."""

    key: str
    reason: str
    file: str = ""

    def __str__(self) -> str:
        where = self.file if self.file and self.file != self.key else ""
        return f"{self.key}{where and f' ({where})'}: {self.reason}"


class Rejects:
    """The samples that were left out, and a way to read them aloud.

    Args:
        path: where all of them are listed, a JSON object a line; the file is there when `close` returns. Only the first
            `REJECTS_IN_MEMORY` stay in memory then. None: all do.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.entries: list[Reject] = []
        self.path = path
        self._reasons: Counter[str] = Counter()
        self._temporary = None if path is None else atomic.temporary_beside(path)
        self._list = self._temporary.open("w", encoding="utf-8") if self._temporary else None

    def add(self, key: str, reason: str, file: str = "") -> None:
        """Note that `key` is left out because of `reason`."""
        reject = Reject(key, reason, file)
        self._reasons[reason.partition(":")[0]] += 1
        if self._list:
            json.dump(reject._asdict(), self._list, ensure_ascii=True)
            self._list.write("\n")
        if self._list is None or len(self.entries) < REJECTS_IN_MEMORY:
            self.entries.append(reject)

    def __len__(self) -> int:
        return self._reasons.total()

    def summary(self) -> str:
        """Return one line: how many for which reason, most frequent first."""
        return ", ".join(f"{count} x {reason}" for reason, count in self._reasons.most_common())

    def close(self) -> None:
        """Give the list its name."""
        if self._list and self._temporary and self.path:
            self._list.close()
            atomic.sync_file(self._temporary)
            atomic.rename(self._temporary, self.path)
            self._list = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Part(Protocol):
    """A piece of a source that can be read by itself, on another machine too if the files are there."""

    def candidates(self, rejects: Rejects) -> Iterator[Candidate]:
        """Yield what is there; what cannot even be read goes to `rejects`."""


class Source(Protocol):
    """A finite, re-readable, ordered collection of candidates: equal content gives the same order every time."""

    @property
    def name(self) -> str:
        """Short name for people."""

    @property
    def license(self) -> str:
        """SPDX expression of the pictures' licences, or "unknown"."""

    @property
    def split_key(self) -> str:
        """Field that names a sample's group; "key" if each sample stands alone."""

    def parts(self, rejects: Rejects) -> Iterable[Part]:
        """Yield the pieces in order; a table of contents that cannot be read goes to `rejects`."""
