"""Joining when things are down: every source by itself, together, and the way back, with live nodes on loopback."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hub_support import Hub
from node_support import LOOPBACK

from paris.node.bootstrap import CACHE, COMMAND_LINE, LAN, RUN_KEY, Source, Sources, Tried
from paris.node.company import CALM_S, FIRST_PAUSE_S, LONGEST_PAUSE_S, LOOKS_TO_MINGLE, Company
from paris.node.doctor import Finding, _network
from paris.node.hubpeers import peers_file
from paris.node.peer import Peer, open_peer, passing
from paris.node.peercache import PeerCache
from paris.node.settings import Settings
from paris.protocol.envelope import sign
from paris.protocol.errors import BootstrapError, NetworkError, UsageError
from paris.protocol.identity import Identity
from paris.protocol.records import Peer as PeerRecord
from paris.protocol.transport.daemon import Dial
from paris.protocol.transport.dht import Swarm
from paris.registry.runkey import RunKey

pytestmark = pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning")
RUN = "sha256:" + "ab" * 32


def person(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


def dead(number: int = 9) -> str:
    """An address where nothing listens."""
    return f"/ip4/127.0.0.1/tcp/9/p2p/{person(number).peer_id}"


def settings(home: Path, *peers: str, **more: Any) -> Settings:
    return Settings.load({}, home=home, peers=list(peers) or None, **{"listen": LOOPBACK, "lan": False, **more})


@asynccontextmanager
async def node(folder: Path, number: int, *bootstrap: str, listen: str = LOOPBACK) -> AsyncIterator[Swarm]:
    key = folder / f"{number}.key"
    key.write_bytes(person(number).to_libp2p())
    async with await Swarm.join(key, bootstrap, listen=listen) as swarm:
        yield swarm


def make_peer(who: Identity, *addrs: str) -> PeerRecord:
    now_s = int(time.time())
    fields = {"run": RUN, "signer": who.peer_id, "seq": now_s, "iat": now_s, "exp": now_s + 600}
    return PeerRecord(**fields, addrs=addrs, agent="paris-node/0", abilities=())


def record_of(who: Identity, swarm: Swarm) -> bytes:
    return sign("peer", make_peer(who, *swarm.addrs), who)


def test_one_dead_and_one_live_bootstrap_starts(tmp_path: Path) -> None:
    async def scene() -> Tried:
        async with node(tmp_path, 1) as live:
            key = RunKey(RUN, (dead(8), live.addrs[0]))
            async with open_peer(settings(tmp_path / "home", dead()), key) as peer:
                assert await peer.swarm.company() == [live.peer_id]
                assert peer.tried.answered == (live.addrs[0],)
                return peer.tried

    lines = asyncio.run(scene()).lines()
    assert f"{COMMAND_LINE}: {dead()} (refused" in lines[0]
    assert any(line.startswith(f"{RUN_KEY}: {dead(8)} (refused") and line.endswith("(answers)") for line in lines)


def test_all_dead_and_one_good_peer_of_before_starts_a_node_and_a_client(tmp_path: Path) -> None:
    async def scene() -> None:
        async with node(tmp_path, 1) as live:
            async with open_peer(settings(tmp_path / "home"), RunKey(RUN, (live.addrs[0],)), serve=False):
                pass
            for serve in (True, False):
                async with open_peer(settings(tmp_path / "home", dead()), RunKey(RUN, (dead(8),)), serve=serve) as peer:
                    assert peer.tried.answered == (live.addrs[0],)
                    assert peer.tried.of(Source(CACHE, (live.addrs[0],)))[0].answered

    asyncio.run(scene())


async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a connection and say nothing until the other side is tired of it."""
    await reader.read()
    while await reader.read(1024):
        pass
    writer.close()


