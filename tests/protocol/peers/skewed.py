"""A node whose clock is wrong, in a process of its own. Usage: skewed.py SHIFT_S SEED ADDRESS.

Joins, announces a claim by its own clock, and prints one JSON line: whether it met the address, the signers it sees,
and what it says about its clock. Stays until stdin ends.
"""

from __future__ import annotations

import sys
import time

_true_time = time.time
_shift_s = float(sys.argv[1])
time.time = lambda: _true_time() + _shift_s  # before hivemind takes its own reference

import asyncio  # noqa: E402
import json  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent))

from protocol_support import digest_of, fresh, make_claim, person, signed  # noqa: E402

from paris.protocol.transport.clock import measure_skew  # noqa: E402
from paris.protocol.transport.dht import Swarm  # noqa: E402

RUN = digest_of("run")


async def live(key: Path, seed: int, address: str) -> None:
    async with await Swarm.join(key, [address]) as swarm:
        await swarm.publish(signed(fresh(make_claim, person(seed)), person(seed)))
        seen = [record.signer for record in await swarm.records("claim", RUN, "cluster-0")]
        skew = await measure_skew(swarm._node.protocol, [address.rpartition("/")[2]])
        told = {
            "met": all(dial.answered for dial in swarm.dials), "seen": seen, "offset_s": skew.offset_s,
            "verdict": skew.verdict, "words": str(skew),
        }  # fmt: skip
        print(json.dumps(told), flush=True)  # noqa: T201
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        key = Path(folder) / "key"
        key.write_bytes(person(int(sys.argv[2])).to_libp2p())
        asyncio.run(live(key, int(sys.argv[2]), sys.argv[3]))


main()
