"""What a curator puts into a run's registry on the Hub: genesis, codec, peers, heads, contributors' repositories."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from paris.node.console import err
from paris.node.home import Home
from paris.node.hubqueue import HubQueue, queue_folder
from paris.node.peer import Peer as OpenPeer
from paris.node.peer import open_peer
from paris.node.settings import Settings
from paris.protocol.errors import BootstrapError, ParisError
from paris.protocol.records import Head, Peer, Tip
from paris.registry.governance import follow_curators
from paris.registry.hubnetwork import RECORD_FILES, repositories_in
from paris.registry.hubregistry import registry_change
from paris.registry.hubwriter import HubWriter
from paris.registry.library import Library
from paris.registry.resolve import load_genesis
from paris.registry.runkey import RunKey


async def publish_registry(
    settings: Settings, key: RunKey, repository: str, more: Iterable[str] = (), *, data: bool = False
) -> dict[str, Any]:
    """Bring a run's registry up to date: what the network says now is added to what was there.

    Args:
        settings: Home, peers.
        key: The run.
        repository: `owner/name` of the registry.
        more: Contributors' repositories besides those that tips name.
        data: Publish the shards too.

    Raises:
        UnavailableError: the genesis, or what it names, is not here.
        HubError: the Hub does not take it.
    """
    home = Home(settings.home)
    records: dict[str, list[bytes]] = {}
    own = HubQueue(queue_folder(home.path, key.run)).repository
    named: list[str] = []
    blobs: list[str] = []
    try:
        async with open_peer(settings, key, serve=False) as peer:
            hints = (*key.peers, *settings.peers)
            genesis = await load_genesis(peer.library, key.run, hints=hints)
            followed = await follow_curators(peer.library, key.run, home.charter(key.run), time.time(), hints=hints)
            records, named, blobs = await _heard(peer, key.run, genesis.units())
            blobs += followed.charter.versions[1:]
    except BootstrapError as error:
        err.print(f"no peer answers, so none is named: {error.what}", markup=False)
        genesis = await load_genesis(Library(home.store), key.run)
    every = list(dict.fromkeys(filter(None, (own, *named, *more))))
    change = registry_change(
        home.store, genesis, key.run, repository, repositories=every, records=records, blobs=blobs, data=data
    )
    committed = HubWriter().update(repository, key.run, change)
    return {
        "run": str(RunKey(key.run, hub=repository)),
        "repository": repository,
        "commit": committed.commit,
        "changed": committed.made,
        "repositories": every,
        **{RECORD_FILES[kind].removesuffix(".json"): len(found) for kind, found in records.items()},
    }


async def _heard(peer: OpenPeer, run: str, units: Iterable[str]) -> tuple[dict[str, list[bytes]], list[str], list[str]]:
    """Signed records, repositories that tips name, and small blobs that heads name."""
    records = {kind: await peer.library.envelopes(kind, run) for kind in (Peer.kind, Head.kind)}
    tips = [record for unit in units for record in await peer.library.records(Tip.kind, run, unit)]
    heads = [record for record in await peer.library.records(Head.kind, run) if isinstance(record, Head)]
    kept = []
    for digest in {digest for head in heads for digest in (head.ensemble, head.admission) if digest}:
        try:
            await peer.library.blob(digest, [head.signer for head in heads])
            kept.append(digest)
        except ParisError as error:
            err.print(f"left out what a head names: {error}", markup=False)
    return {kind: found for kind, found in records.items() if found}, repositories_in(tips), sorted(kept)
