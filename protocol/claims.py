"""Who trains what: leases that order, and never exclude.

A DHT gives no mutual exclusion, so correctness never depends on a lease: two holders waste work, nothing else. All
functions are pure; every peer decides from the verified records it sees and converges as views converge.

Order among live claims on a unit: who made progress that counts for the observer (`paris.protocol.progress`); then the
higher step, never beyond what counts; then the lowest SHA-256 of (run, unit, newest checkpoint that counts, signer).
Nothing a claimant declares about itself, least of all a time, can improve its place.

When a holder yields, and when not:
- while its claim settles, and for one lease after that, to any claim that goes first: the two heard of each other late;
- later only to a holder with progress that counts. A fresh claim, whatever it hashes to, takes nothing from somebody in
  training, so nobody is driven out by names made to measure, and two who do not see the same claims do not swing;
- never on a unit that is overdue: there whoever trains goes on until somebody's progress counts.
Two holders who both passed their first lease train twice until one of them publishes; the other measures it and yields.

Claims hold a unit for one progress deadline in all, counted from the moment its newest checkpoint began to count for
the observer. After that the unit is open to whoever trains it: squatting delays, it never blocks. So that a crowd of
idle peers does not fall upon it at once, each waits for one to two deadlines, as its name hashes.

What nobody has measured holds a unit no longer than a claim does. It is measured late: when it is about to be built on,
contested, or believed to be the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from paris.protocol.digests import hex_of
from paris.protocol.genesis import Lease
from paris.protocol.placement import preference
from paris.protocol.records import Claim

_POLL_S = 1.0
_BASE = "base"


class Rng(Protocol):
    """Where jitter comes from; `random.Random` is one."""

    def random(self) -> float:
        """A number from [0, 1)."""


@dataclass(frozen=True)
class Pending:
    """A checkpoint that would carry the lineage if it were measured and held.

    Attributes:
        checkpoint: Its digest.
        step: Its steps.
        since_s: When the observer first saw it; its own clock.
    """

    checkpoint: str
    step: int
    since_s: float


@dataclass(frozen=True)
class UnitView:
    """What one observer knows of one unit.

    Attributes:
        unit: Its name.
        target_step: Steps after which it is complete.
        step: Steps of the newest checkpoint that counts for the observer; 0 where there is none.
        checkpoint: Digest of that checkpoint; None where there is none.
        claims: Live claims, one per signer (see `live`).
        progressed: Signers whose checkpoint in the lineage that carries began to count within their lease.
        blocked: It cannot be trained yet: what it starts from is not complete.
        since_s: When that checkpoint began to count, or the unit was first seen claimed; seconds, a clock of the
            observer's own that never goes back.
        pending: What is worth measuring, if anything.
    """

    unit: str
    target_step: int
    step: int
    checkpoint: str | None
    claims: tuple[Claim, ...]
    progressed: frozenset[str]
    blocked: bool
    since_s: float
    pending: Pending | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing remains to be trained."""
        return self.step >= self.target_step

    @property
    def looks_complete(self) -> bool:
        """Whether nothing would remain if what is pending held."""
        return self.pending is not None and self.pending.step >= self.target_step


@dataclass(frozen=True)
class View:
    """What one observer knows of a run.

    Attributes:
        run: Run id.
        units: The units it watches.
        lease: Times from the genesis.
        claimed_at_s: When the observer first claimed the unit it holds now, not when it last renewed, by the clock of
            `since_s`; None: long ago.
        fruitless: How many times in a row it looked and found nothing to train (see `fruitless`).
    """

    run: str
    units: tuple[UnitView, ...]
    lease: Lease
    claimed_at_s: float | None = None
    fruitless: int = 0


@dataclass(frozen=True)
class Complete:
    """Every unit in view is complete."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do now; look again after some seconds."""

    seconds: float
    reason: str


@dataclass(frozen=True)
class Measure:
    """Measure this checkpoint of this unit on hold-out data, then look again."""

    unit: str
    checkpoint: str


@dataclass(frozen=True)
class MakeClaim:
    """Publish a claim on this unit, then settle."""

    unit: str
    parent: str | None
    step: int


@dataclass(frozen=True)
class Train:
    """Train this unit and renew its claim."""

    unit: str


@dataclass(frozen=True)
class Withdraw:
    """Stop training this unit and release it: `winner` goes first."""

    unit: str
    winner: Claim


Action = Complete | Wait | Measure | MakeClaim | Train | Withdraw


