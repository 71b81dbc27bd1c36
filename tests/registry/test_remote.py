"""Shards over http and hf://: fetched once, resumed, and never silently fewer."""

from __future__ import annotations

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hub_testing import point_client_at
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub
from registry_support import member_pair, tar_bytes

from paris.protocol.errors import NetworkError, UsageError
from paris.registry.remote import open_remote
from paris.registry.samples import Rejects
from paris.registry.sources import open_source, read_samples


class Server(ThreadingHTTPServer):
    """Serves a folder, remembers what it was asked, and may cut an answer short."""

    daemon_threads = True

    def __init__(self, folder) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.asked: list[str] = []
        self.cut_bytes: int | None = None


class Handler(SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        super().do_GET()

    def copyfile(self, source, outputfile) -> None:
        if self.server.cut_bytes is None:
            super().copyfile(source, outputfile)
        else:
            outputfile.write(source.read(self.server.cut_bytes))
            self.connection.close()

    def log_message(self, *_) -> None:
        """Tests are quiet."""


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    for number in range(3):
        members = [pair for key in "ab" for pair in member_pair(f"{key}{number}")]
        (folder / f"s-{number:03d}.tar").write_bytes(tar_bytes(members))
    serving = Server(folder)
    thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield serving
    serving.shutdown()
    thread.join()
    serving.server_close()


def url(server, name: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{name}"


def keys(where: str, cache) -> list[str]:
    return [sample.key for sample in read_samples(open_source(where, cache=cache), Rejects())]


def test_a_pattern_over_http_is_fetched_once_and_in_order(server, tmp_path):
    where = url(server, "s-{000..002}.tar")
    assert keys(where, tmp_path / "cache") == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert server.asked == ["/s-000.tar", "/s-001.tar", "/s-002.tar"]
    assert keys(where, tmp_path / "cache") == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert len(server.asked) == 3


def test_no_address_leaves_the_folder_of_fetched_files(tmp_path):
    (file,) = open_remote("http://127.0.0.1:9/a/..%2F..%2Fevil.tar?x=/../y", tmp_path)
    assert file.name == "evil.tar"


def test_nothing_is_fetched_before_it_is_read(server, tmp_path):
    open_source(url(server, "s-{000..002}.tar"), cache=tmp_path / "cache")
    assert server.asked == []


def test_a_shard_that_is_not_there_ends_the_pass_with_its_address(server, tmp_path):
    with pytest.raises(NetworkError, match=r"s-003\.tar cannot be fetched") as caught:
        keys(url(server, "s-{002..003}.tar"), tmp_path / "cache")
    assert caught.value.exit_code == 4
    assert "same command" in caught.value.hint


@pytest.mark.slow  # the client tries five times, with pauses
def test_an_answer_cut_short_is_no_shard_and_the_next_call_has_all_of_it(server, tmp_path):
    server.cut_bytes = 700
    with pytest.raises(NetworkError):
        keys(url(server, "s-000.tar"), tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.tar"))
    server.cut_bytes = None
    assert keys(url(server, "s-000.tar"), tmp_path / "cache") == ["a0", "b0"]


@pytest.mark.slow  # the client tries five times, with pauses
def test_nobody_listens_there(tmp_path):
    with pytest.raises(NetworkError, match="cannot be fetched"):
        keys("http://127.0.0.1:9/s.tar", tmp_path)


@pytest.mark.parametrize("name", ["s-*.tar", "s-[0-9].tar"])
def test_a_wildcard_over_http_is_a_usage_error(name):
    with pytest.raises(UsageError, match="no listing"):
        open_remote(f"http://127.0.0.1:9/{name}")


@pytest.mark.parametrize("name", ["page.html", "weights.pth", ""])
def test_what_is_no_shard_by_its_name_is_not_fetched(server, name):
    with pytest.raises(UsageError, match="no data at"):
        open_source(url(server, name))
    assert server.asked == []


def test_shards_on_the_hub_by_pattern(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    with LoopbackHub(tmp_path / "hub") as hub:
        point_client_at(hub.endpoint, monkeypatch, token="hf_ann")
        api = HfApi(endpoint=hub.endpoint, token="hf_ann")
        api.create_repo("ann/shards", repo_type="dataset")
        api.upload_folder(
            folder_path=tmp_path / "served", path_in_repo="data", repo_id="ann/shards", repo_type="dataset"
        )
        expected = ["a0", "b0", "a1", "b1", "a2", "b2"]
        assert keys("hf://datasets/ann/shards/data/s-*.tar", None) == expected
        assert keys("hf://datasets/ann/shards/data/s-{000..002}.tar", None) == expected
        with pytest.raises(NetworkError, match="cannot be fetched"):
            keys("hf://datasets/ann/shards/data/s-009.tar", None)
