"""A blob provider on loopback that misbehaves, in a process of its own.

Usage: liar.py BEHAVIOUR SEED FILE ADDRESS. Prints its first address when ready, ends with stdin.
Behaviours: honest, silent (takes requests), lie (one wrong bit), truncate (announce all, send half, close cleanly),
stall (send half, then nothing), endless (announce more than asked), babble (no answer of ours), deny (has nothing),
die (exit after half).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from protocol_support import FileSource, person

from paris.protocol.digests import sha256_of
from paris.protocol.transport.blobs import PROTOCOL, serve
from paris.protocol.transport.dht import Swarm


def handler(behaviour: str, content: bytes):
    async def handle(_info, reader, writer):
        while True:
            size = int.from_bytes(await reader.readexactly(4), "big")
            request = json.loads(await reader.readexactly(size))
            if behaviour == "silent":
                await asyncio.Event().wait()
            data = bytearray(content[request["offset"] : request["offset"] + request["length"]])
            half = len(data) // 2
            if behaviour == "lie":
                data[half] ^= 1
            announced = request["length"] * 2 if behaviour == "endless" else len(data)
            header = b"\x00" + announced.to_bytes(8, "big")
            if behaviour == "babble":
                header = b"HTTP/1.1 200 OK\r\n"
            writer.write(header + (data[:half] if behaviour in {"truncate", "stall", "die"} else data))
            await writer.drain()
            if behaviour == "die":
                os._exit(1)
            if behaviour == "stall":
                await asyncio.Event().wait()
            if behaviour == "truncate":
                writer.close()
                return

    return handle


async def live(behaviour: str, file: Path, content: bytes, key: Path, address: str) -> None:
    async with await Swarm.join(key, [address]) as swarm:
        if behaviour in {"honest", "deny"}:
            await serve(swarm, FileSource({} if behaviour == "deny" else {sha256_of(content): file}))
        else:
            await swarm.p2p.add_binary_stream_handler(PROTOCOL, handler(behaviour, content))
        print(swarm.addrs[0], flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    behaviour, seed, name, address = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        key, file = Path(folder) / "key", Path(name)
        key.write_bytes(person(int(seed)).to_libp2p())
        asyncio.run(live(behaviour, file, file.read_bytes(), key, address))


main()
