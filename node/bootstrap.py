"""Every way a node knows to find the peers of a run, tried together, and what is said when none leads anywhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from paris.node import lan
from paris.node.hubpeers import FILE, read_peers
from paris.node.peercache import PeerCache
from paris.node.settings import Settings
from paris.protocol.errors import BootstrapError, ParisError
from paris.protocol.transport.daemon import Dial
from paris.registry.runkey import RunKey

MOST_ADDRESSES = 24
"""Addresses one source may have tried at once."""
COMMAND_LINE, SETTINGS, RUN_KEY = "--peer", "settings", "run key"
CACHE, LAN = "peers of before", "local network"


@dataclass(frozen=True)
class Source:
    """One way to find peers, and where it led.

    Attributes:
        name: What people call it.
        addresses: The peers it names.
        trouble: Why it names none, where there is more to say than that.
    """

    name: str
    addresses: tuple[str, ...] = ()
    trouble: str = ""


@dataclass(frozen=True)
class Tried:
    """What came of trying every source.

    Attributes:
        sources: All of them; those that were not waited for, because somebody had answered already, say so.
        dials: One attempt for every address.
        took_s: How long it took.
    """

    sources: tuple[Source, ...]
    dials: tuple[Dial, ...]
    took_s: float

    @property
    def answered(self) -> tuple[str, ...]:
        """The addresses that answered."""
        return tuple(dial.address for dial in self.dials if dial.answered)

    def of(self, source: Source) -> list[Dial]:
        """What came of one source's addresses."""
        return [dial for dial in self.dials if dial.address in source.addresses]

    def lines(self) -> list[str]:
        """One line a source: what it named, and what came of it."""
        return [f"{source.name}: {self._outcome(source)}" for source in self.sources]

    def error(self) -> BootstrapError:
        """What a person is told who reached nobody."""
        why = f"tried for {self.took_s:.0f} s: " + "; ".join(self.lines())
        if not self.dials:
            hint = "this key names no peers: give one with --peer /ip4/…/tcp/…/p2p/…, or a peers file with `hub`"
            return BootstrapError("nobody is known who could be asked for this run", why, hint)
        hint = (
            "see that this machine is online; else ask for a fresh run key, or give a peer with "
            "--peer /ip4/…/tcp/…/p2p/…. `paris-node doctor` with the run key looks at every way by itself"
        )
        return BootstrapError(f"none of the {len(self.dials)} known peers answered", why, hint)

    def _outcome(self, source: Source) -> str:
        said = [f"{dial.address} ({dial.trouble or 'answers'})" for dial in self.of(source)]
        return ", ".join(said) or source.trouble or "names nobody"


class Sources:
    """The sources of one node for one run; without a run, only the addresses a person gave.

    Contract: those at hand cost nothing; the others are bounded in time, and one that fails is a line in the report.
    """

    def __init__(self, settings: Settings, key: RunKey | None, cache: PeerCache | None, own: str) -> None:
        self._settings, self._key, self._cache, self._own = settings, key, cache, own

    def at_hand(self) -> tuple[Source, ...]:
        """Command line, settings, run key, and who answered before."""
        settings = self._settings
        lasting = tuple(peer for peer in settings.peers if peer not in settings.asked_peers)
        given = (Source(COMMAND_LINE, settings.asked_peers), Source(SETTINGS, lasting))
        if self._key is None or self._cache is None:
            return given
        remembered = self._foreign(self._cache.addresses(int(time.time())))[:MOST_ADDRESSES]
        return (*given, Source(RUN_KEY, self._key.peers), Source(CACHE, remembered))

    async def elsewhere(self) -> tuple[Source, ...]:
        """The run's repository on the Hub and the local network, asked at the same time."""
        if self._key is None:
            return ()
        repositories = dict.fromkeys(name for name in (self._settings.hub, self._key.hub) if name)
        run, asked = self._key.run, []
        for name in repositories:
            reading = read_peers(name, run, int(time.time()))
            asked.append(self._ask(f"Hub {name}/{FILE}", reading))
        if self._settings.lan:
            asked.append(self._ask(LAN, lan.look(run, self._settings.listen, self._own)))
        return tuple(await asyncio.gather(*asked))

    async def meet(self, connect: Callable[[Sequence[str]], Awaitable[Iterable[Dial]]]) -> Tried:
        """Try all of them, whoever answers first."""
        begun_s = time.monotonic()
        sources = (*self.at_hand(), *await self.elsewhere())
        dials = tuple(await connect([address for address in addresses(sources) if not self.is_own(address)]))
        return Tried(sources, dials, time.monotonic() - begun_s)

    async def _ask(self, name: str, work: Awaitable[tuple[str, ...]]) -> Source:
        try:
            found = self._foreign(await work)[:MOST_ADDRESSES]
        except ParisError as error:
            return Source(name, trouble=str(error).rstrip("."))
        return Source(name, found)

    def _foreign(self, found: Iterable[str]) -> tuple[str, ...]:
        return tuple(address for address in found if not self.is_own(address))

    def is_own(self, address: str) -> bool:
        """Whether an address is this node's own, of now or of before."""
        return address.endswith(f"/p2p/{self._own}")


def addresses(sources: Iterable[Source]) -> list[str]:
    """What some sources name, each address once."""
    return list(dict.fromkeys(address for source in sources for address in source.addresses))
