"""Fetching blobs from peers that may lie, stall, truncate or die, and from other places that hold the same bytes.

Every piece is hashed on arrival. A source that sends a wrong byte is dropped and named, and the piece is fetched from
another. Progress lies in the partial file itself: whatever is there and hashes right is kept, also after kill -9.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self

from paris.protocol import digests
from paris.protocol.errors import DigestError, NetworkError, ResourceError, UnavailableError
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import FileEntry
from paris.protocol.transport.blobs import BlobStream, NotFoundError
from paris.protocol.transport.courtesy import Courtesy
from paris.protocol.transport.landing import Landing
from paris.protocol.transport.rate import UNLIMITED, Throttle
from paris.protocol.transport.streams import STALL_S, BusyError, Streams

logger = logging.getLogger(__name__)

Failure = NetworkError | DigestError
"""What can be wrong with a source."""

HEDGE_S = 2.0
"""After so long without the beginning of an answer for a small blob somebody else is asked too."""
_STREAMS_PER_SOURCE = 4  # pieces are on their way while others are hashed and written; two were measured to be slower
_STREAMS = 16
_MOST_RESTS = 8


class LaterError(NetworkError):
    """A source asks to be left alone for a while. No blame; others are asked meanwhile.

    Attributes:
        wait_s: For how long.
    """

    def __init__(self, what: str, wait_s: float) -> None:
        super().__init__(what, f"it is asked again after {wait_s:.0f} s")
        self.wait_s = wait_s


class Ranges(Protocol):
    """An open way to a source."""

    async def read(self, digest: str, /, offset: int, length: int, stall_s: float) -> memoryview:
        """Read a range of a blob; the content is not checked here. It holds until the next read.

        Raises:
            LaterError: The source wants to be left alone for a while.
            NetworkError: It does not have it, stalls, or sends less.
        """

    async def __aenter__(self) -> Self:
        """Use it."""

    async def __aexit__(self, *_: object) -> None:
        """Close it."""


class Source(Protocol):
    """Who may have a blob: a peer, or a place like the Hub.

    Attributes:
        name: What it is called when it is to blame.
    """

    @property
    def name(self) -> str:
        """What it is called when it is to blame."""

    async def open(self, down: Throttle) -> Ranges:
        """Open a way to it.

        Raises:
            NetworkError: It cannot be reached.
        """

    def dropped(self, error: Failure) -> None:
        """Hear that it failed, and is not asked again for this file."""


@dataclass(frozen=True)
class _PeerSource:
    """A peer that may have it."""

    streams: Streams
    name: str

    async def open(self, down: Throttle) -> BlobStream:
        return await BlobStream.open(self.streams, self.name, down)

    def dropped(self, error: Failure) -> None:
        """Peers are judged anew for every file."""


async def fetch_blob(
    streams: Streams,
    digest: str,
    providers: Sequence[str],
    limit_bytes: int = LIMITS.blob_bytes,
    *,
    down: Throttle = UNLIMITED,
    stall_s: float = STALL_S,
    courtesy: Courtesy | None = None,
) -> bytes:
    """Fetch a small blob whole, from the first provider that gives the right bytes.

    The next provider is asked when one has failed, or when none has begun to answer in `HEDGE_S`: a slow line is not
    shared by several copies.

    Args:
        streams: Our host.
        digest: Which blob.
        providers: Peer ids that may have it, best first.
        limit_bytes: Nothing larger is accepted.
        down: What everything fetched has to pass.
        stall_s: Longest time for 256 KiB.
        courtesy: What is remembered from one blob to the next; None: nothing.

    Raises:
        UnavailableError: Nobody gave it; says who was tried and why each failed.
        DigestError: Nobody gave it, and somebody sent other bytes under its name.
    """
    courtesy = courtesy or Courtesy()

    async def ask(peer_id: str) -> bytes:
        with courtesy.minding(peer_id):
            async with courtesy.room(peer_id), await BlobStream.open(streams, peer_id, down) as stream:
                begun = functools.partial(answering.add, peer_id)
                data = bytes(await stream.read(digest, 0, limit_bytes + 1, stall_s, begun))
        _check_blob(data, digest, limit_bytes, peer_id)
        return data

    failures: dict[str, Failure] = {}
    answering: set[str] = set()
    left, asked = deque(courtesy.choose(_others(streams, providers))), dict[asyncio.Task[bytes], str]()
    try:
        while left or asked:
            if left and not answering:
                peer_id = left.popleft()
                asked[asyncio.create_task(ask(peer_id))] = peer_id
            done, _ = await asyncio.wait(asked, timeout=HEDGE_S if left else None, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                peer_id = asked.pop(task)
                answering.discard(peer_id)
                try:
                    return task.result()
                except (NetworkError, DigestError) as error:
                    failures[peer_id] = _drop(_PeerSource(streams, peer_id), error)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    raise _not_fetched(digest, failures)


async def fetch_file(
    streams: Streams,
    entry: FileEntry,
    providers: Sequence[str],
    partial: Path,
    progress: Callable[[int], None] = lambda _: None,
    *,
    down: Throttle = UNLIMITED,
    stall_s: float = STALL_S,
    mirrors: Sequence[Source] = (),
) -> str:
    """Fetch a file from peers and mirrors at once; see `fetch_from`.

    Args:
        streams: Our host.
        entry: The file, from a verified manifest.
        providers: Peer ids that may have it.
        partial: Where to write; its folder exists.
        progress: Called with the number of bytes newly known to be right, resumed ones included.
        down: What everything fetched has to pass.
        stall_s: Longest time for 256 KiB.
        mirrors: Other sources that may have it.
    """
    peers = [_PeerSource(streams, peer_id) for peer_id in _others(streams, providers)]
    return await fetch_from([*peers, *mirrors], entry, partial, progress, down=down, stall_s=stall_s)


async def fetch_from(
    sources: Sequence[Source],
    entry: FileEntry,
    partial: Path,
    progress: Callable[[int], None] = lambda _: None,
    *,
    down: Throttle = UNLIMITED,
    stall_s: float = STALL_S,
) -> str:
    """Fetch a file piece by piece, from all sources at once, into `partial`, and make it durable.

    A fast source takes more pieces than a slow one. Pieces already right in `partial` are kept. On success `partial` is
    the entry's file: every piece was hashed, and the whole too, as it came; and it is fsynced. On failure what is right
    stays for the next attempt.

    Args:
        sources: Who may have it.
        entry: The file, from a verified manifest.
        partial: Where to write; its folder exists.
        progress: Called with the number of bytes newly known to be right, resumed ones included.
        down: What everything fetched has to pass.
        stall_s: Longest time for 256 KiB.

    Returns:
        The digest of the whole file, which is the entry's.

    Raises:
        UnavailableError: Pieces are missing and nobody gives them; says who was tried and why each failed.
        DigestError: Pieces are missing and whoever gave them sent other bytes; or all are right and the whole is not.
        ResourceError: The disk is full.
    """
    descriptor = _open(partial, entry)
    try:
        landing = Landing(descriptor, entry)
        present = await asyncio.to_thread(landing.resume)
        progress(sum(entry.span(piece)[1] for piece in present))
        missing = deque(piece for piece in range(len(entry.pieces)) if piece not in present)
        job = _Job(entry, landing, missing, progress, down, stall_s)
        await job.run(sources)
        await asyncio.to_thread(landing.finish)
    except OSError as error:
        raise _disk_error(error, entry) from error
    finally:
        os.close(descriptor)
    return entry.sha256


@dataclass
class _Job:
    """One file on its way: pieces nobody has yet, sources that failed."""

    entry: FileEntry
    landing: Landing
    missing: deque[int]
    progress: Callable[[int], None]
    down: Throttle
    stall_s: float
    failures: dict[str, Failure] = field(default_factory=dict)
    busy: dict[str, Failure] = field(default_factory=dict)
    active: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, sources: Sequence[Source]) -> None:
        room = asyncio.Semaphore(self.down.streams(_STREAMS))
        try:
            async with asyncio.TaskGroup() as group:
                for source in [*sources] * _STREAMS_PER_SOURCE:
                    group.create_task(self._drain(source, room))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        if self.missing:
            raise _not_fetched(self.entry.sha256, self.busy | self.failures, self.entry.name)

    async def _drain(self, source: Source, room: asyncio.Semaphore) -> None:
        """Fetch pieces from one source until none is missing or the source fails."""
        try:
            for _ in range(_MOST_RESTS):
                try:
                    async with room:
                        await self._take_turns(source)
                    break
                except LaterError as error:
                    logger.warning("%s: %s", source.name, error)
                    self.busy[source.name] = error
                    await self._rest(error.wait_s)
        except BusyError as error:
            self.busy[source.name] = error  # this stream was one too many; the source's others go on
        except NetworkError as error:
            if source.name not in self.failures:
                self.failures[source.name] = _drop(source, error)
        except DigestError as error:
            self.failures[source.name] = _drop(source, error)

    async def _take_turns(self, source: Source) -> None:
        async with contextlib.AsyncExitStack() as open_ways:
            way: Ranges | None = None
            while (piece := await self._next(source.name)) is not None:
                with self._taken(piece):
                    if way is None:
                        way = await open_ways.enter_async_context(await source.open(self.down))
                    await self._fetch(way, piece, source.name)

    async def _rest(self, wait_s: float) -> None:
        """Leave a source alone for a while, or until the others have done all there was."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + wait_s
        while (left_s := until_s - loop.time()) > 0 and (self.missing or self.active):
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), left_s)

    async def _next(self, name: str) -> int | None:
        """A missing piece. While others are still fetching, wait: theirs may come back."""
        while not self.missing and self.active and name not in self.failures:
            self.changed.clear()
            await self.changed.wait()
        return self.missing.popleft() if self.missing and name not in self.failures else None

    @contextlib.contextmanager
    def _taken(self, piece: int) -> Iterator[None]:
        """Keep a piece from others; if it does not arrive they may have it."""
        self.active += 1
        try:
            yield
        except BaseException:
            self.missing.append(piece)
            raise
        finally:
            self.active -= 1
            self.changed.set()

    async def _fetch(self, way: Ranges, piece: int, name: str) -> None:
        offset, length = self.entry.span(piece)
        data = await way.read(self.entry.sha256, offset, length, self.stall_s)
        await asyncio.to_thread(self.landing.keep, piece, data, name)
        self.progress(length)


def _check_blob(data: bytes, digest: str, limit_bytes: int, peer_id: str) -> None:
    if len(data) > limit_bytes:
        raise NetworkError(f"{peer_id} offers too big a blob", f"the limit here is {limit_bytes} bytes")
    digests.check(data, digest, f"what {peer_id} sent")


def _others(streams: Streams, providers: Sequence[str]) -> list[str]:
    return [peer_id for peer_id in dict.fromkeys(providers) if peer_id != streams.peer_id]


def _drop(source: Source, error: Failure) -> Failure:
    if isinstance(error, DigestError):
        logger.warning("dropped %s: %s", source.name, error)
    elif not isinstance(error, NotFoundError):
        logger.info("dropped %s: %s", source.name, error)
    source.dropped(error)
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


def _disk_error(error: OSError, entry: FileEntry) -> ResourceError:
    if error.errno == errno.ENOSPC:
        return ResourceError(
            f"the disk is full: {entry.name} needs {entry.size} bytes", str(error), "make room, resume"
        )
    return ResourceError(f"{entry.name} could not be written", str(error))
