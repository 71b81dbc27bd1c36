"""Contributors of the simulated world: they survey, decide and act as `paris.node.contributor` does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from sim_keys import NOTHING_MICRO, RUN, Checkpoint, Claimant, trained_micro

from paris.protocol.book import RecordBook
from paris.protocol.claims import (
    Complete,
    MakeClaim,
    Measure,
    Pending,
    Train,
    UnitView,
    View,
    Wait,
    Withdraw,
    fruitless,
    idle_s,
    live,
)  # fmt: skip
from paris.protocol.limits import LIMITS
from paris.protocol.placement import watched
from paris.protocol.progress import Chain, Judge, Standing, agreed, failing, nothing_micro, standing
from paris.protocol.records import Verdict

MEASURING_S = 30.0
MOST_REFUTED = 4
Decide = Callable[..., Any]


class Contributor(Claimant):
    """Surveys, decides, acts, as `paris.node.contributor` does.

    Attributes:
        training: The unit it trains now, if any.
        done: It has seen everything it watches complete.
        steps_trained: Optimiser steps spent, also those that were lost or repeated.
        moved: Called whenever `alive` or `training` has changed.
        promoted: Called with (peer, unit, chain before, chain now) when another chain carries a unit for this peer.
        published: Called with (unit, step) for every checkpoint it publishes.
    """

    def __init__(self, *place: Any, step_s: float, decide: Decide, crowd: int, book: RecordBook | None = None) -> None:
        super().__init__(*place)
        self._step_s, self._decide = step_s, decide
        self.watch = watched(RUN, self.name, self.rules.units, min(crowd, LIMITS.signers_per_slot))
        self.book, self.offered, self.bytes_read, self.looks = book, set(), 0, 0
        self.steps_trained, self.measurements = 0.0, 0
        self.idle_bytes, self.idle_s = 0, 0.0
        self.alive, self.done, self.training = False, False, None
        self._life, self._segment_s = 0, 0.0
        self._own: dict[str, str] = {}
        self.moved: Callable[[Contributor], None] = lambda _peer: None
        self.promoted: Callable[..., None] = lambda *_: None
        self.published: Callable[[str, int], None] = lambda *_: None
        self._forget()

    def _forget(self) -> None:
        """A crash: what is in memory is gone; published work, own tips and the record book are on disk."""
        self._stop()
        self.standing: str | None = None
        self._renewed_s, self._claimed_at_s, self._fruitless = 0.0, None, 0
        self._since_s: dict[Any, float] = {}
        self.judged: dict[str, bool] = {}
        self._proven: set[str] = set()
        self._refuted: Counter[Any] = Counter()
        self._measured: Counter[str] = Counter()
        self._weighed: dict[str, tuple[Any, Standing]] = {}

    def crash(self, down_s: float | None) -> None:
        """Die now and come back after a while, or never."""
        self._end_idle()
        self.alive = False
        self._life += 1
        self._forget()
        self.moved(self)
        if down_s is not None:
            self.world.after(down_s, self.start)

    def start(self) -> None:
        self.alive = True
        self._begin_idle()
        self.moved(self)
        self.wake()

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Do something later, unless this life has ended by then."""
        life = self._life
        self.world.after(delay_s, lambda: action() if life == self._life else None)

    def _begin_idle(self) -> None:
        self._idle_from = (self.world.now_s, self.bytes_read)

    def _end_idle(self) -> None:
        if self.alive and not self.training:
            since_s, before = self._idle_from
            self.idle_s += self.world.now_s - since_s
            self.idle_bytes += self.bytes_read - before
            self._begin_idle()

    # Looking.

    def judge(self, digest: str, checkpoint: Checkpoint) -> bool | None:
        return True if checkpoint.signer == self.name else self.judged.get(digest)

    def weigh(self, unit: str) -> Standing:
        """What carries a unit for this peer now, and what is worth measuring."""
        digests = {tip.checkpoint for tip in self.network.read("tip", unit, self)} | {self._own.get(unit, "")}
        verdicts = self.network.read("verdict", unit, self) if self.rules.admission.policy == "list" else []
        known = (frozenset(digests), self._measured[unit], tuple((v.signer, v.seq) for v in verdicts))
        before = self._weighed.get(unit)
        if before and before[0] == known:
            return before[1]
        voices = [(verdict.signer, verdict) for verdict in verdicts]

        def judge(digest: str, checkpoint: Checkpoint) -> bool | None:
            own = self.judge(digest, checkpoint)
            if own is None and agreed(voices, digest, checkpoint.signer, self.rules.admission):
                own = self.judged[digest] = True
            return own

        now = self._standing(unit, known[0], judge)
        if not before or before[1].counted.tip != now.counted.tip:
            self.promoted(self, unit, before[1].counted if before else Chain(), now.counted)
        self._weighed[unit] = known, now
        return now

    def _standing(self, unit: str, digests: frozenset[str], judge: Judge) -> Standing:
        """The rules' answer. It is pure, so peers who know the same of the same chains share one."""
        chains, members = self.library.chains(unit, digests)
        known = tuple((judge(digest, made), made.signer in self._proven) for digest, made in members)
        shared = self.library.weighed
        if (digests, known) not in shared:
            nothing = nothing_micro(unit, len(self.rules.units))
            shared[digests, known] = standing(chains, judge, nothing, self._proven.__contains__)
        return shared[digests, known]

    def view(self, units: Sequence[str]) -> View:
        self.looks += 1
        base = self.rules.units[0] == "base" and self.weigh("base").counted.step < self.rules.target_step
        views = tuple(self._unit_view(unit, blocked=base and unit != "base") for unit in units)
        return View(RUN, views, self.rules.lease, self._claimed_at_s, self._fruitless)

    def _unit_view(self, unit: str, *, blocked: bool) -> UnitView:
        weighed, now_s = self.weigh(unit), self.world.now_s
        best, found = weighed.counted, self.network.read("claim", unit, self)
        claims = tuple(c for c in live(found, self.clock_s) if c.signer != self.name or self.standing == unit)
        since_s = self._since_s.setdefault((unit, best.tip), now_s) if claims else now_s
        signers = {claim.signer for claim in claims}
        progressed = frozenset({best.lineage[-1].signer} & signers if best.lineage else ())
        pending = self._pending(weighed.pending) if weighed.pending else None
        return UnitView(
            unit, self.rules.target_step, best.step, best.tip, claims, progressed, blocked, since_s, pending
        )

    def _pending(self, chain: Chain) -> Pending | None:
        newest = chain.lineage[-1]
        if newest.signer not in self._proven and self._refuted[newest.unit, newest.parent] >= MOST_REFUTED:
            return None
        return Pending(chain.tip, chain.step, self._since_s.setdefault(chain.tip, self.world.now_s))

    def decide(self, units: Sequence[str]) -> Any:
        return self._decide(self.view(units), self.name, self.world.now_s, self.world.rng)

    # Acting.

    def wake(self) -> None:
        """One turn of the main loop, while nothing is trained."""
        action = self.decide(self.watch)
        self._fruitless = fruitless(self._fruitless, action)
        self.done = isinstance(action, Complete)
        match action:
            case Complete():
                self._later(idle_s(self.rules.lease), self.wake)
            case Wait(seconds):
                self._later(seconds, self.wake)
            case Measure(unit, checkpoint):
                self._measure(unit, checkpoint, self.wake)
            case MakeClaim(unit):
                self.standing, self._claimed_at_s = unit, self.world.now_s
                self._renew(unit)
                self._later(self.rules.lease.settle_s, self.wake)
            case Train(unit):
                self._train(unit)
            case Withdraw(unit):
                self._release(unit)
                self._later(0.1, self.wake)

    def _measure(self, unit: str, digest: str, then: Callable[[], None]) -> None:
        def finish() -> None:
            chain = self.library.chain(digest)
            made, rng = chain.lineage[-1], self.world.rng
            measured = round(made.true_micro * rng.uniform(0.997, 1.003))
            last = made.to_step >= self.rules.target_step
            reason = failing(made.holdout_loss_micro, measured, NOTHING_MICRO, last=last)
            self.judged[digest] = reason is None
            self.measurements += 1
            self._measured[unit] += 1
            if reason is None:
                self._proven.add(made.signer)
            else:
                self._refuted[unit, made.parent] += 1
            self.say(
                Verdict, unit, LIMITS.life_s["verdict"] - 60, checkpoint=digest, step=made.to_step, level="evaluated",
                holds=reason is None, loss_micro=measured, tolerance_micro=0, samples=256,
            )  # fmt: skip
            then()

        self._later(MEASURING_S, finish)

    def _renew(self, unit: str) -> int:
        self._renewed_s = self.world.now_s
        return self.claim(unit, self.weigh(unit).counted)

    def _release(self, unit: str) -> None:
        self.claim(unit, self.weigh(unit).counted, released=True)
        self._stop()
        self.standing = None
        self.moved(self)

    def _stop(self) -> None:
        """End training; what was trained since the last checkpoint is lost."""
        if self.training:
            self.steps_trained += (self.world.now_s - self._segment_s) / self._step_s
            self._begin_idle()
        self.training = None

    def _train(self, unit: str) -> None:
        self._end_idle()
        self.training = unit
        self.moved(self)
        self._segment(unit, self.weigh(unit).counted, self._last["claim", unit][0])
        self._later(self.rules.period_s, self._upkeep)

    def _segment(self, unit: str, parent: Chain, fence: int) -> None:
        self._segment_s = self.world.now_s
        steps = min(self.rules.publish_every, self.rules.target_step - parent.step)
        session, after = self._claimed_at_s, parent.step + steps
        true = trained_micro(after, self.rules.target_step, self.world.rng.uniform(-0.005, 0.005))
        made = Checkpoint(unit, self.name, fence, after, parent.tip, true, true)

        def publish() -> None:
            if (self.training, self._claimed_at_s) != (unit, session):
                return
            self.steps_trained += steps
            self._segment_s = self.world.now_s
            self._own[unit] = self.tip(made)
            self.published(unit, after)
            if after == self.rules.target_step:
                self._release(unit)
                self._later(0.1, self.wake)
            else:
                self._renew(unit)
                self._segment(unit, self.library.chain(self._own[unit]), fence)

        self._later(steps * self._step_s, publish)

    def _upkeep(self) -> None:
        """Renew the claim; stop when another goes first or has finished the unit; measure what says so."""
        unit = self.training
        if unit is None:
            return
        if self.world.now_s >= self._renewed_s + self.rules.lease.life_s / 3:
            self._renew(unit)
        action = self.decide((unit,))
        if isinstance(action, Measure):
            self._measure(unit, action.checkpoint, self._upkeep)
        elif isinstance(action, Withdraw | Complete):
            self._release(unit)
            self._later(0.1, self.wake)
        else:
            self._later(self.rules.period_s, self._upkeep)
