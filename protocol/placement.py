"""Who looks after what, by hashing: peers agree without talking, spread evenly, and few things ever move."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from paris.protocol.digests import hex_of

WATCHERS_WANTED = 2
FEWEST_WATCHED = 8


def keepers(run: str, unit: str, peers: Iterable[str], replicas: int) -> tuple[str, ...]:
    """The peers that should hold copies of a unit's newest checkpoint, best first.

    Each peer's score is SHA-256 over run, unit and peer id, joined by zero bytes; the highest scores keep. A peer
    joining or leaving changes only the sets it enters or leaves (Thaler & Ravishankar 1998).

    Args:
        run: Run id.
        unit: The unit.
        peers: Candidates, in any order, without the peer that trains the unit.
        replicas: How many copies the genesis asks for.
    """
    return tuple(sorted(set(peers), key=lambda peer: _hash(run, unit, peer), reverse=True)[:replicas])


def preference(run: str, peer: str, units: Iterable[str]) -> tuple[str, ...]:
    """The order a peer tries units in: by SHA-256 over run, peer id and unit, joined by zero bytes, lowest first."""
    return tuple(sorted(units, key=lambda unit: _hash(run, peer, unit)))


def watched(run: str, peer: str, units: Iterable[str], peers: int) -> tuple[str, ...]:
    """The units a peer reads and answers for: the first of its order, so many that every unit has several watchers.

    In a small run that is all of them. In a crowd each peer reads a few, so that ten thousand idle peers cost the
    network little; `base`, which everybody waits for, is always among them.

    Args:
        run: Run id.
        peer: Peer id.
        units: Every unit of the run.
        peers: How many peers are known to be there, this one included.
    """
    order = preference(run, peer, units)
    most = max(FEWEST_WATCHED, -(-WATCHERS_WANTED * len(order) // max(1, peers)))
    return tuple(unit for place, unit in enumerate(order) if place < most or unit == "base")


def _hash(*parts: str) -> bytes:
    run, *others = parts
    return hashlib.sha256("\0".join((hex_of(run), *others)).encode()).digest()
