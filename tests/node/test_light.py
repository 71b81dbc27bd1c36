"""The light network against record servers that lie, truncate, stall, babble or flood; plain connections, no daemon."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from node_support import LOOPBACK, last_json, paris_node

from paris.node.light import MOST_ASKED, LightNetwork, open_library
from paris.node.settings import Settings
from paris.protocol import strict_json
from paris.protocol.curation import Admission, Curators
from paris.protocol.digests import sha256_of
from paris.protocol.envelope import sign
from paris.protocol.errors import BootstrapError, NetworkError, UsageError
from paris.protocol.identity import Identity
from paris.protocol.records import Claim, Head, Peer, Tip
from paris.protocol.transport import records
from paris.protocol.validation import RunRules
from paris.registry.runkey import RunKey

RUN, OTHER = sha256_of(b"run"), sha256_of(b"another run")
HONEST, BAD, WRITER = (Identity.from_seed(name.ljust(32)) for name in (b"honest", b"bad", b"writer"))
UNITS = [f"cluster-{number}" for number in range(40)]
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], object]


def tip(who: Identity = WRITER, signer: Identity | None = None, **changes: object) -> bytes:
    now_s = int(time.time())
    fields = {
        "run": RUN, "signer": who.peer_id, "seq": 1, "iat": now_s, "exp": now_s + 600, "unit": "cluster-0", "step": 10,
        "checkpoint": RUN, "manifest": RUN, "loss_micro": 1,
    }  # fmt: skip
    return sign("tip", Tip.parse(fields | changes), signer or who)


def forged() -> bytes:
    """In the writer's name, signed by somebody else."""
    envelope = strict_json.loads(tip(signer=BAD, step=99), 1 << 14)
    envelope["signatures"][0]["keyid"] = WRITER.peer_id
    return strict_json.dumps(envelope)


def head(count: int, status: int = 0) -> bytes:
    return bytes([status]) + bytes(8) + count.to_bytes(4, "big")


def framed(*envelopes: bytes) -> bytes:
    return b"".join(len(envelope).to_bytes(4, "big") + envelope for envelope in envelopes)


class Book:
    """A record source with nothing but a dictionary in it."""

    def __init__(self, **slots: list[bytes]) -> None:
        self.slots = {name.replace("_", "-"): found for name, found in slots.items()}
        self.asked: list[str] = []

    async def envelopes(self, kind: str, run: str, slot: str) -> list[bytes]:
        self.asked.append(slot)
        return self.slots.get(slot, []) if kind == "tip" else self.slots.get(kind, [])