def live(claims: Iterable[Claim], now_s: float) -> tuple[Claim, ...]:
    """Claims that are neither expired nor released; UNIX seconds."""
    return tuple(claim for claim in claims if claim.exp > now_s and not claim.released)


def winner(unit: UnitView, run: str) -> Claim | None:
    """The claim that goes first on a unit, None where there is none. See the module's docstring."""

    def order(claim: Claim) -> tuple[bool, int, bytes]:
        score = _hash(run, unit.unit, unit.checkpoint or "", claim.signer)
        return claim.signer not in unit.progressed, -min(claim.step, unit.step), score

    return min(unit.claims, key=order, default=None)


def decide(view: View, me: str, now_s: float, rng: Rng) -> Action:
    """What the observer should do next.

    Args:
        view: What it knows.
        me: Its peer id.
        now_s: Seconds, the clock of `View.claimed_at_s` and `UnitView.since_s`.
        rng: Jitter of waiting, and of nothing else: equal views lead to equal choices, made at different moments.
    """
    todo = [unit for unit in view.units if not unit.complete]
    if not todo:
        return Complete()
    mine = [unit for unit in todo if any(claim.signer == me for claim in unit.claims)]
    if mine:
        return _hold(mine[0], view, me, now_s)
    by_name = {unit.unit: unit for unit in todo if not unit.blocked}
    ready = [by_name[name] for name in preference(view.run, me, by_name)]
    for unit in ready:
        if not unit.claims and not unit.looks_complete:
            return _take(unit)
    for unit in ready:
        if now_s >= _open_s(unit, view, me):
            return _take(unit)
    return _rest(ready, view, me, now_s, rng)


def idle_s(lease: Lease) -> float:
    """The longest an idle peer waits before it looks again: twice in every lease and every deadline."""
    return max(_POLL_S, min(lease.life_s, lease.progress_s) / 2)


def fruitless(before: int, action: Action) -> int:
    """How many looks in a row found nothing to train, now that one more led to this action; measuring is no find."""
    if isinstance(action, Measure | Complete):
        return before
    return before + 1 if isinstance(action, Wait) else 0


def _hold(unit: UnitView, view: View, me: str, now_s: float) -> Action:
    since_s, lease = view.claimed_at_s, view.lease
    if since_s is not None and since_s <= now_s < since_s + lease.settle_s:
        return Wait(since_s + lease.settle_s - now_s, f"settling the claim on {unit.unit}")
    if unit.pending is not None:
        return Measure(unit.unit, unit.pending.checkpoint)
    first = winner(unit, view.run)
    overdue = now_s - unit.since_s > lease.progress_s
    if first is None or first.signer == me or overdue:
        return Train(unit.unit)
    young = since_s is not None and now_s < since_s + lease.settle_s + lease.life_s
    return Withdraw(unit.unit, first) if young or first.signer in unit.progressed else Train(unit.unit)


def _take(unit: UnitView) -> Measure | MakeClaim:
    """Claim a unit; what one would build on, or dispute, is measured before."""
    if unit.pending is not None:
        return Measure(unit.unit, unit.pending.checkpoint)
    return MakeClaim(unit.unit, unit.checkpoint, unit.step)


def _open_s(unit: UnitView, view: View, me: str) -> float:
    """When a unit is open to this peer though it is claimed, or looks complete and is to be seen to."""
    lease, stagger = view.lease, _stagger(unit, view.run, me)
    claimed_s = unit.since_s + lease.progress_s * (1 + stagger)
    if unit.pending is not None and unit.looks_complete:
        return min(claimed_s, unit.pending.since_s + idle_s(lease) * stagger)
    return claimed_s


def _stagger(unit: UnitView, run: str, me: str) -> float:
    """This peer's place in the queue for a unit, from [0, 1)."""
    return int.from_bytes(_hash(run, unit.unit, unit.checkpoint or "", me)[:4], "big") / 2**32


def _rest(held: list[UnitView], view: View, me: str, now_s: float, rng: Rng) -> Wait:
    """Look rarely, and more rarely the longer nothing changes, but in time for what is known to come."""
    longest_s = idle_s(view.lease)
    seconds = min(longest_s, _POLL_S * 2 ** min(view.fruitless, 16)) * (1 + rng.random()) / 2
    if not held:
        return Wait(seconds, "what the remaining units start from is still being trained")
    due_s = min(_open_s(unit, view, me) for unit in held)
    return Wait(max(_POLL_S, min(seconds, due_s - now_s)), "every remaining unit is held; it may be free later")


def _hash(run: str, *parts: str) -> bytes:
    return hashlib.sha256("\0".join((hex_of(run), *parts)).encode()).digest()
