"""The one limit over all transfers: the bucket in virtual time, real transfers through a valve with such a clock."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import FileSource, swarm_of

from paris.protocol.bucket import TokenBucket
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import describe
from paris.protocol.transport import blobs
from paris.protocol.transport.blobs import STREAMS, serve
from paris.protocol.transport.fetch import fetch_blob, fetch_file
from paris.protocol.transport.rate import LEAST_BYTES_PER_S, UNLIMITED, Throttle

CONTENT = bytes(range(256)) * 40_000
EPSILON = 1e-6


class VirtualTime:
    """A clock that moves only while somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.slept_s: list[float] = []

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


class Counting(Throttle):
    """A valve that remembers what passed."""

    def __init__(self, bytes_per_s: int, time: VirtualTime) -> None:
        super().__init__(bytes_per_s, time.clock, time.sleep)
        self.taken: list[int] = []

    async def take(self, count_bytes: int) -> None:
        self.taken.append(count_bytes)
        await super().take(count_bytes)


@given(
    rate=st.integers(1, 10**9),
    burst=st.integers(1, 10**7),
    takes=st.lists(st.tuples(st.integers(0, 10**7), st.floats(0, 100)), max_size=50),
)
def test_never_more_than_the_burst_and_the_rate_allow_and_in_order(rate, burst, takes):
    bucket, now_s, passed, total = TokenBucket(rate, burst), 0.0, [], 0
    for count, pause_s in takes:
        now_s += pause_s
        total += count
        passed.append((now_s + bucket.take(count, now_s), total))
    for at_s, total in passed:
        assert total <= (burst + rate * at_s) * (1 + EPSILON) + 1
    moments = [at_s for at_s, _ in passed]
    assert all(later >= earlier - EPSILON * max(1, earlier) for earlier, later in pairwise(moments))


@given(rate=st.integers(1, 10**9), counts=st.lists(st.integers(1, 10**6), min_size=1, max_size=30))
def test_who_takes_all_the_time_gets_the_whole_rate(rate, counts):
    bucket, now_s = TokenBucket(rate, 1), 0.0
    for count in counts:
        now_s += bucket.take(count, now_s)
    assert now_s == pytest.approx((sum(counts) - 1) / rate, rel=1e-6, abs=1e-6)


def test_a_clock_that_goes_back_gives_nothing_away():
    bucket = TokenBucket(100, 100)
    assert bucket.take(100, 1000.0) == 0
    assert bucket.take(100, 10.0) == 1
    assert bucket.take(100, 1000.0) == 2
    assert bucket.take(0, 1002.0) == 0


def test_what_did_not_pass_is_given_back_and_never_more_than_the_burst():
    bucket = TokenBucket(100, 100)
    bucket.take(100, 0)
    bucket.give_back(1000)
    assert bucket.take(100, 0) == 0
    assert bucket.take(1, 0) > 0


def test_no_limit_no_waiting_and_whole_parts(run_async):
    run_async(UNLIMITED.take(10**12))
    assert UNLIMITED.part(10**12) == 10**12
    assert UNLIMITED.streams(64) == 64


def test_small_limits_mean_small_parts_and_few_streams():
    assert Throttle(LEAST_BYTES_PER_S).streams(STREAMS) == 1
    assert Throttle(4 * LEAST_BYTES_PER_S).streams(STREAMS) == 4
    assert Throttle(10**9).streams(STREAMS) == STREAMS
    assert Throttle(LEAST_BYTES_PER_S).part(10**6) == 16 * 2**10
    assert Throttle(10**9).part(10**6) == LIMITS.write_bytes


def test_a_taker_that_gives_up_leaves_its_turn_to_others(run_async):
    async def scene():
        stuck, release = asyncio.Event(), asyncio.Event()

        async def sleep(_seconds: float) -> None:
            stuck.set()
            await release.wait()

        throttle = Throttle(LEAST_BYTES_PER_S, lambda: 0.0, sleep)
        task = asyncio.create_task(throttle.take(10**6))
        await stuck.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await throttle.take(1)

    run_async(scene())


def test_everything_sent_and_fetched_passes_the_valves_and_takes_the_time_it_must(tmp_path, run_async):
    """Virtual time: three fetches at once, real streams. Both clocks must have moved by what the limits ask for."""
    (tmp_path / "served").write_bytes(CONTENT)
    entry = describe("weights", [CONTENT])
    rate, ups, downs = 10**6, VirtualTime(), VirtualTime()
    up, down = Counting(rate, ups), Counting(rate, downs)

    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, client):
            await serve(server, FileSource({entry.sha256: tmp_path / "served"}), up)
            provider = [server.peer_id]
            await asyncio.gather(
                fetch_file(client, entry, provider, tmp_path / "a", down=down),
                fetch_file(client, entry, provider, tmp_path / "b", down=down),
            )
            assert await fetch_blob(client, entry.sha256, provider, len(CONTENT), down=down) == CONTENT

    run_async(scene())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == CONTENT
    for valve, time in ((up, ups), (down, downs)):
        assert sum(valve.taken) == 3 * len(CONTENT)
        assert max(valve.taken) <= rate // 8
        assert sum(time.slept_s) >= (3 * len(CONTENT) - rate) / rate


def test_our_own_limit_is_not_held_against_the_peer(tmp_path, run_async, monkeypatch):
    """By the clock that measures stalls, every wait for tokens takes an hour; the peer is honest and stays."""
    (tmp_path / "served").write_bytes(CONTENT[: 2**20])
    entry = describe("weights", [CONTENT[: 2**20]])
    waits = 0

    async def sleep(_seconds: float) -> None:
        nonlocal waits
        waits += 1

    monkeypatch.setattr(blobs, "time", SimpleNamespace(monotonic=lambda: 3600.0 * waits))

    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, client):
            await serve(server, FileSource({entry.sha256: tmp_path / "served"}))
            down = Throttle(LEAST_BYTES_PER_S, lambda: 0.0, sleep)
            await fetch_file(client, entry, [server.peer_id], tmp_path / "partial", down=down)
            assert (tmp_path / "partial").read_bytes() == CONTENT[: 2**20]

    run_async(scene())
    assert waits > 50
