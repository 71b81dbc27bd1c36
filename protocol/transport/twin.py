"""Two live nodes with one key: seen before the second starts, because afterwards neither can be told from the other."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

from paris.protocol.errors import UsageError
from paris.protocol.transport.daemon import IDLE_TIMEOUT_S, Dial, More, first_contact, start_daemon, stop_daemon
from paris.protocol.transport.libp2p import P2P, ControlFailure, PeerID, connect

_ORPHAN_S = IDLE_TIMEOUT_S + 5.0  # a killed node's daemon answers for it until its idle timeout
_POLL_S = 1.0
_LOOKS = 3


async def refuse_twin(peer_id: str, addresses: Sequence[str], more: More | None = None) -> list[Dial]:
    """Ask the network, under a passing name, whether somebody answers to `peer_id`. To be called before starting.

    Args:
        peer_id: The name we are about to use.
        addresses: Multiaddrs of nodes to ask through.
        more: Further ones, asked for where none of those answers; where nobody does, nothing can be known.

    Returns:
        What came of meeting these nodes.

    Raises:
        UsageError: Somebody does.
    """
    visitor = await start_daemon(None, client_mode=True)
    try:
        dials = await first_contact(visitor, addresses, more)
        deadline_s = time.monotonic() + _ORPHAN_S
        while any(dial.answered for dial in dials) and await _answers(visitor, peer_id):
            if time.monotonic() > deadline_s:
                raise twin_error(f"somebody answers to {peer_id}")
            await asyncio.sleep(_POLL_S)
        return dials
    finally:
        await stop_daemon(visitor)


def twin_error(why: str) -> UsageError:
    """What a person is told whose key two nodes use at once."""
    hint = "stop that node, or give this one a home and key of its own"
    return UsageError("another live node uses this key", why, hint)


async def _answers(visitor: P2P, peer_id: str) -> bool:
    """Whether somebody does. One look is not enough: the network may not have met a node that has just started."""
    for attempt in range(_LOOKS):
        if attempt:
            await asyncio.sleep(_POLL_S)
        with contextlib.suppress(ControlFailure):
            await connect(visitor, PeerID.from_base58(peer_id))
            return True
    return False
