"""Blobs over libp2p streams, protocol `/paris/blob/1.0.0`. Byte by byte in docs/protocol.md.

A stream carries any number of requests, one after the other. A clean end of stream proves nothing: the client counts
bytes and, one layer up (`fetch`), checks digests.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, Self

from paris.protocol.digests import is_digest
from paris.protocol.errors import NetworkError
from paris.protocol.limits import LIMITS
from paris.protocol.transport.rate import UNLIMITED, Throttle
from paris.protocol.transport.streams import (
    IDLE_S,
    STALL_S,
    Inflow,
    Status,
    Streams,
    StreamServer,
    blaming,
    check_status,
    request,
)

if TYPE_CHECKING:
    from paris.protocol.transport.dht import Swarm

logger = logging.getLogger(__name__)

PROTOCOL = "/paris/blob/1.0.0"
STREAMS = 64
"""Most streams a server answers at once."""
_SIZE_BYTES = 8
_PART_BYTES = 2**20  # the kernel sends it at one go; smaller ones were measured to cost half as much time again


class BlobSource(Protocol):
    """Where a server finds blobs, e.g. the local store."""

    def path(self, digest: str) -> Path | None:
        """File whose content has this digest, or None."""


class NotFoundError(NetworkError):
    """A peer does not have the blob. No blame."""


class BlobServer(StreamServer):
    """Answers requests for blobs. Make one with `await serve(swarm, source)`.

    Args:
        source: Where blobs are.
        up: What everything sent, over all streams, has to pass.
    """

    def __init__(self, source: BlobSource, up: Throttle = UNLIMITED) -> None:
        super().__init__(up.streams(STREAMS))
        self._source, self._up = source, up

    async def answer(self, fields: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """Send the range of the blob that is asked for."""
        asked = _range(fields)
        if asked is None:
            self.refuse(Status.BAD_REQUEST, writer)
            return False
        digest, offset, length = asked
        path = self._source.path(digest)
        file = _open_or_none(path) if path else None
        if file is None:
            self.refuse(Status.NOT_FOUND, writer)
            return True
        with file:
            size = min(length, max(0, file.seek(0, 2) - offset))
            _write_header(writer, Status.OK, size)
            return await self._send(file, offset, size, writer)

    def refuse(self, status: Status, writer: asyncio.StreamWriter) -> None:
        """Answer with no bytes."""
        _write_header(writer, status, 0)

    async def _send(self, file: BinaryIO, offset: int, size: int, writer: asyncio.StreamWriter) -> bool:
        """Send `size` bytes; False if the file turned out shorter or the peer is gone: then the stream must end.

        The kernel moves the bytes: by way of our memory it was measured to cost half as much processor time again.
        """
        loop, end = asyncio.get_running_loop(), offset + size
        while offset < end and not writer.is_closing():
            part = self._up.part(min(end - offset, _PART_BYTES))
            await self._up.take(part)
            async with asyncio.timeout(IDLE_S):
                sent = await loop.sendfile(writer.transport, file, offset, part)
            if not sent:
                break
            offset += sent
        return offset == end


async def serve(swarm: Swarm, source: BlobSource, up: Throttle = UNLIMITED) -> BlobServer:
    """Answer requests for blobs for as long as the swarm lives."""
    server = BlobServer(source, up)
    await swarm.p2p.add_binary_stream_handler(PROTOCOL, server.handle)
    return server


class BlobStream:
    """A client's stream to one peer, for any number of ranges. Use as `async with await BlobStream.open(...)`."""

    def __init__(self, peer_id: str, writer: asyncio.StreamWriter, down: Throttle) -> None:
        self.peer_id, self._writer, self._down = peer_id, writer, down
        self._inflow = Inflow(writer)
        self._header = memoryview(bytearray(1 + _SIZE_BYTES))
        self._buffer = bytearray()

    @classmethod
    async def open(cls, streams: Streams, peer_id: str, down: Throttle = UNLIMITED) -> Self:
        """Open a stream.

        Args:
            streams: Our host.
            peer_id: Whom to ask.
            down: What everything fetched, over all streams, has to pass.

        Raises:
            NetworkError: The peer cannot be reached or serves no blobs.
        """
        _, writer = await streams.stream(peer_id, PROTOCOL)
        return cls(peer_id, writer, down)

    async def read(
        self,
        digest: str,
        offset: int,
        length: int,
        stall_s: float = STALL_S,
        answered: Callable[[], object] = lambda: None,
    ) -> memoryview:
        """Read a range of a blob; shorter than asked only where the blob ends. The content is not checked here.

        What is returned lies in this stream's buffer and holds until its next read.

        Args:
            digest: Which blob.
            offset: First byte.
            length: Most bytes to answer with.
            stall_s: Longest time for 256 KiB.
            answered: Called when the bytes begin to come.

        Raises:
            NotFoundError: The peer does not have it.
            BusyError: The peer has no stream to spare.
            NetworkError: The peer stalls, answers nonsense, too much, or less than it announced.
        """
        with blaming(self.peer_id, f"less than 256 KiB came in {stall_s:g} s"):
            self._writer.write(request({"digest": digest, "length": length, "offset": offset}))
            size = await self._size(length, stall_s)
            answered()
            if len(self._buffer) < size:
                self._buffer = bytearray(size)  # fresh memory for every piece would cost more than copying into it
            data = memoryview(self._buffer)[:size]
            await self._receive(data, stall_s)
            return data

    async def _size(self, length: int, stall_s: float) -> int:
        """How many bytes the answer has."""
        await self._inflow.fill(self._header, stall_s)
        status, size = self._header[0], int.from_bytes(self._header[1:], "big")
        if status == Status.NOT_FOUND:
            raise NotFoundError(f"{self.peer_id} does not have it")
        check_status(status, self.peer_id)
        if size > length:
            raise NetworkError(f"{self.peer_id} offers {size} bytes", f"it was asked for at most {length}")
        return size

    async def _receive(self, data: memoryview, stall_s: float) -> None:
        """Fill `data`, within our own limit. Time spent waiting for that is not held against the peer."""
        taken, left_s, block_bytes = 0, stall_s, 0
        while taken < len(data):
            part = self._down.part(len(data) - taken)
            await self._down.take(part)
            began_s = time.monotonic()
            await self._inflow.fill(data[taken : taken + part], left_s)
            taken, block_bytes, left_s = taken + part, block_bytes + part, left_s - (time.monotonic() - began_s)
            if block_bytes >= LIMITS.write_bytes:
                left_s, block_bytes = stall_s, 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()


def _range(fields: dict[str, Any]) -> tuple[str, int, int] | None:
    """Digest, offset and length a request asks for; None if it is nonsense."""
    digest, offset, length = (fields.get(name) for name in ("digest", "offset", "length"))
    if len(fields) != 3 or not is_digest(digest) or type(offset) is not int or type(length) is not int:
        return None
    return (str(digest), offset, length) if offset >= 0 and length >= 0 else None


def _open_or_none(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except OSError as error:
        logger.warning("a blob cannot be read: %s", error)
        return None


def _write_header(writer: asyncio.StreamWriter, status: Status, size: int) -> None:
    writer.write(status.to_bytes(1, "big") + size.to_bytes(_SIZE_BYTES, "big"))
