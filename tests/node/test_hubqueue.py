"""The queue for the Hub, and what empties it: a Hub that is down, busy, full; kill -9 at any moment; nothing twice."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_run import filled
from hub_testing import HubProcess, environment, hub_process, point_client_at
from huggingface_hub import HfApi
from hypothesis import given, settings
from hypothesis import strategies as st
from loopback_hub import LoopbackHub
from network_simulator import ANN, NetworkSimulator
from node_support import COMMAND
from typer.testing import CliRunner

from paris.models.filenames import WEIGHTS
from paris.node.home import Home
from paris.node.hubqueue import HubQueue, Waiting, locator, queue_folder
from paris.node.hubupload import LASTING_WAIT_S, LONGEST_WAIT_S, Shop, Uploader
from paris.registry.hubindex import INDEX, Index
from paris.registry.hubwriter import HubWriter
from paris.registry.runkey import RunKey

NOW_S = 1_000_000.0


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path / "hub") as server:
        point_client_at(server.endpoint, monkeypatch, token="hf_ann")
        yield server


class Node:
    """Ann's home, the run as she trained it, and her uploader."""

    def __init__(self, folder: Path) -> None:
        self.network = NetworkSimulator()
        self.home = Home(folder)
        self.home.save_identity(ANN)
        self.queue = HubQueue(queue_folder(folder, self.network.run))
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.now_s = NOW_S

    def train(self, unit: str, *steps: int) -> list[str]:
        chain: list[str] = []
        for step in steps:
            chain.append(self.network.publish(ANN, unit, step, chain[-1] if chain else None))
        filled(self.home.store, self.network)
        return chain

    def uploader(self, hub: LoopbackHub | None = None, wish: str = "squares", token: str = "hf_ann") -> Uploader:
        shop = Shop(self.home.store, self.network.genesis, self.network.run, ANN.peer_id, wish)
        writer = HubWriter(hub.endpoint if hub else "http://127.0.0.1:9", token, sleep=lambda _: None)
        return Uploader(
            shop, self.queue, writer, lambda e, **f: self.told.append((e, f)), lambda: self.now_s, random.Random(0)
        )

    @property
    def repository(self) -> str:
        return f"ann/squares-{self.network.run[7:15]}-{ANN.peer_id[-8:]}"


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "home")


def test_what_waits_is_published_and_then_waits_no_more(hub: LoopbackHub, node: Node) -> None:
    [checkpoint] = node.train("router", 10)
    uploader = node.uploader(hub)
    assert not locator(node.home, node.network.run, "router")
    uploader.add("router", 10, checkpoint)
    assert asyncio.run(uploader.round()) is None
    assert not node.queue.waiting()
    assert node.queue.published()["router"]["checkpoint"] == checkpoint
    assert locator(node.home, node.network.run, "router") == {"ext": {"hub": node.repository}}
    assert node.told == [
        (
            "hub",
            {
                "unit": "router",
                "step": 10,
                "repository": node.repository,
                "commit": hub.commits(node.repository)[-1].oid,
            },
        )
    ]
    uploader.add("router", 10, checkpoint)
    assert not node.queue.waiting()


def test_checkpoints_that_waited_together_become_one_commit_a_unit(hub: LoopbackHub, node: Node) -> None:
    """The Hub was down while three were made: only the newest goes there, with the statements of all."""
    for unit in ("cluster-0", "router"):
        for step, checkpoint in zip((10, 20, 30), node.train(unit, 10, 20, 30), strict=True):
            node.queue.add(unit, step, checkpoint)
    asyncio.run(node.uploader(hub).round())
    assert len(hub.commits(node.repository)) == 2
    table = Index.from_bytes(hub.read(node.repository, INDEX))
    assert {newest.step for newest in table.units.values()} == {30}
    assert len([path for path in table.files if path.startswith("provenance/router")]) == 3


def test_a_hub_that_is_down_loses_nothing_and_waits_grow_by_chance_to_a_limit(node: Node) -> None:
    [checkpoint] = node.train("router", 10)
    uploader, waits = node.uploader(), []
    uploader.add("router", 10, checkpoint)
    for _ in range(14):
        wait_s = asyncio.run(uploader.round())
        assert wait_s is not None
        waits.append(wait_s)
        node.now_s += wait_s
    assert waits[0] <= 4
    assert 225 <= waits[-1] <= LONGEST_WAIT_S
    assert len(set(waits)) == len(waits)
    [item] = node.queue.waiting()
    assert item.tries == 14
    assert "cannot be reached" in item.trouble
    assert [event for event, _ in node.told] == ["hub-waits"], "one sentence for one trouble"


