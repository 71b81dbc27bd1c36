"""A contributor's checkpoints on the Hub: what `start --hub` adds to a node, and what `hub push` does by itself."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from paris.node.home import Home
from paris.node.hubqueue import HubQueue, queue_folder
from paris.node.hubupload import AUTO, Report, Shop, Uploader
from paris.node.publisher import TIP_NOTE
from paris.node.settings import Settings
from paris.protocol.errors import ParisError, UsageError
from paris.protocol.genesis import Genesis
from paris.registry.hublineage import lineage_of
from paris.registry.hubwriter import HubWriter

log = logging.getLogger(__name__)

LAST_S = 60.0
"""How long a node that leaves goes on publishing; the rest waits on disk."""


@asynccontextmanager
async def publishing(
    settings: Settings, home: Home, run: str, genesis: Genesis, peer_id: str, report: Report
) -> AsyncIterator[Publishing]:
    """Publish in the background for the length of a block, where the settings ask for it.

    Whatever goes wrong with the Hub is reported and tried again; training goes on.
    """
    uploader = None
    if settings.publish:
        queue = HubQueue(queue_folder(home.path, run))
        shop = Shop(
            home.store, genesis, run, peer_id, settings.publish, settings.publish_state, identity=home.identity()
        )
        uploader = Uploader(shop, queue, HubWriter(), report)
        _catch_up(home, run, genesis, peer_id, uploader)
    task = asyncio.create_task(uploader.run()) if uploader else None
    try:
        yield Publishing(uploader)
    finally:
        if task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@dataclass(frozen=True)
class Publishing:
    """The Hub side of a contributor.

    Attributes:
        uploader: What works in the background; None: nothing is published.
    """

    uploader: Uploader | None

    def hear(self, event: str, **fields: Any) -> None:
        """Let a checkpoint wait for the Hub as soon as the contributor reports that it published one to its peers."""
        if self.uploader and event == "published":
            try:
                self.uploader.add(fields["unit"], fields["step"], fields["checkpoint"])
            except ParisError as error:
                log.warning("a checkpoint does not wait for the Hub: %s", error)

    async def leave(self) -> int:
        """Go on publishing what can be published, for a limited time; how many checkpoints still wait comes back."""
        return await self.uploader.drained(LAST_S) if self.uploader else 0

    def hurry(self) -> None:
        """Cut `leave` short."""
        if self.uploader:
            self.uploader.give_up()


async def push(settings: Settings, home: Home, run: str, genesis: Genesis, report: Report) -> dict[str, Any]:
    """Publish what waits now, once, without a network of peers; return what the queue looks like after it.

    Raises:
        UsageError: nothing was ever to be published.
    """
    queue = HubQueue(queue_folder(home.path, run))
    if not queue.waiting() and not queue.published():
        why = f"nothing waits in {queue.folder}"
        raise UsageError("there is nothing to publish on the Hub", why, "`paris-node start --hub auto` fills the queue")
    identity, wish = home.identity(), settings.publish or AUTO
    shop = Shop(home.store, genesis, run, identity.peer_id, wish, settings.publish_state, identity)
    queue.hurry()
    await Uploader(shop, queue, HubWriter(), report).round()
    return queue.as_json()


def _catch_up(home: Home, run: str, genesis: Genesis, peer_id: str, uploader: Uploader) -> None:
    """Let checkpoints wait that this node trained and stands behind, which a crash or an earlier setting kept back."""
    notes = [home.work(run, unit) / TIP_NOTE for unit in genesis.units()]
    for tip in [json.loads(note.read_text()) for note in notes if note.is_file()]:
        try:
            newest = lineage_of(home.store, tip["checkpoint"]).newest
        except ParisError as error:
            log.warning("a checkpoint does not wait for the Hub: %s", error)
            continue
        if newest.signer == peer_id:
            uploader.add(newest.unit, newest.to_step, tip["checkpoint"])
