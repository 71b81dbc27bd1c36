"""Standing records: they only grow, they come back when the network does, and a hostile field harms nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from paris.node.announcer import Announcer
from paris.node.contributor import Contributor
from paris.protocol.book import RecordBook
from paris.protocol.envelope import verify
from paris.protocol.errors import NetworkError, RecordError, ResourceError
from paris.protocol.identity import Identity
from paris.protocol.limits import LIMITS
from paris.protocol.records import Claim, Tip, record_key
from paris.protocol.transport.ledger import Ledger
from paris.protocol.validation import check_record

RUN = "sha256:" + "ab" * 32
ME = Identity.from_seed(b"a" * 32)
CLAIM = {"unit": "cluster-0", "parent": None, "step": 0}


@dataclass
class World:
    """A clock that stands still until moved, and a network that may be down or full."""

    now_s: float = 1_800_000_000
    refuses: type[Exception] | None = None
    heard: list[dict[str, Any]] = field(default_factory=list)

    async def publish(self, record: bytes) -> None:
        check_record(record, self.now_s, {})
        if self.refuses:
            raise self.refuses("refused")
        kind = "tip" if b"vnd.paris.tip" in record else "claim"
        self.heard.append(verify(record, kind).payload)

    def announcer(self) -> Announcer:
        return Announcer(RUN, ME, self.publish, lambda: self.now_s)

    def keep(self, announcer: Announcer, life_s: int = 90, **changes: Any) -> bool:
        return asyncio.run(announcer.keep("claim", "cluster-0", Claim, life_s, lambda: {**CLAIM, **changes}))


@pytest.fixture
def world() -> World:
    return World()


def test_sequence_and_expiry_grow_although_the_clock_stands_still(world: World) -> None:
    announcer = world.announcer()
    for step in range(5):
        assert world.keep(announcer, step=step)
    for before, after in zip(world.heard, world.heard[1:], strict=False):
        assert after["seq"] > before["seq"]
        assert after["exp"] > before["exp"]


def test_restart_does_not_fall_behind_its_own_earlier_records(world: World) -> None:
    world.keep(world.announcer())
    world.now_s += 5
    world.keep(world.announcer())
    assert world.heard[1]["seq"] > world.heard[0]["seq"]
    assert world.heard[1]["exp"] > world.heard[0]["exp"]


def test_clock_that_jumps_back_an_hour_neither_lets_a_lease_lapse_nor_breaks_a_record(world: World) -> None:
    """Others' clocks went on: what they hold must stay replaceable, and the renewal must not wait an hour."""
    true_s, start_s = [0.0], world.now_s

    async def publish(record: bytes) -> None:
        check_record(record, start_s + true_s[0], {})
        world.heard.append(verify(record, "claim").payload)

    announcer = Announcer(RUN, ME, publish, lambda: world.now_s, lambda: true_s[0])
    world.keep(announcer)
    world.now_s -= 3600
    for _ in range(4):
        true_s[0] += 30
        asyncio.run(announcer.flush())
    assert len(world.heard) == 5
    for before, after in zip(world.heard, world.heard[1:], strict=False):
        assert after["seq"] > before["seq"]
        assert after["exp"] > before["exp"]
        assert after["iat"] >= before["iat"]


def test_record_released_and_claimed_again_still_grows(world: World) -> None:
    announcer = world.announcer()
    world.keep(announcer)
    announcer.drop("claim", "cluster-0")
    world.keep(announcer)
    assert world.heard[1]["seq"] > world.heard[0]["seq"]


def test_announced_again_within_a_third_of_life_and_not_much_before(world: World) -> None:
    announcer = world.announcer()
    world.keep(announcer, life_s=90)
    world.now_s += 20
    asyncio.run(announcer.flush())
    assert len(world.heard) == 1
    world.now_s += 11
    asyncio.run(announcer.flush())
    assert len(world.heard) == 2


