"""What a person sees of an attack: an exit code, what happened, what to do next; and never a secret."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from paris.node.cli.app import app
from paris.node.home import Home
from paris.protocol import errors
from paris.protocol.identity import Identity
from paris.registry.library import Library
from paris.registry.store import Store

sys.path.insert(0, str(Path(__file__).parent.parent / "registry"))

from network_simulator import ANN, CURATOR, EVE, TARGET, NetworkSimulator, exported, spoiled
from safetensors.torch import load

from paris.models.filenames import CONFIG, WEIGHTS
from paris.protocol import envelope

DEAD_PEER = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWDqXSWvV53X4Brd2tAHvnTt2wppht6DjoEJQFmbvVNsub"
TOKEN = "hf_" + "SECRETtoken" * 4


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A run whose peers do as a test wants, in the place of the network; everything from there on is real."""
    network = NetworkSimulator()
    network.greet(CURATOR)

    @contextlib.asynccontextmanager
    async def open_library(*_: object, **__: object):
        yield Library(Store(tmp_path / "store"), network)

    monkeypatch.setattr("paris.node.light.open_library", open_library)
    return network


def command(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def run_key(network: NetworkSimulator) -> str:
    return "paris://" + network.run.removeprefix("sha256:")


def lying_genesis(network):
    network.replace(network.run, envelope.sign("genesis", network.genesis, EVE))


def lost_genesis(network):
    network.forget(network.run)


def flipped_weights(network):
    digest = network.entry(network.train()["cluster-0"][-1], WEIGHTS).sha256
    data = bytearray(network.bytes_of(digest))
    data[-1] ^= 1
    network.replace(digest, bytes(data))


def truncated_weights(network):
    digest = network.entry(network.train()["cluster-0"][-1], WEIGHTS).sha256
    network.replace(digest, network.bytes_of(digest)[:-1])


def lost_weights(network):
    network.forget(network.entry(network.train()["cluster-0"][-1], WEIGHTS).sha256)


def trained_otherwise(network, files):
    network.train(["cluster-1", "router"])
    network.publish(ANN, "cluster-0", TARGET, files=files)


def nan_weights(network):
    files = exported("cluster-0")
    trained_otherwise(network, spoiled(files, min(load(files[WEIGHTS])), float("nan")))


def pickled_weights(network):
    trained_otherwise(network, {**exported("cluster-0"), WEIGHTS: b"\x80\x04cos\nsystem\n"})


def missing_config(network):
    trained_otherwise(network, {name: data for name, data in exported("cluster-0").items() if name != CONFIG})


def forged_statement(network):
    network.train(["cluster-1", "router"])
    network.publish(ANN, "cluster-0", TARGET, signed_by=EVE)


ATTACKS = {
    lying_genesis: ((3, "sent other bytes"), (3, "sent other bytes")),
    lost_genesis: ((4, "genesis"), (4, "genesis")),
    flipped_weights: ((3, "cluster-0"), (3, WEIGHTS)),
    truncated_weights: ((3, "cluster-0"), (3, WEIGHTS)),
    lost_weights: ((4, "ABSENT files: nobody serves"), (4, "cluster-0 at step")),
    nan_weights: ((3, "not finite"), (3, "not finite")),
    pickled_weights: ((3, "not a readable safetensors file"), (3, "not a readable safetensors file")),
    missing_config: ((3, CONFIG), (3, CONFIG)),
    forged_statement: ((3, "sign"), (4, "no checkpoint of cluster-0")),
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_audit_of_an_attacked_run(hostile, tmp_path, attack):
    attack(hostile)
    code, words = ATTACKS[attack][0]
    result = command("audit", run_key(hostile), "--home", tmp_path)
    assert (result.exit_code, words in result.output) == (code, True), result.output
    told = command("audit", run_key(hostile), "--home", tmp_path, "--json")
    assert told.exit_code == code
    assert json.loads(told.stdout.splitlines()[-1])


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_a_fetch_of_an_attacked_run(hostile, tmp_path, attack):
    attack(hostile)
    code, words = ATTACKS[attack][1]
    result = command("fetch", run_key(hostile), "--home", tmp_path, "--to", tmp_path / "out")
    assert (result.exit_code, words in result.output) == (code, True), result.output
    assert "  next: " in result.output or "  why:  " in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [k for k in vars(errors).values() if isinstance(k, type)], ids=lambda k: k.__name__)
def test_every_error_says_what_why_and_what_next_and_has_an_exit_code(hostile, tmp_path, monkeypatch, kind):
    async def fail(*_: object, **__: object):
        raise kind("it \x1b[2Jfailed", "[bold]because", "do something")

    monkeypatch.setattr("paris.registry.selection.select", fail)
    result = command("audit", run_key(hostile), "--home", tmp_path)
    assert result.exit_code == kind.exit_code in {1, 2, 3, 4, 5}
    assert result.output.splitlines()[-3:] == ["it  [2Jfailed", "  why:  [bold]because", "  next: do something"]
    told = json.loads(command("audit", run_key(hostile), "--home", tmp_path, "--json").stdout.splitlines()[-1])
    assert (told["error"], told["exit_code"]) == (kind.__name__, kind.exit_code)


def spellings(secret: bytes) -> list[str]:
    """How a secret could end up in a log."""
    return [secret.hex(), base64.b64encode(secret).decode().strip("="), repr(secret)[2:-1], str(list(secret))[1:-1]]


@pytest.mark.slow
def test_no_command_tells_the_key_or_the_token(tmp_path):
    """Commands that fail, as talkative as they get, and every file they leave."""
    home = tmp_path / "home"
    identity = Identity.from_seed(bytes(range(100, 132)))
    Home(home).save_identity(identity)
    run = "paris://" + "0" * 64
    peer = ("--peer", DEAD_PEER, "--listen", "/ip4/127.0.0.1/tcp/0")
    said = ""
    for arguments in (("key", "show"), ("doctor", run, *peer), ("audit", run, *peer), ("key", "import", home)):
        done = subprocess.run(
            [sys.executable, "-m", "paris.node", "--verbose", *arguments, "--home", home],
            env={**os.environ, "HF_TOKEN": TOKEN, "HIVEMIND_LOGLEVEL": "DEBUG", "PARIS_LAN": "false"},
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (done.returncode == 0) == (arguments == ("key", "show")), done.stderr
        assert "Traceback" not in done.stderr
        said += done.stdout + done.stderr
    files = [path for path in home.rglob("*") if path.is_file() and path != Home(home).identity_path]
    said += "".join(path.read_bytes().decode("latin-1") for path in files)
    assert identity.peer_id in said
    secrets = [*spellings(identity.seed), *spellings(identity.to_libp2p()), TOKEN, TOKEN[3:]]
    assert not [secret for secret in secrets if secret in said]
