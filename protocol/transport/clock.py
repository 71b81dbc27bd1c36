"""A DHT node's clock beside those of its peers.

hivemind's own check at joining (3 s) is left out: home machines without NTP are further off.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from paris.protocol.skew import MOST_ASKED, Skew
from paris.protocol.transport.libp2p import PeerID, ping_request

_ANSWER_S = 3.0


async def measure_skew(protocol: Any, peers: Sequence[str]) -> Skew | None:
    """Compare our clock with those of up to `MOST_ASKED` peers.

    Args:
        protocol: hivemind's DHTProtocol of a running node.
        peers: Peer ids to ask.

    Returns:
        None if nobody answered.
    """
    offsets = await asyncio.gather(*(_offset_s(protocol, peer) for peer in peers[:MOST_ASKED]))
    return Skew.among([offset for offset in offsets if offset is not None])


async def _offset_s(protocol: Any, peer: str) -> float | None:
    """Their clock minus ours at the middle of one round trip, seconds; None without an answer."""
    stub = protocol.get_stub(PeerID.from_base58(peer))
    asked_s = time.time()
    try:
        answer = await asyncio.wait_for(stub.rpc_ping(ping_request(), timeout=_ANSWER_S), _ANSWER_S)
    except Exception:  # noqa: BLE001 - hivemind raises whatever the other side's handler raised
        return None
    return float(answer.dht_time) - (asked_s + time.time()) / 2
