"""`paris-node generate` on a small ensemble of clips: kinds of files, first frames, lengths, what makes no sense."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from node_support import draw_ensemble
from PIL import Image
from typer.testing import CliRunner, Result

from paris.models.decoding import count_frames, frames, suffix_of
from paris.node.cli.app import app
from paris.node.grid import captioned_grids, contact_sheet


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three nano experts of clips and a router, all parameters random."""
    return draw_ensemble(tmp_path_factory.mktemp("clips"), experts=3, preset_name="video-nano")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two micro experts of pictures and a router."""
    return draw_ensemble(tmp_path_factory.mktemp("pictures"), experts=2)


@pytest.fixture
def generate(ensemble: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def generate(*options: object, prompts: tuple[str, ...] = ("a fox",), folder: Path = ensemble) -> Result:
        words = ["generate", folder, *prompts, "--home", tmp_path, "--json", "--steps", 2, *options]
        return CliRunner().invoke(app, [str(word) for word in words])

    return generate


def made(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def refused(result: Result) -> str:
    assert result.exit_code == 2, result.output
    return json.loads(result.stdout.splitlines()[-1])["message"]


@pytest.mark.parametrize("kind", ["mp4", "gif", "webp"])
def test_a_clip_is_written_as_its_name_ends(generate, tmp_path, kind) -> None:
    result = made(generate("--out", f"out.{kind}", "--fps", 5))
    data = (tmp_path / result["file"]).read_bytes()
    assert (suffix_of(data), count_frames(data)) == (kind, 4)
    assert (result["frames"], result["fps"]) == (4, 5.0)
    if kind != "mp4":
        with Image.open(tmp_path / result["file"]) as image:
            image.seek(1)
            image.load()
            assert image.info["duration"] == 200


def test_without_a_name_a_clip_is_a_webp_that_moves(generate, tmp_path) -> None:
    result = made(generate(prompts=("a fox", "a car")))
    assert (result["file"], result["fps"]) == ("paris.webp", 8.0)
    first, second, *_ = (np.asarray(frame) for frame in frames((tmp_path / "paris.webp").read_bytes()))
    assert not np.array_equal(first, second)
    assert [picture["prompt"] for picture in result["pictures"]] == ["a fox", "a car"]


def test_a_clip_is_as_long_as_asked(generate, tmp_path) -> None:
    assert made(generate("--frames", 6))["frames"] == count_frames((tmp_path / "paris.webp").read_bytes()) == 6


def test_the_first_frame_that_was_given_changes_the_clip(generate, tmp_path) -> None:
    def clip(*options: object) -> list[np.ndarray]:
        made(generate(*options))
        return [np.asarray(frame) for frame in frames((tmp_path / "paris.webp").read_bytes())]

    for colour in ("red", "blue"):
        Image.new("RGB", (30, 50), colour).save(tmp_path / f"{colour}.png")
    clips = [clip(), clip("--image", "red.png"), clip("--image", "blue.png")]
    assert not any(np.array_equal(a, b) for a, b in zip(clips[0], clips[1], strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(clips[1], clips[2], strict=True))


def test_a_sheet_shows_the_frames_of_every_clip_side_by_side(generate, tmp_path) -> None:
    result = made(generate("--sheet", "sheet.png", prompts=("a fox", "a car")))
    with Image.open(tmp_path / result["sheet"]) as sheet:
        width, height = sheet.size
    assert width > 1.5 * height, "four frames in each of two rows"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--out", "out.png"), "clips are written as .mp4, .gif, .webp"),
        (("--strength", 0.5, "--image", "in.png"), "--strength says nothing to clips"),
        (("--frames", 5), "must be a multiple of 2"),
        (("--fps", 0), "--fps 0 is impossible"),
        (("--fps", 1000), "up to 240"),
        (("--sheet", "sheet.webp"), "End its name in .png"),
    ],
)
def test_what_makes_no_sense_for_clips_is_named(generate, tmp_path, options, said) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "in.png")
    assert said in refused(generate(*options))
    assert not list(tmp_path.glob("paris*"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--fps", 5), "these experts draw pictures"),
        (("--sheet", "sheet.png"), "these experts draw pictures"),
        (("--out", "out.gif"), "End its name in .png"),
        (("--frames", 8), "they cannot make clips of 8 frames"),
    ],
)
def test_what_makes_no_sense_for_pictures_is_named(generate, pictures, options, said) -> None:
    assert said in refused(generate(*options, folder=pictures))


def test_without_pyav_mp4_is_refused_before_anything_is_drawn(generate, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert "paris-node[video]" in refused(generate("--out", "out.mp4"))


def test_clips_keep_their_frames_in_a_grid_and_in_a_sheet() -> None:
    clips = [[Image.new("RGB", (8, 8), (i, side, 0)) for i in range(10)] for side in (0, 200)]
    grids = captioned_grids(clips, ["one", "two"])
    assert [grid.getpixel((20, 20)) for grid in grids] == [(i, 0, 0) for i in range(10)]
    sheet = contact_sheet(clips, ["one", "two"], shown=5)
    cell, row = sheet.width // 5, sheet.height // 2
    shown = [[sheet.getpixel((20 + cell * i, 20 + row * side)) for i in range(5)] for side in (0, 1)]
    assert shown == [[(2 * i, side, 0) for i in range(5)] for side in (0, 200)]
    assert contact_sheet([clips[0][:3]], ["short"], shown=8).width == 3 * cell, "no frame is shown twice"