def test_silent_peer_other_peer_and_dead_peer_are_told_apart(tmp_path: Path) -> None:
    """The same error says who is down and why: exit code 4."""

    async def scene() -> tuple[BootstrapError, str]:
        server = await asyncio.start_server(silence, "127.0.0.1", 0)
        mute = f"/ip4/127.0.0.1/tcp/{server.sockets[0].getsockname()[1]}/p2p/{person(7).peer_id}"
        async with server, node(tmp_path, 1) as live:
            impostor = live.addrs[0].replace(live.peer_id, person(6).peer_id)
            wanted = RunKey(RUN, (impostor, mute))
            with pytest.raises(BootstrapError) as caught:
                async with open_peer(settings(tmp_path / "home", dead()), wanted, serve=False):
                    pass
            return caught.value, live.peer_id

    error, live = asyncio.run(scene())
    assert error.exit_code == 4
    assert error.what == "none of the 3 known peers answered"
    assert f"(wrong peer: {live} answers there)" in error.why
    assert "says nothing)" in error.why
    assert "(refused:" in error.why
    assert error.why.startswith("tried for ")
    assert "--peer" in error.hint
    assert "paris-node doctor" in error.hint


def test_a_client_that_knows_nobody_says_what_to_do(tmp_path: Path) -> None:
    async def scene() -> None:
        async with open_peer(settings(tmp_path), RunKey(RUN), serve=False):
            pass

    with pytest.raises(BootstrapError, match="nobody is known who could be asked") as caught:
        asyncio.run(scene())
    assert "this key names no peers: give one with --peer" in caught.value.hint


def test_hub_down_is_not_waited_for_where_somebody_else_answers(tmp_path: Path, hub: Hub) -> None:
    hub.silent = True

    async def scene() -> None:
        async with node(tmp_path, 1) as live:
            key = RunKey(RUN, (live.addrs[0],), hub="team/run")
            async with open_peer(settings(tmp_path / "home"), key, serve=False) as peer:
                assert peer.tried.answered == (live.addrs[0],)
                assert any("not waited for" in line for line in peer.tried.lines())

    asyncio.run(scene())


def test_the_hub_and_the_local_network_lead_to_peers_that_nothing_else_names(tmp_path: Path, hub: Hub) -> None:
    async def scene() -> None:
        async with node(tmp_path, 1) as live:
            hub.body = peers_file([record_of(person(1), live)])
            key = RunKey(RUN, (dead(),), hub="team/run")
            async with open_peer(settings(tmp_path / "a", lan=True), key) as first:
                assert first.tried.answered == (live.addrs[0],)
                async with open_peer(settings(tmp_path / "b", lan=True), RunKey(RUN), serve=False) as second:
                    assert [source.name for source in second.tried.sources][-1] == LAN
                    assert set(second.tried.answered) == set(first.swarm.addrs)

    asyncio.run(scene())


def test_cache_poisoned_with_garbage_does_not_keep_a_node_from_starting(tmp_path: Path) -> None:
    home = settings(tmp_path / "home")
    cache = tmp_path / "home" / "peers" / f"{'ab' * 8}.json"
    cache.parent.mkdir(parents=True)

    async def scene() -> None:
        async with node(tmp_path, 1) as live:
            for garbage in (b"\xff" * 10, b"[" * 10**6):
                cache.write_bytes(garbage)
                async with open_peer(home, RunKey(RUN, (live.addrs[0],)), serve=False) as peer:
                    assert peer.tried.answered == (live.addrs[0],)
                assert PeerCache(cache).addresses(int(time.time())) == (live.addrs[0],)

    asyncio.run(scene())


class Told:
    """A company whose pauses end when a test says so, and what it reported."""

    def __init__(self, peer: Any, back: Callable[[], Awaitable[None]] | None = None) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.pauses: list[float] = []
        self.returned = 0
        self.paused, self.go_on = asyncio.Event(), asyncio.Event()
        self.company = Company(peer, RUN, back or self._back, self._report, random.Random(1), self._pause)

    async def _back(self) -> None:
        self.returned += 1

    def _report(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    async def _pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.paused.set()
        await self.go_on.wait()
        self.go_on.clear()

    async def look(self) -> None:
        """Let one look happen, to its end."""
        await self.paused.wait()
        self.paused.clear()
        self.go_on.set()
        await self.paused.wait()

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.events]


@asynccontextmanager
async def keeping(told: Told) -> AsyncIterator[Told]:
    task = asyncio.create_task(told.company.keep())
    try:
        yield told
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until_alone(peer: Peer) -> None:
    while await peer.swarm.company():
        pass  # asking the daemon lets time pass


