"""Stopping a contributor: what was trained is published first, and the next start goes on from it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from node_support import LOOPBACK, Contributor, last_json, paris_node

from paris.node.peer import open_peer
from paris.node.settings import Settings
from paris.registry.resolve import ResolvedUnit, resolve
from paris.registry.runkey import RunKey

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
STEPS = 1_000_000


async def only_trained_unit(key: RunKey, homes: Path) -> ResolvedUnit:
    async with open_peer(Settings.load(home=homes / "visitor", listen=LOOPBACK), key, serve=False) as peer:
        resolved = await resolve(peer.library, key.run)
    (unit,) = [unit for unit in resolved.units.values() if unit.lineage]
    return unit


@pytest.fixture
def endless_run(pictures: Path, tmp_path: Path) -> RunKey:
    """A run whose units never end and hardly ever publish by themselves."""
    created = paris_node(
        *("run", "create", pictures, "--clusters", 2, "--model", "micro", "--steps", STEPS, "--publish-every", STEPS),
        *("--lease", 12, "--settle", 1, "--home", tmp_path / "curator", "--json"),
    )
    assert created.returncode == 0, created.stderr
    return RunKey.parse(last_json(created)["run"])


def test_ctrl_c_publishes_before_leaving_and_restart_goes_on(endless_run: RunKey, tmp_path: Path) -> None:
    """Ctrl-C reaches the whole process group: node, training child and libp2p daemon alike."""

    async def scene() -> None:
        curator, ada = Contributor("curator", tmp_path), Contributor("ada", tmp_path)
        try:
            await curator.start(str(endless_run), "--no-train")
            await curator.ready()
            key = endless_run.with_peers(curator.addrs)
            await ada.start(str(key), "--threads", "1")
            await ada.until("step", 30)
            os.killpg(ada.group, signal.SIGINT)
            left = await ada.until("left")
            published = await ada.until("published")
            assert ada.events.index(published) < ada.events.index(left)
            await curator.until("copied")
            first = await only_trained_unit(key, tmp_path)
            assert first.step == published["step"] >= 30

            again = Contributor("ada", tmp_path)
            await again.start(str(key), "--threads", "1")
            resumed = await again.until("resumed")
            assert (resumed["unit"], resumed["step"]) == (first.unit, first.step)
            await again.until("step", first.step + 10)
            await again.end()
            second = await only_trained_unit(key, tmp_path)
            assert second.digests[:1] == first.digests
            assert second.step > first.step
        finally:
            await asyncio.gather(curator.end(), ada.end())

    asyncio.run(scene())
