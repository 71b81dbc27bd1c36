"""A node without a network, as a real process: it trains what it has, and is back when somebody appears."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import pytest
from node_support import LOOPBACK, Contributor, last_json, paris_node

from paris.node.home import Home
from paris.node.hubpeers import peers_in
from paris.node.peer import open_peer
from paris.node.settings import Settings
from paris.registry.runkey import RunKey

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
STEPS = 1_000_000
UNITS = ("cluster-0", "cluster-1", "router")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def run(pictures: Path, tmp_path: Path) -> RunKey:
    created = paris_node(
        *("run", "create", pictures, "--clusters", 2, "--model", "micro", "--steps", STEPS, "--publish-every", STEPS),
        *("--lease", 12, "--settle", 1, "--home", tmp_path / "ada", "--json"),
    )
    assert created.returncode == 0, created.stderr
    return RunKey.parse(last_json(created)["run"])


def test_it_trains_alone_says_so_once_and_announces_itself_when_a_peer_appears(run: RunKey, tmp_path: Path) -> None:
    """Only ada has the run. She knows one address where nobody is yet; bea appears there and knows nobody."""
    bea_home, port = Home(tmp_path / "bea"), free_port()
    bea_home.store.put_bytes(Home(tmp_path / "ada").store.get_bytes(run.run, 4 << 20))
    address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{bea_home.identity().peer_id}"
    key = run.with_peers((address,))

    async def scene() -> None:
        ada, bea = Contributor("ada", tmp_path), Contributor("bea", tmp_path)
        try:
            await ada.start(str(run), "--threads", "1", "--peer", address)
            alone = await ada.until("alone")
            assert any(line.startswith(f"--peer: {address} (refused") for line in alone["tried"])
            await ada.until("step", 1)
            assert not any(event["event"] == "online" for event in ada.events)
            await bea.start(str(run), "--no-train", "--listen", f"/ip4/127.0.0.1/tcp/{port}")
            assert (await ada.until("online"))["peers"] == 1
            await bea.until("online")
            assert [event["event"] for event in ada.events].count("alone") == 1
            async with open_peer(
                Settings.load(home=tmp_path / "visitor", listen=LOOPBACK), key, serve=False
            ) as visitor:
                announced = await visitor.swarm.records("peer", run.run)
                claimants: set[str] = set()
                while ada.peer_id not in claimants:  # her peer record is announced before her claim
                    for unit in UNITS:
                        claimants |= {record.signer for record in await visitor.swarm.records("claim", run.run, unit)}
            status = ("status", key, "--peers-file", tmp_path / "peers.json", "--home", tmp_path / "visitor", "--json")
            done = await asyncio.to_thread(paris_node, *status, "--listen", LOOPBACK)
            assert done.returncode == 0, done.stderr
            named = peers_in((tmp_path / "peers.json").read_bytes(), run.run, int(time.time()))
            assert set(named) == {*ada.addrs, *bea.addrs}
            assert {ada.peer_id, bea.peer_id} <= {record.signer for record in announced}
        finally:
            ada.kill()  # nobody needs what she trained
            await asyncio.gather(ada.end(), bea.end())

    asyncio.run(scene())


def test_a_node_that_has_nothing_and_reaches_nobody_ends_with_the_reasons(tmp_path: Path) -> None:
    dead = f"/ip4/127.0.0.1/tcp/9/p2p/{Home(tmp_path / 'x').identity().peer_id}"
    home = ("--home", tmp_path / "empty", "--listen", "/ip4/127.0.0.1/tcp/0")
    done = paris_node("start", RunKey("sha256:" + "ab" * 32), "--peer", dead, *home, "--json")
    assert done.returncode == 4, done.stderr
    assert f"--peer: {dead} (refused" in last_json(done)["message"]
