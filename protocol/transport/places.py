"""Places in the DHT: a node's place follows from its name, and nobody's word moves anybody.

hivemind lets a node choose its place and believes every word about places. So one peer could take the place of every
honest node with one ping each, have a thousand places, or draw a search out by making up ever nearer ones. Here a place
that does not follow from its peer's name is none.
"""

from __future__ import annotations

from typing import Any

from paris.protocol.transport.libp2p import DHTID, PeerID


def place_of(peer: PeerID) -> DHTID:
    """The one place of a peer: SHA-1 over the bytes of its peer id, as hivemind hashes the keys of records."""
    return DHTID.generate(peer.to_bytes())


def bind_places(protocol: Any) -> None:
    """Keep false places out of a hivemind DHTProtocol's routing table, and out of what its searches learn."""
    update, find = protocol.update_routing_table, protocol.call_find

    async def update_routing_table(node_id: DHTID | None, peer_id: PeerID, *, responded: bool = True) -> None:
        if not responded or node_id == place_of(peer_id):
            await update(node_id, peer_id, responded=responded)

    async def call_find(peer: PeerID, keys: Any) -> Any:
        found = await find(peer, keys)
        return found and {key: (item, _true_places(protocol, nearest)) for key, (item, nearest) in found.items()}

    protocol.update_routing_table, protocol.call_find = update_routing_table, call_find


def _true_places(protocol: Any, nearest: dict[DHTID, PeerID]) -> dict[DHTID, PeerID]:
    """Of the neighbours a peer names, as many as an honest one would, without ourselves and without false places.

    Without ourselves, because hivemind's store fails at its own assertion where somebody names the asker.
    """
    true = [(place, peer) for place, peer in nearest.items() if place == place_of(peer) and place != protocol.node_id]
    return dict(true[: protocol.bucket_size])
