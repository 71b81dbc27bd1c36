"""The curator's commands about data, as a person types them: results, typing mistakes, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from paris.node.cli.app import app
from paris.node.home import Home
from paris.registry import preparation

sys.path.append(str(Path(__file__).parent.parent / "hub"))

from hub_testing import point_client_at
from loopback_hub import LoopbackHub

THINGS = {"red": "a ripe red strawberry", "blue": "a fast blue racing car"}


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def answer(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "my things"
    folder.mkdir()
    for number in range(30):
        for colour, caption in THINGS.items():
            Image.new("RGB", (16 + number, 20), colour).save(folder / f"{colour}{number:02d}.png")
            (folder / f"{colour}{number:02d}.txt").write_text(f"{caption}, number {number}")
    (folder / "broken one.jpg").write_bytes(b"\xff\xd8\xff junk")
    (folder / "broken one.txt").write_text("a caption")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home") / "paris"


@pytest.fixture(scope="module")
def run(data: Path, home: Path) -> dict:
    options = ("--model", "micro", "--clusters", 2, "--features", "pixels", "--license", "CC0-1.0")
    return answer(invoke("run", "create", data, *options, "--home", home, "--json"))


def test_a_run_of_a_folder_names_the_corrupted_file_and_writes_a_page(run: dict) -> None:
    assert (run["samples"] + run["holdout_samples"], run["left_out_count"]) == (60, 1)
    assert run["left_out"][0]["file"] == "broken one.jpg"
    assert run["left_out"][0]["reason"].startswith("broken picture")
    listed = (Path(run["work"]) / "rejects.jsonl").read_text().splitlines()
    assert [json.loads(line)["file"] for line in listed] == ["broken one.jpg"]
    assert (Path(run["work"]) / "report.html").stat().st_size > 1000


def test_the_same_command_twice_makes_equal_data(run: dict, data: Path, home: Path) -> None:
    options = ("--model", "micro", "--clusters", 2, "--features", "pixels", "--license", "CC0-1.0")
    again = answer(invoke("run", "create", data, *options, "--home", home, "--json"))
    assert (again["data"], again["clusters"]) == (run["data"], run["clusters"])


def test_filters_change_the_data_and_say_so(run: dict, data: Path, home: Path) -> None:
    options = ("--model", "micro", "--clusters", 2, "--features", "pixels", "--max-aspect", 1.6)
    result = invoke("run", "create", data, *options, "--home", home)
    assert result.exit_code == 0
    assert "x elongated picture" in result.stderr
    assert run["run"] not in result.stdout


def test_a_survey_shows_the_choice_and_writes_the_page(data: Path, home: Path, tmp_path: Path) -> None:
    options = ("--model", "micro", "--features", "pixels", "--clusters", 2, "--clusters", 3, "--report", 2)
    shown = answer(invoke("data", "survey", data, *options, "--to", tmp_path, "--home", home, "--json"))
    assert [row["clusters"] for row in shown["choices"]] == [2, 3]
    assert shown["choices"][0]["separability"] == 1
    assert Path(shown["report"]).parent == tmp_path
    spoken = invoke("data", "survey", data, *options[:6], "--home", home)
    assert spoken.exit_code == 0
    assert "silhouette" in spoken.stdout
    assert "broken one.jpg" in spoken.stderr


def test_new_samples_are_assigned(run: dict, data: Path, home: Path, tmp_path: Path) -> None:
    lines = tmp_path / "assigned.jsonl"
    shown = answer(invoke("data", "assign", run["work"], data, "--to", lines, "--home", home, "--json"))
    assert shown == {"file": str(lines), "clusters": {"0": 30, "1": 30}, "left_out_count": 1}
    clusters = {json.loads(line)["key"]: json.loads(line)["cluster"] for line in lines.read_text().splitlines()}
    assert clusters["red00"] == clusters["red29"] != clusters["blue00"]


def test_a_second_assignment_of_the_same_data_at_once_is_refused_until_the_first_is_written(
    run: dict, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds: list[Result] = []
    first, words = preparation.assign, ("data", "assign", run["work"], data, "--home", tmp_path, "--json")

    def assigned(*arguments: Any) -> tuple[Iterator[tuple[str, int]], Any]:
        pairs, seen = first(*arguments)
        monkeypatch.undo()

        def slowly() -> Iterator[tuple[str, int]]:
            yield next(pairs)
            seconds.append(invoke(*words))
            yield from pairs

        return slowly(), seen

    monkeypatch.setattr(preparation, "assign", assigned)
    written = answer(invoke(*words))
    assert written["clusters"] == {"0": 30, "1": 30}
    assert len(Path(written["file"]).read_text().splitlines()) == 60
    assert [second.exit_code for second in seconds] == [2]
    assert "another process is at work" in seconds[0].output


def test_a_runs_data_go_to_the_hub_once(run: dict, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LoopbackHub(tmp_path / "hub") as hub:
        point_client_at(hub.endpoint, monkeypatch, token="hf_ann")
        first, second = (
            answer(invoke("data", "push", run["run"], "--repo", "ann/things", "--home", home, "--json")) for _ in "ab"
        )
        assert (first["changed"], second["changed"]) == (True, False)
        assert first["commit"] == second["commit"]
        assert "hf_ann" not in json.dumps(first)
        refused = invoke("data", "push", run["run"], "--repo", "ben/things", "--home", home)
        assert refused.exit_code == 4
        assert "write" in refused.stderr


MISTAKES = {
    "no such folder": (("run", "create", "my-picturs"), 2, "no data at"),
    "features": (("run", "create", "sample:emoji", "--features", "dino"), 2, "no features called 'dino'"),
    "weights of features": (("run", "create", "sample:emoji", "--features", "text:0.5"), 2, "add up to 1"),
    "encoder": (("run", "create", "sample:emoji", "--encoder", "dino=x"), 2, "makes no sense"),
    "column": (("run", "create", "sample:emoji", "--column", "caption"), 2, "makes no sense"),
    "dedupe": (("run", "create", "sample:emoji", "--dedupe", "12"), 2, "3 bits"),
    "engine": (("run", "create", "sample:emoji", "--engine", "spark"), 2, "no engine called"),
    "model": (("data", "survey", "sample:emoji", "--model", "huge"), 2, "no preset 'huge'"),
    "survey data": (("data", "survey", "sample:cats"), 2, "no packaged sample"),
    "centroids": (("data", "assign", "paris://nowhere", "sample:emoji"), 2, "there are no centroids"),
    "run key": (("data", "push", "paris://12", "--repo", "a/b"), 2, "run key"),
    "repository": (("data", "push", "paris://" + "0" * 64, "--repo", "things"), 2, "things"),
    "unknown run": (("data", "push", "paris://" + "0" * 64, "--repo", "a/b"), 4, ""),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_typing_mistake_is_a_sentence_and_an_exit_code(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, code, said = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    result = invoke(*arguments, "--home", tmp_path / "home")
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert "next:" in result.stderr or code == 4
    assert "Traceback" not in result.output


def test_a_cut_off_home_keeps_nothing_of_a_refused_run(tmp_path: Path) -> None:
    invoke("run", "create", "sample:emoji", "--features", "smell", "--home", tmp_path / "home")
    assert not (Home(tmp_path / "home").path / "create").exists()
