"""The Hub for a node that reads: repositories named by the run key, the settings, or records of peers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from paris.node.settings import Settings
from paris.protocol.errors import BootstrapError
from paris.protocol.records import Peer
from paris.protocol.transport.rate import Throttle
from paris.registry.hubnetwork import HubNetwork
from paris.registry.hubreader import HubReader
from paris.registry.runkey import RunKey


@asynccontextmanager
async def open_hub(settings: Settings, key: RunKey) -> AsyncIterator[HubNetwork]:
    """The repositories of a run, as far as the key and the settings name any; more may be learned from peers."""
    async with HubReader(key.run, (settings.hub, key.hub)) as reader:
        yield HubNetwork(reader, Throttle(settings.down))


async def addresses_on(hub: HubNetwork) -> list[str]:
    """Addresses of peers that the Hub's files of signed records name now."""
    peers = [record for record in await hub.records(Peer.kind, hub.hub.run, "") if isinstance(record, Peer)]
    return [where for record in peers for where in record.addrs if where.endswith(f"/p2p/{record.signer}")]


async def require_alone(hub: HubNetwork, nobody: BootstrapError) -> str:
    """What a person hears when no peer answers and the Hub takes over.

    Raises:
        BootstrapError: the Hub has nothing of this run either; what both said is in it.
    """
    shelves = await hub.hub.shelves()
    if shelves:
        return f"no peer answers: {', '.join(shelf.name for shelf in shelves)} alone is asked"
    if not hub.hub.troubles:
        raise nobody
    raise BootstrapError(nobody.what, f"{nobody.why} {'; '.join(hub.hub.troubles)}".strip(), nobody.hint) from nobody
