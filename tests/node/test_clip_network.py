"""A run of clips from end to end in real processes: commands, claims, checkpoints and audits as for pictures."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from node_support import LOOPBACK, Contributor, last_json, paris_node
from PIL import Image, ImageDraw

from paris.models.decoding import count_frames, suffix_of
from paris.models.pipeline import ParisPipeline
from paris.registry.runkey import RunKey

pytestmark = [pytest.mark.slow, pytest.mark.timeout(580)]


def film_clips(folder: Path) -> Path:
    """Two kinds of captioned clips: circles that move to the right, and bars that move down."""
    folder.mkdir()
    for i, colour in enumerate(("red", "orange", "gold", "green", "blue", "purple", "pink", "brown")):
        for size in range(3, 7):
            films = {f"{colour} circle of size {size} moves": [], f"{colour} elephant number {size} falls": []}
            for at in range(0, 12, 2):
                circle, bar = Image.new("RGB", (16, 16), "white"), Image.new("RGB", (16, 16), "white")
                ImageDraw.Draw(circle).ellipse((at, 8 - size, at + 2 * size, 8 + size), colour)
                ImageDraw.Draw(bar).rectangle((2, at, 13, at + size), colour)
                for film, frame in zip(films.values(), (circle, bar), strict=True):
                    film.append(frame)
            for number, (caption, film) in enumerate(films.items()):
                path = folder / f"{i}-{size}-{number}.gif"
                film[0].save(path, save_all=True, append_images=film[1:], duration=100)
                path.with_suffix(".txt").write_text(caption)
    return folder


def test_clips_are_trained_fetched_made_and_audited_by_the_same_commands(tmp_path: Path) -> None:
    created = paris_node(
        *("run", "create", film_clips(tmp_path / "films"), "--clusters", 2, "--model", "video-nano", "--steps", 60),
        *("--publish-every", 30, "--router-steps", 40, "--batch", 8, "--lease", 30, "--settle", 1, "--copies", 1),
        *("--home", tmp_path / "ada", "--json"),
    )
    assert created.returncode == 0, created.stderr
    key = RunKey.parse(last_json(created)["run"])

    async def asked(*words: object) -> dict:
        done = await asyncio.to_thread(paris_node, *words, "--json", timeout_s=400)
        assert done.returncode == 0, (done.stdout, done.stderr)
        return last_json(done)

    async def scene() -> None:
        ada, ben = Contributor("ada", tmp_path), ("--home", tmp_path / "ben", "--listen", LOOPBACK)
        try:
            await ada.start(str(key), "--threads", "1")
            await ada.until("complete")
            at = str(key.with_peers(tuple(ada.addrs[:1])))
            await asked("fetch", at, "--to", tmp_path / "ensemble", *ben)
            report = await asked("audit", at, "--evaluate", "--replay", 1, "--threads", 1, *ben)
        finally:
            await ada.end()
        assert {unit["level"] for unit in report["units"]} == {"evaluated", "replayed"}
        replays = [check for unit in report["units"] for check in unit["checks"] if check["level"] == "replayed"]
        assert "every bit as published" in replays[0]["detail"]

    asyncio.run(scene())
    pipeline = ParisPipeline.from_pretrained(tmp_path / "ensemble")
    assert (pipeline.makes_clips, pipeline.shape) == (True, (3, 4, 16, 16))
    Image.new("RGB", (16, 16), "red").save(tmp_path / "first.png")
    made = paris_node(
        *("generate", tmp_path / "ensemble", "a red circle moves", "--frames", 6, "--image", tmp_path / "first.png"),
        *("--steps", 4, "--out", tmp_path / "clip.mp4", "--home", tmp_path / "ben", "--json"),
    )
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["frames"] == 6
    data = (tmp_path / "clip.mp4").read_bytes()
    assert (suffix_of(data), count_frames(data)) == ("mp4", 6)
