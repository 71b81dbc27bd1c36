"""A world of discrete events: virtual time, one seeded random source, and a network that delays, loses and splits.

The network stands for a DHT: records lie in slots on honest replicas that validate what they are given, and readers
validate what they are told, because a replica may lie. `RealNetwork` carries signed envelopes through the real
`check_record` and `RecordBook`; `PlainNetwork` carries bare payloads, for crowds without anybody hostile.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from paris.protocol import validation
from paris.protocol.book import RecordBook
from paris.protocol.errors import ParisError, SignatureError
from paris.protocol.limits import LIMITS
from paris.protocol.records import Record, record_key

START_S = 1_800_000_000.0
MEDIAN_LATENCY_S, P99_LATENCY_S = 0.08, 3.0
_SPREAD = math.log(P99_LATENCY_S / MEDIAN_LATENCY_S) / 2.326  # the 99th percentile of a normal distribution
LOOKUP_BYTES, RECORD_BYTES, REPLICAS = 4_000, 900, 10
"""What one walk through a DHT costs (some ten answers with peers nearer by), one signed record, copies of a record."""
ANSWERED = 2 * LIMITS.signers_per_slot
"""Entries of one replica's answer that a reader looks at, as `paris.protocol.transport.guard` does."""

slot_key = lru_cache(maxsize=4096)(record_key)


