"""A process that serves one file, over our blob protocol and as a bare hivemind stream.

`python -m benchmarks.peer FILE NUMBER` prints its addresses as JSON and lives until its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from paris.protocol.identity import Identity
from paris.protocol.transport import blobs
from paris.protocol.transport.dht import Swarm

BARE = "/benchmark/bare/1.0.0"
WRITE_BYTES = 256 * 2**10


class OneFile:
    """A blob source that has one file, whatever it is asked for."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def path(self, _digest: str) -> Path:
        """Return the file."""
        return self.file


async def live(file: Path, content: memoryview, key: Path) -> None:
    """Serve until standard input ends."""

    async def send_bare(_info: Any, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for start in range(0, len(content), WRITE_BYTES):
            writer.write(content[start : start + WRITE_BYTES])
            await writer.drain()
        writer.close()

    async with await Swarm.join(key) as swarm:
        await blobs.serve(swarm, OneFile(file))
        await swarm.p2p.add_binary_stream_handler(BARE, send_bare)
        print(json.dumps(swarm.addrs), flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Start with a key of its own."""
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key"
        key.write_bytes(Identity.from_seed(f"benchmark blob server {int(sys.argv[2])}".encode().ljust(32)).to_libp2p())
        file = Path(sys.argv[1])
        asyncio.run(live(file, memoryview(file.read_bytes()), key))


if __name__ == "__main__":
    main()
