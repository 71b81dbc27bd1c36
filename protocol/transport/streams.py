"""What the stream protocols share: opening a stream, requests, answers' first byte, and reading without copies.

Knows neither hivemind nor py-libp2p: a client needs no more of its host than `Streams`, and a server no more than
readers and writers.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections import Counter
from collections.abc import Iterator
from typing import Any, Protocol, cast

from paris.protocol import strict_json
from paris.protocol.errors import NetworkError, ParisError
from paris.protocol.limits import LIMITS

STALL_S = 20.0
"""A peer that moves less than one write (256 KiB) in this time has stalled."""
IDLE_S = 60.0
"""A server closes a stream that asks for nothing, or takes no MiB, for this long."""
LENGTH_BYTES = 4
_STREAMS_PER_PEER = 8
_STREAMS = 64


class Streams(Protocol):
    """What a client needs of its host: its own name, and streams to others by theirs."""

    @property
    def peer_id(self) -> str:
        """Our own peer id."""

    async def stream(self, peer_id: str, protocol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a raw stream.

        Raises:
            NetworkError: The peer cannot be reached or does not speak the protocol.
        """


class Status(enum.IntEnum):
    """First byte of an answer."""

    OK = 0
    NOT_FOUND = 1
    BAD_REQUEST = 2
    BUSY = 3


class BusyError(NetworkError):
    """A peer has no stream to spare now. No blame."""


class StalledError(NetworkError):
    """A peer took a request, or a stream, and then moved too little."""


class StreamServer:
    """Reads requests, stream by stream; what the answers are, subclasses say.

    Args:
        streams: Most streams answered at once.
    """

    def __init__(self, streams: int = _STREAMS) -> None:
        self._streams = streams
        self._open: Counter[Any] = Counter()

    async def handle(self, info: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one stream until the peer closes it, is idle, or asks nonsense."""
        peer = info.peer_id
        busy = self._open[peer] >= _STREAMS_PER_PEER or self._open.total() >= self._streams
        self._open[peer] += 1
        try:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, TimeoutError):
                while await self._serve(reader, writer, busy=busy):
                    pass
        finally:
            self._open[peer] -= 1
            self._open += Counter()  # forgets peers with nothing open
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, busy: bool) -> bool:
        fields = await _read_request(reader)
        if fields is None or busy:
            self.refuse(Status.BUSY if busy else Status.BAD_REQUEST, writer)
            return False
        return await self.answer(fields, writer)

    async def answer(self, fields: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """Answer one request; False ends the stream."""
        raise NotImplementedError

    def refuse(self, status: Status, writer: asyncio.StreamWriter) -> None:
        """Write an answer that is nothing but a status."""
        raise NotImplementedError


def request(fields: dict[str, Any]) -> bytes:
    """A request as it goes over a stream: its length, then JSON."""
    data = strict_json.dumps(fields)
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


async def _read_request(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next request; None if it is nonsense."""
    async with asyncio.timeout(IDLE_S):
        size = int.from_bytes(await reader.readexactly(LENGTH_BYTES), "big")
        if size > LIMITS.request_bytes:
            return None
        data = await reader.readexactly(size)
    try:
        return strict_json.loads(data, LIMITS.request_bytes)
    except ParisError:
        return None


def check_status(status: int, peer_id: str) -> None:
    """Let an answer pass that says ok.

    Raises:
        BusyError: The peer has no stream to spare.
        NetworkError: It refuses, or its answer is none of ours.
    """
    if status == Status.OK:
        return
    meaning = {int(known): known.name.lower() for known in Status}.get(status, "nothing we know")
    kind = BusyError if status == Status.BUSY else NetworkError
    raise kind(f"{peer_id} refused", f"it answered {status}: {meaning}")


@contextlib.contextmanager
def blaming(peer_id: str, stalled: str) -> Iterator[None]:
    """Say whose stream it was that broke.

    Args:
        peer_id: Whose.
        stalled: Why we think so where it stalled.

    Raises:
        StalledError: It took too long inside the block.
        NetworkError: Whatever else went wrong with the stream there.
    """
    try:
        yield
    except asyncio.IncompleteReadError as error:
        missing = (error.expected or 0) - len(error.partial)
        raise NetworkError(f"{peer_id} cut its answer short", f"the stream ended {missing} bytes early") from error
    except TimeoutError as error:
        raise StalledError(f"{peer_id} stalled", stalled) from error
    except ConnectionError as error:
        raise NetworkError(f"the stream to {peer_id} broke", str(error)) from error


class Inflow(asyncio.BufferedProtocol):
    """The incoming half of a stream, straight from the socket into memory the caller owns.

    Takes the transport over from a reader on which nothing was read yet: `asyncio.StreamReader` copies every byte twice
    and wakes its task at every arrival. While nobody fills anything, nothing is read, and the sender waits.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._transport = cast("asyncio.Transport", writer.transport)
        self._transport.pause_reading()
        self._transport.set_protocol(self)
        self._wanted = memoryview(b"")
        self._done: asyncio.Future[None] | None = None

    async def fill(self, view: memoryview, stall_s: float) -> None:
        """Fill `view` as bytes come.

        Raises:
            TimeoutError: Less than 256 KiB came in `stall_s` while there was more to come.
            IncompleteReadError: The stream ended before.
            ConnectionError: It broke.
        """
        if not view:
            return
        if self._transport.is_closing():
            raise ConnectionResetError("it is closed")
        self._wanted, self._done = view, asyncio.get_running_loop().create_future()
        self._transport.resume_reading()
        try:
            while not self._done.done():
                before_bytes = len(self._wanted)
                await asyncio.wait((self._done,), timeout=stall_s)
                if not self._done.done() and before_bytes - len(self._wanted) < LIMITS.write_bytes:
                    raise TimeoutError
            await self._done
        finally:
            self._transport.pause_reading()
            if self._done.done():
                self._done.exception()  # nobody else may be there to ask for it
            self._wanted, self._done = memoryview(b""), None

    def get_buffer(self, _sizehint: int) -> memoryview:
        """What is still to be filled."""
        return self._wanted

    def buffer_updated(self, nbytes: int) -> None:
        """Some of it was."""
        self._wanted = self._wanted[nbytes:]
        if not self._wanted:
            self._transport.pause_reading()
            self._settle(None)

    def eof_received(self) -> bool:
        """The peer sends no more; what was asked for will not come."""
        self._settle(asyncio.IncompleteReadError(b"", len(self._wanted)))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The stream is gone."""
        self._settle(exc or ConnectionResetError("it was closed"))

    def _settle(self, error: Exception | None) -> None:
        if self._done is None or self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)
