"""A process that fetches a file and says how far it is, to be killed. Usage: fetcher.py SEED ADDRESS ENTRY PARTIAL."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from protocol_support import person

from paris.protocol.manifest import FileEntry
from paris.protocol.transport.dht import Swarm
from paris.protocol.transport.fetch import fetch_file


async def live(key: Path, address: str, entry: FileEntry, partial: Path) -> None:
    def progress(count: int) -> None:
        print(count, flush=True)  # noqa: T201

    async with await Swarm.join(key, [address]) as swarm:
        await fetch_file(swarm, entry, [address.rpartition("/")[2]], partial, progress)


def main() -> None:
    seed, address, entry, partial = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key"
        key.write_bytes(person(int(seed)).to_libp2p())
        asyncio.run(live(key, address, FileEntry.parse(json.loads(entry)), Path(partial)))


main()
