"""The light client, in processes of its own, against real nodes on loopback; and the full node against py-libp2p."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import json
import random
import sys
import time
from pathlib import Path

import pytest
from protocol_support import FileSource, digest_of, fresh, make_tip, person, signed, swarm_of

from paris.protocol.limits import LIMITS
from paris.protocol.manifest import describe
from paris.protocol.transport import blobs, records
from paris.protocol.transport.fetch import fetch_file

PEERS = Path(__file__).parent / "peers"
RUN = digest_of("run")
CONTENT = random.Random(3).randbytes(2 * LIMITS.piece_bytes + 12_345)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("libp2p"), reason="the extra `light` is not installed"),
]


async def light(*tasks: dict) -> list[dict]:
    """What the light client says to each task."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PEERS / "light.py"), json.dumps(tasks), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 90)
    assert process.returncode == 0
    told = json.loads(out)
    assert told["hivemind"] is False, "the light client must never import hivemind"
    return told["said"]


@contextlib.asynccontextmanager
async def pylibp2p(security: str, file: Path):
    """A py-libp2p host that serves a file; yields its address."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(PEERS / "pylibp2p.py"), security, str(file),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield (await asyncio.wait_for(process.stdout.readline(), 60)).decode().strip()
    finally:
        process.stdin.close()
        await process.wait()


def test_the_full_node_never_imports_the_light_one():
    """Both register the same protobuf package: together they do not import."""
    for module in ("paris.node.peer", "paris.node.light", "paris.protocol.transport.records"):
        importlib.import_module(module)
    assert "hivemind" in sys.modules
    assert "libp2p" not in sys.modules


def test_the_light_client_reads_records_the_time_and_a_file_from_a_hivemind_node(tmp_path, run_async):
    (tmp_path / "weights").write_bytes(CONTENT)
    entry = describe("weights", [CONTENT])
    tip = signed(fresh(make_tip, person(1)), person(1))

    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, other):
            await blobs.serve(server, FileSource({entry.sha256: tmp_path / "weights"}))
            await records.serve(server)
            await other.publish(tip)
            before_s = time.time()
            task = {
                "addresses": [f"/ip4/127.0.0.1/tcp/9/p2p/{server.peer_id}", *server.addrs],
                "provider": server.peer_id, "run": RUN,
                "entry": entry.model_dump(mode="json"), "partial": str(tmp_path / "partial"),
            }  # fmt: skip
            (said,) = await light(task)
            assert said["envelopes"] == [tip.hex()]
            assert abs(said["offset_s"]) <= time.time() - before_s
            assert said["sha256"] == entry.sha256
            assert (tmp_path / "partial").read_bytes() == CONTENT

    run_async(scene())


def test_the_light_client_names_what_it_cannot_reach(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1) as (server,):
            address, somebody = server.addrs[0].rpartition("/p2p/")[0], person(8).peer_id
            places = [f"/ip4/127.0.0.1/udp/9/quic-v1/p2p/{somebody}", "/ip4/127.0.0.1/tcp/9/p2p/QmFoo", "nonsense"]
            impostor, foreign, unknown = await light(
                {"addresses": [f"{address}/p2p/{somebody}"], "provider": somebody, "protocol": blobs.PROTOCOL},
                {"addresses": server.addrs, "provider": server.peer_id, "protocol": "/paris/other/1.0.0"},
                {"addresses": places, "provider": somebody, "protocol": blobs.PROTOCOL},
            )
            assert impostor["error"] == "NetworkError"
            assert f"{somebody} cannot be reached" in impostor["message"]
            assert "peer id does not correspond" in impostor["message"]
            assert "not supported" in foreign["message"]
            assert "no address of it is known" in unknown["message"]

    run_async(scene())


def test_the_full_node_fetches_from_a_py_libp2p_host_that_knows_only_the_specification(tmp_path, run_async):
    (tmp_path / "weights").write_bytes(CONTENT)
    entry = describe("weights", [CONTENT])

    async def scene():
        async with pylibp2p("noise", tmp_path / "weights") as address, swarm_of(tmp_path, 2) as (client,):
            dials = await client.connect([address])
            provider = address.rpartition("/p2p/")[2]
            assert len(dials) == 1
            await fetch_file(client, entry, [provider], tmp_path / "partial")
            assert (tmp_path / "partial").read_bytes() == CONTENT

    run_async(scene())


def test_a_host_that_offers_only_plaintext_is_refused(tmp_path, run_async):
    (tmp_path / "weights").write_bytes(CONTENT[:10])

    async def scene():
        file = tmp_path / "weights"
        async with pylibp2p("plaintext", file) as open_one, pylibp2p("noise", file) as closed_one:
            refused, taken = await light(
                *(
                    {"addresses": [where], "provider": where.rpartition("/p2p/")[2], "protocol": blobs.PROTOCOL}
                    for where in (open_one, closed_one)
                )
            )
            assert refused["error"] == "NetworkError"
            assert open_one.rpartition("/p2p/")[2] in refused["message"]
            assert taken == {}

    run_async(scene())
