"""Fetching a run from the Hub alone: real clients, and a loopback Hub that lies, truncates or refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_run import ANNS, CURATORS, filled, from_hub, publish, publish_all, with_hub, writer
from hub_testing import point_client_at
from loopback_hub import LoopbackHub
from network_simulator import ANN, BEN, NOW_S, NetworkSimulator

from paris.models.filenames import WEIGHTS
from paris.protocol.digests import sha256_of
from paris.protocol.envelope import sign
from paris.protocol.errors import DigestError, NetworkError, UnavailableError
from paris.protocol.records import Peer
from paris.registry.assemble import fetch_ensemble
from paris.registry.hubindex import INDEX, Index, Lying
from paris.registry.hubnetwork import HubNetwork
from paris.registry.hubreader import HubReader, HubSource
from paris.registry.hubregistry import registry_change
from paris.registry.hubwriter import Change
from paris.registry.library import Library
from paris.registry.resolve import ResolvedRun, resolve
from paris.registry.store import Store

BENS = "ben/squares"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path / "hub") as server:
        point_client_at(server.endpoint, monkeypatch)
        yield server


@pytest.fixture
def full(tmp_path: Path) -> Store:
    """The store of whoever publishes."""
    return Store(tmp_path / "full")


@pytest.fixture
def newest(hub: LoopbackHub, full: Store, network: NetworkSimulator) -> dict[str, str]:
    """The whole run in Ann's repository."""
    return publish_all(hub, full, network)


def fetched(
    store: Store, network: NetworkSimulator, folder: Path, repositories: tuple[str, ...] = (ANNS,)
) -> ResolvedRun:
    async def use(library: Library) -> ResolvedRun:
        resolved = await resolve(library, network.run)
        await fetch_ensemble(library, resolved, folder)
        return resolved

    return from_hub(store, network.run, repositories, use)


def weights(folder: Path) -> dict[str, str]:
    return {path.parent.name: sha256_of(path.read_bytes()) for path in folder.rglob(WEIGHTS)}


@pytest.fixture
def right(network: NetworkSimulator, newest: dict[str, str]) -> dict[str, str]:
    """Digests of the weights as they were signed, by folder."""
    names = {"cluster-0": "expert_0", "cluster-1": "expert_1", "router": "router"}
    return {names[unit]: network.entry(checkpoint, WEIGHTS).sha256 for unit, checkpoint in newest.items()}


def test_a_whole_run_comes_from_the_hub_alone(
    hub: LoopbackHub, store: Store, network: NetworkSimulator, right: dict[str, str], tmp_path: Path
) -> None:
    resolved = fetched(store, network, tmp_path / "ensemble")
    assert resolved.complete
    assert weights(tmp_path / "ensemble") == right
    assert {unit.holders for unit in resolved.units.values()} == {(ANN.peer_id,)}


def test_a_registry_leads_to_the_contributors(
    hub: LoopbackHub, store: Store, full: Store, network: NetworkSimulator, right: dict[str, str], tmp_path: Path
) -> None:
    """The curator's repository holds genesis and names; they hold the weights; a circle of links ends."""
    change = registry_change(full, network.genesis, network.run, CURATORS, repositories=[ANNS, CURATORS])
    writer(hub, "hf_curator").update(CURATORS, network.run, change)
    assert not writer(hub, "hf_curator").update(CURATORS, network.run, change).made
    writer(hub).update(ANNS, network.run, lambda _: Change("back", {}, repositories=(CURATORS,)))
    fetched(store, network, tmp_path / "ensemble", (CURATORS,))
    assert weights(tmp_path / "ensemble") == right


def test_peers_on_the_hub_are_read_and_verified(hub: LoopbackHub, full: Store, network: NetworkSimulator) -> None:
    def greeting(run: str) -> bytes:
        fields = {"run": run, "signer": BEN.peer_id, "seq": 1, "iat": NOW_S, "exp": NOW_S + 600}
        return sign("peer", Peer(addrs=("/ip4/127.0.0.1/tcp/9",), agent="x", abilities=(), **fields), BEN)

    filled(full, network)
    records = {"peer": [greeting("sha256:" + "0" * 64), greeting(network.run), b"{}"]}
    change = registry_change(full, network.genesis, network.run, CURATORS, records=records)
    writer(hub, "hf_curator").update(CURATORS, network.run, change)

    async def use(found: HubNetwork) -> list[str]:
        alike = HubNetwork(found.hub, clock=lambda: NOW_S)
        late = HubNetwork(found.hub, clock=lambda: NOW_S + 900)
        assert not await late.records("peer", network.run, "")
        assert not await alike.records("head", network.run, "")
        return [record.signer for record in await alike.records("peer", network.run, "")]

    assert with_hub(network.run, (CURATORS,), use) == [BEN.peer_id]


