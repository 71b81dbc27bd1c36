"""How we treat peers we ask for small blobs: few requests at once to each, and those that stalled are left alone."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from paris.protocol.transport.streams import StalledError

LEFT_ALONE_S = 300.0
"""A look at a run with many false tips asks every peer many times; one that stalls would hold up each of them."""
AT_ONCE = 6
"""Below the streams a server gives one peer, so that no request is refused for lack of one."""


class Courtesy:
    """One node's manners towards others.

    Contract: a peer that stalled is not asked for `LEFT_ALONE_S` while others are left. Nothing here says who is right.
    """

    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}
        self._rooms: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(AT_ONCE))

    def choose(self, peer_ids: Iterable[str]) -> list[str]:
        """Return whom to ask, in the order given: those that did not stall lately, or all where there are no others."""
        now_s, everybody = asyncio.get_running_loop().time(), list(peer_ids)
        self._until_s = {peer_id: until_s for peer_id, until_s in self._until_s.items() if until_s > now_s}
        return [peer_id for peer_id in everybody if peer_id not in self._until_s] or everybody

    def room(self, peer_id: str) -> asyncio.Semaphore:
        """Return what lets `AT_ONCE` requests through to a peer."""
        return self._rooms[peer_id]

    @contextmanager
    def minding(self, peer_id: str) -> Iterator[None]:
        """Remember a peer that stalls inside the block."""
        try:
            yield
        except StalledError:
            self._until_s[peer_id] = asyncio.get_running_loop().time() + LEFT_ALONE_S
            raise