@pytest.mark.parametrize("failure", [NetworkError, RecordError])
def test_network_that_is_down_or_full_gets_it_later(world: World, failure: type[Exception]) -> None:
    announcer = world.announcer()
    world.refuses = failure
    assert not world.keep(announcer)
    world.refuses = None
    asyncio.run(announcer.flush())
    assert len(world.heard) == 1


def test_dropped_record_is_never_announced_again(world: World) -> None:
    announcer = world.announcer()
    world.keep(announcer)
    announcer.drop("claim", "cluster-0")
    world.now_s += 1000
    asyncio.run(announcer.flush())
    assert len(world.heard) == 1
    assert not announcer.standing("claim", "cluster-0")


def test_content_is_that_of_the_moment_it_is_announced(world: World) -> None:
    announcer, steps = world.announcer(), iter((7, 9))
    asyncio.run(announcer.keep("claim", "cluster-0", Claim, 30, lambda: {**CLAIM, "step": next(steps)}))
    world.now_s += 30
    asyncio.run(announcer.flush())
    assert [record["step"] for record in world.heard] == [7, 9]


def test_longest_life_leaves_room_for_announcing_often(world: World) -> None:
    """A record of the longest allowed life, renewed every moment, never outgrows that life."""
    announcer = world.announcer()
    for _ in range(50):
        assert world.keep(announcer, life_s=LIMITS.life_s["claim"])


def test_loss_no_tip_can_carry_is_refused_before_it_is_stood_behind(world: World) -> None:
    fields = {"unit": "router", "checkpoint": RUN, "manifest": RUN, "step": 1, "loss_micro": -1}
    with pytest.raises(RecordError):
        asyncio.run(world.announcer().keep("tip", "router", Tip, 600, lambda: fields))
    assert world.heard == []


class Disk:
    """A node's real book and ledger on a disk that may be full."""

    def __init__(self, folder: Path) -> None:
        self.ledger, self.book = Ledger.open(folder / "ledger.sqlite"), RecordBook()
        self.ledger.load(self.book, World.now_s)

    def room(self, pages: int) -> None:
        self.ledger._connection.execute(f"PRAGMA max_page_count = {pages}")

    async def publish(self, record: bytes) -> None:
        self.book.offer(check_record(record, World.now_s, {}), World.now_s)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path)
    yield disk
    disk.ledger.close()


def test_full_disk_ends_nobody_and_the_record_is_announced_when_there_is_room(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    announcer = Announcer(RUN, ME, disk.publish, lambda: World.now_s)
    key, large = record_key("claim", RUN, "cluster-0"), {**CLAIM, "ext": {"filler": "x" * 8000}}
    disk.room(pages=1)
    assert not asyncio.run(announcer.keep("claim", "cluster-0", Claim, 90, lambda: large))
    asyncio.run(announcer.flush())
    assert disk.book.newest(key, ME.peer_id) is None
    assert caplog.text.count("full. make room on the disk") == 2
    disk.room(pages=1000)
    asyncio.run(announcer.flush())
    assert disk.book.newest(key, ME.peer_id)


def test_renewing_goes_on_whatever_an_announcement_raises(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A node's task that renews: nobody looks at it before the end, so that what ended it would end every lease."""
    announcer, failures = world.announcer(), iter([ResourceError("no room"), RuntimeError("a fault of ours")])

    async def scene() -> None:
        heard = asyncio.Event()

        def fields() -> dict[str, Any]:
            for failure in failures:
                raise failure
            heard.set()
            return CLAIM

        await announcer.keep("claim", "cluster-0", Claim, 90, lambda: CLAIM)
        announcer.hurry()
        announcer._standing["claim", "cluster-0"].fields = fields
        node = SimpleNamespace(_announcer=announcer, _period_s=0.0)
        renewing = asyncio.create_task(Contributor._renew(cast("Any", node)))
        await asyncio.wait_for(heard.wait(), 30)
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)

    asyncio.run(scene())
    assert len(world.heard) == 2
    assert "no room" in caplog.text
    assert "a fault of ours" in caplog.text
