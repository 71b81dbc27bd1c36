"""The data of a run, and what is done with it and an ensemble: calibration, routing by centres, distillation."""

from __future__ import annotations

import asyncio
import json
import math
import tarfile
from pathlib import Path

import pytest
from node_support import Contributor, draw_ensemble, last_json, paris_node
from typer.testing import CliRunner, Result

from paris.node.cli.app import app

pytestmark = pytest.mark.slow


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def said(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def fetched(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    """What `data fetch` says of a run of two clusters, and the home of who asked."""
    folder = tmp_path_factory.mktemp("data of a run")
    made = paris_node(
        "run", "create", pictures, "--clusters", 2, "--model", "micro", "--home", folder / "ada", "--json"
    )
    assert made.returncode == 0, made.stderr

    async def scene() -> dict:
        ada = Contributor("ada", folder)
        await ada.start(last_json(made)["run"], "--no-train")
        try:
            ready = await ada.until("ready")
            where = ("--to", folder / "shards", "--home", folder / "bea", "--json")
            done = await asyncio.to_thread(paris_node, "data", "fetch", ready["run"], *where)
            assert done.returncode == 0, done.stderr
            wrong = await asyncio.to_thread(paris_node, "data", "fetch", ready["run"], "--cluster", 7, *where)
            assert wrong.returncode == 2
            assert "no cluster 7" in wrong.stdout
            return last_json(done)
        finally:
            await ada.end()

    return asyncio.run(scene()), folder


@pytest.fixture(scope="module")
def shards(fetched: tuple[dict, Path]) -> dict[str, list[Path]]:
    folder = fetched[1] / "shards"
    return {kind: sorted(folder.glob(f"*-{kind}-*.tar")) for kind in ("train", "holdout")}


@pytest.fixture
def ensemble(tmp_path: Path) -> Path:
    return draw_ensemble(tmp_path / "ensemble", experts=2)


def test_the_data_of_a_run_is_fetched_whole_and_laid_out(fetched, shards):
    told, folder = fetched
    assert told["shards"] == sorted(path.name for path in (folder / "shards").iterdir() if path.suffix == ".tar")
    assert {path.name for path in (folder / "shards").iterdir()} == {*told["shards"], "centroids.safetensors"}
    assert told["fetched_bytes"] == told["bytes"] == sum(p.stat().st_size for p in (folder / "shards").iterdir())
    assert len(shards["train"]) == 2
    with tarfile.open(shards["train"][0]) as tar:
        assert any(name.endswith(".png") for name in tar.getnames())


def test_a_router_is_asked_and_its_temperature_kept_only_where_told(ensemble, shards, tmp_path):
    index = ensemble / "model_index.json"
    before = index.read_bytes()
    told = said(invoke("calibrate", ensemble, *shards["holdout"], "--home", tmp_path, "--answers", 300, "--json"))
    assert set(told) == {"router", "router without text", "written"}
    assert index.read_bytes() == before
    router = told["router"]
    assert router["loss_after"] <= router["loss"] + 1e-9
    assert sum(level["answers"] for level in router["levels"]) == router["answers"] == 300
    kept = said(
        invoke("calibrate", ensemble, *shards["holdout"], "--home", tmp_path, "--answers", 300, "--write", "--json")
    )
    assert kept["router"] == router, "the same questions get the same answers"
    assert json.loads(index.read_text())["router_temperature"] == round(router["temperature"], 4)


def test_centres_measured_on_training_data_route_without_a_router(ensemble, shards, tmp_path):
    train = [word for shard in shards["train"] for word in ("--training", shard)]
    told = said(
        invoke(
            "calibrate", ensemble, *shards["holdout"], "--home", tmp_path, *train, "--answers", 300, "--write", "--json"
        )
    )
    assert told["centres, no router"]["accuracy"] > 0.9, "circles and stripes with unlike captions are told apart"
    drawn = invoke(
        "generate", ensemble, "red circle", "--strategy", "router-free", "--steps", 2, "--out", tmp_path / "a.png",
        "--home", tmp_path, "--json",
    )  # fmt: skip
    assert drawn.exit_code == 0, drawn.output


def test_an_ensemble_becomes_one_network_in_two_goes(ensemble, shards, tmp_path):
    words = ("distill", ensemble, *shards["train"], "--out", tmp_path / "student", "--batch", 8, "--save-every", 2)
    first = said(invoke(*words, "--steps", 2, "--json"))
    second = said(invoke(*words, "--steps", 4, "--json"))
    assert (first["steps"], second["steps"]) == (2, 4)
    assert math.isfinite(second["loss"])
    drawn = invoke("generate", tmp_path / "student", "red circle", "--steps", 2, "--out", tmp_path / "a.png",
                   "--home", tmp_path, "--json")  # fmt: skip
    assert drawn.exit_code == 0, drawn.output


@pytest.mark.parametrize("command", [("calibrate",), ("distill", "--out", "student")])
def test_what_is_missing_is_named(command, tmp_path):
    name, *options = command
    gone = invoke(name, tmp_path / "nowhere", tmp_path / "a.tar", *options)
    assert gone.exit_code == 2
    assert "nowhere is no folder" in gone.output.replace("\n", "")