class World:
    """Virtual time and what happens in it.

    Attributes:
        now_s: Virtual UNIX seconds, the true time; peers have clocks of their own.
        rng: The only source of randomness.
    """

    def __init__(self, seed: int) -> None:
        self.now_s = START_S
        self.rng = random.Random(seed)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def after(self, delay_s: float, action: Callable[[], None]) -> None:
        """Let something happen later; at one moment, things happen in the order they were asked for."""
        heapq.heappush(self._queue, (self.now_s + delay_s, next(self._order), action))

    def latency_s(self) -> float:
        """How long a message is under way."""
        return self.rng.lognormvariate(math.log(MEDIAN_LATENCY_S), _SPREAD)

    def events(self, until_s: float) -> Iterator[None]:
        """Let things happen one by one until the queue is empty or a moment has come."""
        while self._queue and self._queue[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(self._queue)
            action()
            yield


@dataclass(frozen=True)
class Partition:
    """For a while, peers of two groups do not hear of each other; what they published arrives when it heals."""

    start_s: float = math.inf
    end_s: float = math.inf
    groups: tuple[int, ...] = ()

    def group(self, reader: int) -> int:
        return self.groups[reader] if self.groups else 0

    def delay_s(self, now_s: float) -> float:
        """How long what is said now takes longer to get across."""
        return self.end_s - now_s if self.start_s <= now_s < self.end_s else 0.0


@dataclass
class Network:
    """What both networks share: counting, losing, arriving twice and late.

    Attributes:
        loss: Probability that one read misses one author's record.
        accepted: Told (who, key, record, envelope) whenever somebody takes a record for true.
    """

    world: World
    loss: float = 0.0
    partition: Partition = field(default_factory=Partition)
    accepted: Callable[[Any, str, Record, bytes], None] = lambda *_: None

    def _deliver(self, author: int, arrive: Callable[[int], None]) -> None:
        """A message reaches both sides, late, in any order, and now and then twice."""
        rng, split = self.world.rng, self.partition
        for group in (0, 1) if split.groups else (0,):
            apart_s = split.delay_s(self.world.now_s) if group != split.group(author) else 0.0
            for _ in range(2 if rng.random() < 0.1 else 1):
                self.world.after(apart_s + self.world.latency_s(), lambda group=group: arrive(group))


class PlainNetwork(Network):
    """Bare payloads in slots that everybody shares: newest by sequence number, no more signers than a slot holds."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._slots: dict[tuple[str, str], dict[str, Record]] = {}
        self._listed: dict[tuple[str, str], tuple[float, list[Record]]] = {}

    def publish(self, record: Record, author: int, _signed: Callable[[], bytes]) -> None:
        self._deliver(author, lambda _group: self._arrive(record))

    def _arrive(self, record: Record) -> None:
        slot = self._slots.setdefault((record.kind, record.slot), {})
        self._listed.pop((record.kind, record.slot), None)
        if record.signer not in slot and len(slot) >= LIMITS.signers_per_slot:
            gone = [name for name, known in slot.items() if known.exp <= self.world.now_s]
            if not gone:
                return
            del slot[gone[0]]
        if record.signer not in slot or slot[record.signer].seq < record.seq:
            slot[record.signer] = record

    def read(self, kind: str, unit: str, reader: Any) -> list[Record]:
        """What lies in a slot; now and then one record of it is missed."""
        found = self._live(kind, unit)
        reader.bytes_read += LOOKUP_BYTES + RECORD_BYTES * len(found)
        rng = self.world.rng
        if found and rng.random() < self.loss * len(found):
            missed = rng.randrange(len(found))
            return found[:missed] + found[missed + 1 :]
        return found

    def _live(self, kind: str, unit: str) -> list[Record]:
        """The slot's live records, listed anew only when one came or ran out."""
        until_s, found = self._listed.get((kind, unit), (0.0, []))
        if self.world.now_s >= until_s:
            slot = self._slots.get((kind, unit), {}).values()
            found = [record for record in slot if record.exp > self.world.now_s]
            until_s = min((record.exp for record in found), default=math.inf)
            self._listed[kind, unit] = until_s, found
        return found


class RealNetwork(Network):
    """Signed envelopes; replicas and readers alike believe only what the real validator and record book let pass.

    Attributes:
        check: The validator; tests switch it off to see that somebody notices.
    """

    check = staticmethod(validation.check_record)

    def __init__(self, *args: Any, rules: dict[str, validation.RunRules], **options: Any) -> None:
        super().__init__(*args, **options)
        self.rules = rules
        self.replicas = [RecordBook(rules=rules), RecordBook(rules=rules)]
        self._lies: dict[str, list[bytes]] = {}
        self._checked: dict[bytes, validation.Received | SignatureError] = {}

    def publish(self, record: Record, author: int, signed: Callable[[], bytes]) -> None:
        data = signed()
        self._deliver(author, lambda group: self.offer(self.replicas[group], data, self.world.now_s))

    def put(self, data: bytes, author: int) -> None:
        """Give bytes of any making to the replicas."""
        self._deliver(author, lambda group: self.offer(self.replicas[group], data, self.world.now_s))

    def lie(self, key: str, data: bytes) -> None:
        """Let a hostile replica answer every reader of a slot with these bytes too."""
        self._lies.setdefault(key, []).append(data)

    def offer(self, book: RecordBook, data: bytes, now_s: float) -> bool:
        try:
            received = self._received(data, now_s)
            book.offer(received, now_s)
        except ParisError:
            return False
        self.accepted(book, received.key, received.record, data)
        return True

    def _received(self, data: bytes, now_s: float) -> validation.Received:
        """What the validator says: all but the time of it is the same for everybody, and asked for once."""
        known = self._checked.get(data)
        if isinstance(known, ParisError):
            raise known
        if known is None:
            try:
                known = self._checked[data] = self.check(data, now_s, self.rules)
            except SignatureError as error:
                self._checked[data] = error
                raise
        validation._check_times(known.record, now_s)
        return known

    def read(self, kind: str, unit: str, reader: Any) -> list[Record]:
        """What one peer finds in a slot, and what it remembers of it, by its own clock and book."""
        key, rng = slot_key(kind, reader.run, unit), self.world.rng
        replica = self.replicas[self.partition.group(reader.number)]
        answer = [known.envelope for known in replica.slot(key, self.world.now_s)]
        told = [data for data in answer if rng.random() >= self.loss] + self._lies.get(key, [])[-ANSWERED:]
        reader.bytes_read += LOOKUP_BYTES + sum(map(len, told))
        for data in told[:ANSWERED]:
            if data not in reader.offered:
                reader.offered.add(data)
                self.offer(reader.book, data, reader.clock_s)
        return [known.record for known in reader.book.slot(key, reader.clock_s)]
