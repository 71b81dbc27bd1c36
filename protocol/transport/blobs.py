"""Blobs over libp2p streams, protocol `/paris/blob/1.0.0`. Byte by byte in docs/protocol.md.

A stream carries any number of requests, one after the other. A clean end of stream proves nothing: the client counts
bytes and, one layer up (`fetch`), checks digests.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self

from paris.protocol import strict_json
from paris.protocol.digests import is_digest
from paris.protocol.errors import NetworkError, ParisError
from paris.protocol.limits import LIMITS
from paris.protocol.transport.dht import Swarm

logger = logging.getLogger(__name__)

PROTOCOL = "/paris/blob/1.0.0"
STALL_S = 20.0
"""A peer that moves less than one write (256 KiB) in this time has stalled."""
_IDLE_S = 60.0
_STREAMS_PER_PEER = 8
_STREAMS = 64
_LENGTH_BYTES, _SIZE_BYTES = 4, 8


class Status(enum.IntEnum):
    """First byte of an answer."""

    OK = 0
    NOT_FOUND = 1
    BAD_REQUEST = 2
    BUSY = 3


class BlobSource(Protocol):
    """Where a server finds blobs, e.g. the local store."""

    def path(self, digest: str) -> Path | None:
        """File whose content has this digest, or None."""


class NotFoundError(NetworkError):
    """A peer does not have the blob. No blame."""


class BlobServer:
    """Answers requests for blobs. Make one with `await serve(swarm, source)`."""

    def __init__(self, source: BlobSource) -> None:
        self._source = source
        self._open: Counter[Any] = Counter()

    async def handle(self, info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one stream until the peer closes it, is idle, or asks nonsense."""
        peer = info.peer_id
        busy = self._open[peer] >= _STREAMS_PER_PEER or self._open.total() >= _STREAMS
        self._open[peer] += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
                while await self._answer(reader, writer, busy=busy):
                    pass
        finally:
            self._open[peer] -= 1
            self._open += Counter()  # forgets peers with nothing open
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, busy: bool) -> bool:
        request = await _read_request(reader)
        if request is None or busy:
            _write_header(writer, Status.BUSY if busy else Status.BAD_REQUEST, 0)
            return False
        digest, offset, length = request
        path = self._source.path(digest)
        file = _open_or_none(path) if path else None
        if file is None:
            _write_header(writer, Status.NOT_FOUND, 0)
            return True
        with file:
            size = min(length, max(0, file.seek(0, 2) - offset))
            _write_header(writer, Status.OK, size)
            return await _send(file, offset, size, writer)


async def serve(swarm: Swarm, source: BlobSource) -> BlobServer:
    """Answer requests for blobs for as long as the swarm lives."""
    server = BlobServer(source)
    await swarm.p2p.add_binary_stream_handler(PROTOCOL, server.handle)
    return server


