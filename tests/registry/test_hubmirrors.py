"""Pieces from peers and from the Hub at once: a loopback Hub, a real node, the real clients of both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from hub_testing import point_client_at
from huggingface_hub import CommitOperationAdd, HfApi
from loopback_hub import LoopbackHub
from protocol_support import FileSource, digest_of, swarm_of

from paris.protocol.digests import sha256_of
from paris.protocol.errors import DigestError
from paris.protocol.manifest import describe
from paris.protocol.transport.blobs import serve
from paris.protocol.transport.fetch import fetch_file, fetch_from
from paris.registry.hubindex import INDEX, Index, Lying
from paris.registry.hubreader import HubReader, HubSource

LARGE = b"".join(bytes([number]) * 2**20 for number in range(33)) + b"tail"
ENTRY = describe("weights.safetensors", [LARGE])
RUN, NAMES = digest_of("run"), ("ann/run", "ben/run")
Scene = Callable[[list[HubSource]], Coroutine[Any, Any, Any]]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Two repositories that hold the file."""
    with LoopbackHub(tmp_path / "hub") as server:
        point_client_at(server.endpoint, monkeypatch)
        index = Index(run=RUN, files={ENTRY.name: Lying(sha256=ENTRY.sha256, size=ENTRY.size)}).to_bytes()
        for name in NAMES:
            api = HfApi(endpoint=server.endpoint, token=f"hf_{name[:3]}")
            api.create_repo(name)
            added = [CommitOperationAdd(ENTRY.name, LARGE), CommitOperationAdd(INDEX, index)]
            api.create_commit(name, added, commit_message="all")
        server.requests.clear()
        yield server


def with_sources(scene: Scene) -> Any:
    async def go() -> Any:
        async with HubReader(RUN, NAMES) as reader:
            return await scene(await reader.sources(ENTRY.sha256))

    return asyncio.run(go())


def peer_file(tmp_path: Path, data: bytes = LARGE) -> FileSource:
    (tmp_path / "held").write_bytes(data)
    return FileSource({ENTRY.sha256: tmp_path / "held"})


def test_a_peer_and_two_repositories_share_the_pieces(hub: LoopbackHub, tmp_path: Path) -> None:
    async def scene(sources: list[HubSource]) -> None:
        async with swarm_of(tmp_path, 1, 2) as (server, client):
            await serve(server, peer_file(tmp_path))
            told: list[int] = []
            await fetch_file(client, ENTRY, [server.peer_id], tmp_path / "p", told.append, mirrors=sources)
            assert sum(told) == len(LARGE)

    with_sources(scene)
    assert (tmp_path / "p").read_bytes() == LARGE
    pieces = hub.asked("GET /lfs/")
    assert {name for name in NAMES for request in pieces if name in request} == set(NAMES)
    assert len(pieces) < len(ENTRY.pieces), "the peer gave some"


def test_a_peer_that_lies_is_dropped_and_the_hub_gives_its_pieces(
    hub: LoopbackHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(sources: list[HubSource]) -> str:
        async with swarm_of(tmp_path, 1, 2) as (liar, client):
            await serve(liar, peer_file(tmp_path, bytes(len(LARGE))))
            await fetch_file(client, ENTRY, [liar.peer_id], tmp_path / "p", mirrors=sources)
            return liar.peer_id

    liar = with_sources(scene)
    assert (tmp_path / "p").read_bytes() == LARGE
    assert f"dropped {liar}" in caplog.text


@pytest.mark.parametrize("fault", [{"corrupt": True}, {"truncate": 5}, {"status": 429}, {"status": 404}], ids=str)
def test_a_hub_that_fails_is_named_and_the_peer_gives_everything(
    hub: LoopbackHub, tmp_path: Path, fault: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Also where it asks for a pause of minutes: nobody waits for it while somebody else sends."""
    caplog.set_level(logging.INFO)
    hub.faults.add("GET /lfs/", **fault, headers={"Retry-After": "300"})

    async def scene(sources: list[HubSource]) -> None:
        async with swarm_of(tmp_path, 1, 2) as (server, client):
            await serve(server, peer_file(tmp_path))
            await fetch_file(client, ENTRY, [server.peer_id], tmp_path / "p", mirrors=sources)

    with_sources(scene)
    assert (tmp_path / "p").read_bytes() == LARGE
    assert all(f"Hub {name}" in caplog.text for name in NAMES)


def test_one_bad_piece_on_the_hub_costs_one_piece(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.faults.add("GET /lfs/.*/ann/", times=1, corrupt=True)
    with_sources(lambda sources: fetch_from(sources, ENTRY, tmp_path / "p"))
    assert (tmp_path / "p").read_bytes() == LARGE
    assert len(hub.asked("GET /lfs/")) <= len(ENTRY.pieces) + 2


def test_what_arrived_before_the_hub_died_is_kept(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.faults.add("GET /lfs/.*/ben/", status=404)
    with_sources(lambda sources: stop_after(sources, 3, tmp_path / "p"))
    hub.faults.clear()
    hub.requests.clear()
    with_sources(lambda sources: fetch_from(sources, ENTRY, tmp_path / "p"))
    assert (tmp_path / "p").read_bytes() == LARGE
    assert len(hub.asked("GET /lfs/")) <= len(ENTRY.pieces) - 3


async def stop_after(sources: list[HubSource], pieces: int, partial: Path) -> None:
    """Cancel a download, as Ctrl-C does, when so many pieces have arrived."""
    arrived = asyncio.Event()
    told: list[int] = []

    def progress(size: int) -> None:
        told.append(size)
        if len([size for size in told if size]) >= pieces:
            arrived.set()

    task = asyncio.create_task(fetch_from(sources, ENTRY, partial, progress))
    await arrived.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_only_liars_is_a_verification_error(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.faults.add("GET /lfs/", corrupt=True)
    with pytest.raises(DigestError, match="from Hub ann/run"):
        with_sources(lambda sources: fetch_from(sources, ENTRY, tmp_path / "p"))
    assert sha256_of((tmp_path / "p").read_bytes()) != ENTRY.sha256
