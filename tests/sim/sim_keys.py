"""What is known of a simulated run, and keys that sign records in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sim_world import Network, World

from paris.protocol import envelope
from paris.protocol.curation import Admission
from paris.protocol.digests import sha256_of
from paris.protocol.genesis import Lease
from paris.protocol.identity import Identity
from paris.protocol.limits import LIMITS
from paris.protocol.progress import Chain, Standing, stale
from paris.protocol.records import Claim, Record, Tip

RUN = sha256_of(b"a simulated run")
NOTHING_MICRO = 1_000_000


@dataclass(frozen=True)
class Rules:
    """What a simulated run's genesis says. Steps are optimiser steps; `units` begins with the base, if there is one."""

    units: tuple[str, ...]
    target_step: int
    publish_every: int
    lease: Lease
    admission: Admission

    @property
    def period_s(self) -> float:
        """How often a node looks at the unit it trains."""
        return max(1.0, min(30.0, self.lease.life_s / 5))


@dataclass(frozen=True)
class Checkpoint:
    """What the rules read off a checkpoint's statement, and what its weights are truly worth."""

    unit: str
    signer: str
    fence: int
    to_step: int
    parent: str | None
    holdout_loss_micro: int | None
    true_micro: int

    @property
    def digest(self) -> str:
        return sha256_of(repr(self).encode())


def trained_micro(step: int, target: int, noise: float) -> int:
    """Loss of honest weights after some steps."""
    return round(NOTHING_MICRO * (0.2 + 0.75 * math.exp(-3 * step / target)) * (1 + noise))


class Library:
    """Checkpoint statements by digest: content-addressed, so whoever has a digest has the truth."""

    def __init__(self, admission: Admission) -> None:
        self._found: dict[str, Checkpoint] = {}
        self._chains: dict[str, Chain | None] = {}
        self._admission = admission
        self._found_together: dict[tuple[str, frozenset[str]], Any] = {}
        self.weighed: dict[Any, Standing] = {}

    def add(self, checkpoint: Checkpoint) -> str:
        self._found[checkpoint.digest] = checkpoint
        return checkpoint.digest

    def chain(self, digest: str) -> Chain | None:
        """A chain that verifies; None where it does not, as `paris.registry.resolve` would refuse it."""
        if digest not in self._chains:
            self._chains[digest] = self._verified(digest)
        return self._chains[digest]

    def chains(self, unit: str, digests: frozenset[str]) -> tuple[list[Chain], list[tuple[str, Checkpoint]]]:
        """The chains of a unit that end in these checkpoints, and every checkpoint in them once."""
        if (unit, digests) not in self._found_together:
            chains = [chain for digest in sorted(digests) if digest and (chain := self.chain(digest))]
            chains = [chain for chain in chains if chain.lineage[-1].unit == unit]
            members = {d: made for chain in chains for d, made in zip(chain.digests, chain.lineage, strict=True)}
            self._found_together[unit, digests] = chains, list(members.items())
        return self._found_together[unit, digests]

    def _verified(self, digest: str) -> Chain | None:
        checkpoint = self._found.get(digest)
        if checkpoint is None or not self._admission.admits(checkpoint.signer):
            return None
        before = self.chain(checkpoint.parent) if checkpoint.parent else Chain()
        if before is None or checkpoint.to_step <= before.step:
            return None
        lineage = (*before.lineage, checkpoint)
        return None if stale(lineage) else Chain(lineage, (*before.digests, digest))


class Claimant:
    """A key, a skewed clock, and records whose sequence numbers and expiries only grow."""

    run = RUN

    def __init__(self, world: World, network: Network, library: Library, rules: Rules, number: int, skew_s: float):
        self.world, self.network, self.library, self.rules, self.number = world, network, library, rules, number
        self.identity = Identity.from_seed((number + 1).to_bytes(32, "big"))
        self.name = self.identity.peer_id
        self.signed: set[bytes] = set()
        self.said = 0
        self._skew_s = skew_s
        self._last: dict[tuple[str, str], tuple[int, int]] = {}

    @property
    def clock_s(self) -> float:
        return self.world.now_s + self._skew_s

    def say(self, model: type[Record], unit: str, life_s: int, **fields: Any) -> Record:
        now, kind, self.said = int(self.clock_s), model.kind, self.said + 1
        seq, exp = self._last.get((kind, unit), (0, 0))
        seq, exp = self._last[kind, unit] = max(seq + 1, now), max(exp + 1, now + life_s)
        record = model(run=RUN, signer=self.name, seq=seq, iat=now, exp=exp, unit=unit, **fields)
        self.network.publish(record, self.number, lambda: self.sign(record))
        return record

    def sign(self, record: Record) -> bytes:
        data = envelope.sign(record.kind, record, self.identity)
        self.signed.add(data)
        return data

    def claim(self, unit: str, best: Chain, *, step: int | None = None, released: bool = False) -> int:
        fields = {"step": best.step if step is None else step, "parent": best.tip, "released": released}
        return self.say(Claim, unit, self.rules.lease.life_s, **fields).seq

    def tip(self, made: Checkpoint) -> str:
        digest = self.library.add(made)
        self.say(
            Tip, made.unit, LIMITS.life_s["tip"] - 60, checkpoint=digest, manifest=digest, step=made.to_step,
            loss_micro=made.holdout_loss_micro or 0,
        )  # fmt: skip
        return digest
