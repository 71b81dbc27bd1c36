"""A world of discrete events: virtual time, one seeded random source, and a network that delays, hides and splits."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

START_S = 1_800_000_000.0
MEDIAN_LATENCY_S, P99_LATENCY_S = 0.08, 3.0
_SPREAD = math.log(P99_LATENCY_S / MEDIAN_LATENCY_S) / 2.326  # the 99th percentile of a normal distribution


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

    def events(self, until_s: float) -> Iterator[None]:
        """Let things happen one by one until the queue is empty or a moment has come."""
        while self._queue and self._queue[0][0] <= until_s:
            self.now_s, _, action = heapq.heappop(self._queue)
            action()
            yield


@dataclass(frozen=True)
class Partition:
    """For a while, peers of different groups do not see what the others publish from its start on."""

    start_s: float
    end_s: float
    groups: tuple[int, ...]

    def hides(self, version: Version, reader: int, now_s: float) -> bool:
        split = self.groups[reader] != self.groups[version.author]
        return split and self.start_s <= version.published_s and self.start_s <= now_s < self.end_s


@dataclass(frozen=True)
class Version:
    """One record as published by one peer at one moment."""

    author: int
    published_s: float
    visible_s: float
    record: Any


@dataclass
class Network:
    """Records by slot and author. A read may miss any record, and finds the newest version that has arrived.

    Attributes:
        loss: Probability that one read misses one author's record.
        published: How many records were ever published.
    """

    world: World
    loss: float
    partitions: tuple[Partition, ...] = ()
    published: int = 0
    _slots: dict[tuple[str, str], dict[int, list[Version]]] = field(default_factory=dict)

    def publish(self, kind: str, unit: str, author: int, record: Any) -> None:
        """Put a record into the network; it arrives after a random latency, so versions may overtake each other."""
        now_s = self.world.now_s
        latency_s = self.world.rng.lognormvariate(math.log(MEDIAN_LATENCY_S), _SPREAD)
        versions = self._slots.setdefault((kind, unit), {}).setdefault(author, [])
        versions.append(Version(author, now_s, now_s + latency_s, record))
        del versions[:-8]
        self.published += 1

    def read(self, kind: str, unit: str, reader: int) -> list[Any]:
        """What one peer finds in a slot now: at most one record an author, the newest by order of publication."""
        found = []
        for versions in self._slots.get((kind, unit), {}).values():
            arrived = [version for version in versions if self._arrived(version, reader)]
            if arrived and self.world.rng.random() >= self.loss:
                found.append(arrived[-1].record)
        return found

    def newest(self, kind: str, unit: str) -> list[Any]:
        """Every author's newest record, arrived or not: for the observer outside this world."""
        return [versions[-1].record for versions in self._slots.get((kind, unit), {}).values()]

    def _arrived(self, version: Version, reader: int) -> bool:
        now_s = self.world.now_s
        return version.visible_s <= now_s and not any(split.hides(version, reader, now_s) for split in self.partitions)
