"""A file being put together from pieces that arrive in any order, each checked before it is written.

Every byte is hashed twice while it is at hand, for its piece and for the whole: a hostile manifest may list the pieces
of another file, so right pieces do not make the right file.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from threading import Lock
from typing import Any

from paris.protocol.errors import DigestError
from paris.protocol.manifest import FileEntry

_PART_BYTES = 256 * 2**10  # fits the processor's cache for both hashes
_NOTHING = memoryview(b"")


class Landing:
    """One file on disk. `keep` may be called from several threads, for different pieces.

    Args:
        descriptor: The open file.
        entry: What it shall become.
    """

    def __init__(self, descriptor: int, entry: FileEntry) -> None:
        self._descriptor, self._entry = descriptor, entry
        self._whole, self._in_whole = hashlib.sha256(), 0
        self._present: set[int] = set()
        self._state, self._catching_up = Lock(), Lock()

    def resume(self) -> frozenset[int]:
        """Find the pieces that are there already and right."""
        size_bytes = os.fstat(self._descriptor).st_size
        for piece, digest in enumerate(self._entry.pieces):
            if sum(self._entry.span(piece)) <= size_bytes:
                found, whole = self._hash(piece, self._parts_on_disk(piece))
                if found == digest:
                    self._count(piece, whole)
        return frozenset(self._present)

    def keep(self, piece: int, data: memoryview, peer_id: str) -> None:
        """Check a piece and write it to its place.

        Raises:
            DigestError: It is not what the manifest promises; nothing is written.
            OSError: The disk does not take it.
        """
        found, whole = self._hash(piece, _parts(data))
        if found != self._entry.pieces[piece]:
            what = f"piece {piece} of {self._entry.name} from {peer_id} does not match its digest"
            raise DigestError(what, f"asked for {self._entry.pieces[piece]}, got bytes that hash to {found}")
        self._write(data, self._entry.span(piece)[0])
        self._count(piece, whole)
        self._catch_up(piece, data)

    def finish(self) -> None:
        """Make the file durable, at its exact size.

        Raises:
            DigestError: Its pieces are those of another file.
            OSError: The disk does not take it.
        """
        self._catch_up()
        os.ftruncate(self._descriptor, self._entry.size)
        os.fsync(self._descriptor)
        found = f"sha256:{self._whole.hexdigest()}"
        if found != self._entry.sha256:
            why = f"every piece is the one its manifest lists, together they hash to {found}"
            hint = "the manifest is wrong or hostile; take the file from another one"
            raise DigestError(f"{self._entry.name} does not match its digest {self._entry.sha256}", why, hint)

    def _hash(self, piece: int, parts: Iterable[memoryview]) -> tuple[str, Any]:
        """The piece's digest and, where everything before it is hashed already, the whole's hash up to its end."""
        with self._state:
            whole = self._whole.copy() if piece == self._in_whole else None
        own = hashlib.sha256()
        for part in parts:
            own.update(part)
            if whole:
                whole.update(part)
        return f"sha256:{own.hexdigest()}", whole

    def _count(self, piece: int, whole: Any) -> None:
        with self._state:
            self._present.add(piece)
            if whole:
                self._whole, self._in_whole = whole, piece + 1

    def _catch_up(self, at_hand: int = -1, data: memoryview = _NOTHING) -> None:
        """Hash into the whole what came before its turn, from memory where it is still there."""
        if not self._catching_up.acquire(blocking=False):
            return
        try:
            while self._is_next_present():
                for part in _parts(data) if self._in_whole == at_hand else self._parts_on_disk(self._in_whole):
                    self._whole.update(part)
                self._in_whole += 1
        finally:
            self._catching_up.release()

    def _is_next_present(self) -> bool:
        with self._state:
            return self._in_whole in self._present

    def _parts_on_disk(self, piece: int) -> Iterator[memoryview]:
        """What lies in a piece's place, part by part, each in the same memory."""
        offset, length = self._entry.span(piece)
        memory = memoryview(bytearray(min(length, _PART_BYTES)))
        for at in range(0, length, _PART_BYTES):
            count = os.preadv(self._descriptor, [memory[: length - at]], offset + at)
            yield memory[:count]

    def _write(self, data: memoryview, offset: int) -> None:
        end = offset + len(data)
        while offset < end:
            offset += os.pwrite(self._descriptor, data[offset - end :], offset)
        _start_writing_out(self._descriptor, end - len(data), len(data))


def _parts(data: memoryview) -> Iterator[memoryview]:
    return (data[at : at + _PART_BYTES] for at in range(0, len(data), _PART_BYTES))


def _start_writing_out(descriptor: int, offset: int, length: int) -> None:
    """Let the disk begin now, so that little is left for the fsync at the end."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)
