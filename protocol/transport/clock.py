"""How far this machine's clock is from those of others.

Records are accepted within `LIMITS.skew_s`; nobody's clock is ever set or corrected from what strangers say, it is only
measured and shown. hivemind's own check at joining (3 s) is left out: home machines without NTP are further off.
"""

from __future__ import annotations

import asyncio
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from paris.protocol.limits import LIMITS
from paris.protocol.transport.libp2p import PeerID, ping_request

NOTABLE_S = 10.0
MOST_ASKED = 8
_ANSWER_S = 3.0
_ABSURD_S = 1e10


@dataclass(frozen=True)
class Skew:
    """What several peers' clocks say about ours.

    Attributes:
        offset_s: Median of (their clock - ours), so that fewer than half of the peers asked cannot move it at will.
        peers: How many answered.
    """

    offset_s: float
    peers: int

    @property
    def verdict(self) -> str:
        """`problem` where honest nodes refuse our records, `warning` where somebody should know, or `ok`."""
        if abs(self.offset_s) > LIMITS.skew_s:
            return "problem"
        return "warning" if abs(self.offset_s) > NOTABLE_S else "ok"

    def __str__(self) -> str:
        peers = "that of 1 peer" if self.peers == 1 else f"those of {self.peers} peers"
        if self.verdict == "ok":
            return f"within {max(1.0, abs(self.offset_s)):.0f} s of {peers}"
        side = "behind" if self.offset_s > 0 else "ahead of"
        sentence = f"{abs(self.offset_s):.0f} s {side} {peers}"
        if self.verdict == "warning":
            return f"{sentence}; records are accepted within {LIMITS.skew_s} s, short leases suffer before"
        return f"{sentence}: beyond {LIMITS.skew_s} s they refuse what this node announces, and it refuses theirs"


CURE = "Set the clock, and let it be kept: `timedatectl set-ntp true`, or automatic time in the system's settings"


async def measure_skew(protocol: Any, peers: Sequence[str]) -> Skew | None:
    """Compare our clock with those of up to `MOST_ASKED` peers.

    Args:
        protocol: hivemind's DHTProtocol of a running node.
        peers: Peer ids to ask.

    Returns:
        None if nobody answered.
    """
    offsets = await asyncio.gather(*(_offset_s(protocol, peer) for peer in peers[:MOST_ASKED]))
    known = [offset for offset in offsets if offset is not None]
    return Skew(statistics.median(known), len(known)) if known else None


async def _offset_s(protocol: Any, peer: str) -> float | None:
    """Their clock minus ours at the middle of one round trip, seconds; None without an answer that could be a time."""
    stub = protocol.get_stub(PeerID.from_base58(peer))
    asked_s = time.time()
    try:
        answer = await asyncio.wait_for(stub.rpc_ping(ping_request(), timeout=_ANSWER_S), _ANSWER_S)
    except Exception:  # noqa: BLE001 - hivemind raises whatever the other side's handler raised
        return None
    offset_s = float(answer.dht_time) - (asked_s + time.time()) / 2
    return offset_s if math.isfinite(offset_s) and abs(offset_s) < _ABSURD_S else None
