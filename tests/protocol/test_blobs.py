"""Blobs between real nodes on loopback."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from protocol_support import FileSource, digest_of, person, swarm_of

from paris.protocol import strict_json
from paris.protocol.digests import sha256_of
from paris.protocol.errors import DigestError, NetworkError, ResourceError, UnavailableError
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import describe
from paris.protocol.transport.blobs import PROTOCOL, BlobStream, serve
from paris.protocol.transport.fetch import fetch_blob, fetch_file
from paris.protocol.transport.rate import LEAST_BYTES_PER_S, Throttle

SMALL = bytes(range(256)) * 100
LARGE = b"".join(bytes([number]) * 2**20 for number in range(17)) + b"tail"


@pytest.fixture
def blobs(tmp_path):
    files = {}
    for name, content in (("small", SMALL), ("large", LARGE), ("empty", b"")):
        files[sha256_of(content)] = tmp_path / name
        (tmp_path / name).write_bytes(content)
    return FileSource(files)


def test_ranges_and_whole_blobs(tmp_path, blobs, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, client):
            await serve(server, blobs)
            digest = sha256_of(SMALL)
            async with await BlobStream.open(client, server.peer_id) as stream:
                assert await stream.read(digest, 0, 10) == SMALL[:10]
                assert await stream.read(digest, 300, 5000) == SMALL[300:5300]
                assert await stream.read(digest, len(SMALL) - 3, 100) == SMALL[-3:]
                assert await stream.read(digest, len(SMALL) + 3, 100) == b""
                assert await stream.read(digest, 0, 0) == b""
                assert await stream.read(sha256_of(LARGE), 0, len(LARGE)) == LARGE
            assert await fetch_blob(client, digest, [server.peer_id]) == SMALL
            assert await fetch_blob(client, sha256_of(b""), [server.peer_id]) == b""

    run_async(scene())


def test_a_file_arrives_whole_from_several_providers(tmp_path, blobs, run_async):
    entry = describe("weights.safetensors", [LARGE])

    async def scene():
        async with swarm_of(tmp_path, 1, 2, 3) as (first, second, client):
            await serve(first, blobs)
            await serve(second, blobs)
            told = []
            partial = tmp_path / "partial"
            providers = [first.peer_id, client.peer_id, second.peer_id, first.peer_id]
            await fetch_file(client, entry, providers, partial, told.append)
            assert partial.read_bytes() == LARGE
            assert sum(told) == len(LARGE)

    run_async(scene())


def test_an_empty_file_needs_nobody(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1) as (client,):
            await fetch_file(client, describe("empty", []), [], tmp_path / "partial")
            assert (tmp_path / "partial").read_bytes() == b""

    run_async(scene())


def test_what_is_already_there_is_not_fetched_again(tmp_path, run_async):
    entry = describe("weights", [LARGE])
    damaged = bytearray(LARGE + b"and too much")
    damaged[5 * 2**20] ^= 1
    (tmp_path / "partial").write_bytes(damaged)

    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, client):
            (tmp_path / "large").write_bytes(LARGE)
            await serve(server, FileSource({entry.sha256: tmp_path / "large"}))
            told = []
            await fetch_file(client, entry, [server.peer_id], tmp_path / "partial", told.append)
            assert told == [len(LARGE) - LIMITS.piece_bytes, LIMITS.piece_bytes]
            assert (tmp_path / "partial").read_bytes() == LARGE

    run_async(scene())


def test_nobody_has_it_and_everybody_is_named(tmp_path, blobs, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, client):
            with pytest.raises(UnavailableError, match="no peer is known"):
                await fetch_blob(client, digest_of("x"), [])
            with pytest.raises(UnavailableError, match=f"{server.peer_id} cannot be reached"):
                await fetch_blob(client, digest_of("x"), [server.peer_id])
            await serve(server, blobs)
            providers = [server.peer_id, person(77).peer_id]
            with pytest.raises(UnavailableError) as caught:
                await fetch_file(client, describe("x.bin", [b"x"]), providers, tmp_path / "partial")
            assert f"{server.peer_id} does not have it" in str(caught.value)
            assert f"{person(77).peer_id} cannot be reached" in str(caught.value)
            assert "x.bin" in str(caught.value)
            assert caught.value.exit_code == 4

    run_async(scene())


def test_a_blob_above_the_limit_is_not_read(tmp_path, blobs, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, client):
            await serve(server, blobs)
            with pytest.raises(UnavailableError, match="too big a blob"):
                await fetch_blob(client, sha256_of(SMALL), [server.peer_id], limit_bytes=len(SMALL) - 1)
            assert await fetch_blob(client, sha256_of(SMALL), [server.peer_id], limit_bytes=len(SMALL)) == SMALL

    run_async(scene())


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x02{}",
        b"\x00\x00\x00\x02[]",
        b"\x00\x00\x00\x04\xff\xff\xff\xff",
        b"\xff\xff\xff\xff",
        b'\x00\x00\x00\x23{"digest":"x","length":1,"offset":0}',
        b'\x00\x00\x00\x75{"digest":"sha256:' + b"0" * 64 + b'","length":9,"offset":-1}'.ljust(35),
        b'\x00\x00\x00\x75{"digest":"sha256:' + b"0" * 64 + b'","length":true,"offset":1}'.ljust(35),
    ],
)
def test_a_nonsense_request_gets_one_answer_and_an_end(tmp_path, blobs, run_async, request_bytes):
    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, client):
            await serve(server, blobs)
            reader, writer = await client.stream(server.peer_id, PROTOCOL)
            writer.write(request_bytes)
            assert await reader.read() == b"\x02" + bytes(8)
            writer.close()

    run_async(scene())


def test_one_peer_cannot_take_all_streams(tmp_path, blobs, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1, 2, 3) as (server, greedy, other):
            await serve(server, blobs)
            streams = [await BlobStream.open(greedy, server.peer_id) for _ in range(8)]
            for stream in streams:
                assert await stream.read(sha256_of(SMALL), 0, 1) == SMALL[:1]
            with pytest.raises(NetworkError, match="busy"):
                async with await BlobStream.open(greedy, server.peer_id) as one_more:
                    await one_more.read(sha256_of(SMALL), 0, 1)
            assert await fetch_blob(other, sha256_of(SMALL), [server.peer_id]) == SMALL
            for stream in streams:
                await stream.__aexit__()

    run_async(scene())


def test_a_server_with_one_stream_left_still_gives_the_whole_file(tmp_path, blobs, run_async):
    """A second stream is refused as busy; the first goes on, and the provider is not dropped."""
    entry = describe("weights", [LARGE])

    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, client):
            await serve(server, blobs, Throttle(LEAST_BYTES_PER_S, lambda: 0.0, lambda _: asyncio.sleep(0)))
            partial = tmp_path / "partial"
            assert await fetch_file(client, entry, [server.peer_id], partial) == entry.sha256
            assert partial.read_bytes() == LARGE
            async with await BlobStream.open(client, server.peer_id) as stream:
                await stream.read(entry.sha256, 0, 1)
                with pytest.raises(UnavailableError, match="busy"):
                    await fetch_file(client, entry, [server.peer_id], tmp_path / "another")

    run_async(scene())


def test_a_peer_that_leaves_in_the_middle_of_an_answer_gives_its_streams_back(tmp_path, blobs, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, client):
            await serve(server, blobs)
            request = strict_json.dumps({"digest": sha256_of(LARGE), "length": len(LARGE), "offset": 0})
            for _ in range(8):
                reader, writer = await client.stream(server.peer_id, PROTOCOL)
                writer.write(len(request).to_bytes(4, "big") + request)
                await reader.readexactly(9 + 2**20)
                writer.transport.abort()
            async with asyncio.timeout(30):
                while True:
                    with contextlib.suppress(UnavailableError):
                        assert await fetch_blob(client, sha256_of(SMALL), [server.peer_id]) == SMALL
                        break

    run_async(scene())


def test_a_vanished_file_is_not_found_and_a_truncated_one_is_cut_short(tmp_path, run_async):
    entry = describe("weights", [LARGE])
    path = tmp_path / "large"

    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, client):
            await serve(server, FileSource({entry.sha256: path}))
            with pytest.raises(UnavailableError, match="does not have it"):
                await fetch_file(client, entry, [server.peer_id], tmp_path / "partial")
            path.write_bytes(LARGE[:-1])
            with pytest.raises(DigestError, match="does not match its digest"):
                await fetch_file(client, entry, [server.peer_id], tmp_path / "partial")
            path.write_bytes(LARGE)
            await fetch_file(client, entry, [server.peer_id], tmp_path / "partial")

    run_async(scene())


def test_a_full_disk_says_how_much_is_needed(tmp_path, blobs, run_async):
    entry = describe("weights", [LARGE])

    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, client):
            await serve(server, blobs)
            with pytest.raises(ResourceError, match=f"the disk is full: weights needs {len(LARGE)} bytes"):
                await fetch_file(client, entry, [server.peer_id], Path("/dev/full"))
            with pytest.raises(ResourceError, match="could not be written"):
                await fetch_file(client, entry, [server.peer_id], tmp_path / "no" / "folder")

    run_async(scene())


def test_a_cancelled_fetch_ends_at_once(tmp_path, run_async):
    """Ctrl-C must not wait for a peer that says nothing."""

    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, client):
            asked = asyncio.Event()

            async def silent(_info, reader, writer):
                await reader.read(1)
                asked.set()
                await reader.read()
                writer.close()

            await server.p2p.add_binary_stream_handler(PROTOCOL, silent)
            entry = describe("weights", [LARGE])
            task = asyncio.create_task(fetch_file(client, entry, [server.peer_id], tmp_path / "partial"))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run_async(scene())
