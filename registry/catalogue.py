"""What one pass over a source found, on disk: memory stays the same whatever the number of samples.

One row a sample, in the source's order, and one a group of near-duplicates, in order of appearance, in SQLite; the
groups' vectors in flat files beside it. All of it is made again from the source and the cache of looks (`looks.py`),
so nothing here has to survive a crash. Without a folder everything stays in memory, for small data and tests.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from paris.protocol.errors import ResourceError
from paris.registry import atomic
from paris.registry.samples import Sample

Vectors = NDArray[np.float32]
CACHE_KIB = 65_536
FIRST_ROWS = 1024
_TABLES = """
    CREATE TABLE samples (n INTEGER PRIMARY KEY, key TEXT UNIQUE, grp INTEGER, suffix TEXT, print BLOB);
    CREATE TABLE groups (id INTEGER PRIMARY KEY, name TEXT UNIQUE, samples INTEGER, words TEXT, first TEXT);
"""
_TEXT = "CASE words WHEN '' THEN first ELSE words END"


@dataclass(frozen=True)
class Row:
    """One sample: its key, the number of its group, the suffix of its picture, and its fingerprint."""

    key: str
    group: int
    suffix: str
    fingerprint: bytes


class Catalogue:
    """Samples and groups of one pass. A group's text is what its captions share, see `Catalogue.add`.

    Args:
        folder: where it lies; whatever an earlier pass left there is removed. None: in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        if folder is not None:
            atomic.remove_tree(folder)
            folder.mkdir(parents=True)
        self._base = sqlite3.connect(":memory:" if folder is None else folder / "samples.sqlite", isolation_level=None)
        self._base.executescript(_TABLES)
        # Rebuilt after a crash, so nothing is synced; bounded memory, sorting on disk.
        for pragma in ("journal_mode=OFF", "synchronous=OFF", f"cache_size=-{CACHE_KIB}", "temp_store=FILE"):
            self._base.execute(f"PRAGMA {pragma}")
        self._base.execute("BEGIN")
        self.groups = self.samples = self.picture_bytes = 0

    def __contains__(self, key: str) -> bool:
        return self._base.execute("SELECT 1 FROM samples WHERE key = ?", (key,)).fetchone() is not None

    def add(self, sample: Sample, fingerprint: bytes) -> int:
        """Enter a sample whose key is new, and return the number of its group; new groups get the next free one.

        The words of a group are those of its first caption that every other one has too, in order: words that tell
        near-duplicates apart ("flat style", "seen from behind") say nothing about the group. Captions that share no
        word leave the first caption.
        """
        words = sample.caption.split()
        found = self._base.execute("SELECT id, words FROM groups WHERE name = ?", (sample.group,)).fetchone()
        if found is None:
            number, self.groups = self.groups, self.groups + 1
            row = (number, sample.group, 1, " ".join(words), sample.caption)
            self._base.execute("INSERT INTO groups VALUES (?, ?, ?, ?, ?)", row)
        else:
            number, present = found[0], set(words)
            shared = " ".join(word for word in found[1].split() if word in present)
            self._base.execute("UPDATE groups SET samples = samples + 1, words = ? WHERE id = ?", (shared, number))
        entry = (self.samples, sample.key, number, sample.suffix, fingerprint)
        self._base.execute("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", entry)
        self.samples += 1
        self.picture_bytes += len(sample.picture)
        return number

    def rows(self) -> Iterator[Row]:
        """Yield the samples in the order they came."""
        return (Row(*row) for row in self._base.execute("SELECT key, grp, suffix, print FROM samples ORDER BY n"))

    def names(self) -> Sequence[str]:
        """Return the groups' names, in order of appearance."""
        return _Column(self._base, "name", self.groups)

    def texts(self) -> Sequence[str]:
        """Return one text a group: what its captions share."""
        return _Column(self._base, _TEXT, self.groups)

    def texts_in_order(self) -> Iterator[tuple[str, int]]:
        """Yield (text, group) sorted by text, so that equal texts come one after the other."""
        return iter(self._base.execute(f"SELECT {_TEXT} AS t, id FROM groups ORDER BY t, id"))  # noqa: S608

    def sizes(self) -> NDArray[np.int64]:
        """Return (groups,) the number of samples of every group."""
        counts = (count for (count,) in self._base.execute("SELECT samples FROM groups ORDER BY id"))
        return np.fromiter(counts, np.int64, self.groups)

    def matrix(self, name: str, dim: int) -> Vectors:
        """Return (groups, dim) float32 zeros to fill, on disk where the catalogue is."""
        rows = Rows(self.file(name), dim)
        rows.reserve(self.groups)
        return rows.array(self.groups)

    def file(self, name: str) -> Path | None:
        """Where a flat file of vectors called `name` goes; None: it stays in memory."""
        return None if self.folder is None else self.folder / f"{name}.f32"


@contextmanager
def explained_database_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite says of a full disk into a sentence.

    Raises:
        ResourceError: the catalogue cannot be written at `path`.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        raise ResourceError(
            f"There is no room to write {path}, or no permission",
            f"SQLite says: {error}",
            "Free some space and run the same command again: nothing was lost",
        ) from error


class _Column(Sequence[str]):
    """One text a group, read when it is asked for."""

    def __init__(self, base: sqlite3.Connection, column: str, count: int) -> None:
        self._base, self._column, self._count = base, column, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return (text for (text,) in self._base.execute(f"SELECT {self._column} FROM groups ORDER BY id"))  # noqa: S608

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self._count))]
        found = self._base.execute(f"SELECT {self._column} FROM groups WHERE id = ?", (int(index),)).fetchone()  # noqa: S608
        if found is None:
            raise IndexError(index)
        return str(found[0])


class Rows:
    """A growing table of float32 rows, zero where nothing was added, in a file that is mapped or in memory.

    Args:
        path: the file; None: memory.
        dim: numbers a row.
    """

    def __init__(self, path: Path | None, dim: int) -> None:
        self._path, self._dim = path, dim
        self._rows: Vectors = np.zeros((0, dim), dtype=np.float32)
        if path is not None:
            path.unlink(missing_ok=True)

    def add(self, row: int, vector: Vectors) -> None:
        """Add `vector` to row number `row`."""
        if row >= len(self._rows):
            self.reserve(max(FIRST_ROWS, 2 * row))
        self._rows[row] += vector

    def reserve(self, rows: int) -> None:
        """Make room for so many rows."""
        if self._path is None:
            grown = np.zeros((rows, self._dim), dtype=np.float32)
            grown[: len(self._rows)] = self._rows
            self._rows = grown
        elif rows:
            with atomic.explained_disk_errors(self._path), self._path.open("ab") as out:
                os.posix_fallocate(out.fileno(), 0, rows * self._dim * 4)  # a mapped file must never meet a full disk
            self._rows = np.memmap(self._path, np.float32, "r+", shape=(rows, self._dim))

    def array(self, rows: int) -> Vectors:
        """Return the first `rows` rows, not copied."""
        if rows > len(self._rows):
            self.reserve(rows)
        return self._rows[:rows]
