"""A py-libp2p host that serves one file over /paris/blob/1.0.0, written from docs/protocol.md alone.

Usage: pylibp2p.py SECURITY FILE. SECURITY: noise or plaintext. Prints its address, ends with stdin.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import trio
from libp2p import new_host
from libp2p.crypto import ed25519, x25519
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID, Transport
from multiaddr import Multiaddr


async def read_exactly(stream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        data += await stream.read(count - len(data))
    return data


async def live(security_name: str, content: bytes) -> None:
    digest = "sha256:" + hashlib.sha256(content).hexdigest()

    async def answer(stream) -> None:
        try:
            while True:
                size = int.from_bytes(await read_exactly(stream, 4), "big")
                asked = json.loads(await read_exactly(stream, size))
                data = content[asked["offset"] : asked["offset"] + asked["length"]]
                found = asked["digest"] == digest
                await stream.write(b"\x00" if found else b"\x01")
                await stream.write((len(data) if found else 0).to_bytes(8, "big"))
                for start in range(0, len(data) if found else 0, 2**16):
                    await stream.write(data[start : start + 2**16])
        except Exception:  # noqa: BLE001 - the client left
            await stream.reset()

    keys = ed25519.create_new_key_pair(security_name.encode().ljust(32))
    noise = {PROTOCOL_ID: Transport(keys, noise_privkey=x25519.create_new_key_pair().private_key)}
    security = noise if security_name == "noise" else {PLAINTEXT_PROTOCOL_ID: InsecureTransport(keys)}
    host = new_host(key_pair=keys, sec_opt=security)
    host.set_stream_handler("/paris/blob/1.0.0", answer)
    async with host.run(listen_addrs=[Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        print(host.get_addrs()[0], flush=True)  # noqa: T201
        await trio.to_thread.run_sync(sys.stdin.read)


trio.run(live, sys.argv[1], Path(sys.argv[2]).read_bytes())