@pytest.mark.parametrize("fault", [{"corrupt": True}, {"truncate": 1000}, {"status": 404}, {"status": 403}], ids=str)
def test_a_repository_whose_weights_are_wrong_is_dropped_and_the_other_gives_them(
    hub: LoopbackHub, store: Store, full: Store, network: NetworkSimulator, newest: dict[str, str],
    right: dict[str, str], tmp_path: Path, fault: dict, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    for checkpoint in newest.values():
        publish(hub, full, network, checkpoint, BENS)
    hub.faults.add("GET /lfs/.*/ann/", **fault)
    caplog.set_level("INFO")
    fetched(store, network, tmp_path / "ensemble", (ANNS, BENS))
    assert weights(tmp_path / "ensemble") == right
    assert f"Hub {ANNS}" in caplog.text


def test_the_only_repository_lies_and_is_named(
    hub: LoopbackHub, store: Store, network: NetworkSimulator, newest: dict[str, str], tmp_path: Path
) -> None:
    hub.faults.add("GET /lfs/", corrupt=True)
    with pytest.raises(DigestError, match=f"from Hub {ANNS} does not match"):
        fetched(store, network, tmp_path / "ensemble")
    hub.faults.clear()
    fetched(store, network, tmp_path / "ensemble")


def test_a_busy_hub_gets_its_pause_and_is_asked_again(
    hub: LoopbackHub, store: Store, network: NetworkSimulator, right: dict[str, str], tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    for place in ("paris.json", "GET .*expert_0/diffusion", "GET /lfs/", "checkpoint.json"):
        hub.faults.add(place, times=1, status=429, headers={"Retry-After": "0"})
    hub.faults.add("GET /lfs/.*router", times=1, status=503)
    fetched(store, network, tmp_path / "ensemble")
    assert weights(tmp_path / "ensemble") == right
    assert "slow down" in caplog.text


def test_a_hub_that_wants_a_long_pause_is_said(
    hub: LoopbackHub, store: Store, network: NetworkSimulator, newest: dict[str, str], tmp_path: Path
) -> None:
    hub.faults.add("paris.json", status=429, headers={"Retry-After": "300"})
    with pytest.raises(UnavailableError, match=r"slow down.*after 300 s"):
        fetched(store, network, tmp_path / "ensemble")
    assert len(hub.asked("main/paris.json")) == 1, "it was not asked again meanwhile"


def test_truncated_small_files_are_asked_for_again_elsewhere(
    hub: LoopbackHub, store: Store, full: Store, network: NetworkSimulator, newest: dict[str, str], tmp_path: Path
) -> None:
    for checkpoint in newest.values():
        publish(hub, full, network, checkpoint, BENS)
    hub.faults.add("GET /ann/.*checkpoint.json", truncate=10)
    fetched(store, network, tmp_path / "ensemble", (ANNS, BENS))


def test_a_download_killed_half_way_goes_on(
    hub: LoopbackHub, store: Store, network: NetworkSimulator, right: dict[str, str], tmp_path: Path
) -> None:
    """What arrived whole before the Hub went down is not fetched again."""
    hub.faults.add("GET .*router/diffusion", status=404)
    with pytest.raises(NetworkError):
        fetched(store, network, tmp_path / "ensemble")
    hub.faults.clear()
    asked = len(hub.asked("GET /lfs/"))
    fetched(store, network, tmp_path / "ensemble")
    assert weights(tmp_path / "ensemble") == right
    assert asked
    assert all("router" in request for request in hub.asked("GET /lfs/")[asked:])


def test_an_upload_between_two_reads_mixes_nothing_up(
    hub: LoopbackHub, store: Store, full: Store, network: NetworkSimulator
) -> None:
    """The commit of the table of contents is the one its files are read at."""
    first = network.publish(ANN, "cluster-0", 30)
    filled(full, network)
    publish(hub, full, network, first)
    second = network.publish(ANN, "cluster-0", 60, first, files={**_other_files()})
    filled(full, network)

    async def use(library: Library) -> bytes:
        assert isinstance(library.network, HubNetwork)
        await library.network.hub.shelves()
        publish(hub, full, network, second)
        await library.files([network.entry(first, WEIGHTS)])
        return store.verify(network.entry(first, WEIGHTS)).read_bytes()

    assert from_hub(store, network.run, (ANNS,), use)


def _other_files() -> dict[str, bytes]:
    from network_simulator import exported

    return exported("cluster-0", seed=7)


@pytest.mark.parametrize(
    "table",
    [
        b"", b"[]", b"<html>", b"{}", b'{"v":1}', b'{"v":2,"run":"RUN"}', b'{"v":1,"run":"OTHER"}', b"{" * 5000,
        b'{"v":1,"run":"RUN","files":{"../x":{"sha256":"OTHER","size":1}}}',
        b'{"v":1,"run":"RUN","repositories":["a"]}', b'{"v":1,"run":"RUN","units":{"x":{}}}',
    ],
)  # fmt: skip
def test_a_table_of_contents_nobody_can_read_leads_nowhere(
    hub: LoopbackHub, store: Store, network: NetworkSimulator, table: bytes
) -> None:
    api_write(hub, table.replace(b"RUN", network.run.encode()).replace(b"OTHER", b"sha256:" + b"0" * 64))

    async def use(found: HubNetwork) -> list[str]:
        assert not await found.records("tip", network.run, "router")
        with pytest.raises(UnavailableError):
            await found.fetch_blob(network.run, ())
        return list(found.hub.troubles)

    [trouble] = with_hub(network.run, (ANNS,), use)
    assert ANNS in trouble


def api_write(hub: LoopbackHub, table: bytes) -> None:
    from huggingface_hub import HfApi

    api = HfApi(endpoint=hub.endpoint, token="hf_ann")
    api.create_repo(ANNS)
    api.upload_file(path_or_fileobj=table, path_in_repo=INDEX, repo_id=ANNS)


def test_a_table_that_points_elsewhere_is_found_out(
    hub: LoopbackHub, store: Store, full: Store, network: NetworkSimulator, newest: dict[str, str], tmp_path: Path
) -> None:
    """A hostile table gives the genesis' digest to another file: it is refused, and comes from somewhere else."""
    publish(hub, full, network, newest["router"], BENS)
    table = Index.from_bytes(hub.read(ANNS, INDEX))
    lying = {**table.files, "README.md": Lying(sha256=network.run, size=5)}
    lying.pop("provenance/genesis.json")
    writer(hub).update(ANNS, network.run, lambda _: Change("x", {}, units={}))
    hub.disk.keep(table.model_copy(update={"files": lying}).to_bytes())
    api_replace(hub, table.model_copy(update={"files": lying}).to_bytes())

    async def use(found: HubNetwork) -> bytes:
        data = await found.fetch_blob(network.run, ())
        assert any("does not match" in trouble and ANNS in trouble for trouble in found.hub.troubles)
        return data

    assert sha256_of(with_hub(network.run, (ANNS, BENS), use)) == network.run


def api_replace(hub: LoopbackHub, table: bytes) -> None:
    from huggingface_hub import HfApi

    HfApi(endpoint=hub.endpoint, token="hf_ann").upload_file(
        path_or_fileobj=table, path_in_repo=INDEX, repo_id=ANNS, commit_message="hostile"
    )


def test_tokens_go_to_the_hub_and_nowhere_else(
    hub: LoopbackHub, store: Store, network: NetworkSimulator, newest: dict[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_TOKEN", "hf_ben")
    hub.tokens_seen.clear()
    fetched(store, network, tmp_path / "ensemble")
    assert {token for _, token in hub.tokens_seen} == {"hf_ben"}
    assert not [path for path, _ in hub.tokens_seen if path.startswith("/lfs/")]


def test_a_hub_that_is_off_is_said(network: NetworkSimulator, monkeypatch: pytest.MonkeyPatch) -> None:
    point_client_at("http://127.0.0.1:9", monkeypatch)

    async def use(found: HubNetwork) -> None:
        await found.fetch_blob(network.run, ())

    with pytest.raises(UnavailableError, match="cannot be reached"):
        with_hub(network.run, (ANNS,), use)


def test_ranges_are_asked_of_the_storage_host_after_the_first(
    hub: LoopbackHub, network: NetworkSimulator, newest: dict[str, str]
) -> None:
    entry = network.entry(newest["router"], WEIGHTS)

    async def use(found: HubNetwork) -> bytes:
        [source] = await found.hub.sources(entry.sha256)
        assert isinstance(source, HubSource)
        async with await source.open() as way:
            return b"".join([bytes(await way.read(entry.sha256, at, 1000, 20)) for at in (0, 1000, 2000)])

    hub.requests.clear()
    data = with_hub(network.run, (ANNS,), use)
    assert data == network.bytes_of(entry.sha256)[:3000]
    assert len(hub.asked("/resolve/")) == 1 + 1
    assert len(hub.asked("GET /lfs/")) == 3


def test_a_reader_without_repositories_finds_nothing(network: NetworkSimulator) -> None:
    async def use(found: HubNetwork) -> None:
        assert not await found.records("tip", network.run, "router")
        assert not await found.records("claim", network.run, "router")
        assert not await HubNetwork(HubReader("sha256:" + "0" * 64)).records("tip", network.run, "router")
        await found.fetch_blob(network.run, ())

    with pytest.raises(UnavailableError, match="no repository"):
        with_hub(network.run, (), use)
