"""Records over a libp2p stream, protocol `/paris/record/1.0.0`. Byte by byte in docs/protocol.md.

For whoever is no member of the DHT: a node looks for it, and hands over the signed envelopes as they are. It can hide
records and tell a wrong time; it can make up nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

from paris.protocol.digests import is_digest
from paris.protocol.errors import NetworkError
from paris.protocol.limits import LIMITS
from paris.protocol.records import RECORD_KINDS
from paris.protocol.skew import MOST_ASKED, Skew
from paris.protocol.transport.streams import (
    LENGTH_BYTES,
    STALL_S,
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

PROTOCOL = "/paris/record/1.0.0"
MOST_SLOTS = 16
"""Most slots one request may ask for."""
_STREAMS = 64
_LOOKUPS = 16
_SLOT_CHARS = 64
_TIME_BYTES, _COUNT_BYTES = 8, 4
_TIME_PATIENCE_S = 3.0


class RecordSource(Protocol):
    """Where a server finds records: the DHT, and what it remembers itself."""

    async def envelopes(self, kind: str, run: str, slot: str) -> Sequence[bytes]:
        """Signed envelopes of the newest record of every signer in a slot, at most `LIMITS.signers_per_slot`."""


class RecordServer(StreamServer):
    """Answers requests for records. Make one with `await serve(swarm)`.

    Args:
        source: Where records are.
        clock: UNIX seconds.
    """

    def __init__(self, source: RecordSource, clock: Callable[[], float] = time.time) -> None:
        super().__init__(_STREAMS)
        self._source, self._clock = source, clock
        self._lookups = asyncio.Semaphore(_LOOKUPS)

    async def answer(self, fields: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        """Send the records of every slot that is asked for; with nothing asked, only the time."""
        asked = _asked(fields)
        if asked is None:
            self.refuse(Status.BAD_REQUEST, writer)
            return False
        kind, run, slots = asked
        found = await asyncio.gather(*(self._look(kind, run, slot) for slot in dict.fromkeys(slots)))
        envelopes = [envelope for slot in found for envelope in slot]
        self._head(Status.OK, len(envelopes), writer)
        for envelope in envelopes:
            writer.write(len(envelope).to_bytes(LENGTH_BYTES, "big") + envelope)
        async with asyncio.timeout(STALL_S):
            await writer.drain()
        return True

    def refuse(self, status: Status, writer: asyncio.StreamWriter) -> None:
        """Answer with no records."""
        self._head(status, 0, writer)

    def _head(self, status: Status, count: int, writer: asyncio.StreamWriter) -> None:
        now_ms = int(self._clock() * 1000)
        head = (status.to_bytes(1, "big"), now_ms.to_bytes(_TIME_BYTES, "big"), count.to_bytes(_COUNT_BYTES, "big"))
        writer.write(b"".join(head))

    async def _look(self, kind: str, run: str, slot: str) -> list[bytes]:
        try:
            async with self._lookups:
                return list(await self._source.envelopes(kind, run, slot))[: LIMITS.signers_per_slot]
        except NetworkError as error:
            logger.warning("no records for a client: %s", error)
            return []


async def serve(swarm: Swarm) -> RecordServer:
    """Answer requests for records for as long as the swarm lives."""
    server = RecordServer(swarm)
    await swarm.p2p.add_binary_stream_handler(PROTOCOL, server.handle)
    return server


class RecordStream:
    """A client's stream to one node, for any number of questions. Use as `async with await RecordStream.open(...)`."""

    def __init__(self, peer_id: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peer_id, self._reader, self._writer = peer_id, reader, writer

    @classmethod
    async def open(cls, streams: Streams, peer_id: str) -> Self:
        """Open a stream.

        Raises:
            NetworkError: The peer cannot be reached or serves no records.
        """
        return cls(peer_id, *await streams.stream(peer_id, PROTOCOL))

    async def ask(self, kind: str, run: str, slots: Sequence[str], patience_s: float = STALL_S) -> list[bytes]:
        """Ask for records. What comes is not checked here: that is for `paris.protocol.validation`.

        Args:
            kind: Record kind.
            run: Run id.
            slots: Units, at most `MOST_SLOTS`; an empty text for `peer` and `head`.
            patience_s: Longest time for the whole answer.

        Raises:
            BusyError: The node has no stream to spare.
            NetworkError: It stalls, answers nonsense, too much, or less than it announced.
        """
        with blaming(self.peer_id, f"its answer was not complete after {patience_s:g} s"):
            async with asyncio.timeout(patience_s):
                _, count = await self._begin({"kind": kind, "run": run, "slots": list(slots)})
                if count > (most := LIMITS.signers_per_slot * len(slots)):
                    raise NetworkError(f"{self.peer_id} offers {count} records", f"at most {most} fit what was asked")
                return [await self._envelope() for _ in range(count)]

    async def time_s(self, patience_s: float = STALL_S) -> float:
        """What time it is for the node, UNIX seconds.

        Raises:
            NetworkError: It does not answer, or nonsense.
        """
        with blaming(self.peer_id, f"its answer was not complete after {patience_s:g} s"):
            async with asyncio.timeout(patience_s):
                return (await self._begin({}))[0]

    async def _begin(self, fields: dict[str, Any]) -> tuple[float, int]:
        """Ask, and read the node's time and the number of records that follow."""
        self._writer.write(request(fields))
        head = await self._reader.readexactly(1 + _TIME_BYTES + _COUNT_BYTES)
        check_status(head[0], self.peer_id)
        return int.from_bytes(head[1 : 1 + _TIME_BYTES], "big") / 1000, int.from_bytes(head[1 + _TIME_BYTES :], "big")

    async def _envelope(self) -> bytes:
        size = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "big")
        if size > LIMITS.record_bytes:
            why = f"the limit is {LIMITS.record_bytes} bytes"
            raise NetworkError(f"{self.peer_id} offers a record of {size} bytes", why)
        return await self._reader.readexactly(size)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()


async def skew_beside(streams: Streams, peer_ids: Sequence[str], clock: Callable[[], float] = time.time) -> Skew | None:
    """Compare our clock with those of up to `MOST_ASKED` nodes; None where none told its time."""
    offsets = await asyncio.gather(*(_offset_s(streams, peer_id, clock) for peer_id in peer_ids[:MOST_ASKED]))
    return Skew.among([offset for offset in offsets if offset is not None])


async def _offset_s(streams: Streams, peer_id: str, clock: Callable[[], float]) -> float | None:
    """Their clock minus ours at the middle of the shorter of two round trips, seconds; None without an answer."""
    trips = []
    try:
        async with await RecordStream.open(streams, peer_id) as stream:
            for _ in range(2):
                before_s = clock()
                theirs_s = await stream.time_s(_TIME_PATIENCE_S)
                after_s = clock()
                trips.append((after_s - before_s, theirs_s - (before_s + after_s) / 2))
    except NetworkError:
        return None
    return min(trips)[1]


def _asked(fields: dict[str, Any]) -> tuple[str, str, list[str]] | None:
    """Kind, run and slots a request asks for; no slots where only the time is asked for; None if it is nonsense."""
    if not fields:
        return "", "", []
    kind, run, slots = (fields.get(name) for name in ("kind", "run", "slots"))
    if len(fields) != 3 or kind not in [*RECORD_KINDS] or not is_digest(run) or not isinstance(slots, list):
        return None
    if not 1 <= len(slots) <= MOST_SLOTS or not all(isinstance(s, str) and len(s) <= _SLOT_CHARS for s in slots):
        return None
    return str(kind), str(run), slots
