"""A whole ensemble as one repository on the Hub: what is there, that it is what was verified, and after faults."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_run import ANNS, filled, from_hub, publish
from hub_testing import HubProcess, environment, hub_process, point_client_at
from huggingface_hub import CommitOperationAdd, HfApi, snapshot_download
from loopback_hub import LoopbackHub
from network_simulator import ANN, CURATOR, NetworkSimulator
from node_support import COMMAND
from test_huboutside import verify
from typer.testing import CliRunner

from paris.models.filenames import CONFIG, WEIGHTS
from paris.models.pipeline import ParisPipeline
from paris.node.cli.app import app
from paris.node.cli.export import PATIENCE_S
from paris.node.home import Home
from paris.protocol.digests import sha256_of
from paris.registry.assemble import fetch_ensemble
from paris.registry.hubindex import INDEX, Index
from paris.registry.library import Library
from paris.registry.modelcard import CARD
from paris.registry.resolve import ResolvedRun, resolve
from paris.registry.runkey import RunKey
from paris.registry.store import Store

FOXES = "ann/foxes"
NETWORKS = ("expert_0", "expert_1", "router")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with LoopbackHub(tmp_path / "hub") as server:
        point_client_at(server.endpoint, monkeypatch, token="hf_ann")
        yield server


@pytest.fixture
def network() -> NetworkSimulator:
    made = NetworkSimulator()
    made.train()
    return made


def laid_out(network: NetworkSimulator, folder: Path, *units: str) -> Path:
    """What `paris-node fetch` makes."""
    library = Library(Store(folder.parent / "store"), network)

    async def fetched() -> None:
        run = await resolve(library, network.run, network.providers, units=units or None)
        await fetch_ensemble(library, run, folder, network.providers)

    asyncio.run(fetched())
    return folder


@pytest.fixture
def ensemble(network: NetworkSimulator, tmp_path: Path) -> Path:
    return laid_out(network, tmp_path / "ensemble")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    Home(tmp_path / "home").save_identity(ANN)
    return tmp_path / "home"


def command(*arguments: object) -> tuple[int, Any, str]:
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    return result.exit_code, json.loads(result.stdout.splitlines()[-1]), result.output


def export(source: object, home: Path, repository: str = FOXES) -> tuple[int, Any, str]:
    return command("export", source, "--to", f"hub:{repository}", "--home", home)


def replaced(path: Path, data: bytes) -> None:
    """Write over a file of a folder, not over the store it is linked to."""
    path.unlink()
    path.write_bytes(data)


def test_a_snapshot_of_the_repository_draws_and_its_audit_holds(hub: LoopbackHub, ensemble: Path, home: Path) -> None:
    code, shown, told = export(ensemble, home)
    assert code == 0, told
    assert shown["levels"] == dict.fromkeys(("cluster-0", "cluster-1", "router"), "consistent")
    snapshot = Path(snapshot_download(FOXES))
    for path in (path for path in ensemble.rglob("*") if path.is_file()):
        assert (snapshot / path.relative_to(ensemble)).read_bytes() == path.read_bytes()
    drawn = ParisPipeline.from_pretrained(snapshot)(["a red square"], num_inference_steps=2, seed=1)
    assert drawn.images[0].size == (32, 32)
    code, report, told = command("audit", FOXES, "--home", home)
    assert (code, report["audit"], report["run"]) == (0, "ok", shown["run"]), told
    assert {unit["level"] for unit in report["units"]} == {"consistent"}
    assert command("audit", FOXES, "--home", home, "--offline")[0] == 0, "it was downloaded before"


def test_weights_come_first_and_one_commit_shows_everything(hub: LoopbackHub, ensemble: Path, home: Path) -> None:
    assert export(ensemble, home)[0] == 0
    assert len(hub.commits(FOXES)) == 1
    writes = [request for request in hub.requests if request.startswith("PUT") or "/commit/" in request]
    assert [request.split()[0] for request in writes] == ["PUT", "PUT", "PUT", "POST"]
    table = Index.from_bytes(hub.read(FOXES, INDEX))
    assert {path: sha256_of(hub.read(FOXES, path)) for path in table.files} == {
        path: lying.sha256 for path, lying in table.files.items()
    }
    assert {f"{name}/{file}" for name in NETWORKS for file in (CONFIG, WEIGHTS)} <= {*table.files}


def test_the_same_again_changes_nothing(hub: LoopbackHub, ensemble: Path, home: Path) -> None:
    first, again = export(ensemble, home)[1], export(ensemble, home)[1]
    assert (first["changed"], again["changed"]) == (True, False)
    assert again["commit"] == first["commit"]
    assert len(hub.commits(FOXES)) == 1


def test_a_snapshot_is_an_ensemble_that_can_be_exported_again(hub: LoopbackHub, ensemble: Path, home: Path) -> None:
    export(ensemble, home)
    assert export(snapshot_download(FOXES), home, "ann/more-foxes")[0] == 0
    assert command("audit", "ann/more-foxes", "--home", home)[0] == 0


def test_the_run_is_fetched_from_the_repository_alone(
    hub: LoopbackHub, network: NetworkSimulator, ensemble: Path, home: Path, tmp_path: Path
) -> None:
    export(ensemble, home)

    async def fetched(library: Library) -> ResolvedRun:
        run = await resolve(library, network.run)
        await fetch_ensemble(library, run, tmp_path / "again")
        return run

    assert from_hub(Store(tmp_path / "empty"), network.run, (FOXES,), fetched).complete
    for path in (path for path in ensemble.rglob("*") if path.is_file()):
        assert (tmp_path / "again" / path.relative_to(ensemble)).read_bytes() == path.read_bytes()


def test_the_card_says_how_to_draw_how_to_verify_and_who_trained(
    hub: LoopbackHub, network: NetworkSimulator, ensemble: Path, home: Path
) -> None:
    export(ensemble, home)
    card = hub.read(FOXES, CARD).decode()
    for part in (
        f'ParisPipeline.from_pretrained(snapshot_download("{FOXES}"))', f"paris-node audit {FOXES}", network.run,
        f'PixArtTransformer2DModel.from_pretrained("{FOXES}", subfolder="expert_0")', ANN.peer_id[:16],
        "model_signing verify key", "2 diffusion experts", "pipeline_tag: text-to-image", "hold-out loss, claimed",
    ):  # fmt: skip
        assert part in card


@pytest.mark.slow
def test_model_signing_verifies_the_whole_repository(
    hub: LoopbackHub, ensemble: Path, home: Path, tmp_path: Path
) -> None:
    export(ensemble, home)
    folder = Path(snapshot_download(FOXES, local_dir=tmp_path / "all"))
    done = verify(folder)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_key_is_fetched_verified_and_exported(
    hub: LoopbackHub, network: NetworkSimulator, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.asynccontextmanager
    async def open_library(*_: object, **__: object):
        yield Library(Store(tmp_path / "store"), network)

    monkeypatch.setattr("paris.node.light.open_library", open_library)
    network.greet(CURATOR)
    code, shown, told = export(RunKey(network.run), home)
    assert (code, shown.get("run")) == (0, network.run), told


# What is not exported.


def test_weights_that_fail_their_audit_stay_here(hub: LoopbackHub, ensemble: Path, home: Path) -> None:
    weights = ensemble / "expert_0" / WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    replaced(weights, bytes(data))
    code, shown, told = export(ensemble, home)
    assert code == 3, told
    assert "cluster-0: files" in shown["message"]
    assert not hub.requests


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("expert_0/model.bin", 3, "was signed by nobody"),
        ("vae/config.json", 3, "not the run's autoencoder"),
        ("expert_9/config.json", 2, "no part of an ensemble"),
        ("holiday.jpg", 2, "no part of an ensemble"),
        ("provenance/notes.txt", 2, "no part of an ensemble"),
    ],
)
def test_what_nobody_verified_stays_here(
    hub: LoopbackHub, ensemble: Path, home: Path, name: str, code: int, said: str
) -> None:
    (ensemble / name).parent.mkdir(exist_ok=True)
    (ensemble / name).write_bytes(b"a gift")
    refused, shown, told = export(ensemble, home)
    assert (refused, said in shown["message"]) == (code, True), told
    assert not hub.requests


def test_a_folder_that_nobody_fetched_is_refused(hub: LoopbackHub, home: Path, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    code, shown, _ = export(tmp_path, home)
    assert (code, "no fetched ensemble" in shown["message"]) == (2, True)


# What was there before.


def test_an_expert_that_was_revoked_disappears_from_the_repository(
    hub: LoopbackHub, network: NetworkSimulator, ensemble: Path, home: Path, tmp_path: Path
) -> None:
    export(ensemble, home)
    without = laid_out(network, tmp_path / "without", "cluster-0", "router")
    assert export(without, home)[1]["changed"]
    files = set(hub.commits(FOXES)[-1].files)
    assert not [path for path in files if path.startswith(("expert_1/", "provenance/cluster-1"))]
    assert set(Index.from_bytes(hub.read(FOXES, INDEX)).units) == {"cluster-0", "router"}
    assert "Not in it" in hub.read(FOXES, CARD).decode()
    assert command("audit", FOXES, "--home", home)[0] == 0


def test_a_contributors_repository_is_not_written_over(
    hub: LoopbackHub, network: NetworkSimulator, ensemble: Path, home: Path, tmp_path: Path
) -> None:
    newest = network.publish(ANN, "cluster-0", 1)
    publish(hub, filled(Store(tmp_path / "full"), network), network, newest)
    code, shown, _ = export(ensemble, home, ANNS)
    assert (code, "not written over" in shown["message"]) == (4, True)
    assert len(hub.commits(ANNS)) == 1
    code, shown, _ = command("audit", ANNS, "--home", home)
    assert (code, f"?hub={ANNS}" in shown["message"]) == (2, True)


def test_an_ordinary_model_of_the_same_owner_is_not_written_over(hub: LoopbackHub, ensemble: Path, home: Path) -> None:
    """One typing mistake in the name: nothing of it may be lost."""
    api, theirs = HfApi(), ("README.md", "model_index.json", "vae/config.json", f"router/{WEIGHTS}")
    api.create_repo(FOXES)
    api.create_commit(FOXES, [CommitOperationAdd(path, b"mine") for path in theirs], commit_message="my model")
    hub.requests.clear()
    code, shown, told = export(ensemble, home)
    assert (code, "ann/foxes is not written over" in shown["message"]) == (4, True), told
    assert "give another name" in shown["message"]
    assert [hub.read(FOXES, path) for path in theirs] == [b"mine"] * len(theirs)
    assert not hub.asked("PUT /lfs/")


def test_a_repository_that_is_not_there_is_said(hub: LoopbackHub, home: Path) -> None:
    code, shown, _ = command("audit", "ann/nothing", "--home", home)
    assert (code, "ann/nothing is not on the Hub" in shown["message"]) == (4, True)
    assert "there is none of this name here" in shown["message"]
    code, shown, _ = command("audit", "ann/nothing", "--home", home, "--offline")
    assert (code, "ann/nothing was not downloaded before" in shown["message"]) == (4, True)


# What the Hub refuses.


def test_a_busy_hub_gets_the_pause_it_asks_for(hub: LoopbackHub, ensemble: Path, home: Path) -> None:
    hub.faults.add("POST .*/commit/", times=2, status=429, headers={"Retry-After": "0"})
    assert export(ensemble, home)[0] == 0
    assert len(hub.asked("/commit/")) == 3
    assert len(hub.asked("PUT /lfs/")) == 3, "weights are sent once"


def test_a_hub_that_wants_too_long_a_pause_is_left_and_said(hub: LoopbackHub, ensemble: Path, home: Path) -> None:
    hub.faults.add("POST .*/commit/", times=1, status=429, headers={"Retry-After": str(int(PATIENCE_S) + 1)})
    code, shown, told = export(ensemble, home)
    assert (code, "slow down" in shown["message"], "Give the same command again" in shown["message"]) == (4, True, True)
    assert export(ensemble, home)[0] == 0
    assert len(hub.asked("PUT /lfs/")) == 3, told


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ({"status": 401}, "hf auth login"),
        ({"status": 403}, "write permission"),
        ({"status": 403, "message": "Private storage limit reached"}, "no room left"),
        ({"status": 404}, "is not on the Hub"),
        ({"status": 500}, "Give the same command again"),
    ],
    ids=["401", "403", "quota", "404", "500"],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(
    hub: LoopbackHub, ensemble: Path, home: Path, fault: dict[str, Any], words: str
) -> None:
    hub.faults.add("POST .*/commit/", times=1, **fault)
    code, shown, told = export(ensemble, home)
    assert (code, words in shown["message"]) == (4, True), told
    assert "hf_ann" not in told


def test_no_token_is_said_with_what_to_do(
    hub: LoopbackHub, ensemble: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    code, shown, told = export(ensemble, home)
    assert (code, "hf auth login" in shown["message"]) == (4, True), told


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubProcess]:
    with hub_process(tmp_path / "hub") as server:
        point_client_at(server.endpoint, monkeypatch)
        yield server


def exporting(process: HubProcess, ensemble: Path, home: Path, token: str = "hf_ann") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, "-v", "export", str(ensemble), "--to", f"hub:{FOXES}", "--home", str(home), "--json"],
        env=environment(process.endpoint, token), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
def test_kill_9_in_the_middle_sends_nothing_twice(process: HubProcess, ensemble: Path, home: Path) -> None:
    """Killed while the router goes up, and again after the commit whose answer never came."""
    sent = {name: sha256_of((ensemble / name / WEIGHTS).read_bytes()).removeprefix("sha256:") for name in NETWORKS}
    for match, how in ((f"PUT /lfs/.*{sent['router']}", "hang"), ("POST .*/commit/", "mute")):
        process.faults({"match": match, how: True, "times": 1})
        killed = exporting(process, ensemble, home)
        assert process.noted(f"held {match}")
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
    process.faults()
    again = exporting(process, ensemble, home)
    out, told = again.communicate(timeout=120)
    assert again.returncode == 0, told
    assert not json.loads(out)["changed"], "the second one had made the commit"
    puts = [request for request in process.requests() if request.startswith("PUT /lfs/")]
    assert [sum(digest in request for request in puts) for digest in (sent["expert_0"], sent["expert_1"])] == [1, 1]
    assert "hf_ann" not in out + told