@pytest.mark.parametrize(
    ("fault", "least_s", "most_s", "lasting"),
    [
        ({"status": 429, "headers": {"Retry-After": "240"}}, 240, 245, False),
        ({"status": 500}, 1, 4, False),
        ({"status": 401}, 900, LASTING_WAIT_S, True),
        ({"status": 403, "message": "storage limit reached"}, 900, LASTING_WAIT_S, True),
    ],
)  # fmt: skip
def test_the_hub_decides_how_long_to_wait(
    hub: LoopbackHub, node: Node, fault: dict[str, Any], least_s: float, most_s: float, lasting: bool
) -> None:
    [checkpoint] = node.train("router", 10)
    node.queue.add("router", 10, checkpoint)
    hub.faults.add("POST .*/commit/", times=1, **fault)
    wait_s = asyncio.run(node.uploader(hub).round())
    assert wait_s is not None
    assert least_s <= wait_s <= most_s
    assert node.queue.waiting()[0].lasting is lasting
    assert asyncio.run(node.uploader(hub).round()) == wait_s, "not asked again before its time"
    node.now_s += wait_s
    assert asyncio.run(node.uploader(hub).round()) is None
    assert len(hub.commits(node.repository)) == 1


def test_a_start_tries_at_once_what_a_person_may_have_put_right(hub: LoopbackHub, node: Node) -> None:
    [checkpoint] = node.train("router", 10)
    node.queue.add("router", 10, checkpoint)
    asyncio.run(node.uploader(hub, token="hf_wrong").round())
    assert node.queue.waiting()[0].lasting

    async def started() -> int:
        uploader = node.uploader(hub)
        task = asyncio.create_task(uploader.run())
        left = await uploader.drained(60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return left

    assert asyncio.run(started()) == 0


def test_a_node_that_leaves_does_not_wait_for_a_hub_that_is_down(node: Node) -> None:
    [checkpoint] = node.train("router", 10)

    async def leave() -> int:
        uploader = node.uploader()
        task = asyncio.create_task(uploader.run())
        uploader.add("router", 10, checkpoint)
        left = await uploader.drained(60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return left

    assert asyncio.run(leave()) == 1
    assert node.queue.waiting()


def test_weights_that_are_gone_do_not_wait_for_ever(hub: LoopbackHub, node: Node) -> None:
    [checkpoint] = node.train("router", 10)
    node.home.store.remove(node.network.entry(checkpoint, WEIGHTS).sha256)
    node.queue.add("router", 10, checkpoint)
    assert asyncio.run(node.uploader(hub).round()) is None
    assert not node.queue.waiting()


def test_an_error_nobody_thought_of_ends_nothing(hub: LoopbackHub, node: Node) -> None:
    """A table of contents that the Hub answers with is no text at all: refused, kept waiting, training goes on."""
    [checkpoint] = node.train("router", 10)
    node.queue.add("router", 10, checkpoint)
    hub.faults.add("whoami", status=200, message="not what was asked for")
    wait_s = asyncio.run(node.uploader(hub).round())
    assert wait_s is not None
    assert node.queue.waiting()


def test_the_repositorys_name_follows_from_wish_run_and_node(node: Node) -> None:
    shop = Shop(node.home.store, node.network.genesis, node.network.run, ANN.peer_id)
    ending = f"-{node.network.run[7:15]}-{ANN.peer_id[-8:]}"

    def named(wish: str, known: str = "") -> str:
        return Shop(shop.store, shop.genesis, shop.run, shop.peer_id, wish).repository(lambda: "ann", known)

    assert named("auto") == f"ann/paris{ending}"
    assert named("squares") == f"ann/squares{ending}"
    assert named("team/squares", "ann/old") == f"team/squares{ending}"
    assert named("squares", f"old/squares{ending}") == f"old/squares{ending}"
    assert named("new", f"old/squares{ending}") == f"ann/new{ending}"


@given(st.lists(st.tuples(st.sampled_from(["router", "cluster-0"]), st.integers(1, 9)), max_size=12))
@settings(max_examples=25)
def test_of_each_unit_the_newest_waits_whatever_the_order(tmp_path_factory, added: list[tuple[str, int]]) -> None:
    queue = HubQueue(tmp_path_factory.mktemp("queue"))
    for unit, step in added:
        queue.add(unit, step, f"sha256:{step:064d}")
    newest = {unit: max(step for other, step in added if other == unit) for unit, _ in added}
    assert {item.unit: item.step for item in queue.waiting()} == newest


def test_a_checkpoint_that_came_while_another_was_under_way_still_waits(tmp_path: Path) -> None:
    queue = HubQueue(tmp_path)
    queue.add("router", 10, "sha256:" + "a" * 64)
    [under_way] = queue.waiting()
    queue.add("router", 20, "sha256:" + "b" * 64)
    queue.done(under_way, "ann/x", "c0ffee")
    assert [item.step for item in queue.waiting()] == [20]
    queue.postpone(under_way, 1.0, "late")
    assert [item.step for item in queue.waiting()] == [20]


@pytest.mark.parametrize("garbage", [b"", b"[]", b"{}", b"\xff", b'{"unit": 1}', b"{" * 9999])
def test_garbage_in_the_queue_is_left_alone(tmp_path: Path, garbage: bytes) -> None:
    queue = HubQueue(tmp_path)
    queue.add("router", 10, "sha256:" + "a" * 64)
    (tmp_path / "waiting" / "router.00000099.0123456789abcdef.json").write_bytes(garbage)
    (tmp_path / "published.json").write_bytes(garbage)
    (tmp_path / "repository").write_bytes(garbage)
    assert [item.step for item in queue.waiting()] == [10]
    assert queue.repository == ""
    assert Waiting("router", 10, "sha256:" + "a" * 64) in queue.waiting()


def test_the_queue_is_shown(node: Node) -> None:
    """`paris-node hub queue`, for people and as JSON, before and after something waits."""
    from paris.node.cli.app import app

    command = ["hub", "queue", str(RunKey(node.network.run)), "--home", str(node.home.path)]
    assert "nothing waits" in CliRunner().invoke(app, command).stdout
    node.queue.add("router", 10, "sha256:" + "a" * 64)
    [item] = node.queue.waiting()
    node.queue.postpone(item, 1.0, "the Hub asks to slow down")
    node.queue.add("cluster-0", 5, "sha256:" + "b" * 64)
    node.queue.done(node.queue.waiting()[0], "ann/squares", "c0ffee00c0ffee")
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0
    assert "cluster-0: step 5 is at ann/squares (c0ffee00)" in shown.stdout
    assert "router: step 10 waits" in shown.stdout
    assert "tried 1 times: the Hub asks to slow down" in " ".join(shown.stdout.split())
    told = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert [entry["unit"] for entry in told["waiting"]] == ["router"]


def test_nothing_to_push_is_a_question_of_usage(node: Node) -> None:
    from paris.node.cli.app import app

    filled(node.home.store, node.network)
    done = CliRunner().invoke(app, ["hub", "push", str(RunKey(node.network.run)), "--home", str(node.home.path)])
    assert done.exit_code == 2


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubProcess]:
    with hub_process(tmp_path / "hub") as server:
        point_client_at(server.endpoint, monkeypatch, token="hf_ann")
        yield server


def push(process: HubProcess, node: Node, token: str = "hf_ann") -> subprocess.Popen[str]:
    key = str(RunKey(node.network.run))
    return subprocess.Popen(
        [*COMMAND, "-v", "hub", "push", key, "--hub", "squares", "--home", str(node.home.path), "--json"],
        env=environment(process.endpoint, token), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("match", "how"), [("PUT /lfs/", "hang"), ("POST .*/commit/", "mute")])
def test_kill_9_while_publishing_doubles_nothing(process: HubProcess, node: Node, match: str, how: str) -> None:
    """Killed in the upload, and after the Hub has made the commit whose answer never came."""
    [checkpoint] = node.train("router", 10)
    node.queue.add("router", 10, checkpoint)
    process.faults({"match": match, how: True, "times": 1})
    pushing = push(process, node)
    assert process.noted(f"held {match}")
    pushing.send_signal(signal.SIGKILL)
    pushing.communicate()
    assert [item.step for item in node.queue.waiting()] == [10]
    again = push(process, node)
    out, told = again.communicate(timeout=120)
    assert again.returncode == 0, told
    api = HfApi(endpoint=process.endpoint, token="hf_ann")
    assert len(api.list_repo_commits(node.repository)) == 2, "the Hub's own first one, and ours"
    assert json.loads(out)["published"]["router"]["checkpoint"] == checkpoint
    assert not json.loads(out)["waiting"]


@pytest.mark.slow
def test_a_refused_token_is_said_with_what_to_do_and_shown_nowhere(process: HubProcess, node: Node) -> None:
    [checkpoint] = node.train("router", 10)
    node.queue.add("router", 10, checkpoint)
    pushing = push(process, node, token="hf_verysecret")
    out, told = pushing.communicate(timeout=120)
    assert pushing.returncode == 5
    assert "hf auth login" in json.loads(out)["waiting"][0]["trouble"]
    everything = [path for path in node.home.path.rglob("*") if path.is_file()]
    assert not [path for path in everything if b"verysecret" in path.read_bytes()]
    assert "verysecret" not in out + told
