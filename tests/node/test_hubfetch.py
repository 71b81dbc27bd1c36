"""`paris-node fetch` when the Hub is one of the places a run lies at: alone, beside peers, dead; by real processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_run import ANNS, CURATORS, filled, publish_all, writer
from hub_testing import environment, point_client_at
from loopback_hub import LoopbackHub
from network_simulator import NetworkSimulator
from node_support import COMMAND, LOOPBACK, files_in
from typer.testing import CliRunner

from paris.models.filenames import WEIGHTS
from paris.node.cli.app import app
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


NO_SOCKETS = """
import os, runpy, socket, sys, urllib3  # which tries at its import whether this machine has IPv6

def refuse(event, arguments):
    local = event == "socket.__new__" and arguments[1] == socket.AF_UNIX  # the pair that asyncio wakes itself with
    daemon = event == "subprocess.Popen" and "p2pd" in str(arguments)
    if daemon or (event.startswith("socket.") and event != "socket.gethostname" and not local):
        os.write(2, f"{event} {arguments}".encode())
        os._exit(77)

sys.addaudithook(refuse)
runpy.run_module("paris.node", run_name="__main__")
"""


def without_sockets(*arguments: object) -> tuple[int, Any, str]:
    """A command in a process that dies of the first socket it opens, and if it starts a daemon that could."""
    command = [sys.executable, "-c", NO_SOCKETS, *map(str, arguments), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    said = json.loads(done.stdout.strip().splitlines()[-1]) if done.stdout.strip() else None
    return done.returncode, said, done.stderr


@pytest.mark.slow
def test_what_was_fetched_is_laid_out_audited_and_drawn_with_without_a_socket(
    hub: LoopbackHub, network: NetworkSimulator, right: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # whatever the command sets ends with the test
    key = RunKey(network.run, hub=CURATORS)
    code, said, told = fetch(hub, key, tmp_path / "ensemble")
    assert code == 0, told
    home = ("--offline", "--home", tmp_path / "home")
    code, again, told = without_sockets("fetch", key, "--to", tmp_path / "again", *home)
    assert code == 0, told
    assert files_in(tmp_path / "again") == files_in(tmp_path / "ensemble")
    assert (again["units"], again["fetched_bytes"]) == (said["units"], 0)
    code, report, told = without_sockets("audit", key, *home)
    assert (code, report["audit"]) == (0, "ok"), told
    code, _, told = without_sockets("generate", key, "a fox", "--steps", 1, "--out", tmp_path / "fox.png", *home)
    assert code == 0, told
    lost = network.entry(network.train()["router"][-1], WEIGHTS)
    assert Store(tmp_path / "home" / "store").remove(lost.sha256)
    result = CliRunner().invoke(app, ["audit", str(key), *map(str, home), "--json"])
    said = json.loads(result.stdout)["audit"]
    assert (result.exit_code, WEIGHTS in said, "once without --offline" in said) == (4, True, True), said
