"""Blob providers that lie, truncate, stall, babble or die, as real peers in processes of their own."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from pathlib import Path

import pytest
from protocol_support import FileSource, person, swarm_of

from paris.protocol.errors import DigestError, UnavailableError
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import describe
from paris.protocol.transport import fetch
from paris.protocol.transport.blobs import serve
from paris.protocol.transport.courtesy import Courtesy
from paris.protocol.transport.fetch import fetch_blob, fetch_file

PEERS = Path(__file__).parent.parent / "peers"
CONTENT = random.Random(1).randbytes(5 * LIMITS.piece_bytes + 12_345)
STALL_S = 1.0
BAD = {
    "lie": "does not match its digest",
    "truncate": "cut its answer short",
    "stall": "stalled",
    "endless": "it was asked for at most",
    "babble": "refused",
    "die": "cut its answer short",
}

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def provider(behaviour: str, seed: int, file: Path, address: str):
    """A provider in a process of its own; yields its peer id."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PEERS / "liar.py"), behaviour, str(seed), str(file), address,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert await asyncio.wait_for(process.stdout.readline(), 60), "the provider did not start"
        yield person(seed).peer_id
    finally:
        process.stdin.close()
        await process.wait()


@pytest.mark.parametrize("behaviour", BAD)
def test_a_bad_provider_is_dropped_and_named_and_the_good_one_used(tmp_path, run_async, behaviour):
    file = tmp_path / "weights"
    file.write_bytes(CONTENT)
    entry = describe("weights", [CONTENT])

    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, client):
            async with provider(behaviour, 66, file, client.addrs[0]) as bad:
                with pytest.raises(DigestError if behaviour == "lie" else UnavailableError) as caught:
                    await fetch_file(client, entry, [bad], tmp_path / "partial", stall_s=STALL_S)
                assert bad in str(caught.value)
                assert BAD[behaviour] in str(caught.value)
            async with provider(behaviour, 67, file, client.addrs[0]) as bad:
                await serve(server, FileSource({entry.sha256: file}))
                await fetch_file(client, entry, [bad, server.peer_id], tmp_path / "partial", stall_s=STALL_S)
                assert (tmp_path / "partial").read_bytes() == CONTENT

    run_async(scene())


def test_a_small_blob_survives_a_liar_and_a_peer_without_it(tmp_path, run_async):
    file = tmp_path / "manifest"
    file.write_bytes(CONTENT[:5000])
    digest = describe("manifest", [CONTENT[:5000]]).sha256

    async def scene():
        async with swarm_of(tmp_path, 2) as (client,), contextlib.AsyncExitStack() as stack:
            providers = [
                await stack.enter_async_context(provider(behaviour, 70 + number, file, client.addrs[0]))
                for number, behaviour in enumerate(("lie", "deny", "honest"))
            ]
            assert await fetch_blob(client, digest, providers, stall_s=STALL_S) == CONTENT[:5000]
            with pytest.raises(DigestError) as caught:
                await fetch_blob(client, digest, providers[:2], stall_s=STALL_S)
            assert all(peer_id in str(caught.value) for peer_id in providers[:2])

    run_async(scene())


def test_a_peer_that_takes_a_request_and_says_nothing_holds_up_no_small_blob(tmp_path, run_async, monkeypatch):
    file = tmp_path / "manifest"
    file.write_bytes(CONTENT[:5000])
    digest = describe("manifest", [CONTENT[:5000]]).sha256
    monkeypatch.setattr(fetch, "HEDGE_S", 0.1)

    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, client), provider("silent", 75, file, client.addrs[0]) as bad:
            await serve(server, FileSource({digest: file}))
            forever = 1e6
            assert await fetch_blob(client, digest, [bad, server.peer_id], stall_s=forever) == CONTENT[:5000]

    run_async(scene())


def test_who_stalled_once_is_not_asked_for_the_next_small_blob(tmp_path, run_async):
    file = tmp_path / "manifest"
    file.write_bytes(CONTENT[:5000])
    digest = describe("manifest", [CONTENT[:5000]]).sha256

    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, client), provider("stall", 76, file, client.addrs[0]) as bad:
            await serve(server, FileSource({}))
            courtesy, both = Courtesy(), [bad, server.peer_id]
            with pytest.raises(UnavailableError, match="stalled"):
                await fetch_blob(client, digest, both, stall_s=STALL_S, courtesy=courtesy)
            with pytest.raises(UnavailableError) as caught:
                await fetch_blob(client, digest, both, stall_s=1e6, courtesy=courtesy)
            assert bad not in str(caught.value)
            assert server.peer_id in str(caught.value)

    run_async(scene())


def test_kill_9_of_a_fetching_process_loses_no_piece_that_had_arrived(tmp_path, run_async):
    content = random.Random(2).randbytes(16 * LIMITS.piece_bytes)
    file = tmp_path / "weights"
    file.write_bytes(content)
    entry = describe("weights", [content])

    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, client):
            await serve(server, FileSource({entry.sha256: file}))
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(PEERS / "fetcher.py"), "3", server.addrs[0],
                entry.model_dump_json(), str(tmp_path / "partial"), stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            told = []
            while sum(told) < 2 * LIMITS.piece_bytes:
                told.append(int(await asyncio.wait_for(process.stdout.readline(), 60)))
            process.kill()
            told += [int(line) for line in (await process.stdout.read()).splitlines() if line]
            assert await process.wait() == -9
            resumed = []
            await fetch_file(client, entry, [server.peer_id], tmp_path / "partial", resumed.append)
            assert resumed[0] >= sum(told) >= 2 * LIMITS.piece_bytes
            assert sum(resumed) == len(content)
            assert (tmp_path / "partial").read_bytes() == content

    run_async(scene())
