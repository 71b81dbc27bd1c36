"""A DHT node without any validator, in a process of its own.

Usage: attacker.py ADDRESS. Reads one JSON line: a list of entries {key, subkey, value, expiration, dictionary} with
hex strings. Keeps each in its own storage, stores each at every peer it knows, prints one JSON line with what those
peers answered, and goes on answering finds until stdin ends. `expiration` of a dictionary may be "inf".
"""

from __future__ import annotations

import asyncio
import json
import sys
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from hivemind.dht.node import DHTNode
    from hivemind.dht.routing import DHTID
    from hivemind.dht.storage import DictionaryDHTValue


def make_value(node: DHTNode, entry: dict):
    if entry.get("raw"):
        return bytes.fromhex(entry["value"])
    dumps = node.protocol.serializer.dumps
    if "dictionary" not in entry:
        return dumps(bytes.fromhex(entry["value"]))
    value = DictionaryDHTValue(entry.get("maxsize"))
    value.frozen = True
    for subkey, inner, expiration in entry["dictionary"]:
        value.store(bytes.fromhex(subkey), dumps(bytes.fromhex(inner)), float(expiration))
    return value


async def attack(node: DHTNode, entry: dict) -> list:
    key = DHTID.generate(entry["key"])
    subkey = bytes.fromhex(entry["subkey"]) if entry.get("subkey") else None
    value, expiration = make_value(node, entry), float(entry["expiration"])
    if subkey is None:
        node.protocol.storage.store(key, value, expiration)
    else:
        node.protocol.storage.store_subkey(key, subkey, value, expiration)
    peers = list(node.protocol.routing_table.uid_to_peer_id.values())
    return [
        list(await node.protocol.call_store(peer, [key], [value], [expiration], [subkey], in_cache=[in_cache]) or [])
        for peer in peers
        for in_cache in (False, True)
    ]


async def main() -> None:
    node = await DHTNode.create(
        initial_peers=[sys.argv[1]], strict=False, use_relay=False, auto_nat=False, nat_port_map=False, idle_timeout=5
    )
    await node.find_nearest_nodes([node.node_id])
    entries = json.loads(sys.stdin.readline())
    print(json.dumps([await attack(node, entry) for entry in entries]), flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)
    await node.shutdown()


asyncio.run(main())
