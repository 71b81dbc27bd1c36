"""A live peer: home, key, DHT membership and blob service, opened and closed together."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from paris.node import lan
from paris.node.bootstrap import Source, Sources, Tried, addresses
from paris.node.clock import now_s
from paris.node.home import Home
from paris.node.peercache import PeerCache
from paris.node.settings import Settings
from paris.protocol.identity import Identity
from paris.protocol.manifest import FileEntry
from paris.protocol.records import Record
from paris.protocol.transport import blobs, fetch, records
from paris.protocol.transport.courtesy import Courtesy
from paris.protocol.transport.dht import Swarm
from paris.protocol.transport.rate import UNLIMITED, Throttle
from paris.protocol.validation import RunRules
from paris.registry.atomic import write_bytes
from paris.registry.library import Library, Progress
from paris.registry.runkey import RunKey


class SwarmNetwork:
    """The network as `paris.registry` asks for it, over a live swarm."""

    def __init__(self, swarm: Swarm, down: Throttle = UNLIMITED) -> None:
        self._swarm, self._down, self._courtesy = swarm, down, Courtesy()

    async def records(self, kind: str, run: str, slot: str) -> list[Record]:
        """Return the newest valid record of every signer in one slot."""
        return await self._swarm.records(kind, run, slot)

    async def envelopes(self, kind: str, run: str, slot: str) -> list[bytes]:
        """Return the same as signed bytes."""
        return await self._swarm.envelopes(kind, run, slot)

    def know(self, run: str, rules: RunRules) -> None:
        """Check records of a run by these rules from now on."""
        self._swarm.book.know(run, rules)

    async def fetch_blob(self, digest: str, providers: Sequence[str]) -> bytes:
        """Return a small blob; every peer we are connected to is asked after the named providers."""
        everybody = await self._everybody(providers)
        return await fetch.fetch_blob(self._swarm, digest, everybody, down=self._down, courtesy=self._courtesy)

    async def fetch_file(
        self,
        entry: FileEntry,
        providers: Sequence[str],
        partial: Path,
        progress: Progress,
        mirrors: Sequence[fetch.Source] = (),
    ) -> str:
        """Complete `partial` from several providers at once; return the digest of the whole, hashed on the way."""
        everybody = await self._everybody(providers)
        return await fetch.fetch_file(
            self._swarm, entry, everybody, partial, progress, down=self._down, mirrors=mirrors
        )

    async def _everybody(self, first: Sequence[str]) -> list[str]:
        return list(dict.fromkeys((*first, *await self._swarm.neighbours())))


@dataclass(frozen=True)
class Peer:
    """An open node.

    Attributes:
        sources: Where it looks for peers of its run.
        tried: What came of that when it joined.
        cache: The peers it remembers.
        network: What the library asks.
    """

    home: Home
    identity: Identity
    swarm: Swarm
    library: Library
    sources: Sources
    tried: Tried
    cache: PeerCache
    network: SwarmNetwork

    @property
    def peer_id(self) -> str:
        """This node's name on the network."""
        return self.identity.peer_id


@asynccontextmanager
async def open_peer(settings: Settings, key: RunKey, *, serve: bool = True) -> AsyncIterator[Peer]:
    """Join the network, and leave it when the block ends.

    Args:
        settings: Home, listening address, extra bootstrap peers.
        key: The run whose peers are looked for, with what came with it.
        serve: Under the home's own name, answer requests and hold records for others. False makes a client that only
            asks, under a passing name, so that it may run beside a node of the same home.

    Raises:
        UsageError: another live node answers to this name.
        BootstrapError: a client reached nobody; a serving node goes on alone, see `Peer.tried`.
    """
    home = Home(settings.home)
    with named(home, lasting=serve) as (identity, identity_path):
        cache = PeerCache(home.peers(key.run))
        sources = Sources(settings, key, cache, identity.peer_id)
        async with _joined(settings, sources, identity_path, home, serve=serve) as (swarm, tried):
            cache.note(tried.dials, now_s())
            network = SwarmNetwork(swarm, Throttle(settings.down))
            library = Library(home.store, network)
            peer = Peer(home, identity, swarm, library, sources, tried, cache, network)
            if not serve:
                if not tried.answered:
                    raise tried.error()
                yield peer
                return
            await blobs.serve(swarm, home.store, Throttle(settings.up))
            await records.serve(swarm)
            announced = lan.beacon(key.run, peer.peer_id, swarm.addrs, settings.listen)
            async with announced if settings.lan else nullcontext():
                yield peer


@asynccontextmanager
async def _joined(
    settings: Settings, sources: Sources, identity_path: Path, home: Home, *, serve: bool
) -> AsyncIterator[tuple[Swarm, Tried]]:
    """A swarm that tried every source: those at hand, and where nobody answers, those that are asked meanwhile."""
    begun_s = time.monotonic()
    at_hand, asking = sources.at_hand(), asyncio.create_task(sources.elsewhere())

    async def more() -> list[str]:
        return addresses(await asking)

    try:
        swarm = await Swarm.join(
            identity_path,
            bootstrap=addresses(at_hand),
            listen=settings.listen if serve else passing(settings.listen),
            announce=settings.announce if serve else (),
            client_mode=not serve,
            alone_with_key=serve,
            more=more,
            ledger=home.path / "ledger.sqlite" if serve else None,
        )
        found = asking.result() if asking.done() else (Source("Hub, local network", trouble="not waited for"),)
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    try:
        dials = tuple(dial for dial in swarm.dials if not sources.is_own(dial.address))
        yield swarm, Tried((*at_hand, *found), dials, time.monotonic() - begun_s)
    finally:
        await swarm.close()


def passing(listen: str) -> str:
    """The address a client listens on: a free port, because a node of the same settings may have the other."""
    return re.sub(r"/tcp/\d+", "/tcp/0", listen)


@contextmanager
def named(home: Home, *, lasting: bool) -> Iterator[tuple[Identity, Path]]:
    """The home's key, or one that nobody will see again; and its file."""
    if lasting:
        yield home.identity(), home.identity_path
        return
    identity = Identity.from_seed(secrets.token_bytes(32))
    with TemporaryDirectory(prefix="paris-") as folder:
        path = Path(folder) / "identity.key"
        write_bytes(path, identity.to_libp2p(), mode=0o600)
        yield identity, path
