"""A peer on loopback that serves a store's blobs and says so in the DHT, in a process of its own.

Usage: provider.py BEHAVIOUR NUMBER STORE TIPS [ADDRESS]. Prints its first address when its tips are in the DHT, ends
with stdin. TIPS is a JSON file: {"run", "tips": [{"unit", "checkpoint", "manifest", "step", "loss_micro"}]}.
Behaviours: honest, lying (wrong bits in everything large; `lied` beside TIPS says that it did), dying (SIGKILL in the
middle of the first large blob).

An honest one obeys lines "PID BYTES" on stdin: it sends SIGKILL to that process once it has served so many bytes more.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "protocol"))

from protocol_support import person

from paris.protocol.envelope import sign
from paris.protocol.identity import Identity
from paris.protocol.records import Peer, Tip
from paris.protocol.transport import blobs, records
from paris.protocol.transport.dht import Swarm
from paris.protocol.transport.rate import Throttle
from paris.registry.store import Store

LARGE_BYTES, PART_BYTES = 2**20, 2**16


class Lies:
    """A store whose large blobs are all wrong in every piece."""

    def __init__(self, store: Store, folder: Path, mark: Path) -> None:
        self._store, self._folder, self._mark = store, folder, mark

    def path(self, digest: str) -> Path | None:
        path = self._store.path(digest)
        if path is None or path.stat().st_size < LARGE_BYTES:
            return path
        data = bytearray(path.read_bytes())
        for at in range(0, len(data), LARGE_BYTES):
            data[at] ^= 1
        false = self._folder / path.name
        false.write_bytes(data)
        self._mark.touch()
        return false


class Executioner(Throttle):
    """Lets everything through, and kills when enough has passed."""

    def __init__(self, victim: int = 0, after_bytes: int = 0) -> None:
        super().__init__()
        self.victim, self.left_bytes = victim, after_bytes

    def part(self, size_bytes: int) -> int:
        return min(size_bytes, PART_BYTES)

    async def take(self, count_bytes: int) -> None:
        self.left_bytes -= count_bytes
        if self.victim and self.left_bytes <= 0:
            os.kill(self.victim, signal.SIGKILL)
            self.victim = 0


async def live(behaviour: str, who: Identity, store: Store | Lies, told: dict, key: Path, bootstrap: list[str]) -> None:
    async with await Swarm.join(key, bootstrap) as swarm:
        valve = Executioner(os.getpid(), LARGE_BYTES) if behaviour == "dying" else Executioner()
        await blobs.serve(swarm, store, valve)
        await records.serve(swarm)
        now_s = int(time.time())
        standard = {"run": told["run"], "signer": who.peer_id, "seq": 1, "iat": now_s, "exp": now_s + 1500}
        peer = Peer(addrs=tuple(swarm.addrs), agent="paris-node/0 test", abilities=(), **standard)
        await swarm.publish(sign("peer", peer, who))
        for tip in told["tips"]:
            await swarm.publish(sign("tip", Tip(**standard, **tip), who))
        print(swarm.addrs[0], flush=True)  # noqa: T201
        while line := await asyncio.to_thread(sys.stdin.readline):
            valve.victim, valve.left_bytes = map(int, line.split())


def main() -> None:
    behaviour, number, store, tips, *bootstrap = sys.argv[1:]
    who, served = person(int(number)), Store(Path(store))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "key").write_bytes(who.to_libp2p())
        source = Lies(served, folder, Path(tips).parent / "lied") if behaviour == "lying" else served
        told = json.loads(Path(tips).read_text())
        asyncio.run(live(behaviour, who, source, told, folder / "key", bootstrap))


main()