def test_everything_down_then_a_peer_appears_is_met_told_and_remembered_then_lost(tmp_path: Path, hub: Hub) -> None:
    hub.status = 503

    async def scene() -> None:
        async with node(tmp_path, 1) as gone:
            address = gone.addrs[0]
        key = RunKey(RUN, (address,), hub="team/run")
        async with open_peer(settings(tmp_path / "home"), key) as peer, keeping(Told(peer)) as told:
            await told.look()
            assert told.kinds == ["alone"], "said once"
            assert any("503" in line for line in told.events[0][1]["tried"])
            assert any("refused" in line for line in told.events[0][1]["tried"])
            async with node(tmp_path, 2) as appeared:
                await appeared.publish(record_of(person(2), appeared))
                hub.status, hub.body = 200, peers_file([record_of(person(2), appeared)])
                await told.look()
                assert told.kinds == ["alone", "online"]
                assert (told.events[1][1], told.returned) == ({"peers": 1}, 1)
                await told.look()
                assert set(appeared.addrs) <= set(peer.cache.addresses(int(time.time())))
            await until_alone(peer)
            await told.look()
            assert told.kinds == ["alone", "online", "alone"]
            assert told.returned == 1

    asyncio.run(scene())


def test_a_twin_that_could_not_be_seen_at_the_start_is_refused_when_the_network_is_back(tmp_path: Path) -> None:
    async def scene() -> None:
        home = settings(tmp_path / "home", dead())
        async with node(tmp_path, 1) as network, open_peer(home, RunKey(RUN)) as peer:
            told = Told(peer)
            (tmp_path / "3.key").write_bytes(peer.identity.to_libp2p())
            async with await Swarm.join(tmp_path / "3.key", network.addrs) as twin:
                await twin.publish(record_of(peer.identity, twin))
                await peer.swarm.connect(network.addrs)
                with pytest.raises(UsageError, match="another live node uses this key") as caught:
                    await told.company.look()
                assert twin.addrs[0] in caught.value.why

    asyncio.run(scene())


class Nobody:
    """A network in which nobody answers, or the daemon does not."""

    def __init__(self, error: NetworkError | None = None, company: tuple[str, ...] = ()) -> None:
        self.swarm = self.sources = self.cache = self
        self.tried = Tried((Source("--peer", (dead(),)),), (Dial(dead(), "refused"),), 1.0)
        self.met, self._error, self._company = 0, error, company
        self.peer_id, self.addrs = person(5).peer_id, ()

    async def company(self) -> list[str]:
        if self._error:
            raise self._error
        return list(self._company)

    async def meet(self, _connect: object) -> Tried:
        self.met += 1
        return self.tried

    async def records(self, *_: str) -> list[Any]:
        return []

    async def skew(self) -> Any:
        return SimpleNamespace(verdict="warning", offset_s=42.04, __str__=lambda self: "")

    async def connect(self, addresses: list[str]) -> list[Dial]:
        return [Dial(address, "refused") for address in addresses]

    def note(self, *_: object) -> None:
        """Nothing is kept."""

    remember = note


async def looked(peer: Nobody, times: int) -> Told:
    async with keeping(Told(peer)) as told:
        for _ in range(times):
            await told.look()
    return told


@pytest.mark.parametrize("error", [NetworkError("the daemon ended"), UsageError("no"), ValueError("a fault of ours")])
def test_what_ends_a_contributor_is_raised_as_itself(error: Exception) -> None:
    async def fails() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        asyncio.run(Told(Nobody()).company.during(fails()))
    assert caught.value is error


def test_a_twin_seen_later_ends_the_contributor_and_a_contributor_that_is_done_ends_the_looking() -> None:
    ended = []

    async def works() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    class Twin(Nobody):
        async def records(self, *_: str) -> list[Any]:
            return [make_peer(person(5), place)]

    place = dead(5)

    async def scene() -> None:
        told = Told(Twin(company=(person(1).peer_id,)))
        told.go_on.set()
        with pytest.raises(UsageError, match="another live node uses this key"):
            await told.company.during(works())
        await Told(Nobody()).company.during(asyncio.sleep(0))

    asyncio.run(scene())
    assert ended == [True]


