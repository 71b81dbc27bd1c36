"""Peers with the Hub beside them: what each knows counts, what one lacks the other gives, either may be off."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_run import ANNS, CURATORS, filled, publish, publish_all, with_hub, writer
from hub_testing import point_client_at
from hypothesis import given
from hypothesis import strategies as st
from loopback_hub import LoopbackHub
from network_simulator import ANN, CURATOR, NetworkSimulator

from paris.models.filenames import WEIGHTS
from paris.protocol.digests import sha256_of
from paris.protocol.errors import EnvelopeError, NetworkError, UnavailableError
from paris.protocol.records import Record, Tip
from paris.protocol.transport.fetch import fetch_from
from paris.protocol.validation import RunRules
from paris.registry.assemble import fetch_ensemble
from paris.registry.hubindex import Index, Lying, Newest, folder_of
from paris.registry.hubnetwork import HubNetwork, WithHub, envelopes_in, record_file, repositories_in
from paris.registry.hubregistry import registry_change
from paris.registry.library import Library
from paris.registry.resolve import ResolvedRun, resolve
from paris.registry.store import Store


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path / "hub") as server:
        point_client_at(server.endpoint, monkeypatch)
        yield server


class Peers:
    """The simulator's peers; mirrors are left out, as by a network that knows none."""

    def __init__(self, network: NetworkSimulator, *, off: bool = False) -> None:
        self._network, self._off = network, off
        self.known: list[tuple[str, RunRules]] = []

    async def records(self, kind: str, run: str, slot: str) -> list[Record]:
        self._answer()
        return await self._network.records(kind, run, slot)

    async def envelopes(self, kind: str, run: str, slot: str) -> list[bytes]:
        self._answer()
        return []

    def know(self, run: str, rules: RunRules) -> None:
        self.known.append((run, rules))

    async def fetch_blob(self, digest: str, providers: Any) -> bytes:
        return await self._network.fetch_blob(digest, providers)

    async def fetch_file(self, entry: Any, providers: Any, partial: Path, progress: Any, mirrors: Any = ()) -> None:
        await self._network.fetch_file(entry, providers, partial, progress)

    def _answer(self) -> None:
        if self._off:
            raise NetworkError("no peer answers")


def beside(
    peers: Peers, run: str, repositories: tuple[str, ...], use: Callable[[WithHub], Coroutine[Any, Any, Any]]
) -> Any:
    return with_hub(run, repositories, lambda found: use(WithHub(peers, found)))


