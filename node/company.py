"""Keeps a serving node in company: looks for its peers again whenever it is alone, and remembers who answered."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from paris.node.clock import now_s
from paris.node.peer import Peer
from paris.protocol.errors import NetworkError, ParisError
from paris.protocol.records import Peer as PeerRecord
from paris.protocol.skew import CURE
from paris.protocol.transport.twin import twin_error

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 300.0
CALM_S = 60.0
"""Between two looks of a node that has company."""
LOOKS_TO_MINGLE = 5
"""Every so many calm looks all sources are tried although there is company: two halves of a network must meet again."""


class Company:
    """The company of one serving node.

    Contract: while nobody is connected, every source is tried again after pauses that double, from about
    `FIRST_PAUSE_S` to `LONGEST_PAUSE_S`, each lengthened by chance so that nodes cut off together do not come back
    together. When somebody is there again, `back` is called once. Each change is reported once, as `alone` or `online`.
    """

    def __init__(
        self,
        peer: Peer,
        run: str,
        back: Callable[[], Awaitable[None]],
        report: Callable[..., None],
        rng: random.Random,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._peer, self._run, self._back, self._report = peer, run, back, report
        self._rng, self._pause = rng, pause
        self._began_s = now_s()
        self._began_alone = not peer.tried.answered
        self._alone = self._began_alone
        self._looks = 0

    async def during(self, work: Coroutine[Any, Any, None]) -> None:
        """Keep company while something lasts; what fails first ends both, and is raised as itself.

        Raises:
            UsageError: see `keep`.
        """
        try:
            async with asyncio.TaskGroup() as together:
                keeping = together.create_task(self.keep())
                await work
                keeping.cancel()
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    async def keep(self) -> None:
        """Look again and again.

        Raises:
            UsageError: the network, out of reach when this node started, knows another live node of the same key.
        """
        if self._began_alone and self._peer.tried.dials:
            self._report("alone", tried=self._peer.tried.lines())
        elif not self._began_alone:
            await self._look_at_clock()
        while True:
            await self._pause(self._delay_s())
            try:
                await self.look()
            except NetworkError as error:
                log.warning("%s", error)

    async def look(self) -> None:
        """One look: meet others where needed, remember them, notice coming and going."""
        swarm = self._peer.swarm
        self._looks += 1
        company = await swarm.company()
        if not company or self._looks % LOOKS_TO_MINGLE == 0:
            tried = await self._peer.sources.meet(swarm.connect)
            self._peer.cache.note(tried.dials, now_s())
            company = await swarm.company()
        if company:
            await self._in_company(company)
        elif not self._alone:
            self._alone, self._looks = True, 0
            self._report("alone", tried=tried.lines())

    async def _in_company(self, company: list[str]) -> None:
        records = await self._peer.swarm.records("peer", self._run)
        known = [record for record in records if isinstance(record, PeerRecord)]
        if self._began_alone:
            self._refuse_twin(known)
        self._peer.cache.remember(known, {*company, self._peer.peer_id}, now_s())
        if self._alone:
            self._alone, self._looks = False, 0
            self._report("online", peers=len(company))
            await self._back()
            await self._look_at_clock()

    def _refuse_twin(self, known: list[PeerRecord]) -> None:
        """A record under our name, newer than our start and from elsewhere: nobody could be asked when we started."""
        here = set(self._peer.swarm.addrs)
        for record in known:
            elsewhere = sorted(set(record.addrs) - here)
            if record.signer == self._peer.peer_id and record.iat >= self._began_s and elsewhere:
                raise twin_error(f"since this node started, its key was announced at {', '.join(elsewhere)}")

    async def _look_at_clock(self) -> None:
        try:
            skew = await self._peer.swarm.skew()
        except ParisError:
            return
        if skew and skew.verdict != "ok":
            self._report("clock", offset_s=round(skew.offset_s, 1), detail=f"this machine's clock is {skew}", cure=CURE)

    def _delay_s(self) -> float:
        calm_s = CALM_S if not self._alone else min(FIRST_PAUSE_S * 2.0 ** min(self._looks, 16), LONGEST_PAUSE_S)
        return calm_s * self._rng.uniform(1.0, 1.5)
