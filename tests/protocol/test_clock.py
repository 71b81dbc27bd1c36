"""Ordinary clocks: wrong by a minute and a half, and by ten. Real processes with wrong clocks join on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from pathlib import Path

import pytest
from protocol_support import digest_of, fresh, make_claim, person, signed, swarm_of

from paris.protocol.limits import LIMITS
from paris.protocol.skew import CURE, NOTABLE_S, Skew
from paris.protocol.transport.clock import measure_skew
from paris.protocol.transport.libp2p import ping_request

SKEWED = Path(__file__).parent / "peers" / "skewed.py"
RUN = digest_of("run")


@contextlib.asynccontextmanager
async def skewed(shift_s: int, seed: int, address: str):
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, SKEWED, str(shift_s), str(seed), address),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield json.loads(await process.stdout.readline())
    finally:
        process.stdin.close()
        await process.wait()


async def claimants(swarm) -> set[str]:
    return {record.signer for record in await swarm.records("claim", RUN, "cluster-0")}


@pytest.mark.slow
def test_home_machines_with_wrong_clocks_join_and_those_beyond_the_limit_are_told(tmp_path, run_async):
    """Two of them by 90 s: they are heard and hear. Two by ten minutes: told, refused, and nobody is harmed."""
    shifts = {-90: 11, 90: 12, -600: 13, 600: 14}

    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (first, second), contextlib.AsyncExitStack() as stack:
            for number, swarm in ((1, first), (2, second)):
                await swarm.publish(signed(fresh(make_claim, person(number)), person(number)))
            nodes = [skewed(shift, seed, first.addrs[0]) for shift, seed in shifts.items()]
            told = dict(zip(shifts, await asyncio.gather(*map(stack.enter_async_context, nodes)), strict=True))
            return told, [await claimants(swarm) for swarm in (first, second)], first.refusals + second.refusals

    told, views, refusals = run_async(scene())
    honest = {person(number).peer_id for number in (1, 2)}
    near, far = ({person(shifts[shift]).peer_id for shift in group} for group in ((-90, 90), (-600, 600)))
    assert views == [honest | near] * 2
    for shift, seen in told.items():
        assert seen["met"], "hivemind's own check of clocks would have refused it"
        if abs(shift) < LIMITS.skew_s:
            assert honest <= set(seen["seen"])
            assert seen["verdict"] == "warning"
        else:
            assert not honest & set(seen["seen"])
            assert seen["verdict"] == "problem"
            assert "they refuse what this node announces" in seen["words"]
        assert abs(seen["offset_s"] + shift) < abs(shift) / 2
        assert ("behind" if shift < 0 else "ahead of") in seen["words"]
    assert any("expired" in refusal for refusal in refusals)
    assert any("future" in refusal for refusal in refusals)
    assert not far & set().union(*views)


def test_clocks_that_agree_are_measured_as_such(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1, 2, 3) as swarms:
            return [await swarm.skew() for swarm in swarms]

    for skew in run_async(scene()):
        assert (skew.verdict, skew.peers) == ("ok", 2)


def test_nobody_to_compare_with_is_no_offset(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1) as (alone,):
            return await alone.skew()

    assert run_async(scene()) is None


class Clocks:
    """What `measure_skew` asks of hivemind: peers that tell a time, or something else."""

    def __init__(self, *times):
        self.times = list(times)

    def get_stub(self, peer):
        return self

    async def rpc_ping(self, request, timeout):  # noqa: ASYNC109 - hivemind's name
        assert type(request) is type(ping_request())
        said = self.times.pop()
        if said is None:
            raise ConnectionError
        return type("Answer", (), {"dht_time": said})


@pytest.mark.parametrize("lies", [(0.0, 9e9), (float("nan"), float("inf")), (1e300, -1e300), (None, None)])
def test_time_attack_two_liars_among_five_do_not_move_the_median(run_async, monkeypatch, lies):
    monkeypatch.setattr("paris.protocol.transport.clock.time.time", lambda: 1000.0)
    names = [person(number).peer_id for number in range(1, 6)]
    skew = run_async(measure_skew(Clocks(1003.0, *lies, 1004.0, 1005.0), names))
    assert 3.0 <= skew.offset_s <= 5.0


def test_offset_is_taken_at_the_middle_of_the_round_trip(run_async, monkeypatch):
    clock = iter([1000.0, 1004.0])
    monkeypatch.setattr("paris.protocol.transport.clock.time.time", lambda: next(clock))
    assert run_async(measure_skew(Clocks(1012.0), [person(1).peer_id])) == Skew(10.0, 1)


@pytest.mark.parametrize(
    ("offset_s", "verdict", "words"),
    [
        (0.2, "ok", "within 1 s of those of 3 peers"),
        (-NOTABLE_S, "ok", "within 10 s"),
        (11.0, "warning", "11 s behind those of 3 peers; records are accepted within 120 s"),
        (-120.0, "warning", "120 s ahead of those of 3 peers"),
        (-121.0, "problem", "121 s ahead of those of 3 peers: beyond 120 s"),
    ],
)
def test_an_offset_in_words(offset_s, verdict, words):
    skew = Skew(offset_s, 3)
    assert skew.verdict == verdict
    assert words in str(skew)
    assert "that of 1 peer" in str(Skew(offset_s, 1))
    assert "timedatectl" in CURE


def test_one_node_with_an_absurd_time_moves_nothing():
    assert Skew.among([1e18, 0.5, 0.7]) == Skew(0.6, 2)
    assert Skew.among([float("nan"), float("inf")]) is None
