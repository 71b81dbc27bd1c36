"""Places in the DHT: they follow from names, and what anybody says about them counts only where it fits."""

from __future__ import annotations

import hashlib

import pytest
from protocol_support import person, swarm_of

from paris.protocol.transport.libp2p import DHTID, PeerID
from paris.protocol.transport.places import bind_places, place_of

PEERS = [PeerID.from_base58(person(number).peer_id) for number in range(1, 60)]
KEY = DHTID.generate("key")


class Protocol:
    """As much of hivemind's DHTProtocol as places touch; its one peer answers what a test wants."""

    bucket_size = 20

    def __init__(self, nearest=None) -> None:
        self.node_id = place_of(PEERS[0])
        self.nearest, self.table = nearest, []
        bind_places(self)

    async def update_routing_table(self, node_id, peer_id, responded=True):
        self.table.append((node_id, peer_id, responded))

    async def call_find(self, _peer, keys):
        return None if self.nearest is None else dict.fromkeys(keys, ("item", self.nearest))


def find(run_async, nearest):
    return run_async(Protocol(nearest).call_find(PEERS[1], [KEY]))


def test_a_place_is_the_hash_of_the_name():
    name = PEERS[0].to_bytes()
    assert len(name) == 38
    assert place_of(PEERS[0]).to_bytes() == hashlib.sha1(name).digest()


def test_another_place_than_ones_own_is_not_taken_into_the_routing_table(run_async):
    protocol = Protocol()
    for place, responded in [(place_of(PEERS[1]), True), (place_of(PEERS[2]), True), (KEY, True), (None, False)]:
        run_async(protocol.update_routing_table(place, PEERS[1], responded=responded))
    assert protocol.table == [(place_of(PEERS[1]), PEERS[1], True), (None, PEERS[1], False)]


def test_of_the_neighbours_somebody_names_only_true_ones_are_followed(run_async):
    true, stolen = {place_of(peer): peer for peer in PEERS[2:5]}, {place_of(PEERS[5]): PEERS[6]}
    found = find(run_async, {**true, **stolen, KEY: PEERS[7], place_of(PEERS[0]): PEERS[0]})
    assert found == {KEY: ("item", true)}


def test_no_more_neighbours_than_an_honest_peer_would_name(run_async):
    assert len(find(run_async, {place_of(peer): peer for peer in PEERS[1:]})[KEY][1]) == Protocol.bucket_size


def test_a_peer_that_does_not_answer_names_nobody(run_async):
    assert find(run_async, None) is None


@pytest.mark.slow
def test_live_nodes_stand_where_their_names_put_them(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1, 2, 3) as swarms:
            for swarm in swarms:
                assert swarm._node.node_id == place_of(PeerID.from_base58(swarm.peer_id))
                assert swarm.reachable_peers() == 2

    run_async(scene())
