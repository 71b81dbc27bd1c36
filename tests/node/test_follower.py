"""A serving node and its curators: promises are kept, heads outlive who published them. Real peers on loopback."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from node_support import LOOPBACK

from paris.node.clock import now_s
from paris.node.curator import Desk, copied
from paris.node.follower import Follower, Promise, follow
from paris.node.home import Home
from paris.node.jobs import Means
from paris.node.peer import Peer, open_peer
from paris.node.session import Place
from paris.node.settings import Settings
from paris.protocol.identity import Identity
from paris.protocol.records import Head
from paris.registry.proposals import promote, sign
from paris.registry.runkey import RunKey

sys.path.insert(0, str(Path(__file__).parents[1] / "registry"))
from network_simulator import ANN, CURATOR, NetworkSimulator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Town:
    """A run with a curator and others, each with a home of their own."""

    def __init__(self, homes: Path) -> None:
        self.homes, self.network = homes, NetworkSimulator()
        self.key = RunKey(self.network.run)
        self.events: list[dict[str, Any]] = []

    def home(self, name: str, identity: Identity | None = None) -> Home:
        home = Home(self.homes / name)
        home.store.put_bytes(self.network.bytes_of(self.key.run))
        if identity and not home.identity_path.exists():
            home.save_identity(identity)
        return home

    @asynccontextmanager
    async def peer(self, name: str, meets: Peer | None = None, *, serve: bool = True) -> AsyncIterator[Peer]:
        key = self.key.with_peers(tuple(meets.swarm.addrs) if meets else ())
        settings = Settings.load(home=self.homes / name, listen=LOOPBACK)
        async with open_peer(settings, key, serve=serve) as peer:
            yield peer

    async def follower(self, peer: Peer) -> Follower:
        governance = await follow(peer, self.key.run, ())
        place = Place(peer, self.key.run, governance.charter.genesis, Means(threads=1))
        return Follower(place, governance, lambda event, **fields: self.events.append({"event": event, **fields}))

    async def desk(self, peer: Peer) -> Desk:
        return Desk(peer, await follow(peer, self.key.run, ()), CURATOR, serves=True, providers=())

    async def heads(self, peer: Peer) -> list[Head]:
        found = await peer.swarm.records("head", self.key.run)
        return [record for record in found if isinstance(record, Head)]


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path)


def test_a_promise_is_kept_by_the_running_node(town: Town) -> None:
    """The head was signed for ten minutes; a node of that home signs it again, the same for longer, until the day."""
    town.home("curator", CURATOR)
    units = {"router": town.key.run}

    async def scene() -> None:
        async with town.peer("curator") as peer:
            desk = await town.desk(peer)
            proposal = sign(promote(desk.charter, units, 1, 600, None), desk.charter, CURATOR, now_s())
            first = (await desk.publish(proposal)).head
            assert first
            follower = await town.follower(peer)
            await follower.look()
            assert (await town.heads(peer)) == [first]
            Promise(1, now_s() + 90_000, 86_400).keep(desk.memory)
            await follower.look()
            (again,) = await town.heads(peer)
            assert again.says == first.says
            assert (again.exp > first.exp + 80_000, again.seq > first.seq) == (True, True)
            assert (await follow(peer, town.key.run, ())).charter.head == again
            Promise(7, now_s() + 90_000, 86_400).keep(desk.memory)
            await follower.look()
            assert await town.heads(peer) == [again]
            assert [event["head"] for event in town.events] == [1]

    asyncio.run(scene())


def test_a_head_outlives_its_curator_where_others_follow(town: Town) -> None:
    """Ann follows, everybody leaves, her node forgets all records; back again she still serves head and ensemble."""
    town.home("curator", CURATOR)
    town.home("ann", ANN)
    units = {"router": town.key.run}

    async def told() -> Head:
        async with town.peer("curator") as curator, town.peer("ann", curator) as ann:
            desk = await town.desk(curator)
            proposal = sign(promote(desk.charter, units, 1, 6000, None), desk.charter, CURATOR, now_s())
            after = await desk.publish(proposal)
            follower = await town.follower(ann)
            await follower.look()
            assert town.events[-1]["ensemble"] == ["router"]
            assert ann.home.store.path(str(after.head.ensemble))
            assert not await copied(desk)
            return after.head

    async def alone(head: Head) -> None:
        async with town.peer("ann") as ann:
            assert await town.heads(ann) == []
            follower = await town.follower(ann)
            await follower.look()
            town.home("visitor")
            async with town.peer("visitor", ann, serve=False) as visitor:
                found = await follow(visitor, town.key.run, ())
                assert found.charter.head == head
                assert found.charter.ensemble.units == units

    head = asyncio.run(told())
    (town.homes / "ann" / "ledger.sqlite").unlink()
    asyncio.run(alone(head))
