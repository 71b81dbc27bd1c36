"""A process that reads one file with the light client, verified and kept, or from a bare stream, as it is told.

`python -m benchmarks.light ADDRESS ENTRY FOLDER`, ENTRY being the file's manifest entry as JSON. Obeys one word a line,
`fetch` or `bare`, and answers each with a line that holds the number of bytes that came.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from paris.protocol.identity import Identity
from paris.protocol.manifest import FileEntry
from paris.protocol.transport.fetch import fetch_file
from paris.protocol.transport.light import LightHost, open_host

BARE = "/benchmark/bare/1.0.0"
READ_BYTES = 256 * 2**10


async def live(address: str, entry: FileEntry, folder: Path) -> None:
    """Obey until standard input ends."""
    provider = address.rpartition("/")[2]
    async with open_host(Identity.from_seed(b"benchmark light".ljust(32)), [address]) as host:
        while order := (await asyncio.to_thread(sys.stdin.readline)).strip():
            if order == "bare":
                print(await _read_bare(host, provider), flush=True)
                continue
            partial = folder / "light"
            partial.unlink(missing_ok=True)
            await fetch_file(host, entry, [provider], partial)
            print(partial.stat().st_size, flush=True)


async def _read_bare(host: LightHost, provider: str) -> int:
    reader, writer = await host.stream(provider, BARE)
    count = 0
    while block := await reader.read(READ_BYTES):
        count += len(block)
    writer.close()
    return count


def main() -> None:
    """Read the arguments."""
    entry = FileEntry.parse(json.loads(sys.argv[2]))
    asyncio.run(live(sys.argv[1], entry, Path(sys.argv[3])))


if __name__ == "__main__":
    main()
