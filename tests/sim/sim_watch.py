"""Invariants, looked at as things happen: each is told of what it is about, and an event costs nothing else.

- *signed*: nobody takes a record for true that the one it names did not sign.
- *seq*: what a book holds of one signer and slot never goes back.
- *promoted*: no honest peer counts garbage of others, nor lets another child of one parent carry that is not better.
- *neglect*: no unit that could be trained lies idle beside an idle peer for long, whatever is claimed.
- *overlap*: two peers train one unit at once for a bounded time only.
- *agreement*: a while after a partition has healed, nobody who trained through it still trains what another does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sim_keys import NOTHING_MICRO, Rules
from sim_world import START_S, World

from paris.protocol.progress import Chain
from paris.protocol.records import Record


@dataclass
class Watch:
    """The observer outside the world, who knows everything."""

    world: World
    rules: Rules
    peers: list[Any]
    signers: dict[str, Any]
    neglect_bound_s: float
    overlap_bound_s: float
    broken: list[str] = field(default_factory=list)
    longest_neglect_s: float = 0.0
    longest_overlap_s: float = 0.0
    first_held_s: dict[str, float] = field(default_factory=dict)
    _trainers: dict[str, dict[int, float]] = field(default_factory=dict)
    _where: dict[int, str | None] = field(default_factory=dict)
    _idle: set[int] = field(default_factory=set)
    _busy_until_s: float = START_S
    _neglected_s: dict[str, float] = field(default_factory=dict)
    _newest: dict[Any, int] = field(default_factory=dict)
    reached: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._trainers = {unit: {} for unit in self.rules.units}
        self.reached = dict.fromkeys(self.rules.units, 0)
        self.left = set(self.rules.units)
        for unit in self.rules.units:
            self._neglect(unit)

    def accepted(self, book: Any, key: str, record: Record, data: bytes) -> None:
        who = self.signers.get(record.signer)
        if who is not None and data not in who.signed:
            self.broken.append(f"signed: a {record.kind} was accepted that {record.signer[-6:]} never signed")
        place = (id(book), key, record.signer)
        if record.seq < self._newest.get(place, 0):
            self.broken.append(f"seq: a {record.kind} of {record.signer[-6:]} went back to {record.seq}")
        self._newest[place] = record.seq

    def promoted(self, peer: Any, unit: str, before: Chain, now: Chain) -> None:
        """Another chain carries a unit for an honest peer."""
        for made in now.lineage:
            claimed, own = made.holdout_loss_micro or 0, made.signer == peer.name
            if not own and not (made.true_micro <= 1.03 * claimed and made.true_micro <= 1.03 * NOTHING_MICRO):
                self.broken.append(f"promoted: {unit} at step {made.to_step} counts for peer {peer.number}, garbage")
        fork = next((i for i, (a, b) in enumerate(zip(before.digests, now.digests, strict=False)) if a != b), None)
        if fork is None:
            return
        old, new = (
            [c.true_micro for c in chain.lineage[fork:] if peer.judged.get(chain.digests[fork]) is not False]
            for chain in (before, now)
        )
        if old and new and min(new) > 1.05 * min(old):
            self.broken.append(f"promoted: peer {peer.number} let a worse child carry {unit}")

    def published(self, unit: str, step: int) -> None:
        """Honest work has reached a step."""
        self.reached[unit] = max(self.reached[unit], step)
        self.left = {unit for unit, reached in self.reached.items() if reached < self.rules.target_step}
        if step >= self.rules.target_step:
            self._end_neglect(unit)
            if unit == "base":
                for other in self.rules.units[1:]:
                    self._neglect(other)

    def moved(self, peer: Any) -> None:
        """A peer has begun or ended something."""
        now_s, number = self.world.now_s, peer.number
        before, self._where[number] = self._where.get(number), peer.training
        if before != peer.training:
            if before is not None:
                self._leave(before, number)
            if peer.training is not None:
                self._enter(peer.training, number)
        if peer.alive and not peer.training:
            if not self._idle:
                self._busy_until_s = now_s
            self._idle.add(number)
        else:
            self._idle.discard(number)

    def _enter(self, unit: str, number: int) -> None:
        self._end_neglect(unit)
        self.first_held_s.setdefault(unit, self.world.now_s)
        present = self._trainers[unit]
        if present:
            self.world.after(self.overlap_bound_s, lambda: self._check_overlap(unit))
        present[number] = self.world.now_s

    def _leave(self, unit: str, number: int) -> None:
        self._note_overlap(unit)
        del self._trainers[unit][number]
        if not self._trainers[unit]:
            self._neglect(unit)

    def _note_overlap(self, unit: str) -> float:
        since = sorted(self._trainers[unit].values())
        together_s = self.world.now_s - since[1] if len(since) > 1 else 0.0
        self.longest_overlap_s = max(self.longest_overlap_s, together_s)
        return together_s

    def _check_overlap(self, unit: str) -> None:
        together_s = self._note_overlap(unit)
        if together_s >= self.overlap_bound_s:
            who = sorted(self._trainers[unit])
            self.broken.append(f"overlap: peers {who} train {unit} together for {together_s:.0f} s")

    def trainable(self, unit: str) -> bool:
        waits = self.rules.units[0] == "base" and unit != "base" and self.reached["base"] < self.rules.target_step
        return not waits and self.reached[unit] < self.rules.target_step

    def _neglect(self, unit: str) -> None:
        if self.trainable(unit) and not self._trainers[unit]:
            self._neglected_s[unit] = self.world.now_s
            self.world.after(self.neglect_bound_s, lambda: self._check_neglect(unit))

    def _end_neglect(self, unit: str) -> None:
        if unit in self._neglected_s:
            self.longest_neglect_s = max(self.longest_neglect_s, self._neglected_for_s(unit))
            del self._neglected_s[unit]

    def _neglected_for_s(self, unit: str) -> float:
        since_s = max(self._neglected_s[unit], self._busy_until_s)
        return self.world.now_s - since_s if self._idle else 0.0

    def _check_neglect(self, unit: str) -> None:
        if unit not in self._neglected_s:
            return
        left_s = self.neglect_bound_s - self._neglected_for_s(unit)
        if left_s > 1:
            self.world.after(left_s, lambda: self._check_neglect(unit))
        else:
            self.broken.append(f"neglect: {unit} lay idle beside an idle peer for {self.neglect_bound_s:.0f} s")

    def check_healed(self, healed_s: float) -> None:
        """Some time after a heal: who trained before it has one unit to itself."""
        for unit, present in self._trainers.items():
            early = sorted(number for number, since_s in present.items() if since_s < healed_s)
            if len(early) > 1:
                self.broken.append(f"agreement: peers {early} still train {unit} long after the heal")
