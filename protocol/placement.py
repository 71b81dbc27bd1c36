"""Who keeps a copy of what: rendezvous hashing, so that peers agree without talking and few copies ever move."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from paris.protocol.digests import hex_of


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

    def score(peer: str) -> bytes:
        return hashlib.sha256(b"\0".join((hex_of(run).encode(), unit.encode(), peer.encode()))).digest()

    return tuple(sorted(set(peers), key=score, reverse=True)[:replicas])
