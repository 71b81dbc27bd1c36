"""`/paris/record/1.0.0` between real nodes on loopback."""

from __future__ import annotations

import asyncio
import time

import pytest
from protocol_support import digest_of, fresh, make_claim, make_peer, make_tip, person, signed, swarm_of

from paris.protocol import strict_json
from paris.protocol.errors import NetworkError
from paris.protocol.transport.records import PROTOCOL, RecordServer, RecordStream, serve, skew_beside

RUN = digest_of("run")


def asked(**fields) -> bytes:
    data = strict_json.dumps(fields)
    return len(data).to_bytes(4, "big") + data


def test_records_of_several_slots_come_in_one_answer_as_they_were_signed(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1, 2, 3) as (server, other, client):
            await serve(server)
            made = [
                signed(fresh(make_tip, person(1)), person(1)),
                signed(fresh(make_tip, person(2)), person(2)),
                signed(fresh(make_tip, person(2), unit="router"), person(2)),
                signed(fresh(make_claim, person(2)), person(2)),
            ]
            for envelope in made:
                await other.publish(envelope)
            async with await RecordStream.open(client, server.peer_id) as stream:
                assert sorted(await stream.ask("tip", RUN, ["cluster-0", "router", "cluster-0"])) == sorted(made[:3])
                assert await stream.ask("claim", RUN, ["cluster-0"]) == made[3:]
                assert await stream.ask("tip", digest_of("another run"), ["cluster-0"]) == []
                assert await stream.ask("peer", RUN, [""]) == []
            peer = signed(fresh(make_peer, person(1), addrs=tuple(server.addrs)), person(1))
            await server.publish(peer)
            async with await RecordStream.open(client, server.peer_id) as stream:
                assert await stream.ask("peer", RUN, [""]) == [peer]

    run_async(scene())


def test_a_node_tells_the_time_and_the_offset_follows(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, client):
            await server.p2p.add_binary_stream_handler(PROTOCOL, RecordServer(server, lambda: time.time() + 600).handle)
            begun_s = time.time()
            skew = await skew_beside(client, [server.peer_id, person(3).peer_id])
            assert (skew.peers, skew.verdict) == (1, "problem")
            assert abs(skew.offset_s - 600) <= time.time() - begun_s

    run_async(scene())


def test_where_nobody_tells_the_time_nothing_is_said_about_clocks(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1) as (client,):
            assert await skew_beside(client, [person(2).peer_id]) is None
            assert await skew_beside(client, []) is None

    run_async(scene())


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x02[]",
        b"\xff\xff\xff\xff",
        asked(kind="genesis", run=RUN, slots=["a"]),
        asked(kind=["tip"], run=RUN, slots=["a"]),
        asked(kind="tip", run="everything", slots=["a"]),
        asked(kind="tip", run=RUN, slots=[]),
        asked(kind="tip", run=RUN, slots=["a"] * 17),
        asked(kind="tip", run=RUN, slots=["a" * 65]),
        asked(kind="tip", run=RUN, slots=[1]),
        asked(kind="tip", run=RUN, slots="cluster-0"),
        asked(kind="tip", run=RUN),
        asked(kind="tip", run=RUN, slots=["a"], more=1),
    ],
)
def test_a_nonsense_request_gets_one_answer_and_an_end(run_async, request_bytes):
    class Nothing:
        async def envelopes(self, kind, run, slot):
            raise AssertionError("nothing may be looked up")

    async def scene():
        server = RecordServer(Nothing(), lambda: 1_800_000_000.5)
        async with talking_to(server) as (reader, writer):
            writer.write(request_bytes)
            assert await reader.read() == b"\x02" + (1_800_000_000_500).to_bytes(8, "big") + bytes(4)

    run_async(scene())


def test_a_dht_that_does_not_answer_makes_an_empty_answer_and_a_greedy_source_a_bounded_one(run_async):
    class Source:
        async def envelopes(self, kind, run, slot):
            if slot == "router":
                raise NetworkError("the daemon ended")
            return [b"x"] * 1000

    async def scene():
        async with talking_to(RecordServer(Source(), lambda: 0.0)) as (reader, writer):
            writer.write(asked(kind="tip", run=RUN, slots=["router", "cluster-0"]))
            head = await reader.readexactly(13)
            assert head == bytes(9) + (64).to_bytes(4, "big")
            assert await reader.readexactly(64 * 5) == b"\x00\x00\x00\x01x" * 64

    run_async(scene())


def test_one_peer_cannot_take_all_streams(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (server, greedy):
            await serve(server)
            streams = [await RecordStream.open(greedy, server.peer_id) for _ in range(8)]
            for stream in streams:
                await stream.time_s()
            async with await RecordStream.open(greedy, server.peer_id) as one_more:
                with pytest.raises(NetworkError, match="busy"):
                    await one_more.time_s()
            for stream in streams:
                await stream.__aexit__()

    run_async(scene())


class talking_to:  # noqa: N801 - reads as a context manager
    """A server's handler at the other end of a plain TCP connection."""

    def __init__(self, server: RecordServer) -> None:
        self.server = server

    async def __aenter__(self):
        async def accept(reader, writer):
            await self.server.handle(Somebody(), reader, writer)

        self.listening = await asyncio.start_server(accept, "127.0.0.1", 0)
        reader, self.writer = await asyncio.open_connection(*self.listening.sockets[0].getsockname())
        return reader, self.writer

    async def __aexit__(self, *_):
        self.writer.close()
        self.listening.close()
        await self.listening.wait_closed()


class Somebody:
    peer_id = "somebody"
