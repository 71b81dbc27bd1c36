"""The real `huggingface_hub` client against the loopback Hub: what works on the Hub works here, what fails fails so."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_testing import hub_process, point_client_at
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from loopback_hub import LoopbackHub

BIG = bytes(range(256)) * 50_000


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub(tmp_path / "hub") as server:
        point_client_at(server.endpoint, monkeypatch)
        yield server


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token="hf_ann")


def add(path: str, data: bytes) -> CommitOperationAdd:
    return CommitOperationAdd(path, data)


@pytest.fixture
def filled(api: HfApi) -> HfApi:
    """`ann/run` with a regular file and an LFS file."""
    api.create_repo("ann/run")
    api.create_commit("ann/run", [add("a/config.json", b"{}"), add("a/w.safetensors", BIG)], commit_message="first")
    return api


def test_whoami_and_who_is_nobody(api: HfApi) -> None:
    assert api.whoami()["name"] == "ann"
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(token="hf_wrong")


def test_creating_twice_is_refused_unless_it_may_exist(api: HfApi) -> None:
    assert api.create_repo("ann/run").repo_id == "ann/run"
    assert api.create_repo("ann/run", exist_ok=True).repo_id == "ann/run"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("ann/run")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("ben/run")


@pytest.mark.parametrize("part_bytes", [0, 2**20])
def test_files_go_up_in_one_part_or_several_and_come_back_equal(
    hub: LoopbackHub, filled: HfApi, part_bytes: int, tmp_path: Path
) -> None:
    hub.part_bytes, new = part_bytes, BIG[::-1]
    filled.create_commit("ann/run", [add("a/w.safetensors", new)], commit_message="second")
    path = hf_hub_download("ann/run", "a/w.safetensors", cache_dir=tmp_path / "cache", endpoint=hub.endpoint)
    assert Path(path).read_bytes() == new
    folder = snapshot_download("ann/run", local_dir=tmp_path / "all", endpoint=hub.endpoint)
    assert Path(folder, "a/config.json").read_bytes() == b"{}"
    assert Path(folder, "a/w.safetensors").read_bytes() == new
    parts = [request for request in hub.requests if "/part/" in request]
    assert len(parts) == (-(-len(new) // part_bytes) if part_bytes else 0)


def test_an_older_revision_stays(hub: LoopbackHub, filled: HfApi, tmp_path: Path) -> None:
    first = filled.repo_info("ann/run").sha
    filled.create_commit("ann/run", [add("a/config.json", b"[]")], commit_message="second")
    found = hf_hub_download("ann/run", "a/config.json", revision=first, cache_dir=tmp_path, endpoint=hub.endpoint)
    assert Path(found).read_bytes() == b"{}"
    assert [commit.title for commit in filled.list_repo_commits("ann/run")] == ["second", "first", "initial commit"]
    assert filled.list_repo_refs("ann/run").branches[0].target_commit == filled.repo_info("ann/run").sha


def test_tree_and_info_list_digests(filled: HfApi) -> None:
    listed = {entry.path: entry for entry in filled.list_repo_tree("ann/run", recursive=True)}
    assert listed["a/w.safetensors"].lfs.sha256 == hashlib.sha256(BIG).hexdigest()
    assert filled.list_repo_files("ann/run") == [".gitattributes", "a/config.json", "a/w.safetensors"]
    assert filled.get_paths_info("ann/run", ["a/config.json", "none"])[0].size == 2
    assert filled.file_exists("ann/run", "a/config.json")
    assert not filled.file_exists("ann/run", "none")


def test_the_same_files_again_make_no_commit(hub: LoopbackHub, filled: HfApi) -> None:
    filled.create_commit("ann/run", [add("a/config.json", b"{}"), add("a/w.safetensors", BIG)], commit_message="again")
    assert len(hub.commits("ann/run")) == 1


def test_preuploaded_files_show_only_with_the_commit(hub: LoopbackHub, filled: HfApi) -> None:
    weights = add("b/w.safetensors", BIG + b"x")
    filled.preupload_lfs_files("ann/run", [weights])
    assert not filled.file_exists("ann/run", "b/w.safetensors")
    filled.create_commit("ann/run", [weights, add("b/done.json", b"{}")], commit_message="second")
    assert hub.read("ann/run", "b/w.safetensors") == BIG + b"x"


def test_delete(hub: LoopbackHub, filled: HfApi) -> None:
    filled.create_commit("ann/run", [CommitOperationDelete("a/", is_folder=True)], commit_message="gone")
    assert filled.list_repo_files("ann/run") == [".gitattributes"]
    filled.delete_repo("ann/run")
    assert not filled.repo_exists("ann/run")


def test_a_commit_on_a_stale_parent_is_refused_with_412(filled: HfApi) -> None:
    stale = filled.repo_info("ann/run").sha
    filled.create_commit("ann/run", [add("x", b"1")], commit_message="x", parent_commit=stale)
    with pytest.raises(HfHubHTTPError, match="412"):
        filled.create_commit("ann/run", [add("y", b"2")], commit_message="y", parent_commit=stale)
    assert not filled.file_exists("ann/run", "y")


def test_strangers_may_read_and_not_write(hub: LoopbackHub, filled: HfApi) -> None:
    stranger = HfApi(endpoint=hub.endpoint, token="hf_ben")
    assert stranger.file_exists("ann/run", "a/config.json")
    with pytest.raises(HfHubHTTPError, match="403"):
        stranger.create_commit("ann/run", [add("x", b"1")], commit_message="x")


def test_a_private_repository_is_not_there_for_strangers(hub: LoopbackHub, api: HfApi) -> None:
    api.create_repo("ann/own", private=True)
    assert api.repo_exists("ann/own")
    assert not HfApi(endpoint=hub.endpoint, token="hf_ben").repo_exists("ann/own")


def test_what_is_not_there_is_refused_as_the_hub_does(hub: LoopbackHub, filled: HfApi, tmp_path: Path) -> None:
    for missing, repository, revision, path in [
        (RepositoryNotFoundError, "ann/none", "main", "a/config.json"),
        (RevisionNotFoundError, "ann/run", "0" * 40, "a/config.json"),
        (EntryNotFoundError, "ann/run", "main", "none"),
    ]:
        with pytest.raises(missing):
            hf_hub_download(repository, path, revision=revision, cache_dir=tmp_path, endpoint=hub.endpoint)


def test_a_full_quota_is_refused_in_words(hub: LoopbackHub, filled: HfApi) -> None:
    hub.quota_bytes = len(BIG) + 10
    with pytest.raises(HfHubHTTPError, match="Storage limit"):
        filled.create_commit("ann/run", [add("b.safetensors", BIG + b"x")], commit_message="too much")


@pytest.mark.parametrize("status", [401, 403, 404, 412, 429, 500, 503])
def test_any_status_can_be_injected(hub: LoopbackHub, filled: HfApi, status: int) -> None:
    hub.faults.add("POST .*/commit/", times=1, status=status, headers={"Retry-After": "7"})
    with pytest.raises(HfHubHTTPError) as refused:
        filled.create_commit("ann/run", [add("x", b"1")], commit_message="x")
    assert refused.value.response.status_code == status
    filled.create_commit("ann/run", [add("x", b"1")], commit_message="x")


def test_a_truncated_download_and_a_stale_read_can_be_injected(hub: LoopbackHub, filled: HfApi, tmp_path: Path) -> None:
    hub.faults.add("GET /lfs/", times=1, truncate=100)
    path = hf_hub_download("ann/run", "a/w.safetensors", cache_dir=tmp_path, endpoint=hub.endpoint)
    assert Path(path).read_bytes() == BIG, "the client resumes"
    filled.create_commit("ann/run", [add("a/config.json", b"[]")], commit_message="second")
    hub.faults.add("resolve/main/a/config.json", times=2, stale=True)
    found = hf_hub_download("ann/run", "a/config.json", cache_dir=tmp_path, endpoint=hub.endpoint)
    assert Path(found).read_bytes() == b"{}"


def test_no_token_reaches_the_storage_host(hub: LoopbackHub, filled: HfApi, tmp_path: Path) -> None:
    hf_hub_download("ann/run", "a/w.safetensors", cache_dir=tmp_path, endpoint=hub.endpoint, token="hf_ann")
    assert hub.tokens_seen
    assert not [path for path, _ in hub.tokens_seen if path.startswith("/lfs/") and "verify" not in path]


def test_state_survives_a_kill(tmp_path: Path) -> None:
    with hub_process(tmp_path / "hub") as first:
        api = HfApi(endpoint=first.endpoint, token="hf_ann")
        api.create_repo("ann/run")
        api.create_commit("ann/run", [add("x.json", b"{}")], commit_message="first")
        first.kill()
    with hub_process(tmp_path / "hub") as second:
        second.faults({"match": "whoami", "status": 503, "times": 1})
        api = HfApi(endpoint=second.endpoint, token="hf_ann")
        with pytest.raises(HfHubHTTPError):
            api.whoami()
        assert api.list_repo_files("ann/run") == [".gitattributes", "x.json"]
        assert any("tree" in request or "models/ann/run" in request for request in second.requests())


def test_files_go_up_by_xet_and_come_back_equal(
    hub: LoopbackHub, api: HfApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client's default where hf_xet is installed: nothing is PUT, and what was uploaded is there for everybody."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", False)
    api.create_repo("ann/run")
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(BIG)
    added = [CommitOperationAdd("a/w.safetensors", str(weights)), add("b/w.safetensors", BIG[::-1]), add("c", b"{}")]
    api.create_commit("ann/run", added, commit_message="first")
    assert not hub.asked("PUT")
    assert hub.asked("xet-write-token")
    assert hub.read("ann/run", "a/w.safetensors") == BIG
    path = hf_hub_download("ann/run", "b/w.safetensors", cache_dir=tmp_path / "cache", endpoint=hub.endpoint)
    assert Path(path).read_bytes() == BIG[::-1]
