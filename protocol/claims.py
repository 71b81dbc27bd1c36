"""Who trains what: leases that order, and never exclude.

A DHT gives no mutual exclusion, so correctness never depends on a lease: two holders waste work, nothing else. All
functions are pure; every peer decides from the verified records it sees and converges as views converge.

Order among live claims on a unit: who made progress that the observer evaluated itself; then the higher step, never
counted beyond what was evaluated; then the lowest SHA-256 of (run, unit, evaluated checkpoint, signer). Nothing a
claimant declares about itself, least of all a time, can improve its place.

Claims hold a unit for one progress deadline, counted from the moment the observer evaluated the newest checkpoint.
After that the unit is open to whoever trains it: squatting delays, it never blocks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from paris.protocol.digests import hex_of
from paris.protocol.genesis import Lease
from paris.protocol.records import Claim

_POLL_S = 1


@dataclass(frozen=True)
class UnitView:
    """What one observer knows of one unit.

    Attributes:
        unit: Its name.
        target_step: Steps after which it is complete.
        step: Steps of the newest checkpoint the observer evaluated; 0 where there is none.
        checkpoint: Digest of that checkpoint; None where there is none.
        claims: Live claims, one per signer (see `live`).
        progressed: Signers with a checkpoint evaluated within their lease.
        blocked: It cannot be trained yet: what it starts from is not complete.
        since_s: When the observer evaluated that checkpoint, or first saw the unit claimed; UNIX seconds, own clock.
    """

    unit: str
    target_step: int
    step: int
    checkpoint: str | None
    claims: tuple[Claim, ...]
    progressed: frozenset[str]
    blocked: bool
    since_s: float

    @property
    def complete(self) -> bool:
        """Whether nothing remains to be trained."""
        return self.step >= self.target_step


@dataclass(frozen=True)
class View:
    """What one observer knows of a run.

    Attributes:
        units: Every unit of the run.
        lease: Times from the genesis.
        claimed_at_s: When the observer first claimed the unit it holds now, not when it last renewed; None: long ago.
    """

    units: tuple[UnitView, ...]
    lease: Lease
    claimed_at_s: float | None = None


@dataclass(frozen=True)
class Complete:
    """Every unit of the run is complete."""


@dataclass(frozen=True)
class Wait:
    """Nothing to do now; look again after some seconds."""

    seconds: float
    reason: str


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


Action = Complete | Wait | MakeClaim | Train | Withdraw


def live(claims: Iterable[Claim], now_s: float) -> tuple[Claim, ...]:
    """Claims that are neither expired nor released."""
    return tuple(claim for claim in claims if claim.exp > now_s and not claim.released)


def winner(unit: UnitView, run: str) -> Claim | None:
    """The claim that goes first on a unit, None where there is none. See the module's docstring."""

    def order(claim: Claim) -> tuple[bool, int, bytes]:
        parts = (hex_of(run), unit.unit, unit.checkpoint or "", claim.signer)
        score = hashlib.sha256("\0".join(parts).encode()).digest()
        return claim.signer not in unit.progressed, -min(claim.step, unit.step), score

    return min(unit.claims, key=order, default=None)


def decide(view: View, me: str, run: str, now_s: float) -> Action:
    """What the observer should do next.

    Args:
        view: What it knows.
        me: Its peer id.
        run: Run id.
        now_s: UNIX seconds, its own clock.
    """
    todo = [unit for unit in view.units if not unit.complete]
    if not todo:
        return Complete()
    mine = [unit for unit in todo if any(claim.signer == me for claim in unit.claims)]
    if mine:
        return _keep_or_withdraw(mine[0], view, me, run, now_s)
    ready = sorted((unit for unit in todo if not unit.blocked), key=lambda unit: _preference(unit.unit, me, run))
    if not ready:
        return Wait(_POLL_S, "what the remaining units start from is still being trained")
    free = [unit for unit in ready if not unit.claims] or [unit for unit in ready if _overdue(unit, view, now_s)]
    if free:
        return MakeClaim(free[0].unit, free[0].checkpoint, free[0].step)
    return _wait_for_change(ready, view, now_s)


def _keep_or_withdraw(unit: UnitView, view: View, me: str, run: str, now_s: float) -> Action:
    if view.claimed_at_s is not None and now_s < view.claimed_at_s + view.lease.settle_s:
        left_s = view.claimed_at_s + view.lease.settle_s - now_s
        return Wait(left_s, f"settling the claim on {unit.unit}")
    first = winner(unit, run)
    if first is None or first.signer == me or _overdue(unit, view, now_s):
        return Train(unit.unit)
    return Withdraw(unit.unit, first)


def _overdue(unit: UnitView, view: View, now_s: float) -> bool:
    return now_s - unit.since_s > view.lease.progress_s


def _preference(unit: str, me: str, run: str) -> bytes:
    """Place of a unit in the order a peer tries them in; hashed, so that peers spread."""
    return hashlib.sha256("\0".join((hex_of(run), me, unit)).encode()).digest()


def _wait_for_change(held: list[UnitView], view: View, now_s: float) -> Wait:
    ends = [max(claim.exp for claim in unit.claims) for unit in held]
    deadlines = [unit.since_s + view.lease.progress_s for unit in held]
    seconds = max(_POLL_S, min([*ends, *deadlines]) - now_s)
    return Wait(seconds, f"every remaining unit is held; the next may be free in {seconds:.0f} s")