def test_from_peers_alone_while_the_hub_is_off(
    network: NetworkSimulator, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key names repositories, and nothing listens where the Hub should be."""
    point_client_at("http://127.0.0.1:9", monkeypatch)
    network.train()

    async def use(both: WithHub) -> ResolvedRun:
        library = Library(store, both)
        resolved = await resolve(library, network.run, network.providers)
        await fetch_ensemble(library, resolved, tmp_path / "ensemble", network.providers)
        return resolved

    assert beside(Peers(network), network.run, (CURATORS, ANNS), use).complete


def test_from_the_hub_while_peers_are_off(
    hub: LoopbackHub, network: NetworkSimulator, store: Store, tmp_path: Path
) -> None:
    newest = publish_all(hub, Store(tmp_path / "full"), network)

    async def use(both: WithHub) -> ResolvedRun:
        return await resolve(Library(store, both), network.run)

    resolved = beside(Peers(network, off=True), network.run, (ANNS,), use)
    assert {unit: resolved.units[unit].checkpoint for unit in newest} == newest


def test_peers_that_cannot_be_reached_are_said_where_the_hub_has_nothing(
    hub: LoopbackHub, network: NetworkSimulator
) -> None:
    async def use(both: WithHub) -> None:
        for ask in (both.records, both.envelopes):
            with pytest.raises(NetworkError, match="no peer answers"):
                await ask("peer", network.run, "")

    beside(Peers(network, off=True), network.run, (), use)


class MirrorsOnly(Peers):
    """Peers of which none has any file; what mirrors are given is read from them."""

    async def fetch_file(self, entry: Any, providers: Any, partial: Path, progress: Any, mirrors: Any = ()) -> None:
        await fetch_from(mirrors, entry, partial, progress)


@pytest.mark.parametrize(("peers", "asked"), [(Peers, 1), (MirrorsOnly, 3)], ids=["peers serve", "peers fail"])
def test_a_busy_hub_is_waited_for_only_where_peers_fail(
    hub: LoopbackHub, network: NetworkSimulator, tmp_path: Path, peers: type[Peers], asked: int
) -> None:
    newest = publish_all(hub, Store(tmp_path / "full"), network)
    entry = network.entry(newest["router"], WEIGHTS)
    hub.requests.clear()
    hub.faults.add("paris.json", times=2, status=429, headers={"Retry-After": "0"})

    async def use(both: WithHub) -> None:
        await both.fetch_file(entry, (ANN.peer_id,), tmp_path / "partial", lambda _: None)

    beside(peers(network), network.run, (ANNS,), use)
    assert sha256_of((tmp_path / "partial").read_bytes()) == entry.sha256
    assert len(hub.asked("main/paris.json")) == asked


def test_a_tip_leads_to_the_repository_it_names(
    hub: LoopbackHub, network: NetworkSimulator, store: Store, tmp_path: Path
) -> None:
    """Nobody named a repository; Ann's tip does, and she is gone: what peers do not have comes from there."""
    [checkpoint] = network.train(["router"], rounds=1)["router"]
    publish(hub, filled(Store(tmp_path / "full"), network), network, checkpoint)
    network.tip(ANN, "router", checkpoint, ext={"hub": ANNS}, step=network.genesis.target_steps("router"))
    network.leave(ANN)

    async def use(both: WithHub) -> ResolvedRun:
        return await resolve(Library(store, both), network.run, network.providers, units=["router"])

    assert beside(Peers(network), network.run, (), use).units["router"].checkpoint == checkpoint


def test_what_only_the_hub_has_counts_beside_what_peers_say(
    hub: LoopbackHub, network: NetworkSimulator, store: Store, tmp_path: Path
) -> None:
    older = network.publish(ANN, "router", 10)
    newer = network.publish(ANN, "router", 20, older, tip=False)
    publish(hub, filled(Store(tmp_path / "full"), network), network, newer)

    async def use(both: WithHub) -> list[Record]:
        assert await both.fetch_blob(newer, ()) == network.bytes_of(newer)
        return await both.records("tip", network.run, "router")

    tips = beside(Peers(network), network.run, (ANNS,), use)
    assert {tip.checkpoint for tip in tips if isinstance(tip, Tip)} == {older, newer}


def test_a_blob_nobody_has_says_what_both_said(hub: LoopbackHub, network: NetworkSimulator) -> None:
    async def use(both: WithHub) -> None:
        with pytest.raises(UnavailableError, match=r"asked 0 peers.*from the Hub"):
            await both.fetch_blob(sha256_of(b"nothing"), ())

    beside(Peers(network), network.run, (ANNS,), use)


def test_rules_reach_both(hub: LoopbackHub, network: NetworkSimulator) -> None:
    peers, rules = Peers(network), RunRules.of(network.genesis, network.run)

    async def use(both: WithHub) -> None:
        both.know(network.run, rules)

    beside(peers, network.run, (), use)
    assert peers.known == [(network.run, rules)]


NO_NAMES = ["", "ann", "ann/", "/run", "../x", "ann/run/x", "ann/ru n", 7, None, "é/x", "a" * 300 + "/b"]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_tip_cannot_name_what_is_no_repository(network: NetworkSimulator, name: object) -> None:
    tip = Tip(
        run=network.run, signer=ANN.peer_id, seq=1, iat=1, exp=2, unit="router", step=1, checkpoint=network.run,
        manifest=network.run, loss_micro=0, ext={"hub": name},
    )  # fmt: skip
    assert repositories_in([tip]) == []


def test_a_registry_with_the_data_serves_whoever_trains(
    hub: LoopbackHub, network: NetworkSimulator, store: Store, tmp_path: Path
) -> None:
    full = filled(Store(tmp_path / "full"), network)
    change = registry_change(full, network.genesis, network.run, CURATORS, data=True, blobs=[network.run])
    writer(hub, "hf_curator").update(CURATORS, network.run, change)

    async def use(found: HubNetwork) -> int:
        library = Library(store, found)
        manifest = await library.manifest(network.genesis.data.manifest)
        return await library.files(manifest.files)

    assert with_hub(network.run, (CURATORS,), use) > 0
    assert CURATOR.peer_id in hub.read(CURATORS, "README.md").decode()


def test_a_registry_needs_the_data_it_shall_publish(network: NetworkSimulator, tmp_path: Path) -> None:
    bare = Store(tmp_path / "bare")
    for digest in (network.run, network.genesis.data.manifest):
        bare.put_bytes(network.bytes_of(digest))
    registry_change(bare, network.genesis, network.run, CURATORS)
    with pytest.raises(UnavailableError, match="not in the store"):
        registry_change(bare, network.genesis, network.run, CURATORS, data=True)


@pytest.mark.parametrize("data", [b"{}", b'{"peers": 1}', b'{"peers": ["x"]}', b'{"heads": [{}]}'])
def test_files_of_records_without_any_hold_nothing(data: bytes) -> None:
    assert envelopes_in(data, "peer") == []
    assert envelopes_in(record_file("head", [b'{"a": 1}']), "head") == [b'{"a":1}']


@pytest.mark.parametrize("data", [b"", b"[]", b"\xff" * 9, b"{" * 9999, b" " * 2**20])
def test_files_of_records_that_are_none_are_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeError):
        envelopes_in(data, "peer")


DIGESTS = st.integers(0, 9).map(lambda number: f"sha256:{number:064d}")
PATHS = st.text("abc", min_size=1, max_size=3)
INDEXES = st.builds(
    Index,
    run=DIGESTS,
    files=st.dictionaries(PATHS, st.builds(Lying, sha256=DIGESTS, size=st.integers(0, 99)), max_size=5),
    units=st.dictionaries(
        st.sampled_from(["router", "cluster-0", "base"]), st.builds(Newest, checkpoint=DIGESTS, step=st.integers(0, 9))
    ),
    repositories=st.lists(st.sampled_from(["a/b", "c/d"]), max_size=2, unique=True).map(tuple),
)


@given(INDEXES)
def test_a_table_survives_its_bytes_and_finds_what_it_names(index: Index) -> None:
    again = Index.from_bytes(index.to_bytes())
    assert again == index
    for lying in index.files.values():
        place = again.place(lying.sha256)
        assert place
        assert index.files[place[0]].sha256 == lying.sha256
    assert again.place("sha256:" + "f" * 64) is None


@given(INDEXES, INDEXES)
def test_a_table_that_grows_loses_nothing_but_what_is_replaced(index: Index, more: Index) -> None:
    grown = index.grown(more.files, more.units, more.repositories)
    assert grown.files == {**index.files, **more.files}
    assert grown.units == {**index.units, **more.units}
    assert set(grown.repositories) == {*index.repositories, *more.repositories}
    assert grown.run == index.run


def test_folders_are_those_of_a_pipeline() -> None:
    assert [folder_of(unit) for unit in ("cluster-7", "router", "base")] == ["expert_7", "router", "base"]
