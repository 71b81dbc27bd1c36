"""What a node's record book must not forget, in one SQLite file: it survives kill -9 at any moment.

Rows hold signed envelopes, checked again when they are read back: a damaged or foreign file can cost memory, never add
a record that does not verify.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from paris.protocol.book import Equivocation, RecordBook
from paris.protocol.credentials import Moved
from paris.protocol.errors import ParisError, ResourceError
from paris.protocol.records import Head
from paris.protocol.validation import Received, RunRules, check_record

logger = logging.getLogger(__name__)

_TABLES = """
CREATE TABLE IF NOT EXISTS records (key TEXT, signer TEXT, envelope BLOB, PRIMARY KEY (key, signer)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS evidence (key TEXT, signer TEXT, seq INTEGER, first BLOB, second BLOB,
 PRIMARY KEY (key, signer)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS heads (key TEXT PRIMARY KEY, head TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS moves (run TEXT, old TEXT, new TEXT, by_curators INTEGER, PRIMARY KEY (run, old))
WITHOUT ROWID;
"""


class Ledger:
    """The journal of a `RecordBook` on disk. One process at a time.

    Contract: what was written before a kill is there afterwards; after a power cut the last moments may be missing, and
    the file is still whole (SQLite, write-ahead log, `synchronous = NORMAL`). A file that is no ledger is set aside.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a ledger, or make one.

        Raises:
            ResourceError: The file cannot be opened or written.
        """
        try:
            return cls(_connect(path))
        except sqlite3.DatabaseError as error:
            if not path.exists() or isinstance(error, sqlite3.OperationalError):
                raise ResourceError(f"{path} cannot be used", str(error), "make room, or see who owns it") from error
            aside = path.with_suffix(".damaged")
            logger.warning("%s is damaged (%s); it is set aside as %s, a new one begins", path, error, aside)
            path.replace(aside)
            for rest in ("-wal", "-shm"):
                path.with_name(path.name + rest).unlink(missing_ok=True)
            return cls(_connect(path))

    def load(self, book: RecordBook, now_s: float) -> None:
        """Give an empty book its memory back and let it write here from now on."""
        evidence = self._connection.execute("SELECT * FROM evidence ORDER BY seq")
        moves = self._connection.execute("SELECT run, old, new, by_curators FROM moves")
        heads = self._connection.execute("SELECT key, head FROM heads")
        book.restore(
            self._records(now_s, book.rules),
            [(key, head) for key, text in heads if (head := _head(text))],
            [(run, Moved(old, new, bool(by_curators))) for run, old, new, by_curators in moves],
            [(key, signer, Equivocation(*proof)) for key, signer, *proof in evidence],
        )
        book.journal = self

    def _records(self, now_s: float, rules: Mapping[str, RunRules]) -> Iterator[Received]:
        rows = self._connection.execute("SELECT key, signer, envelope FROM records").fetchall()
        for key, signer, data in rows:
            try:
                yield check_record(data, now_s, rules)
            except ParisError:
                self.forget(key, signer)

    def _write(self, statement: str, row: tuple[object, ...]) -> None:
        try:
            self._connection.execute(statement, row)
        except sqlite3.Error as error:
            hint = "make room on the disk, or see who owns the file; it is tried again"
            raise ResourceError("the memory of records cannot be written", str(error), hint) from error

    def remember(self, received: Received) -> None:
        """The newest record of its signer in its slot is this one.

        Raises:
            ResourceError: The disk is full or the file is damaged; so do all that follow.
        """
        row = (received.key, received.record.signer, received.envelope)
        self._write("INSERT OR REPLACE INTO records VALUES (?, ?, ?)", row)

    def forget(self, key: str, signer: str) -> None:
        """A record made room, and what was proven of it."""
        self._write("DELETE FROM records WHERE key = ? AND signer = ?", (key, signer))
        self._write("DELETE FROM evidence WHERE key = ? AND signer = ?", (key, signer))

    def convict(self, key: str, signer: str, proof: Equivocation) -> None:
        """A signer said two things at once. The last proof stays, as long as its record is remembered."""
        row = (key, signer, proof.seq, proof.first, proof.second)
        self._write("INSERT OR REPLACE INTO evidence VALUES (?, ?, ?, ?, ?)", row)

    def raise_head(self, key: str, head: Head) -> None:
        """No head below this one counts any more."""
        self._write("INSERT OR REPLACE INTO heads VALUES (?, ?)", (key, head.model_dump_json()))

    def move(self, run: str, moved: Moved) -> None:
        """A name went to another key."""
        row = (run, moved.old, moved.new, moved.by_curators)
        self._write("INSERT OR REPLACE INTO moves VALUES (?, ?, ?, ?)", row)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)  # every statement commits by itself
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.executescript(_TABLES)
        ((found, *_), *_) = connection.execute("PRAGMA quick_check")
        if found != "ok":
            raise sqlite3.DatabaseError(found)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _head(text: str) -> Head | None:
    try:
        return Head.model_validate_json(text)
    except ValueError:
        logger.warning("a head that was remembered cannot be read; it is passed over")
        return None
