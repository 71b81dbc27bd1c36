"""Eight honest nodes and a hostile process on one network, and the count of what its attacks achieved."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from protocol_support import digest_of, make_claim, make_peer, make_tip, person, signed, swarm_of

from paris.protocol.curation import Admission
from paris.protocol.errors import ParisError
from paris.protocol.identity import Identity
from paris.protocol.records import Record, record_key
from paris.protocol.transport.dht import Swarm
from paris.protocol.transport.libp2p import MSGPackSerializer
from paris.protocol.validation import RunRules

HONEST = tuple(range(1, 9))
PEOPLE = [person(number) for number in HONEST]
OPEN, LISTED = digest_of("an open run"), digest_of("a run with a list")
RULES = {
    OPEN: RunRules(Admission(policy="open")),
    LISTED: RunRules(Admission(policy="list", keys=tuple(sorted(who.peer_id for who in PEOPLE)))),
}
SLOTS = [
    *((run, make) for run in (OPEN, LISTED) for make in (make_claim, make_tip)),
    (OPEN, make_peer),
]
ATTACKER = Path(__file__).parent / "peers" / "attacker.py"
LIFE_S = 900
ANSWER_TIMEOUT_S = 120
PATIENCE_S = 15.0
"""So long may an honest node search; a search that does not end by then has failed."""

Place = tuple[str, str, str]
"""Kind, run, slot."""


@dataclass
class Outcome:
    """What one attack tried and what came of it.

    Attributes:
        attack: In words.
        attempts: Stores offered, or questions answered with a lie.
        stored: How many entries lie in honest nodes' storages or caches after it that no honest node ever said.
        views: How many views (one of a node on a slot) were looked at.
        changed: How many of them were not what they should be.
        why_stored: Why what was stored was within the rules, where anything was.
    """

    attack: str
    attempts: int = 0
    stored: int = 0
    views: int = 0
    changed: int = 0
    why_stored: str = ""
    details: list[str] = field(default_factory=list)


class Battlefield:
    """A network under attack. Views are what `Swarm.records` returns, on every node, for every slot."""

    def __init__(self, swarms: list[Swarm], hostile: asyncio.subprocess.Process, hostile_id: str) -> None:
        self.swarms, self.hostile_id = swarms, hostile_id
        self._hostile = hostile
        self._expected: dict[Place, dict[str, Record]] = {}
        self._seq, self._turn = 0, 0
        self._strangers: set[str] = set()
        self._published: set[bytes] = set()
        self._start_s = int(time.time())
        self.lying = False

    async def attack(self, outcome: Outcome, entries: list[dict[str, Any]], batch: int = 1) -> None:
        """Have entries stored at every honest node."""
        outcome.attempts += await self.order("store", entries, batch)

    async def lie(self, *command: Any) -> None:
        """Have the attacker answer questions falsely from now on; the questions are counted as attempts."""
        if not self.lying:
            await self.order("rejoin")
            await self.order("asked")
        self.lying = True
        await self.order(*command)

    async def calm(self) -> None:
        """End all lies."""
        self.lying = False
        for command in (("answer", "", []), ("near", "", ""), ("silent", False), ("forget", False)):
            await self.order(*command)

    async def order(self, *command: Any) -> Any:
        """Tell the attacker what to do; returns its answer."""
        assert self._hostile.stdin
        assert self._hostile.stdout
        self._hostile.stdin.write(json.dumps(command).encode() + b"\n")
        return json.loads(await asyncio.wait_for(self._hostile.stdout.readline(), ANSWER_TIMEOUT_S))

    async def publish(self, number: int) -> None:
        """An honest node says everything it has to say, anew."""
        self._seq += 1
        now_s, who, swarm = int(time.time()), PEOPLE[number], self.swarms[number]
        for run, make in SLOTS:
            record = make(who, run=run, seq=self._seq, iat=now_s, exp=self._start_s + LIFE_S + self._seq)
            self._published.add(signed(record, who))
            await swarm.publish(signed(record, who))
            self._expected.setdefault((record.kind, record.run, record.slot), {})[who.peer_id] = record

    def said(self, *place: str) -> list[dict[str, Any]]:
        """What honest nodes said in a slot, as stores: everything there is valid."""
        by_name = {who.peer_id: who for who in PEOPLE}
        found = self._expected[place[0], place[1], place[2]]
        return [store for name, record in found.items() for store in stores(by_name[name], record)]

    def tolerate(self, *strangers: Identity) -> None:
        """Records of these signers are within the rules: they may be seen, and need not."""
        self._strangers.update(who.peer_id for who in strangers)

    async def look(self, outcome: Outcome) -> None:
        """Every node's view of every slot must be what honest nodes said, and nothing else."""
        for place, expected in self._expected.items():
            views = await asyncio.gather(*(self._view(swarm, place) for swarm in self.swarms))
            for number, view in zip(HONEST, views, strict=True):
                outcome.views += 1
                if view != expected:
                    outcome.changed += 1
                    outcome.details.append(f"node {number}, {place[0]}: {_difference(view, expected)}")

    async def _view(self, swarm: Swarm, place: Place) -> dict[str, Record] | str:
        try:
            records = await swarm.records(*place)
        except ParisError as error:
            return str(error)
        return {record.signer: record for record in records if record.signer not in self._strangers}

    def foreign(self) -> int:
        """How many entries lie in honest nodes' storages and caches that no honest node ever said."""
        return sum(
            MSGPackSerializer.loads(value) not in self._published
            for swarm in self.swarms
            for storage in (swarm._node.protocol.storage, swarm._node.protocol.cache)
            for _, (slot, _) in storage.items()
            for value in ([slot] if isinstance(slot, bytes) else [inner for _, (inner, _) in slot.items()])
        )

    async def withstand(self, outcome: Outcome) -> None:
        """The next honest node renews what it said, while the attack goes on; then every view is looked at."""
        self._turn += 1
        try:
            await self.publish(self._turn % len(PEOPLE))
        except ParisError as error:
            outcome.changed += 1
            outcome.details.append(f"an honest node cannot publish: {error}")
        await self.look(outcome)


