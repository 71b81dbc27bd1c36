"""Publishing checkpoints to a loopback Hub with the real client: what is there, in which order, and after faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_run import ANNS, filled, publish, publish_all, writer
from hub_testing import point_client_at
from huggingface_hub import CommitOperationAdd, HfApi
from loopback_hub import LoopbackHub
from network_simulator import ANN, BEN, NetworkSimulator

from paris.models.filenames import CONFIG, WEIGHTS
from paris.protocol.digests import sha256_of
from paris.protocol.errors import UnavailableError
from paris.registry.huberrors import HubError
from paris.registry.hubindex import INDEX, Index
from paris.registry.hubwriter import MOST_RACES, Change, HubWriter
from paris.registry.modelcard import CARD
from paris.registry.store import Store


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path / "hub") as server:
        point_client_at(server.endpoint, monkeypatch)
        yield server


@pytest.fixture
def chain(network: NetworkSimulator, store: Store) -> list[str]:
    """Two checkpoints of cluster-0 by Ann, in her store."""
    made = network.train(["cluster-0"])["cluster-0"]
    filled(store, network)
    return made


def index(hub: LoopbackHub) -> Index:
    return Index.from_bytes(hub.read(ANNS, INDEX))


def test_every_file_named_in_the_table_lies_there(
    hub: LoopbackHub, store: Store, network: NetworkSimulator, chain: list[str]
) -> None:
    made = publish(hub, store, network, chain[-1])
    assert made.made
    table = index(hub)
    assert {path: sha256_of(hub.read(ANNS, path)) for path in table.files} == {
        path: lying.sha256 for path, lying in table.files.items()
    }
    assert {f"expert_0/{CONFIG}", f"expert_0/{WEIGHTS}", "expert_0/manifest.json", CARD} <= set(table.files)
    assert table.units["cluster-0"].checkpoint == chain[-1]
    assert not [path for path in table.files if "state" in path]


def test_a_checkpoint_goes_up_by_xet_where_it_is_installed(
    hub: LoopbackHub, store: Store, network: NetworkSimulator, chain: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    publish(hub, store, network, chain[-1])
    assert not hub.asked("PUT")
    entry = network.entry(chain[-1], WEIGHTS)
    assert sha256_of(hub.read(ANNS, f"expert_0/{WEIGHTS}")) == entry.sha256
    assert len(hub.commits(ANNS)) == 1


def test_a_checkpoint_is_one_commit_and_its_weights_come_before_it(
    hub: LoopbackHub, store: Store, network: NetworkSimulator, chain: list[str]
) -> None:
    for checkpoint in chain:
        publish(hub, store, network, checkpoint)
    assert len(hub.commits(ANNS)) == 2
    writes = [request for request in hub.requests if request.startswith("PUT") or "/commit/" in request]
    assert writes[0].startswith("PUT /lfs/")
    assert "/commit/" in writes[-1]


def test_a_reader_sees_nothing_of_a_checkpoint_whose_commit_failed(
    hub: LoopbackHub, store: Store, network: NetworkSimulator, chain: list[str]
) -> None:
    publish(hub, store, network, chain[0])
    before = hub.commits(ANNS)[-1].files
    hub.faults.add("POST .*/commit/", times=1, status=500)
    with pytest.raises(HubError, match="500"):
        publish(hub, store, network, chain[1])
    assert hub.commits(ANNS)[-1].files == before
    publish(hub, store, network, chain[1])
    assert len(hub.commits(ANNS)) == 2


def test_publishing_again_makes_no_commit(
    hub: LoopbackHub, store: Store, network: NetworkSimulator, chain: list[str]
) -> None:
    first = publish(hub, store, network, chain[-1])
    again = publish(hub, store, network, chain[-1])
    assert (again.commit, again.made) == (first.commit, False)
    assert not publish(hub, store, network, chain[0]).made, "an older one comes late"
    assert len(hub.commits(ANNS)) == 1


def test_a_lost_answer_doubles_nothing_even_before_a_stale_read(
    hub: LoopbackHub, store: Store, network: NetworkSimulator, chain: list[str]
) -> None:
    publish(hub, store, network, chain[0])
    hub.faults.add("POST .*/commit/", times=1, lost=True)
    with pytest.raises(HubError, match="cannot be reached"):
        publish(hub, store, network, chain[1])
    hub.faults.add("GET /api/models/", times=1, stale=True)
    publish(hub, store, network, chain[1])
    assert len(hub.commits(ANNS)) == 2
    assert index(hub).units["cluster-0"].checkpoint == chain[1]


def test_two_writers_at_once_lose_neither_entry(hub: LoopbackHub, store: Store, network: NetworkSimulator) -> None:
    """Somebody else's commit comes between the read and the write: 412, read again, and both are in."""
    run = network.run

    def change(path: str, between: bool) -> Change:
        def made(_: Index) -> Change:
            if between and not hub.disk.exists("models", "ann/other"):
                writer(hub).update("ann/other", run, lambda _: None)
                writer(hub).update(ANNS, run, lambda _: Change("b", {"b.json": b"{}"}, repositories=("ben/squares",)))
            return Change("a", {path: b"[]"}, repositories=("eve/squares",))

        return made

    writer(hub).update(ANNS, run, change("a.json", between=True))
    assert set(index(hub).files) == {"a.json", "b.json"}
    assert set(index(hub).repositories) == {"ben/squares", "eve/squares"}
    assert len(hub.commits(ANNS)) == 2


def test_who_always_comes_second_gives_up_for_now(hub: LoopbackHub, network: NetworkSimulator) -> None:
    hub.faults.add("POST .*/commit/", status=412)
    with pytest.raises(HubError, match="at the same time"):
        writer(hub).update(ANNS, network.run, lambda _: Change("a", {"a": b"1"}))
    assert len(hub.asked("/commit/")) == MOST_RACES


