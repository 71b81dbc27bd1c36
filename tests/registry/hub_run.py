"""A run on a loopback Hub: the simulator's blobs in a store, published with real clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from loopback_hub import LoopbackHub
from network_simulator import NetworkSimulator

from paris.registry.hubcheckpoint import checkpoint_change
from paris.registry.hubnetwork import HubNetwork
from paris.registry.hubreader import HubReader
from paris.registry.hubwriter import Committed, HubWriter
from paris.registry.library import Library
from paris.registry.store import Store

ANNS, CURATORS = "ann/squares", "curator/squares"


def filled(store: Store, network: NetworkSimulator) -> Store:
    """The store of somebody who has everything."""
    for holders in network._served.values():
        store.put_bytes(next(iter(holders.values())))
    return store


def writer(hub: LoopbackHub, token: str = "hf_ann") -> HubWriter:
    return HubWriter(hub.endpoint, token, sleep=lambda _: None)


def publish(
    hub: LoopbackHub,
    store: Store,
    network: NetworkSimulator,
    checkpoint: str,
    repository: str = ANNS,
    *,
    full_state: bool = False,
) -> Committed:
    change = checkpoint_change(store, network.genesis, network.run, repository, checkpoint, full_state=full_state)
    token = f"hf_{repository.partition('/')[0]}"
    return writer(hub, token).update(repository, network.run, change)


def publish_all(hub: LoopbackHub, store: Store, network: NetworkSimulator, repository: str = ANNS) -> dict[str, str]:
    """Every unit trained to its end and published, nothing else; the newest checkpoints come back."""
    newest = {unit: chain[-1] for unit, chain in network.train().items()}
    filled(store, network)
    for checkpoint in newest.values():
        publish(hub, store, network, checkpoint, repository)
    return newest


def with_hub(
    run: str, repositories: tuple[str, ...], use: Callable[[HubNetwork], Coroutine[Any, Any, Any]], **options: Any
) -> Any:
    """Run something with the Hub as its network."""

    async def go() -> Any:
        async with HubReader(run, repositories, **options) as reader:
            return await use(HubNetwork(reader))

    return asyncio.run(go())


def from_hub(
    store: Store, run: str, repositories: tuple[str, ...], use: Callable[[Library], Coroutine[Any, Any, Any]]
) -> Any:
    """Run something with a library that has nothing but the Hub behind it."""
    return with_hub(run, repositories, lambda network: use(Library(store, network)))
