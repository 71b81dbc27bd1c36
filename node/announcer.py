"""Keeps a node's own records alive in the DHT: each is announced again at a third of its life, or when it changed."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from paris.protocol import envelope
from paris.protocol.errors import NetworkError, RecordError, ResourceError
from paris.protocol.identity import Identity
from paris.protocol.limits import LIMITS
from paris.protocol.records import Record

log = logging.getLogger(__name__)

LIFE_ROOM_S = 60
Fields = Callable[[], dict[str, Any]]


@dataclass
class _Standing:
    """One record this node wants to be found: how to make it and when it is due."""

    model: type[Record]
    fields: Fields
    life_s: int
    due_s: float = 0.0
    seq: int = 0
    iat: int = 0
    exp: int = 0


class Announcer:
    """The records this node stands behind.

    Contract: sequence numbers and times of one record only grow, also across restarts (they start from the clock), and
    when the wall clock jumps back: what others hold stays replaceable, and no lease lapses. A record that could not
    be announced (nobody there, a slot or the disk that is full) stays due and is tried again at the next `flush`;
    training never waits for it.

    Args:
        run: Run id.
        identity: Who signs.
        publish: Puts a signed record into the network.
        clock: UNIX seconds, the wall clock.
        steady: Seconds by a clock that never goes back, for what is due; None: the wall clock.
        credentials: By which the identity acts under another name, as records carry them.
    """

    def __init__(
        self,
        run: str,
        identity: Identity,
        publish: Callable[[bytes], Awaitable[object]],
        clock: Callable[[], float],
        steady: Callable[[], float] | None = None,
        credentials: Sequence[dict[str, Any]] = (),
    ) -> None:
        self._run, self._identity, self._publish, self._clock = run, identity, publish, clock
        self._steady, self._credentials = steady or clock, list(credentials)
        self._reached: tuple[float, float] = (clock(), self._steady())
        self._standing: dict[tuple[str, str], _Standing] = {}
        self._spent: dict[tuple[str, str], _Standing] = {}

    async def keep(self, kind: str, slot: str, model: type[Record], life_s: int, fields: Fields) -> bool:
        """Announce a record now and again until `drop`; return whether the network took it now (else it stays due)."""
        standing = self._spent.setdefault((kind, slot), _Standing(model, fields, life_s))
        standing.fields, standing.life_s = fields, life_s
        self._standing[kind, slot] = standing
        return await self._announce(kind, standing)

    def standing(self, kind: str, slot: str) -> bool:
        """Whether this node stands behind a record."""
        return (kind, slot) in self._standing

    def sequence(self, kind: str, slot: str) -> int:
        """The sequence number a record was last announced under."""
        return self._standing[kind, slot].seq

    def drop(self, kind: str, slot: str) -> None:
        """Let a record run out."""
        self._standing.pop((kind, slot), None)

    def hurry(self) -> None:
        """Make everything due now: whoever is there now may have heard nothing of it."""
        for standing in self._standing.values():
            standing.due_s = 0.0

    async def flush(self) -> None:
        """Announce what is due."""
        for (kind, slot), standing in list(self._standing.items()):
            if self._steady() >= standing.due_s and self.standing(kind, slot):
                await self._announce(kind, standing)

    def _now_s(self) -> float:
        """The wall clock; but where it jumped back, time goes on from where it was, as it does for everybody else."""
        before_s, at_s = self._reached
        steady_s = self._steady()
        self._reached = max(self._clock(), before_s + steady_s - at_s), steady_s
        return self._reached[0]

    async def _announce(self, kind: str, standing: _Standing) -> bool:
        now = int(self._now_s())
        # The rest of the allowed life is room for expiries that must grow although the clock has not moved.
        life_s = min(standing.life_s, LIMITS.life_s[kind] - LIFE_ROOM_S)
        standing.seq, standing.iat = max(standing.seq + 1, now), max(standing.iat, now)
        standing.exp = max(standing.exp + 1, now + life_s)
        own = {"run": self._run, "signer": self._identity.peer_id, "seq": standing.seq}
        times = {"iat": standing.iat, "exp": standing.exp, "credentials": self._credentials}
        record = standing.model.parse({**own, **times, **standing.fields()})
        try:
            await self._publish(envelope.sign(kind, record, self._identity))
        except (NetworkError, RecordError, ResourceError) as error:
            log.warning("could not announce a %s, will try again: %s", kind, error)
            return False
        standing.due_s = self._steady() + standing.life_s / 3 * random.uniform(0.8, 1.0)
        return True