class BlobStream:
    """A client's stream to one peer, for any number of ranges. Use as `async with await BlobStream.open(...)`."""

    def __init__(self, peer_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peer_id, self._reader, self._writer = peer_id, reader, writer
        self._buffer = bytearray()

    @classmethod
    async def open(cls, swarm: Swarm, peer_id: str) -> Self:
        """Open a stream.

        Raises:
            NetworkError: The peer cannot be reached or serves no blobs.
        """
        return cls(peer_id, *await swarm.stream(peer_id, PROTOCOL))

    async def read(self, digest: str, offset: int, length: int, stall_s: float = STALL_S) -> memoryview:
        """Read a range of a blob; shorter than asked only where the blob ends. The content is not checked here.

        What is returned lies in this stream's buffer and holds until its next read.

        Args:
            digest: Which blob.
            offset: First byte.
            length: Most bytes to answer with.
            stall_s: Longest time for 256 KiB.

        Raises:
            NotFoundError: The peer does not have it.
            NetworkError: The peer is busy, stalls, answers nonsense, too much, or less than it announced.
        """
        try:
            return await self._read(digest, offset, length, stall_s)
        except asyncio.IncompleteReadError as error:
            why = f"the stream ended {_missing(error)} bytes early"
            raise NetworkError(f"{self.peer_id} cut its answer short", why) from error
        except TimeoutError as error:
            raise NetworkError(f"{self.peer_id} stalled", f"less than 256 KiB came in {stall_s:g} s") from error
        except ConnectionError as error:
            raise NetworkError(f"the stream to {self.peer_id} broke", str(error)) from error

    async def _read(self, digest: str, offset: int, length: int, stall_s: float) -> memoryview:
        request = strict_json.dumps({"digest": digest, "length": length, "offset": offset})
        self._writer.write(len(request).to_bytes(_LENGTH_BYTES, "big") + request)
        async with asyncio.timeout(stall_s):
            await self._writer.drain()
            status = (await self._reader.readexactly(1))[0]
            size = int.from_bytes(await self._reader.readexactly(_SIZE_BYTES), "big")
        if status == Status.NOT_FOUND:
            raise NotFoundError(f"{self.peer_id} does not have it")
        if status != Status.OK:
            meaning = {int(known): known.name.lower() for known in Status}.get(status, "nothing we know")
            raise NetworkError(f"{self.peer_id} refused", f"it answered {status}: {meaning}")
        if size > length:
            raise NetworkError(f"{self.peer_id} offers {size} bytes", f"it was asked for at most {length}")
        if len(self._buffer) < size:
            self._buffer = bytearray(size)  # fresh memory for every piece would cost more than copying into it
        data = memoryview(self._buffer)[:size]
        for start in range(0, size, LIMITS.write_bytes):
            await self._fill(data[start : start + LIMITS.write_bytes], stall_s)
        return data

    async def _fill(self, view: memoryview, stall_s: float) -> None:
        """Fill `view` as bytes come; `readexactly` would copy everything twice more."""
        async with asyncio.timeout(stall_s):
            while view:
                block = await self._reader.read(len(view))
                if not block:
                    raise asyncio.IncompleteReadError(b"", len(view))
                view[: len(block)] = block
                view = view[len(block) :]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()


async def read_range(swarm: Swarm, peer_id: str, digest: str, offset: int, length: int) -> memoryview:
    """Read one range of one blob from one peer; see `BlobStream.read`. The content is not checked."""
    async with await BlobStream.open(swarm, peer_id) as stream:
        return await stream.read(digest, offset, length)


async def _read_request(reader: asyncio.StreamReader) -> tuple[str, int, int] | None:
    """Digest, offset and length of the next request; None if it is nonsense."""
    async with asyncio.timeout(_IDLE_S):
        size = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
        if size > LIMITS.request_bytes:
            return None
        data = await reader.readexactly(size)
    try:
        fields = strict_json.loads(data, LIMITS.request_bytes)
    except ParisError:
        return None
    digest, offset, length = (fields.get(name) for name in ("digest", "offset", "length"))
    if len(fields) != 3 or not is_digest(digest) or type(offset) is not int or type(length) is not int:
        return None
    return (str(digest), offset, length) if offset >= 0 and length >= 0 else None


async def _send(file: BinaryIO, offset: int, size: int, writer: asyncio.StreamWriter) -> bool:
    """Send `size` bytes; False if the file turned out shorter or the peer is gone: then the stream must end.

    The kernel moves the bytes: by way of our memory it was measured to cost half as much processor time again.
    """
    loop, end = asyncio.get_running_loop(), offset + size
    while offset < end and not writer.is_closing():
        async with asyncio.timeout(_IDLE_S):
            sent = await loop.sendfile(writer.transport, file, offset, min(end - offset, LIMITS.write_bytes))
        if not sent:
            break
        offset += sent
    return offset == end


def _open_or_none(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except OSError as error:
        logger.warning("a blob cannot be read: %s", error)
        return None


def _write_header(writer: asyncio.StreamWriter, status: Status, size: int) -> None:
    writer.write(status.to_bytes(1, "big") + size.to_bytes(_SIZE_BYTES, "big"))


def _missing(error: asyncio.IncompleteReadError) -> int:
    return (error.expected or 0) - len(error.partial)
