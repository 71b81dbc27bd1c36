"""A process that publishes a claim once it gets SIGINT. Usage: publisher.py SEED ADDRESS."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from protocol_support import fresh, make_claim, person, signed

from paris.protocol.transport.dht import Swarm


async def live(number: int, address: str, key: Path) -> None:
    interrupted = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    async with await Swarm.join(key, [address]) as swarm:
        print(swarm.p2p._child.pid, flush=True)  # noqa: T201
        await interrupted.wait()
        who = person(number)
        await swarm.publish(signed(fresh(make_claim, who), who))
        print("published", flush=True)  # noqa: T201


def main() -> None:
    seed, address = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key"
        key.write_bytes(person(int(seed)).to_libp2p())
        asyncio.run(live(int(seed), address, key))


main()
