"""`paris-node fetch` when the Hub is one of the places a run lies at: alone, beside peers, dead; by real processes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_run import ANNS, CURATORS, filled, publish_all, writer
from hub_testing import environment, point_client_at
from loopback_hub import LoopbackHub
from network_simulator import NetworkSimulator
from node_support import COMMAND, LOOPBACK

from paris.models.filenames import WEIGHTS
from paris.protocol.digests import sha256_of
from paris.registry.hubregistry import registry_change
from paris.registry.runkey import RunKey
from paris.registry.store import Store


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path / "hub") as server:
        point_client_at(server.endpoint, monkeypatch)
        yield server


@pytest.fixture
def network() -> NetworkSimulator:
    return NetworkSimulator()


@pytest.fixture
def right(hub: LoopbackHub, network: NetworkSimulator, tmp_path: Path) -> set[str]:
    """A whole run in Ann's repository, named by the curator's; the digests of its weights."""
    full = Store(tmp_path / "full")
    newest = publish_all(hub, full, network)
    change = registry_change(filled(full, network), network.genesis, network.run, CURATORS, repositories=[ANNS])
    writer(hub, "hf_curator").update(CURATORS, network.run, change)
    return {network.entry(checkpoint, WEIGHTS).sha256 for checkpoint in newest.values()}


def fetch(hub: LoopbackHub, key: RunKey, folder: Path, *options: object) -> tuple[int, Any, str]:
    home = ("--home", folder.parent / "home", "--listen", LOOPBACK, "--json")
    done = subprocess.run(
        [*COMMAND, *map(str, ("fetch", key, "--to", folder, *home, *options))],
        env=environment(hub.endpoint), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    said = json.loads(done.stdout.strip().splitlines()[-1]) if done.stdout.strip() else None
    return done.returncode, said, done.stderr


def weights(folder: Path) -> set[str]:
    return {sha256_of(path.read_bytes()) for path in folder.rglob(WEIGHTS)}


@pytest.mark.slow
@pytest.mark.parametrize("light", [(), ("--light",)], ids=["dht", "light"])
def test_with_every_peer_dead_the_hub_gives_the_whole_run(
    hub: LoopbackHub, network: NetworkSimulator, right: set[str], tmp_path: Path, light: tuple[str, ...]
) -> None:
    """The peer that the key names is off; the registry that it names leads to Ann's repository."""
    dead = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWGC6TvWhfagifX6nqEtnHpRZPkeuYUKPwXrqqExX1rjsW"
    code, said, told = fetch(hub, RunKey(network.run, (dead,), CURATORS), tmp_path / "ensemble", *light)
    assert code == 0, told
    assert said["complete"]
    assert weights(tmp_path / "ensemble") == right
    assert "alone is asked" in told