def test_full_state_is_published_where_asked_for(
    hub: LoopbackHub, store: Store, network: NetworkSimulator, chain: list[str]
) -> None:
    publish(hub, store, network, chain[-1], full_state=True)
    assert "expert_0/state.safetensors" in index(hub).files
    assert b"state.safetensors" in hub.read(ANNS, CARD)


def test_units_and_lineages_of_several_people_share_a_repository(
    hub: LoopbackHub, store: Store, network: NetworkSimulator
) -> None:
    first = network.publish(ANN, "cluster-0", 50)
    second = network.publish(BEN, "cluster-0", 200, first)
    filled(store, network)
    publish(hub, store, network, second)
    publish_all(hub, store, network)
    table = index(hub)
    assert set(table.units) == {"cluster-0", "cluster-1", "router"}
    assert table.units["cluster-0"].checkpoint == second, "that with fewer steps came late and was left out"
    assert len({path for path in table.files if path.startswith("provenance/cluster-0")}) == 2
    assert len(hub.commits(ANNS)) == 3
    assert all(holder.peer_id[:16] in hub.read(ANNS, CARD).decode() for holder in (ANN, BEN))


@pytest.mark.parametrize(
    ("fault", "words", "lasting", "wait_s"),
    [
        ({"status": 401}, "does not let this token", True, 0),
        ({"status": 403}, "does not let this token write", True, 0),
        ({"status": 403, "message": "Private storage limit reached"}, "no room left", True, 0),
        ({"status": 429, "headers": {"Retry-After": "77"}}, "slow down", False, 77),
        ({"status": 429, "headers": {"RateLimit": '"api";r=0;t=55'}}, "slow down", False, 55),
        ({"status": 500}, "failed", False, 0),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(
    hub: LoopbackHub, network: NetworkSimulator, fault: dict, words: str, lasting: bool, wait_s: int
) -> None:
    hub.faults.add("POST .*/commit/", times=1, **fault)
    with pytest.raises(HubError, match=words) as refused:
        writer(hub).update(ANNS, network.run, lambda _: Change("a", {"a": b"1"}))
    assert refused.value.lasting == lasting
    assert refused.value.wait_s == wait_s


def test_a_full_quota_is_said(hub: LoopbackHub, store: Store, network: NetworkSimulator, chain: list[str]) -> None:
    hub.quota_bytes = 1000
    with pytest.raises(HubError, match="no room left") as refused:
        publish(hub, store, network, chain[-1])
    assert refused.value.lasting
    assert not hub.commits(ANNS)


def test_no_token_and_a_wrong_one_are_said_and_never_shown(
    hub: LoopbackHub, network: NetworkSimulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(HubError, match="no token") as refused:
        writer(hub, None).me()
    assert refused.value.lasting
    with pytest.raises(HubError, match="does not let this token into") as refused:
        writer(hub, "hf_secretsecret").me()
    assert "secret" not in f"{refused.value} {caplog.text}"
    assert writer(hub).me() == "ann"


def test_a_hub_that_is_off_is_said(network: NetworkSimulator) -> None:
    with pytest.raises(HubError, match="cannot be reached") as refused:
        HubWriter("http://127.0.0.1:9", "hf_ann").update(ANNS, network.run, lambda _: None)
    assert not refused.value.lasting


def test_a_repository_of_another_run_is_not_written_over(
    hub: LoopbackHub, store: Store, network: NetworkSimulator, chain: list[str]
) -> None:
    writer(hub).update(ANNS, "sha256:" + "0" * 64, lambda _: Change("a", {"a": b"1"}))
    with pytest.raises(HubError, match="holds another run"):
        publish(hub, store, network, chain[-1])
    assert len(hub.commits(ANNS)) == 1


@pytest.mark.parametrize("kind", ["model", "dataset"])
@pytest.mark.parametrize("path", ["README.md", "vae/config.json"])
def test_a_repository_without_a_table_of_contents_is_not_taken_for_an_empty_one(
    hub: LoopbackHub, network: NetworkSimulator, kind: str, path: str
) -> None:
    """Somebody's ordinary model or data set, of the same owner."""
    api = HfApi(endpoint=hub.endpoint, token="hf_ann")
    api.create_repo(ANNS, repo_type=kind)
    api.create_commit(ANNS, [CommitOperationAdd(path, b"mine")], commit_message="mine", repo_type=kind)
    ours = HubWriter(hub.endpoint, "hf_ann", sleep=lambda _: None, kind=kind)
    with pytest.raises(HubError, match="is not written over") as refused:
        ours.update(ANNS, network.run, lambda _: Change("a", {path: b"ours"}))
    assert (refused.value.lasting, refused.value.hint) == (True, "give another name")
    assert len(hub.commits(ANNS, f"{kind}s")) == 1


@pytest.mark.parametrize("kind", ["model", "dataset"])
def test_a_repository_that_was_only_made_is_written_to(hub: LoopbackHub, network: NetworkSimulator, kind: str) -> None:
    HfApi(endpoint=hub.endpoint, token="hf_ann").create_repo(ANNS, repo_type=kind)
    ours = HubWriter(hub.endpoint, "hf_ann", sleep=lambda _: None, kind=kind)
    assert ours.update(ANNS, network.run, lambda _: Change("a", {"a.json": b"{}"})).made


def test_weights_that_are_gone_are_said(
    hub: LoopbackHub, store: Store, network: NetworkSimulator, chain: list[str]
) -> None:
    store.remove(network.entry(chain[-1], WEIGHTS).sha256)
    with pytest.raises(UnavailableError, match="not in the store any more"):
        publish(hub, store, network, chain[-1])
    assert not hub.requests
