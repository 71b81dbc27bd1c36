"""The demo's parts that need no network: its budget, whom it kills, its folder, its commands."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from paris.node.demo import processes
from paris.node.demo.budget import LEAST_TRAINING_S, OVERHEAD_S, OVERTIME, longest_s, plan_at, shared_out
from paris.node.demo.processes import NodeProcess, run_command
from paris.node.demo.scenes import CLIPS, PICTURES, Scene
from paris.node.demo.show import MARK, _half_way, _make_room
from paris.protocol.errors import ParisError, UsageError

scenes = pytest.mark.parametrize("scene", [PICTURES, CLIPS], ids=["pictures", "clips"])


@pytest.mark.parametrize(
    ("cores", "peers", "threads", "share"),
    [(2, 4, 1, 1.0), (4, 4, 1, 1.0), (8, 4, 2, 1.0), (16, 3, 5, 15 / 16), (7, 4, 1, 4 / 7), (1, 16, 1, 1.0)],
)
def test_contributors_share_the_cores_the_plan_counts_on(cores: int, peers: int, threads: int, share: float) -> None:
    assert shared_out(cores, peers) == (threads, share)


def test_few_minutes_do_not_end_a_demo_before_it_can_be_done() -> None:
    assert longest_s(0.5) == OVERTIME * (OVERHEAD_S + LEAST_TRAINING_S)
    assert longest_s(10) == OVERTIME * 600


@scenes
def test_steps_grow_with_speed_and_time_and_shrink_with_clusters(scene: Scene) -> None:
    def steps(rate: float, minutes: float, clusters: int) -> int:
        return plan_at(scene, rate, minutes, clusters).expert.steps

    assert steps(2000, 10, 4) == pytest.approx(2 * steps(1000, 10, 4), abs=1)
    assert steps(1000, 10, 8) == pytest.approx(steps(1000, 10, 4) / 2, abs=1)
    assert steps(1000, 20, 4) > 2 * steps(1000, 10, 4)
    assert steps(0.001, 0.5, 16) == 20


@scenes
def test_training_fits_into_the_minutes(scene: Scene) -> None:
    plan, rate, clusters, minutes = plan_at(scene, 1000, 10, 4), 1000, 4, 10
    assert clusters * plan.expert.steps * plan.expert.batch / rate < minutes * 60 - OVERHEAD_S
    for recipe in (plan.expert, plan.router):
        assert recipe.warmup_steps < recipe.steps
        assert recipe.steps / recipe.publish_every > 4


class Living(NodeProcess):
    """A node that is said to live."""

    @property
    def alive(self) -> bool:
        return True


def node(name: str, *, alive: bool = True) -> NodeProcess:
    made = (Living if alive else NodeProcess)(name, Path(name), Path(name))
    made.peer_id = name
    return made


@pytest.mark.parametrize(
    ("change", "killed"),
    [
        ({}, "ada"),
        ({"published_step": 30}, None),  # hardly begun: nothing to take over
        ({"published_step": 90}, None),  # as good as done: nobody would have to
        ({"copies": 1}, None),  # what it trained would be lost with it
        ({"unit": "router"}, None),
        ({"holder": None}, None),
        ({"holder": "bea"}, None),  # dead already
        ({"holder": "curator"}, None),  # serves the data
        ({"holder": "stranger"}, None),
    ],
)
def test_whom_the_demo_kills(change: dict[str, object], killed: str | None) -> None:
    nodes = [node("curator"), node("ada"), node("bea", alive=False)]
    row = {"unit": "cluster-0", "published_step": 50, "target": 100, "copies": 2, "holder": "ada"} | change
    victim = _half_way([row], nodes)
    assert (victim and victim.name) == killed


def test_an_earlier_demo_is_cleared_away_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    _make_room(out)
    assert sorted(path.name for path in out.iterdir()) == [MARK, "logs"]
    (out / "homes" / "ada").mkdir(parents=True)
    for name in ("summary.json", "grid.png", "grid.webp", "sheet.png", "mine.txt"):
        (out / name).write_text("old")
    _make_room(out)
    assert sorted(path.name for path in out.iterdir()) == [MARK, "logs", "mine.txt"]


def test_somebody_s_homes_and_logs_are_no_earlier_demo(tmp_path: Path) -> None:
    for name in ("homes", "logs", "ensemble"):
        (tmp_path / name / "precious").mkdir(parents=True)
    with pytest.raises(UsageError, match="no earlier demo"):
        _make_room(tmp_path)
    assert len(list(tmp_path.glob("*/precious"))) == 3


def test_a_file_is_no_folder_for_a_demo(tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    file.write_text("precious")
    with pytest.raises(UsageError, match="is a file"):
        _make_room(file)
    assert file.read_text() == "precious"


def test_a_command_that_fails_is_named_unless_its_code_is_expected(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(ParisError, match="exited with code 2"):
        asyncio.run(run_command("audit", "nonsense", log=log))
    assert asyncio.run(run_command("audit", "nonsense", log=log, accepted=(0, 2)))["exit_code"] == 2


def test_a_command_ends_with_whoever_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe closes when its one writer ends."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    script = f"import time; file = open({str(pipe)!r}, 'w'); time.sleep(60)"
    monkeypatch.setattr(processes, "COMMAND", (sys.executable, "-c", script))

    async def scene() -> None:
        running = asyncio.create_task(run_command("forever", log=tmp_path / "log"))
        with await asyncio.to_thread(pipe.open) as reader:
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert reader.read() == ""

    asyncio.run(scene())
