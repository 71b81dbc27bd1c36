"""From a resolved run to a folder: all of it or nothing, with the proofs beside the weights."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from network_simulator import ANN, BEN, CURATOR, EVE, TARGET, NetworkSimulator, exported, text_identity
from test_store import flip_a_byte

from paris.models.filenames import CONFIG, WEIGHTS
from paris.models.pipeline import ParisPipeline
from paris.protocol.digests import sha256_of
from paris.protocol.errors import DigestError, RecordError, ResourceError, UnavailableError, UsageError
from paris.protocol.lineage import chain
from paris.protocol.manifest import Manifest, describe
from paris.protocol.records import open_genesis
from paris.registry import assemble
from paris.registry.assemble import fetch_ensemble
from paris.registry.atomic import TEMPORARY_SUFFIX
from paris.registry.library import Library
from paris.registry.resolve import resolve


async def _assembled(library: Library, folder: Path, **options) -> int:
    network = library.network
    run = await resolve(library, network.run, network.providers)
    return await fetch_ensemble(library, run, folder, network.providers, **options)


def assembled(library: Library, folder: Path, **options) -> int:
    return asyncio.run(_assembled(library, folder, **options))


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def leftovers(folder: Path) -> list[Path]:
    return list(folder.parent.glob(f".*{TEMPORARY_SUFFIX}"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "out" / "ensemble"


@pytest.fixture
def trained(network: NetworkSimulator) -> NetworkSimulator:
    network.train()
    return network


def test_what_is_written_is_a_pipeline_that_draws(library, trained, folder):
    assembled(library, folder)
    pipeline = ParisPipeline.from_pretrained(folder)
    output = pipeline(["a red square", "a blue square"], num_inference_steps=2, top_k=1, seed=1)
    assert [image.size for image in output.images] == [(32, 32), (32, 32)]
    assert all(sum(part.steps for part in drawn) == 2 for drawn in output.routing)


def test_the_folder_holds_weights_index_and_proofs_and_nothing_else(library, trained, folder):
    assembled(library, folder)
    half = f"{TARGET // 2:08d}.checkpoint.json"
    whole = f"{TARGET:08d}.checkpoint.json"
    units = ("cluster-0", "cluster-1", "router")
    assert names_in(folder) == {
        "model_index.json",
        "text_encoder.json",
        "scheduler/scheduler_config.json",
        *(f"{part}/{name}" for part in ("expert_0", "expert_1", "router") for name in (CONFIG, WEIGHTS)),
        "provenance/data.json",
        "provenance/genesis.json",
        "provenance/run.json",
        *(f"provenance/{unit}.manifest.json" for unit in units),
        *(f"provenance/{unit}-{step}" for unit in units for step in (half, whole)),
    }
    assert json.loads((folder / "text_encoder.json").read_text()) == {**text_identity(), "tokens": 16}
    assert leftovers(folder) == []


def test_every_weight_is_the_signed_one(library, trained, folder):
    assembled(library, folder)
    for unit, part in (("cluster-0", "expert_0"), ("cluster-1", "expert_1"), ("router", "router")):
        assert (folder / part / WEIGHTS).read_bytes() == exported(unit, TARGET)[WEIGHTS]


def test_the_proofs_hold_without_a_network(library, trained, folder):
    assembled(library, folder)
    proofs = folder / "provenance"
    genesis, run = open_genesis((proofs / "genesis.json").read_bytes())
    told = json.loads((proofs / "run.json").read_text())
    assert told["run"] == run == trained.run
    statements = {sha256_of(path.read_bytes()): path.read_bytes() for path in proofs.glob("*.checkpoint.json")}
    for unit, said in told["units"].items():
        lineage = chain(said["checkpoint"], statements.get, genesis, run)
        assert lineage[-1].unit == unit
        assert said["step"] == lineage[-1].to_step == TARGET
        assert said["trained_by"] == [ANN.peer_id]
        manifest = (proofs / f"{unit}.manifest.json").read_bytes()
        assert sha256_of(manifest) == lineage[-1].manifest
        entry = Manifest.from_bytes(manifest).entry(WEIGHTS)
        part = folder / unit.replace("cluster-", "expert_")
        assert sha256_of((part / WEIGHTS).read_bytes()) == entry.sha256


def test_a_takeover_shows_in_the_proofs(library, network, folder):
    network.train(["cluster-1", "router"])
    first = network.publish(ANN, "cluster-0", 20)
    network.mirror(BEN, "cluster-0", network.publish(BEN, "cluster-0", TARGET, first))
    assembled(library, folder)
    told = json.loads((folder / "provenance" / "run.json").read_text())
    assert told["units"]["cluster-0"]["trained_by"] == [ANN.peer_id, BEN.peer_id]


def test_bytes_are_counted_and_shown_and_training_states_stay_away(library, trained, folder):
    arrived: list[int] = []
    size = sum(len(exported(u, TARGET)[n]) for u in trained.genesis.units() for n in (CONFIG, WEIGHTS))
    size -= len(exported("cluster-0")[CONFIG])  # two experts, one config.json
    assert assembled(library, folder, progress=arrived.append) == size == sum(arrived)
    assert sha256_of(exported("router")["state.safetensors"]) not in trained.transfers
    assert assembled(library, folder) == 0


def test_an_autoencoder_is_laid_out_too(store, folder):
    codec = {"config.json": b"{}", "diffusion_pytorch_model.safetensors": b"autoencoder"}
    digest = Manifest.of(describe(name, [data]) for name, data in codec.items()).digest
    network = NetworkSimulator(codec={"kind": "autoencoder-tiny", "manifest": digest})
    network.train()
    with pytest.raises(UnavailableError):
        assembled(Library(store, network), folder)
    assert network.serve_tree(CURATOR, codec) == digest
    assembled(Library(store, network), folder)
    assert (folder / "vae" / WEIGHTS).read_bytes() == b"autoencoder"


# What is missing.


@pytest.mark.parametrize("missing", ["router", "cluster-1"])
def test_a_missing_unit_is_named(library, network, folder, missing):
    network.train([unit for unit in network.genesis.units() if unit != missing])
    with pytest.raises(UnavailableError, match=f"no checkpoint of {missing} yet") as caught:
        assembled(library, folder)
    assert caught.value.exit_code == 4
    assert "paris-node status" in caught.value.hint
    assert not folder.exists()


def test_a_refused_unit_is_a_missing_one(library, network, folder):
    network.train(["cluster-0", "router"])
    network.publish(EVE, "cluster-1", TARGET, signed_by=ANN)
    with pytest.raises(UnavailableError, match="cluster-1"):
        assembled(library, folder)


def test_an_unfinished_run_can_be_used(library, network, folder):
    for unit in network.genesis.units():
        network.publish(ANN, unit, 3)
    assembled(library, folder)
    assert ParisPipeline.from_pretrained(folder)


def test_weights_that_nobody_serves_leave_no_folder_and_keep_what_came(library, trained, folder, store):
    tips = {unit: asyncio.run(library.records("tip", trained.run, unit))[0] for unit in trained.genesis.units()}
    lost = trained.entry(tips["router"].checkpoint, WEIGHTS)
    data = trained.bytes_of(lost.sha256)
    trained.forget(lost.sha256)
    with pytest.raises(UnavailableError):
        assembled(library, folder)
    assert not folder.exists()
    trained.serve(ANN, data)
    assert assembled(library, folder) == lost.size


def test_a_checkpoint_that_would_fill_the_disk_is_refused_unfetched(library, network, folder):
    network.train(["cluster-0", "router"])
    bloated = exported("cluster-1")[WEIGHTS] + b"\0" * (5 * 2**20)
    network.publish(EVE, "cluster-1", TARGET, files={**exported("cluster-1"), WEIGHTS: bloated})
    with pytest.raises(RecordError, match="of cluster-1 is too large") as caught:
        assembled(library, folder)
    assert caught.value.exit_code == 3
    assert sha256_of(bloated) not in network.transfers
    assert not folder.exists()


# What goes wrong on the way must not cost the earlier folder.


@pytest.fixture
def earlier(library, network, folder) -> NetworkSimulator:
    """An ensemble on disk, and a newer one on the network that is in the store already."""
    firsts = {unit: network.publish(ANN, unit, 10) for unit in network.genesis.units()}
    assembled(library, folder)
    for unit, first in firsts.items():
        network.publish(ANN, unit, TARGET, first)
    assembled(library, folder.with_name("rehearsal"))
    return network


def step_on_disk(folder: Path) -> int:
    told = json.loads((folder / "provenance" / "run.json").read_text())
    return told["units"]["router"]["step"]


def test_a_newer_ensemble_replaces_the_earlier_one(library, earlier, folder):
    assembled(library, folder)
    assert step_on_disk(folder) == TARGET
    assert leftovers(folder) == []


def test_a_damaged_blob_leaves_the_earlier_folder(library, earlier, folder, store):
    tip = asyncio.run(library.records("tip", earlier.run, "router"))[0]
    flip_a_byte(store.path(earlier.entry(tip.checkpoint, WEIGHTS).sha256))
    with pytest.raises(DigestError, match="damaged"):
        assembled(library, folder)
    assert step_on_disk(folder) == 10
    assert leftovers(folder) == []
    assembled(library, folder)
    assert step_on_disk(folder) == TARGET


@pytest.mark.parametrize("room_bytes", [10, 90, 1000])
def test_a_full_disk_leaves_the_earlier_folder_and_says_so(library, earlier, folder, full_disk, room_bytes):
    with full_disk(room_bytes), pytest.raises(ResourceError, match="no room"):
        assembled(library, folder)
    assert step_on_disk(folder) == 10
    assert leftovers(folder) == []


@pytest.mark.parametrize("step", ["write_index", "_write_provenance", "replace_directory"])
def test_an_interrupt_at_any_step_leaves_the_earlier_folder(library, earlier, folder, monkeypatch, step):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(assemble, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        assembled(library, folder)
    monkeypatch.undo()
    assert step_on_disk(folder) == 10
    assert leftovers(folder) == []
    assert ParisPipeline.from_pretrained(folder)


def test_a_folder_with_somebodys_own_files_is_never_replaced(library, trained, tmp_path):
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs" / "wedding.jpg").write_bytes(b"irreplaceable")
    with pytest.raises(UsageError, match=r"wedding\.jpg, which would be lost") as caught:
        assembled(library, tmp_path / "photographs")
    assert caught.value.exit_code == 2
    assert (tmp_path / "photographs" / "wedding.jpg").read_bytes() == b"irreplaceable"


@pytest.mark.parametrize("name", ["router", "vae", "expert_0", "provenance", "model_index.json"])
def test_somebodys_own_folder_named_as_a_part_of_ours_is_never_deleted(library, trained, folder, name):
    (folder / name).mkdir(parents=True)
    (folder / name / "mine").write_bytes(b"irreplaceable")
    with pytest.raises(UsageError, match=f"holds {name}, which would be lost"):
        assembled(library, folder)
    assert (folder / name / "mine").read_bytes() == b"irreplaceable"


@pytest.mark.parametrize("relative", [".", "../folder", "deeper/.."])
def test_a_relative_folder_is_the_one_it_names(library, trained, tmp_path, monkeypatch, relative):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    assembled(library, Path(relative))
    assert step_on_disk(tmp_path / "folder") == TARGET
    assert leftovers(tmp_path / "folder") == []


def test_pictures_drawn_into_an_ensemble_are_not_lost(library, earlier, folder):
    (folder / "fox.png").write_bytes(b"a fox")
    with pytest.raises(UsageError, match=r"fox\.png"):
        assembled(library, folder)
    (folder / "fox.png").unlink()
    assembled(library, folder)
    assert step_on_disk(folder) == TARGET


def test_a_file_in_the_way_stays(library, trained, tmp_path):
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        assembled(library, tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "mine"


def test_an_empty_folder_is_filled(library, trained, tmp_path):
    (tmp_path / "empty").mkdir()
    assembled(library, tmp_path / "empty")
    assert step_on_disk(tmp_path / "empty") == TARGET
