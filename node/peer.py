"""A live peer: home, key, DHT membership and blob service, opened and closed together."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from paris.node.home import Home
from paris.node.settings import Settings
from paris.protocol.errors import BootstrapError
from paris.protocol.identity import Identity
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import FileEntry
from paris.protocol.records import Record
from paris.protocol.transport import blobs, fetch
from paris.protocol.transport.dht import Swarm
from paris.registry.atomic import write_bytes
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
        return list(dict.fromkeys((*first, *await self._swarm.neighbours())))


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
    """Join the network, and leave it when the block ends.

    Args:
        settings: Home, listening address, extra bootstrap peers.
        bootstrap: Peers that came with the run key.
        serve: Under the home's own name, answer requests and hold records for others. False makes a client that only
            asks, under a passing name, so that it may run beside a node of the same home.

    Raises:
        UsageError: another live node answers to this name.
        BootstrapError: a client was given peers and none answered; a serving node goes on alone and says so.
    """
    home = Home(settings.home)
    known = tuple(dict.fromkeys((*bootstrap, *settings.peers)))
    with _name(home, lasting=serve) as (identity, identity_path):
        swarm = await Swarm.join(
            identity_path,
            bootstrap=known,
            listen=settings.listen,
            announce=settings.announce,
            client_mode=not serve,
            alone_with_key=serve,
        )
        try:
            _look_at(swarm, known, serve)
            if serve:
                await blobs.serve(swarm, home.store)
            yield Peer(home, identity, swarm, Library(home.store, SwarmNetwork(swarm)))
        finally:
            await swarm.close()


@contextmanager
def _name(home: Home, *, lasting: bool) -> Iterator[tuple[Identity, Path]]:
    """The home's key, or one that nobody will see again."""
    if lasting:
        yield home.identity(), home.identity_path
        return
    identity = Identity.from_seed(secrets.token_bytes(32))
    with TemporaryDirectory(prefix="paris-") as folder:
        path = Path(folder) / "identity.key"
        write_bytes(path, identity.to_libp2p(), mode=0o600)
        yield identity, path


def _look_at(swarm: Swarm, known: tuple[str, ...], serve: bool) -> None:
    if swarm.warnings and not serve:
        raise BootstrapError(
            f"none of the {len(known)} known peers answered",
            why="they may be off, or this machine has no way to them: " + ", ".join(known),
            hint="Ask for a fresh run key, or give a peer with --peer /ip4/…/tcp/…/p2p/…",
        )
    for warning in swarm.warnings:
        log.warning("%s", warning)


def now_s() -> int:
    """The wall clock, in whole UNIX seconds."""
    return int(time.time())