def test_pauses_double_up_to_a_bound_and_are_lengthened_by_chance() -> None:
    pauses = asyncio.run(looked(Nobody(), 12)).pauses
    least = [min(FIRST_PAUSE_S * 2**look, LONGEST_PAUSE_S) for look in range(len(pauses))]
    assert all(low <= pause <= 1.5 * low for low, pause in zip(least, pauses, strict=True))
    assert least[-1] == LONGEST_PAUSE_S
    assert len({round(pause / low, 6) for low, pause in zip(least, pauses, strict=True)}) == len(pauses)


def test_a_daemon_that_does_not_answer_is_looked_at_again(caplog: pytest.LogCaptureFixture) -> None:
    told = asyncio.run(looked(Nobody(NetworkError("the connected peers could not be listed")), 3))
    assert told.kinds == ["alone"]
    assert caplog.text.count("could not be listed") == 3


def test_two_halves_of_a_network_meet_again_because_all_sources_are_tried_now_and_then() -> None:
    peer = Nobody(company=(person(1).peer_id,))
    told = asyncio.run(looked(peer, 2 * LOOKS_TO_MINGLE + 1))
    assert peer.met == 2
    assert told.kinds == ["alone", "online", "clock"]
    assert (told.events[2][1]["offset_s"], "timedatectl" in told.events[2][1]["cure"]) == (42.0, True)
    assert all(pause >= CALM_S for pause in told.pauses[1:])


def test_a_node_that_has_company_from_the_start_is_told_its_clock_and_not_that_it_is_online() -> None:
    peer = Nobody(company=(person(1).peer_id,))
    peer.tried = Tried((), (Dial(dead()),), 1.0)
    assert asyncio.run(looked(peer, 2)).kinds == ["clock"]


def test_a_clock_that_cannot_be_compared_is_passed_over() -> None:
    class Mute(Nobody):
        async def skew(self) -> Any:
            raise NetworkError("the connected peers could not be listed")

    assert asyncio.run(looked(Mute(company=(person(1).peer_id,)), 2)).kinds == ["alone", "online"]


def test_doctor_finds_a_live_peer_by_every_source_and_compares_clocks(tmp_path: Path) -> None:
    async def scene() -> dict[str, Finding]:
        async with node(tmp_path, 1) as live:
            findings = await _network(settings(tmp_path / "home", live.addrs[0], dead()), None)
            return {finding.what: finding for finding in findings}

    found = asyncio.run(scene())
    assert {what: finding.verdict for what, finding in found.items()} == {
        "daemon": "ok", "addresses": "warning", "--peer": "ok", "settings": "ok", "network": "ok", "clock": "ok",
    }  # fmt: skip
    assert found["--peer"].detail.startswith("1 of 2 answer; ")
    assert "that of 1 peer" in found["clock"].detail


def test_doctor_of_a_run_whose_genesis_nobody_has_says_so(tmp_path: Path) -> None:
    async def scene() -> list[Finding]:
        async with node(tmp_path, 1) as live:
            return await _network(settings(tmp_path / "home"), RunKey(RUN, (live.addrs[0],)))

    findings = asyncio.run(scene())
    assert findings[-1].verdict == "problem"
    assert "could not be fetched" in findings[-1].detail
    assert [finding.what for finding in findings if finding.verdict == "ok"].count("run key") == 1


def test_sources_are_named_apart_and_own_addresses_lead_nowhere(tmp_path: Path) -> None:
    me = f"/ip4/127.0.0.1/tcp/4001/p2p/{person(3).peer_id}"
    cache = PeerCache(tmp_path / "peers.json")
    cache.note([Dial(me), Dial(dead(4))], int(time.time()))
    (tmp_path / "config.toml").write_text(f'peers = ["{dead(2)}"]\n')
    found = Sources(settings(tmp_path, dead(1)), RunKey(RUN, (me,)), cache, person(3).peer_id)
    assert [source.addresses for source in found.at_hand()] == [(dead(1),), (dead(2),), (me,), (dead(4),)]
    tried = asyncio.run(found.meet(Nobody().connect))
    assert {dial.address for dial in tried.dials} == {dead(1), dead(2), dead(4)}


def test_a_client_does_not_want_the_port_of_the_node_beside_it() -> None:
    assert passing("/ip4/0.0.0.0/tcp/4001") == "/ip4/0.0.0.0/tcp/0"
