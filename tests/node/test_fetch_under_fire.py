"""Fetching an ensemble of eight experts from three peers and the Hub while one lies, one dies, and the Hub is busy.

Everything is real: peers and fetches are processes, the Hub is an HTTP server, and what kills is SIGKILL, sent by the
honest peer in the middle of what it serves.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hub_run import ANNS, filled, publish
from hub_testing import HubProcess, environment, hub_process, point_client_at
from loopback_hub import LoopbackHub
from network_simulator import ANN, NetworkSimulator, exported_network, text_identity
from node_support import COMMAND, LOOPBACK

from paris.models.dit import DiT
from paris.models.latents import PACKAGED_AUTOENCODER
from paris.models.presets import PRESETS
from paris.models.router import Router
from paris.protocol.checkpoint import open_checkpoint
from paris.protocol.digests import sha256_of
from paris.protocol.manifest import Manifest, describe
from paris.registry.runkey import RunKey
from paris.registry.store import Store

PEERS = Path(__file__).parent / "peers"
EXPERTS, KILLS, SEED = 8, 20, 20_26
PRESET = PRESETS["tiny"]
"""Its experts have weights of three pieces: each of three peers is asked for one."""
ROUTER = {**PRESET.router, "clusters": EXPERTS}
MOST_BYTES = 12_000_000
BUSY = {"match": "GET /.*resolve", "status": 429}

pytestmark = pytest.mark.slow


@dataclass
class World:
    """A run, who has it, and what is right.

    Attributes:
        right: Digest of every file of a fetched ensemble's networks, by its path.
        honest: The honest peer: its standard input takes "PID BYTES".
        dying: The peer that dies.
        folder: Holds `lied` once the lying peer has.
    """

    key: RunKey
    hub: HubProcess
    right: dict[str, str]
    honest: subprocess.Popen[str]
    dying: subprocess.Popen[str]
    folder: Path

    def arguments(self, folder: Path) -> list[str]:
        """What a person would type."""
        options = ("--to", folder / "ensemble", "--home", folder / "home", "--listen", LOOPBACK, "--json")
        return ["fetch", str(self.key), *map(str, options)]

    def kill_after(self, pid: int, served_bytes: int) -> None:
        """Let the honest peer kill a process."""
        assert self.honest.stdin
        self.honest.stdin.write(f"{pid} {served_bytes}\n")
        self.honest.stdin.flush()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("under fire")
    codec = {path.name: path.read_bytes() for path in PACKAGED_AUTOENCODER.iterdir()}
    manifest = Manifest.of(describe(name, [data]) for name, data in codec.items())
    network = NetworkSimulator(
        EXPERTS,
        codec={"kind": PRESET.codec, "manifest": sha256_of(manifest.to_bytes())},
        model={"preset": PRESET.name, "expert": PRESET.expert, "router": ROUTER},
        text={**text_identity(), "tokens": PRESET.text_tokens},
    )
    network.serve_tree(ANN, codec)
    files = {
        unit: exported_network(Router(**ROUTER) if unit == "router" else DiT(**PRESET.expert), unit)
        for unit in network.genesis.units()
    }
    target = network.genesis.target_steps
    checkpoints = {unit: network.publish(ANN, unit, target(unit), files=files[unit]) for unit in files}
    store = filled(Store(folder / "store"), network)
    tips = [
        {
            "unit": unit, "checkpoint": checkpoint, "step": target(unit), "loss_micro": 500_000,
            "manifest": open_checkpoint(network.bytes_of(checkpoint)).manifest,
        }
        for unit, checkpoint in checkpoints.items()
    ]  # fmt: skip
    (folder / "tips.json").write_text(json.dumps({"run": network.run, "tips": tips}))
    with pytest.MonkeyPatch.context() as patch, LoopbackHub(folder / "hub") as hub:
        point_client_at(hub.endpoint, patch)
        for checkpoint in checkpoints.values():
            publish(hub, store, network, checkpoint)
    with contextlib.ExitStack() as stack:

        def provider(behaviour: str, number: int, *address: str) -> subprocess.Popen[str]:
            arguments = (PEERS / "provider.py", behaviour, number, folder / "store", folder / "tips.json", *address)
            process = subprocess.Popen(
                [sys.executable, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            stack.enter_context(process)  # waits for its end
            stack.callback(process.stdin.close)
            return process

        busy_hub = stack.enter_context(hub_process(folder / "hub"))
        honest = provider("honest", 2)
        address = honest.stdout.readline().strip()
        others = [provider("lying", 3, address), provider("dying", 4, address)]
        addresses = (address, *(other.stdout.readline().strip() for other in others))
        right = {
            f"{unit.replace('cluster-', 'expert_')}/{name}": sha256_of(data)
            for unit, named in files.items() for name, data in named.items()
        }  # fmt: skip
        yield World(RunKey(network.run, addresses, ANNS), busy_hub, right, honest, others[1], folder)


def fetched(folder: Path, world: World) -> dict[str, str]:
    """Digests of what a fetch laid out, and of nothing it did not."""
    return {name: sha256_of((folder / "ensemble" / name).read_bytes()) for name in world.right}


def test_one_lying_one_dying_and_the_hub_busy_ends_verified_and_complete(world: World, tmp_path: Path) -> None:
    world.hub.faults(BUSY | {"times": 12, "headers": {"Retry-After": "1"}})
    done = subprocess.run(
        [*COMMAND, *world.arguments(tmp_path)],
        env=environment(world.hub.endpoint), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.strip().splitlines()[-1])
    assert said["complete"]
    assert len(said["units"]) == EXPERTS + 1
    assert fetched(tmp_path, world) == world.right
    assert (world.folder / "lied").exists(), "the liar was never asked"
    assert world.dying.wait(timeout=60) == -9, "the dying one was never asked"
    assert any(re.search(BUSY["match"], request) for request in world.hub.requests()), "the Hub was never asked"


def test_killed_twenty_times_at_random_it_resumes_and_ends_byte_equal(world: World, tmp_path: Path) -> None:
    """A fetch that comes to its end between two kills is checked, and another one begins in an empty home."""
    world.hub.faults(BUSY | {"headers": {"Retry-After": "300"}})
    rng, killed, ended = random.Random(SEED), 0, 0
    with subprocess.Popen(
        [sys.executable, str(PEERS / "forked.py")],
        env=environment(world.hub.endpoint), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as forked:  # fmt: skip
        assert forked.stdin
        assert forked.stdout
        while killed < KILLS or not ended:
            folder, said = tmp_path / str(ended), world.folder / "said.txt"
            forked.stdin.write(json.dumps({"arguments": world.arguments(folder), "said": str(said)}) + "\n")
            forked.stdin.flush()
            pid = json.loads(forked.stdout.readline())["pid"]
            if killed < KILLS:
                world.kill_after(pid, rng.randrange(MOST_BYTES))
            code = json.loads(forked.stdout.readline())["code"]
            if code == -9:
                killed += 1
                continue
            assert code == 0, said.read_text()
            assert fetched(folder, world) == world.right
            ended += 1
        forked.stdin.close()
