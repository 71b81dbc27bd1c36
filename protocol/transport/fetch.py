"""Fetching blobs from peers that may lie, stall, truncate or die.

Every piece is hashed on arrival. A peer that sends a wrong byte is dropped and named, and the piece is fetched from
another. Progress lies in the partial file itself: whatever is there and hashes right is kept, also after kill -9.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paris.protocol import digests
from paris.protocol.errors import DigestError, NetworkError, ResourceError, UnavailableError
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import FileEntry
from paris.protocol.transport.blobs import STALL_S, BlobStream, NotFoundError
from paris.protocol.transport.dht import Swarm

logger = logging.getLogger(__name__)

Failure = NetworkError | DigestError
"""What can be wrong with a provider."""

_STREAMS_PER_PROVIDER = 2  # one piece is on its way while the other is hashed and written


async def fetch_blob(
    swarm: Swarm,
    digest: str,
    providers: Sequence[str],
    limit_bytes: int = LIMITS.blob_bytes,
    *,
    stall_s: float = STALL_S,
) -> bytes:
    """Fetch a small blob whole, from the first provider that gives the right bytes.

    Args:
        swarm: Our node.
        digest: Which blob.
        providers: Peer ids that may have it, best first.
        limit_bytes: Nothing larger is accepted.
        stall_s: Longest time for 256 KiB.

    Raises:
        UnavailableError: Nobody gave it; says who was tried and why each failed.
        DigestError: Nobody gave it, and somebody sent other bytes under its name.
    """
    failures: dict[str, Failure] = {}
    for peer_id in _others(swarm, providers):
        try:
            async with await BlobStream.open(swarm, peer_id) as stream:
                data = bytes(await stream.read(digest, 0, limit_bytes + 1, stall_s))
            _check_blob(data, digest, limit_bytes, peer_id)
        except (NetworkError, DigestError) as error:
            failures[peer_id] = _drop(peer_id, error)
        else:
            return data
    raise _not_fetched(digest, failures)


async def fetch_file(
    swarm: Swarm,
    entry: FileEntry,
    providers: Sequence[str],
    partial: Path,
    progress: Callable[[int], None] = lambda _: None,
    *,
    stall_s: float = STALL_S,
) -> None:
    """Fetch a file piece by piece, from all providers at once, into `partial`, and make it durable.

    Pieces already right in `partial` are kept. On success `partial` has the entry's exact size, every piece is right
    and it is fsynced; the caller hashes it whole before it goes by its name, for a hostile manifest may name pieces of
    another file. On failure what is right stays for the next attempt.

    Args:
        swarm: Our node.
        entry: The file, from a verified manifest.
        providers: Peer ids that may have it.
        partial: Where to write; its folder exists.
        progress: Called with the number of bytes newly known to be right, resumed ones included.
        stall_s: Longest time for 256 KiB.

    Raises:
        UnavailableError: Pieces are missing and nobody gives them; says who was tried and why each failed.
        ResourceError: The disk is full.
    """
    descriptor = _open(partial, entry)
    try:
        present = await asyncio.to_thread(_pieces_present, descriptor, entry)
        progress(sum(entry.span(piece)[1] for piece in present))
        missing = deque(piece for piece in range(len(entry.pieces)) if piece not in present)
        job = _Job(swarm, entry, descriptor, missing, progress, stall_s)
        await job.run(_others(swarm, providers))
        await asyncio.to_thread(_finish, descriptor, entry)
    except OSError as error:
        raise _disk_error(error, entry) from error
    finally:
        os.close(descriptor)


@dataclass
class _Job:
    """One file on its way: pieces nobody has yet, peers that failed."""

    swarm: Swarm
    entry: FileEntry
    descriptor: int
    missing: deque[int]
    progress: Callable[[int], None]
    stall_s: float
    failures: dict[str, Failure] = field(default_factory=dict)
    active: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, providers: Sequence[str]) -> None:
        if not self.missing:
            return
        try:
            async with asyncio.TaskGroup() as group:
                for peer_id in [*providers] * _STREAMS_PER_PROVIDER:
                    group.create_task(self._drain(peer_id))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        if self.missing:
            raise _not_fetched(self.entry.sha256, self.failures, self.entry.name)

    async def _drain(self, peer_id: str) -> None:
        """Fetch pieces from one peer until none is missing or the peer fails."""
        try:
            async with await BlobStream.open(self.swarm, peer_id) as stream:
                while peer_id not in self.failures and (piece := await self._next()) is not None:
                    await self._fetch(stream, piece)
        except NetworkError as error:
            self.failures.setdefault(peer_id, _drop(peer_id, error))
        except DigestError as error:
            self.failures[peer_id] = _drop(peer_id, error)

    async def _next(self) -> int | None:
        """A missing piece. While others are still fetching, wait: theirs may come back."""
        while not self.missing and self.active:
            self.changed.clear()
            await self.changed.wait()
        return self.missing.popleft() if self.missing else None

    async def _fetch(self, stream: BlobStream, piece: int) -> None:
        offset, length = self.entry.span(piece)
        self.active += 1
        arrived = False
        try:
            data = await stream.read(self.entry.sha256, offset, length, self.stall_s)
            await asyncio.to_thread(self._keep, data, piece, stream.peer_id)
            arrived = True
            self.progress(length)
        finally:
            if not arrived:
                self.missing.append(piece)
            self.active -= 1
            self.changed.set()

    def _keep(self, data: memoryview, piece: int, peer_id: str) -> None:
        digests.check(data, self.entry.pieces[piece], f"piece {piece} of {self.entry.name} from {peer_id}")
        _write(self.descriptor, data, self.entry.span(piece)[0])


def _check_blob(data: bytes, digest: str, limit_bytes: int, peer_id: str) -> None:
    if len(data) > limit_bytes:
        raise NetworkError(f"{peer_id} offers too big a blob", f"the limit here is {limit_bytes} bytes")
    digests.check(data, digest, f"what {peer_id} sent")


def _others(swarm: Swarm, providers: Sequence[str]) -> list[str]:
    return [peer_id for peer_id in dict.fromkeys(providers) if peer_id != swarm.peer_id]


def _drop(peer_id: str, error: Failure) -> Failure:
    if isinstance(error, DigestError):
        logger.warning("dropped %s: %s", peer_id, error)
    elif not isinstance(error, NotFoundError):
        logger.info("dropped %s: %s", peer_id, error)
    return error


def _not_fetched(digest: str, failures: dict[str, Failure], name: str = "") -> Failure:
    """Nobody has it; or, which is worse, all who have it send other bytes than were signed."""
    what = f"{name or digest} could not be fetched"
    tried = " ".join(str(error) for error in failures.values()) if failures else "no peer is known to have it"
    kind = DigestError if any(isinstance(error, DigestError) for error in failures.values()) else UnavailableError
    return kind(what, tried, "peers come and go: try again later, what arrived is kept")


def _open(partial: Path, entry: FileEntry) -> int:
    try:
        return os.open(partial, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _disk_error(error, entry) from error


def _pieces_present(descriptor: int, entry: FileEntry) -> set[int]:
    size = os.fstat(descriptor).st_size
    present = set()
    for piece, digest in enumerate(entry.pieces):
        offset, length = entry.span(piece)
        if offset + length <= size and digests.sha256_of(os.pread(descriptor, length, offset)) == digest:
            present.add(piece)
    return present


def _write(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _finish(descriptor: int, entry: FileEntry) -> None:
    os.ftruncate(descriptor, entry.size)
    os.fsync(descriptor)


def _disk_error(error: OSError, entry: FileEntry) -> ResourceError:
    if error.errno == errno.ENOSPC:
        return ResourceError(
            f"the disk is full: {entry.name} needs {entry.size} bytes", str(error), "make room, resume"
        )
    return ResourceError(f"{entry.name} could not be written", str(error))
