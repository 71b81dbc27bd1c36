"""Hostile DHT nodes without any validator, in a process of their own.

Usage: attacker.py ADDRESS... Joins, then obeys one JSON line at a time and answers each with one JSON line, until
stdin ends. Commands are lists, the name first:

    ["store", entries, n]   store entries {key, subkey, value | slot, expiration, raw} at every peer, n in one message,
                            twice: kept and cached; answers how many were offered. Values and subkeys are hex; `raw`
                            ones are sent as they are.
    ["answer", key, items]  answer finds of a key with {type, value | slot | bomb, expiration}, in turns
    ["near", how, key]      lie about the nearest peers; see `Lies.neighbours`
    ["silent", yes]         answer no find any more
    ["forget", yes]         say yes to every store and keep nothing
    ["ping", ids]           claim to have each of these node ids (hex)
    ["rejoin"]              leave, and come again under another name: honest nodes shun who answered nonsense
    ["sybils", key, n]      start n more nodes, each with a key of its own, chosen so that they lie beside the key
    ["peers"]               [node id, peer id] of everybody honest who is known
    ["asked"]               how many finds came since this was last asked
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import warnings
from contextlib import suppress

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import msgpack
    from hivemind.dht.node import DHTNode
    from hivemind.dht.protocol import DHTProtocol
    from hivemind.dht.routing import DHTID
    from hivemind.p2p import P2P, PeerID
    from hivemind.p2p.p2p_daemon_bindings.utils import P2PDaemonError
    from hivemind.proto import dht_pb2

DICTIONARY, TUPLE = 0x50, 0x40
PEER_ID_PREFIX, PRIVATE_PREFIX = b"\x00\x24\x08\x01\x12\x20", b"\x08\x01\x12\x40"
TRIES = 3000
PATIENCE_S = 15
DAEMON_TRIES = 3
honest_find, honest_store = DHTProtocol.rpc_find, DHTProtocol.rpc_store


def nearest_of(key: DHTID, peers: list[PeerID], count: int) -> list[tuple[DHTID, PeerID]]:
    """The peers whose true places are nearest to a key: places follow from names, and names cost nothing."""
    places = ((DHTID.generate(peer.to_bytes()), peer) for peer in peers)
    return sorted(places, key=lambda pair: key.xor_distance(pair[0]))[:count]


def ground_keys(key: DHTID, count: int) -> list[bytes]:
    """Secret keys whose names have places beside a key."""
    made = {}
    for _ in range(TRIES):
        private = Ed25519PrivateKey.generate()
        public = private.public_key().public_bytes_raw()
        made[PeerID(PEER_ID_PREFIX + public)] = PRIVATE_PREFIX + private.private_bytes_raw() + public
    return [made[peer] for _, peer in nearest_of(key, list(made), count)]


class Lies:
    """What all nodes of this process do otherwise than they should."""

    def __init__(self) -> None:
        self.answers: dict[bytes, list[dict]] = {}
        self.near, self.key = "", DHTID(0)
        self.silent = self.forget = False
        self.asked = 0

    def neighbours(self, asker: bytes, known: dict[DHTID, PeerID], me: PeerID) -> list[tuple[DHTID, PeerID]]:
        """`myself`: a thousand places beside the key, all of them this peer's; `nobody`: as many peers that are not;
        `asker`: the asker's own place; `stolen`: the places of honest nodes, all of them this peer's."""
        beside = [DHTID(int(self.key) ^ int.from_bytes(os.urandom(8), "big")) for _ in range(1000)]
        if self.near == "myself":
            return [(place, me) for place in beside]
        if self.near == "nobody":
            nobody = [PeerID(PEER_ID_PREFIX + os.urandom(32)) for _ in beside]
            return [*zip(beside, nobody, strict=True), *nearest_of(self.key, nobody, 20)]
        if self.near == "asker":
            return [(DHTID.from_bytes(asker), peer) for peer in (me, *known.values())]
        return [(place, me) for place in known]


LIES = Lies()


async def find(self: DHTProtocol, request: dht_pb2.FindRequest, context) -> dht_pb2.FindResponse:
    LIES.asked += len(request.keys)
    if LIES.silent:
        await asyncio.Event().wait()
    response = await honest_find(self, request, context)
    for key, result in zip(request.keys, response.results, strict=True):
        if told := LIES.answers.get(key):
            lie = told[LIES.asked % len(told)]
            result.type, result.value = lie["type"], value_of(lie)
            result.expiration_time = float(lie["expiration"])
        if LIES.near:
            lies = LIES.neighbours(request.peer.node_id, dict(self.routing_table.uid_to_peer_id), self.p2p.peer_id)
            del result.nearest_node_ids[:], result.nearest_peer_ids[:]
            result.nearest_node_ids.extend(place.to_bytes() for place, _ in lies)
            result.nearest_peer_ids.extend(peer.to_bytes() for _, peer in lies)
    return response


async def store(self: DHTProtocol, request: dht_pb2.StoreRequest, context) -> dht_pb2.StoreResponse:
    if LIES.forget:
        return dht_pb2.StoreResponse(store_ok=[True] * len(request.keys), peer=self.node_info)
    return await honest_store(self, request, context)


DHTProtocol.rpc_find, DHTProtocol.rpc_store = find, store


def value_of(lie: dict) -> bytes:
    """Bytes of an answer: as told, a slot [maxsize, latest expiration, entries], or `bomb` tuples in one another."""
    if "bomb" in lie:
        value = b"\xc0"
        for _ in range(lie["bomb"]):
            value = msgpack.packb(msgpack.ExtType(TUPLE, b"\x91" + value))
        return value
    if "slot" not in lie:
        return bytes.fromhex(lie["value"])
    maxsize, latest, entries = lie["slot"]
    items = [
        [bytes.fromhex(subkey), msgpack.packb(bytes.fromhex(value)), float(expires)]
        for subkey, value, expires in entries
    ]
    return msgpack.packb(msgpack.ExtType(DICTIONARY, msgpack.packb([maxsize, float(latest), items])))


async def daemon(addresses: list[str], key_file: str) -> P2P:
    """A daemon ends itself where busy peers do not answer it in time: then another one is started."""
    for _ in range(DAEMON_TRIES - 1):
        with suppress(OSError, P2PDaemonError):
            return await _daemon(addresses, key_file)
    return await _daemon(addresses, key_file)


async def _daemon(addresses: list[str], key_file: str) -> P2P:
    return await P2P.create(
        initial_peers=addresses, identity_path=key_file, check_if_identity_free=False, use_relay=False,
        auto_nat=False, nat_port_map=False, idle_timeout=5, tls=False,
    )  # fmt: skip


async def start(addresses: list[str], secret: bytes | None = None) -> DHTNode:
    """A node with a key of its own or a given one, at the place that follows from it."""
    key = Ed25519PrivateKey.generate()
    fresh = PRIVATE_PREFIX + key.private_bytes_raw() + key.public_key().public_bytes_raw()
    with tempfile.NamedTemporaryFile() as file:
        file.write(secret or fresh)
        file.flush()
        p2p = await daemon(addresses, file.name)
    node = await DHTNode.create(p2p=p2p, node_id=DHTID.generate(p2p.peer_id.to_bytes()), wait_timeout=PATIENCE_S)
    for address in addresses:
        await node.protocol.call_ping(PeerID.from_base58(address.rpartition("/")[2]))
    await node.find_nearest_nodes([node.node_id])
    return node


async def stop(node: DHTNode) -> None:
    await node.shutdown()
    await node.p2p.shutdown()


async def store_everywhere(node: DHTNode, entries: list[dict], batch: int) -> int:
    offered = 0
    for start_at in range(0, len(entries), batch):
        part = entries[start_at : start_at + batch]
        fields = (
            [DHTID.generate(entry["key"]) for entry in part],
            [stored_value_of(entry) for entry in part],
            [float(entry["expiration"]) for entry in part],
            [bytes.fromhex(entry["subkey"]) if entry.get("subkey") else None for entry in part],
        )
        for in_cache in (False, True):
            calls = [node.protocol.call_store(peer, *fields, in_cache=in_cache) for peer in peers_of(node)]
            await asyncio.gather(*calls)
            offered += len(part) * len(calls)
    return offered


def stored_value_of(entry: dict):
    if "slot" in entry:
        return DHTProtocol.serializer.loads(value_of(entry))
    value = bytes.fromhex(entry["value"])
    return value if entry.get("raw") else msgpack.packb(value)


def peers_of(node: DHTNode) -> list[PeerID]:
    return [peer for peer in node.protocol.routing_table.peer_id_to_uid if peer != node.peer_id]


async def ping_as(node: DHTNode, ids: list[DHTID]) -> int:
    """Tell every peer that we have each of the ids."""
    peers = peers_of(node)
    for node_id in ids:
        claim = dht_pb2.PingRequest(peer=dht_pb2.NodeInfo(node_id=node_id.to_bytes()))
        await asyncio.gather(*(node.protocol.get_stub(peer).rpc_ping(claim, timeout=3) for peer in peers))
    return len(ids) * len(peers)


async def obey(nodes: list[DHTNode], addresses: list[str], name: str, *arguments):
    """Everything that talks to others; the rest is `settle`."""
    first = nodes[0]
    match name, *arguments:
        case "store", entries, batch:
            return await store_everywhere(first, entries, batch)
        case "ping", ids:
            return await ping_as(first, [DHTID(int(node_id, 16)) for node_id in ids])
        case ("rejoin",):
            await stop(first)
            nodes[0] = await start(addresses)
        case "sybils", key, count:
            secrets = ground_keys(DHTID.generate(key), count)
            nodes += await asyncio.gather(*(start(addresses, secret) for secret in secrets))
        case ("peers",):
            own = {node.peer_id for node in nodes}
            known = first.protocol.routing_table.uid_to_peer_id
            return [[hex(place), peer.to_base58()] for place, peer in known.items() if peer not in own]
        case _:
            return settle(name, *arguments)
    return None


def settle(name: str, *arguments):
    """How to answer from now on."""
    match name, *arguments:
        case "answer", key, items:
            LIES.answers = {DHTID.generate(key).to_bytes(): items} if items else {}
        case "near", how, key:
            LIES.near, LIES.key = how, DHTID.generate(key)
        case "silent", yes:
            LIES.silent = yes
        case "forget", yes:
            LIES.forget = yes
        case ("asked",):
            asked, LIES.asked = LIES.asked, 0
            return asked
    return None


async def main() -> None:
    addresses = sys.argv[1:]
    nodes = [await start(addresses)]
    print(json.dumps(nodes[0].peer_id.to_base58()), flush=True)  # noqa: T201
    while line := await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(await obey(nodes, addresses, *json.loads(line))), flush=True)  # noqa: T201
    await asyncio.gather(*map(stop, nodes))


asyncio.run(main())