class Town:
    """Nodes by name, each a plain server on loopback: what `LightNetwork` needs of a host."""

    peer_id = "nobody"

    def __init__(self) -> None:
        self._ports: dict[str, int] = {}
        self.learned: list[str] = []

    def learn(self, addresses: object) -> None:
        self.learned += addresses  # type: ignore[operator]

    def known(self) -> list[str]:
        return list(self._ports)

    async def stream(self, peer_id: str, protocol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert protocol == records.PROTOCOL
        if peer_id not in self._ports:
            raise NetworkError(f"{peer_id} cannot be reached")
        return await asyncio.open_connection("127.0.0.1", self._ports[peer_id])

    @contextlib.asynccontextmanager
    async def node(self, who: Identity, behave: Answer) -> AsyncIterator[None]:
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await behave(reader, writer)  # type: ignore[misc]
            writer.close()

        async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
            self._ports[who.peer_id] = server.sockets[0].getsockname()[1]
            yield


def honest(source: Book) -> Answer:
    server = records.RecordServer(source)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.handle(type("Info", (), {"peer_id": object()}), reader, writer)

    return answer


def says(data: bytes, *, then_stays: bool = False, again: bool = False) -> Answer:
    """Answers every request with the same bytes, then ends, stays silent, or goes on for ever."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
        writer.write(data)
        await writer.drain()
        while again:
            writer.write(framed(tip()))
            await writer.drain()
        if then_stays:
            await reader.read()

    return answer


ATTACKS = {
    "a forged signature": (says(head(1) + framed(forged())), "signature"),
    "a record of another run": (says(head(1) + framed(tip(run=OTHER))), "a foreign tip"),
    "a record of another slot": (says(head(1) + framed(tip(unit="router"))), "a foreign tip"),
    "no envelope": (says(head(1) + framed(b"{}")), "envelope"),
    "a record above the limit": (says(head(1) + (2**14 + 1).to_bytes(4, "big")), "offers a record of 16385 bytes"),
    "more records than fit": (says(head(65)), "offers 65 records"),
    "a count that is a lie": (says(head(2) + framed(tip())), "cut its answer short"),
    "a truncated record": (says(head(1) + framed(tip())[:-1]), "cut its answer short"),
    "silence": (says(b"", then_stays=True), "stalled"),
    "silence in the middle": (says(head(1) + framed(tip())[:99], then_stays=True), "stalled"),
    "another protocol": (says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "refused"),
    "a refusal": (says(head(0, status=3)), "busy"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_bad_node_is_named_and_the_others_answers_count(attack: str) -> None:
    behave, words = ATTACKS[attack]

    async def scene() -> None:
        town = Town()
        async with town.node(BAD, behave):
            alone = LightNetwork(town, patience_s=1)
            with pytest.raises(BootstrapError) as caught:
                await alone.records("tip", RUN, "cluster-0")
            assert caught.value.exit_code == 4
            assert words in str(caught.value)
            async with town.node(HONEST, honest(Book(cluster_0=[tip()]))):
                network = LightNetwork(town, patience_s=1)
                (found,) = await network.records("tip", RUN, "cluster-0")
                assert (found.signer, found.seq) == (WRITER.peer_id, 1)

    asyncio.run(scene())


def test_an_endless_answer_ends_where_the_announced_records_do() -> None:
    async def scene() -> None:
        town = Town()
        async with town.node(BAD, says(head(1) + framed(tip()), again=True)):
            assert len(await LightNetwork(town, patience_s=5).records("tip", RUN, "cluster-0")) == 1

    asyncio.run(scene())


def test_expired_future_and_replaced_records_are_left_out_and_held_against_nobody() -> None:
    now_s = int(time.time())
    old, new = tip(), tip(seq=2, exp=now_s + 700, step=20)
    stale = [tip(iat=now_s - 600, exp=now_s - 1), tip(HONEST, iat=now_s + 500, exp=now_s + 600), old]

    async def scene() -> None:
        town = Town()
        lagging, current = Book(cluster_0=stale), Book(cluster_0=[new])
        async with town.node(BAD, honest(lagging)), town.node(HONEST, honest(current)):
            network = LightNetwork(town)
            for _ in range(2):
                (found,) = await network.records("tip", RUN, "cluster-0")
                assert found.seq == 2
            assert len(lagging.asked) == 2, "it is asked again"

    asyncio.run(scene())


def test_what_only_the_curators_rules_refuse_is_left_out_and_held_against_nobody() -> None:
    """A node that does not know the run cannot tell false heads, nor claims of keys that were shut out."""
    now_s = int(time.time())
    fields = {"run": RUN, "signer": BAD.peer_id, "seq": 1, "iat": now_s, "exp": now_s + 600}
    false = sign("head", Head.parse({**fields, "version": 9, "genesis": RUN}), BAD)
    true = sign("head", Head.parse({**fields, "signer": WRITER.peer_id, "version": 1, "genesis": RUN}), WRITER)
    claim = sign("claim", Claim.parse({**fields, "unit": "router", "step": 1}), BAD)
    banned = Admission.parse({"policy": "open", "former": [{"key": BAD.peer_id, "until": 0}]})

    async def scene() -> None:
        town = Town()
        unknowing = Book(head=[false, true], claim=[claim])
        async with town.node(HONEST, honest(unknowing)):
            network = LightNetwork(town)
            assert len(await network.envelopes("head", RUN, "")) == 2
            network.know(RUN, RunRules(banned, Curators(keys=(WRITER.peer_id,), threshold=1), RUN))
            for _ in range(2):
                assert await network.envelopes("head", RUN, "") == [true]
                assert await network.records("claim", RUN, "router") == []
            assert len(unknowing.asked) == 5, "it is asked again"

    asyncio.run(scene())


def test_a_signer_of_two_records_under_one_number_counts_for_neither() -> None:
    async def scene() -> None:
        town = Town()
        first, second = Book(cluster_0=[tip(step=1)]), Book(cluster_0=[tip(step=2), tip(HONEST)])
        async with town.node(BAD, honest(first)), town.node(HONEST, honest(second)):
            found = await LightNetwork(town).records("tip", RUN, "cluster-0")
            assert [record.signer for record in found] == [HONEST.peer_id]

    asyncio.run(scene())


def test_slots_asked_for_together_travel_together_and_none_is_lost() -> None:
    book = Book(**{unit.replace("-", "_"): [tip(unit=unit)] for unit in UNITS})

    async def scene() -> None:
        town = Town()
        async with town.node(HONEST, honest(book)):
            network = LightNetwork(town)
            found = await asyncio.gather(*(network.records("tip", RUN, unit) for unit in UNITS))
            assert [[record.slot for record in slot] for slot in found] == [[unit] for unit in UNITS]
            assert sorted(book.asked) == sorted(UNITS)

    asyncio.run(scene())


def test_addresses_are_learned_from_who_signed_them_and_only_a_few_nodes_are_asked() -> None:
    now_s = int(time.time())
    where, elsewhere = f"/ip4/127.0.0.1/tcp/7/p2p/{WRITER.peer_id}", f"/ip4/127.0.0.1/tcp/7/p2p/{BAD.peer_id}"
    fields = {"run": RUN, "signer": WRITER.peer_id, "seq": 1, "iat": now_s, "exp": now_s + 600}
    peer = Peer.parse({**fields, "addrs": [where, elsewhere], "agent": "test", "abilities": []})
    book = Book(peer=[sign("peer", peer, WRITER)])

    async def scene() -> None:
        town = Town()
        async with contextlib.AsyncExitStack() as stack:
            for number in range(3 * MOST_ASKED):
                who = Identity.from_seed(bytes([number]) * 32)
                await stack.enter_async_context(town.node(who, honest(book)))
            assert len(await LightNetwork(town).records("peer", RUN, "")) == 1
        assert set(town.learned) == {where}
        assert len(book.asked) == MOST_ASKED

    asyncio.run(scene())


def test_what_the_light_client_cannot_start_without_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def opened(*peers: str) -> None:
        async with open_library(Settings(home=tmp_path), RunKey(RUN, peers), light=True):
            pass

    with pytest.raises(BootstrapError, match="this key names no peers"):
        asyncio.run(opened())
    monkeypatch.setattr("paris.node.light.find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"paris-node\[light\]"):
        asyncio.run(opened(f"/ip4/127.0.0.1/tcp/9/p2p/{BAD.peer_id}"))


@pytest.mark.slow
def test_without_hivemind_light_is_implied_and_said(tmp_path: Path) -> None:
    """hivemind cannot be imported in that process at all; the error is the light client's."""
    code = (
        "import importlib.util as u, sys\nreal = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'hivemind' else real(name, *rest)\n"
        "sys.modules['hivemind'] = None\nfrom paris.node.cli import main\nmain()"
    )
    key = f"paris://{RUN.removeprefix('sha256:')}?peer=/ip4/127.0.0.1/tcp/9/p2p/{BAD.peer_id}"
    done = subprocess.run(
        [sys.executable, "-c", code, "fetch", key, "--home", str(tmp_path), "--json"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert "hivemind is not installed here" in done.stderr
    assert last_json(done)["error"] == "BootstrapError"


@pytest.mark.parametrize("rate", ["fast", "2Mb", "-1", "2MB/h", "1kB/s"])
def test_a_rate_that_is_none_is_a_usage_error_with_an_example(rate: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2MB/s") as caught:
        Settings.load({"PARIS_UP": rate}, home=tmp_path)
    assert caught.value.exit_code == 2


def test_rates_come_from_flags_environment_and_file(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('up = "1MB/s"\ndown = 64000\n')
    settings = Settings.load({"PARIS_UP": "2MiB/s"}, home=tmp_path)
    assert (settings.up, settings.down) == (2 * 2**20, 64_000)
    assert Settings.load({"PARIS_UP": "2MiB/s"}, home=tmp_path, up="500kB").up == 500_000
    assert Settings.load({}, home=tmp_path / "new").down == 0
    done = paris_node("start", "paris://" + "0" * 64, "--down", "fast", "--listen", LOOPBACK, "--home", tmp_path)
    assert done.returncode == 2
    assert "500kB/s" in done.stderr
