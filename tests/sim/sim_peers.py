"""Who lives in the simulated world: contributors as the node's loop makes them, and squatters."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sim_world import Network, World

from paris.protocol.claims import Complete, MakeClaim, Train, UnitView, View, Wait, Withdraw, live
from paris.protocol.digests import sha256_of
from paris.protocol.genesis import Lease
from paris.protocol.identity import Identity
from paris.protocol.records import Claim

RUN = sha256_of(b"a simulated run")
Decide = Callable[[View, str, str, float], Any]


@dataclass(frozen=True)
class Rules:
    """What a simulated run's genesis says. Steps are optimiser steps; `units` begins with the base, if there is one."""

    units: tuple[str, ...]
    target_step: int
    publish_every: int
    lease: Lease

    @property
    def period_s(self) -> float:
        """How often a node looks at the run."""
        return max(1.0, min(30.0, self.lease.life_s / 5))


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A published and evaluated stretch of training. Ordered as nodes prefer: higher step, then lower digest."""

    step: int
    rank: bytes
    signer: str = ""

    @classmethod
    def made(cls, unit: str, step: int, signer: str, parent: Checkpoint) -> Checkpoint:
        """A child; its digest follows from everything it is."""
        score = hashlib.sha256(f"{unit}|{step}|{signer}|{parent.rank.hex()}".encode()).digest()
        return cls(step, bytes(255 - byte for byte in score), signer)

    @property
    def digest(self) -> str | None:
        return sha256_of(self.rank) if self.step else None


NOTHING = Checkpoint(0, b"")


class Claimant:
    """A key, a skewed clock, and claims whose sequence numbers and expiries only grow."""

    def __init__(self, world: World, network: Network, number: int, rules: Rules, skew_s: float) -> None:
        self.world, self.network, self.number, self.rules = world, network, number, rules
        self.name = Identity.from_seed((number + 1).to_bytes(32, "big")).peer_id
        self._skew_s = skew_s
        self._last: dict[str, tuple[int, int]] = {}

    @property
    def clock_s(self) -> float:
        return self.world.now_s + self._skew_s

    def claim(self, unit: str, best: Checkpoint, *, step: int | None = None, released: bool = False) -> None:
        now = int(self.clock_s)
        seq, exp = self._last.get(unit, (0, 0))
        seq, exp = self._last[unit] = max(seq + 1, now), max(exp + 1, now + self.rules.lease.life_s)
        record = Claim(
            run=RUN, signer=self.name, seq=seq, iat=now, exp=exp, unit=unit, released=released,
            step=best.step if step is None else step, parent=best.digest,
        )  # fmt: skip
        self.network.publish("claim", unit, self.number, record)


class Squatter(Claimant):
    """Claims every unit with a boasted step, renews for ever, never trains."""

    def wake(self) -> None:
        for unit in self.rules.units:
            self.claim(unit, NOTHING, step=10**9)
        self.world.after(self.rules.lease.life_s / 3, self.wake)


class Contributor(Claimant):
    """Surveys, decides, acts, as `paris.node.contributor` does.

    Attributes:
        training: The unit it trains now, if any.
        done: It has seen every unit complete.
        steps_trained: Optimiser steps spent, also those that were lost or repeated.
    """

    def __init__(
        self, world: World, network: Network, number: int, rules: Rules, skew_s: float, *, step_s: float, decide: Decide
    ) -> None:
        super().__init__(world, network, number, rules, skew_s)
        self._step_s, self._decide = step_s, decide
        self.steps_trained = 0.0
        self._segment_s = 0.0
        self.alive, self.done = True, False
        self._life = 0
        self.training: str | None = None
        self._forget()

    def _forget(self) -> None:
        """A crash: everything in memory is gone; what was published stays in the network."""
        self._stop()
        self._standing: str | None = None
        self._renewed_s = 0.0
        self._claimed_at_s: float | None = None
        self._best: dict[str, Checkpoint] = {}
        self._since_s: dict[tuple[str, str | None], float] = {}

    def crash(self, down_s: float | None) -> None:
        """Die now and come back after a while, or never."""
        self.alive = False
        self._life += 1
        self._forget()
        if down_s is not None:
            self.world.after(down_s, self.start)

    def start(self) -> None:
        self.alive = True
        self.wake()

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something later, unless this life has ended by then."""
        life = self._life
        self.world.after(delay_s, lambda: action() if life == self._life else None)

    def best(self, unit: str) -> Checkpoint:
        return self._best.get(unit, NOTHING)

    def view(self) -> View:
        for unit in self.rules.units:
            self._best[unit] = max([self.best(unit), *self.network.read("tip", unit, self.number)])
        return View(tuple(map(self._unit_view, self.rules.units)), self.rules.lease, self._claimed_at_s)

    def _unit_view(self, unit: str) -> UnitView:
        best, base = self.best(unit), self.rules.units[0]
        found = self.network.read("claim", unit, self.number)
        claims = tuple(c for c in live(found, self.clock_s) if c.signer != self.name or self._standing == unit)
        signers = {claim.signer for claim in claims}
        now_s = self.clock_s
        return UnitView(
            unit=unit,
            target_step=self.rules.target_step,
            step=best.step,
            checkpoint=best.digest,
            claims=claims,
            progressed=frozenset({best.signer} & signers),
            blocked=base == "base" and unit != base and self.best(base).step < self.rules.target_step,
            since_s=self._since_s.setdefault((unit, best.digest), now_s) if claims else now_s,
        )

    def decide(self) -> Any:
        return self._decide(self.view(), self.name, RUN, self.clock_s)

    def wake(self) -> None:
        """One turn of the main loop, while nothing is trained."""
        period_s = self.rules.period_s
        action = self.decide()
        self.done = isinstance(action, Complete)
        match action:
            case Complete():
                self._later(period_s, self.wake)
            case Wait(seconds):
                self._later(min(seconds, period_s), self.wake)
            case MakeClaim(unit):
                self._standing, self._claimed_at_s = unit, self.clock_s
                self._renew(unit)
                self._later(self.rules.lease.settle_s, self.wake)
            case Train(unit):
                self._train(unit)
            case Withdraw(unit):
                self._release(unit)
                self._later(0.1, self.wake)

    def _renew(self, unit: str) -> None:
        self._renewed_s = self.world.now_s
        self.claim(unit, self.best(unit))

    def _release(self, unit: str) -> None:
        self.claim(unit, self.best(unit), released=True)
        self._stop()
        self._standing = None

    def _stop(self) -> None:
        """End training; what was trained since the last checkpoint is lost."""
        if self.training:
            self.steps_trained += (self.world.now_s - self._segment_s) / self._step_s
        self.training = None

    def _train(self, unit: str) -> None:
        self.training = unit
        self._segment(unit, self.best(unit))
        self._later(self.rules.period_s, self._upkeep)

    def _segment(self, unit: str, parent: Checkpoint) -> None:
        self._segment_s = self.world.now_s
        steps = min(self.rules.publish_every, self.rules.target_step - parent.step)
        child = Checkpoint.made(unit, parent.step + steps, self.name, parent)
        session = self._claimed_at_s
        self._later(steps * self._step_s, lambda: self._publish(unit, child, session, steps))

    def _publish(self, unit: str, child: Checkpoint, session: float | None, steps: int) -> None:
        if (self.training, self._claimed_at_s) != (unit, session):
            return
        self.steps_trained += steps
        self._segment_s = self.world.now_s
        self._best[unit] = max(self.best(unit), child)
        self.network.publish("tip", unit, self.number, child)
        if child.step == self.rules.target_step:
            self._release(unit)
            self._later(0.1, self.wake)
        else:
            self._renew(unit)
            self._segment(unit, child)

    def _upkeep(self) -> None:
        """Renew the claim, and stop when another goes first or somebody else has finished the unit."""
        unit = self.training
        if unit is None:
            return
        if self.world.now_s >= self._renewed_s + self.rules.lease.life_s / 3:
            self._renew(unit)
        if self.decide() == Train(unit):
            self._later(self.rules.period_s, self._upkeep)
        else:
            self._release(unit)
            self._later(0.1, self.wake)