def _difference(view: dict[str, Record] | str, expected: dict[str, Record]) -> str:
    if isinstance(view, str):
        return view
    missing, foreign = expected.keys() - view.keys(), view.keys() - expected.keys()
    other = [name for name in view.keys() & expected.keys() if view[name] != expected[name]]
    return f"{len(missing)} missing, {len(foreign)} foreign, {len(other)} not the newest"


@contextlib.asynccontextmanager
async def battlefield(folder: Path):
    """Eight honest nodes that have published, and one attacker who has met them all."""
    async with swarm_of(folder, *HONEST, rules=RULES) as swarms:
        for swarm in swarms:
            swarm.patience_s = PATIENCE_S
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(ATTACKER), *(swarm.addrs[0] for swarm in swarms),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=2**26,
        )  # fmt: skip
        try:
            assert process.stdout
            hostile_id = json.loads(await asyncio.wait_for(process.stdout.readline(), ANSWER_TIMEOUT_S))
            field = Battlefield(swarms, process, hostile_id)
            for number in range(len(HONEST)):
                await field.publish(number)
            calm = Outcome("none")
            await field.look(calm)
            assert not calm.changed, calm.details
            assert len(await field.order("peers")) == len(HONEST), "the attacker must reach every honest node"
            yield field
        finally:
            assert process.stdin
            process.stdin.close()
            await process.wait()


def entry(value: bytes, expiration: float | str, subkey: bytes | None, key: str, **more: Any) -> dict[str, Any]:
    """A store for the attacker, see `peers/attacker.py`."""
    return {"key": key, "value": value.hex(), "expiration": expiration, "subkey": subkey and subkey.hex()} | more


def stores(who: Identity, *records: Record) -> list[dict[str, Any]]:
    """Records as their signer would store them."""
    return [
        entry(signed(record, who), record.exp, who.public_key, record_key(record.kind, record.run, record.slot))
        for record in records
    ]


Attack = Callable[[Battlefield, Outcome], Coroutine[Any, Any, None]]
