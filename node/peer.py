"""A live peer: home, key, DHT membership and blob service, opened and closed together."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from paris.node.home import Home
from paris.node.settings import Settings
from paris.protocol.errors import BootstrapError
from paris.protocol.identity import Identity
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import FileEntry
from paris.protocol.records import Record
from paris.protocol.transport import blobs, fetch
from paris.protocol.transport.dht import Swarm
from paris.registry.library import Library, Progress

log = logging.getLogger(__name__)


class SwarmNetwork:
    """The network as `paris.registry` asks for it, over a live swarm."""

    def __init__(self, swarm: Swarm) -> None:
        self._swarm = swarm

    async def records(self, kind: str, run: str, slot: str) -> list[Record]:
        """Return the newest valid record of every signer in one slot."""
        return await self._swarm.records(kind, run, slot)

    async def fetch_blob(self, digest: str, providers: Sequence[str]) -> bytes:
        """Return a small blob; every peer we are connected to is asked after the named providers."""
        return await fetch.fetch_blob(self._swarm, digest, await self._everybody(providers), LIMITS.blob_bytes)

    async def fetch_file(self, entry: FileEntry, providers: Sequence[str], partial: Path, progress: Progress) -> None:
        """Complete `partial` from several providers at once."""
        await fetch.fetch_file(self._swarm, entry, await self._everybody(providers), partial, progress)

    async def _everybody(self, first: Sequence[str]) -> list[str]:
        connected = [info.peer_id.to_base58() for info in await self._swarm.p2p.list_peers()]
        return list(dict.fromkeys((*first, *connected)))


@dataclass(frozen=True)
class Peer:
    """An open node."""

    home: Home
    identity: Identity
    swarm: Swarm
    library: Library

    @property
    def peer_id(self) -> str:
        """This node's name on the network."""
        return self.identity.peer_id


@asynccontextmanager
async def open_peer(settings: Settings, bootstrap: Sequence[str], *, serve: bool = True) -> AsyncIterator[Peer]:
    """Join the network with the key in `settings.home`; leave it when the block ends.

    Args:
        settings: Home, listening address, extra bootstrap peers.
        bootstrap: Peers that came with the run key.
        serve: Answer blob requests and hold records for others; False makes a client that only asks.

    Raises:
        BootstrapError: a client was given peers and none answered; a serving node goes on alone and says so.
    """
    home = Home(settings.home)
    identity = home.identity()
    known = tuple(dict.fromkeys((*bootstrap, *settings.peers)))
    swarm = await Swarm.join(
        home.identity_path,
        bootstrap=known,
        listen=settings.listen,
        announce=settings.announce,
        client_mode=not serve,
    )
    try:
        if swarm.warnings and not serve:
            raise BootstrapError(
                f"none of the {len(known)} known peers answered",
                why="they may be off, or this machine has no way to them: " + ", ".join(known),
                hint="Ask for a fresh run key, or give a peer with --peer /ip4/…/tcp/…/p2p/…",
            )
        for warning in swarm.warnings:
            log.warning("%s", warning)
        if serve:
            await blobs.serve(swarm, home.store)
        yield Peer(home, identity, swarm, Library(home.store, SwarmNetwork(swarm)))
    finally:
        await swarm.close()


def now_s() -> int:
    """The wall clock, in whole UNIX seconds."""
    return int(time.time())
