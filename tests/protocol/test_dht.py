"""The DHT with real nodes on loopback."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from protocol_support import digest_of, fresh, make_claim, make_genesis, make_peer, make_tip, person, signed, swarm_of

from paris.protocol.curation import Admission
from paris.protocol.errors import EnvelopeError, NetworkError, RecordError, SignatureError, UsageError
from paris.protocol.transport.daemon import Dial
from paris.protocol.transport.dht import Swarm
from paris.protocol.validation import RunRules

RUN = digest_of("run")


def sockets_of(swarm: Swarm) -> list[Path]:
    addresses = (swarm.p2p._daemon_listen_maddr, swarm.p2p._client_listen_maddr)
    return [Path(address.value_for_protocol("unix")) for address in addresses]


def test_records_of_three_peers_are_seen_by_all(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1, 2, 3) as swarms:
            for number, swarm in enumerate(swarms, start=1):
                who = person(number)
                assert swarm.peer_id == who.peer_id
                assert all(dial.answered for dial in swarm.dials)
                await swarm.publish(signed(fresh(make_claim, who), who))
                await swarm.publish(signed(fresh(make_tip, who), who))
                await swarm.publish(signed(fresh(make_peer, who, addrs=tuple(swarm.addrs)), who))
            everybody = sorted(person(number).peer_id for number in (1, 2, 3))
            for swarm in swarms:
                for kind, slot in (("claim", "cluster-0"), ("tip", "cluster-0"), ("peer", "")):
                    assert [record.signer for record in await swarm.records(kind, RUN, slot)] == everybody
                assert await swarm.records("claim", RUN, "cluster-1") == []
                assert await swarm.records("claim", digest_of("other run"), "cluster-0") == []
                assert swarm.reachable_peers() == 2
            return [path for swarm in swarms for path in sockets_of(swarm)]

    assert not any(path.exists() for path in run_async(scene())), "socket files stay behind"


def test_a_renewed_record_replaces_the_old_one_everywhere(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1, 2, 3) as (first, second, third):
            who = person(1)
            now_s = int(time.time())
            for seq in (1, 2, 3):
                await first.publish(signed(make_claim(who, seq=seq, iat=now_s, exp=now_s + 60 + seq, step=seq), who))
                for swarm in (second, third):
                    assert [record.seq for record in await swarm.records("claim", RUN, "cluster-0")] == [seq]

    run_async(scene())


def test_publish_refuses_a_newer_record_that_would_expire_first(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1) as (swarm,):
            who, now_s = person(1), int(time.time())
            await swarm.publish(signed(make_claim(who, seq=1, iat=now_s, exp=now_s + 60), who))
            with pytest.raises(RecordError, match="let it expire later"):
                await swarm.publish(signed(make_claim(who, seq=2, iat=now_s, exp=now_s + 60), who))

    run_async(scene())


def test_a_blob_kind_cannot_be_published(tmp_path, run_async):
    from paris.protocol import envelope

    async def scene():
        async with swarm_of(tmp_path, 1) as (swarm,):
            with pytest.raises(RecordError, match="no DHT record"):
                await swarm.publish(envelope.sign("genesis", make_genesis(), person(1)))
            with pytest.raises(EnvelopeError):
                await swarm.publish(b"{}")

    run_async(scene())


def test_only_listed_keys_may_claim_in_a_listed_run(tmp_path, run_async):
    rules = {RUN: RunRules(Admission(policy="list", keys=(person(1).peer_id,)))}

    async def scene():
        async with swarm_of(tmp_path, 1, 2, rules=rules) as (first, second):
            await first.publish(signed(fresh(make_claim, person(1)), person(1)))
            with pytest.raises(SignatureError, match="not admitted"):
                await second.publish(signed(fresh(make_claim, person(2)), person(2)))
            await second.publish(signed(fresh(make_tip, person(2)), person(2)))
            assert [record.signer for record in await first.records("tip", RUN, "cluster-0")] == [person(2).peer_id]

    run_async(scene())


def test_a_client_reads_and_writes_without_serving(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (first, second):
            key = tmp_path / "client.key"
            key.write_bytes(person(9).to_libp2p())
            async with await Swarm.join(key, first.addrs, client_mode=True) as client:
                await client.publish(signed(fresh(make_claim, person(9)), person(9)))
                assert client.reachable_peers() == 2
                assert first.reachable_peers() == 1
            assert [record.signer for record in await second.records("claim", RUN, "cluster-0")] == [person(9).peer_id]

    run_async(scene())


def test_dead_bootstrap_the_node_starts_alone_says_so_and_connects_later(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1) as (first,):
            gone = first.addrs
        key = tmp_path / "2.key"
        key.write_bytes(person(2).to_libp2p())
        async with await Swarm.join(key, gone) as alone:
            assert [(dial.address, dial.answered) for dial in alone.dials] == [(gone[0], False)]
            assert "refused" in alone.dials[0].trouble
            assert alone.reachable_peers() == 0
            await alone.publish(signed(fresh(make_claim, person(2)), person(2)))
            assert not any(dial.answered for dial in await alone.connect(gone))
            assert await alone.company() == []
            async with swarm_of(tmp_path, 3) as (third,):
                assert await alone.connect(third.addrs) == [Dial(address) for address in third.addrs]
                assert await alone.company() == [third.peer_id]
                assert alone.reachable_peers() == 1
                found = await third.records("claim", RUN, "cluster-0")
                assert [record.signer for record in found] == [person(2).peer_id]

    run_async(scene())


def test_what_a_node_cannot_start_with_is_explained(tmp_path, run_async):
    key = tmp_path / "1.key"
    key.write_bytes(person(1).to_libp2p())
    damaged = tmp_path / "damaged.key"
    damaged.write_bytes(b"not a key")
    for arguments, kind, words in [
        ((tmp_path / "missing.key",), UsageError, "cannot be read"),
        ((damaged,), UsageError, "no Ed25519"),
        ((key, ["nonsense"]), UsageError, "no network address"),
        ((key, ["/ip4/127.0.0.1/tcp/9"]), SignatureError, "peer id"),
        ((key, [], "/ip4/192.0.2.1/tcp/4001"), NetworkError, "did not start"),
    ]:
        with pytest.raises(kind, match=words):
            run_async(Swarm.join(*arguments))


@pytest.mark.slow
def test_a_second_live_node_with_the_same_key_is_refused_and_a_successor_is_not(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1) as (first,):
            (tmp_path / "2.key").write_bytes(person(2).to_libp2p())
            async with await Swarm.join(tmp_path / "2.key", first.addrs):
                with pytest.raises(UsageError, match="another live node uses this key"):
                    await Swarm.join(tmp_path / "2.key", first.addrs, alone_with_key=True)
            async with await Swarm.join(tmp_path / "2.key", first.addrs, alone_with_key=True) as successor:
                assert successor.reachable_peers() == 1

    run_async(scene())


def test_expired_records_are_gone(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (first, second):
            who, now_s = person(1), int(time.time())
            await first.publish(signed(make_claim(who, iat=now_s - 60, exp=now_s + 2), who))
            while time.time() <= now_s + 2:
                await second.records("peer", RUN)
            assert await second.records("claim", RUN, "cluster-0") == []
            with pytest.raises(RecordError, match="expired"):
                await first.publish(signed(make_claim(who, iat=now_s - 60, exp=now_s - 1), who))

    run_async(scene())
