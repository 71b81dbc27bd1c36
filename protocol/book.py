"""A node's memory of records: the newest of every signer and slot, and what follows from having seen it.

For one signer and slot, a larger `seq` must come with a later `exp`. So the order of `seq` and the DHT's own rule (the
later expiration wins) agree on every replica, and a replayed old record can never outlive the memory of a newer one:
forgetting expired records forgets nothing. Two things are remembered for longer: the highest head of a run, because
several curators sign heads that expire in any order, and where names moved to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from paris.protocol import envelope, strict_json
from paris.protocol.credentials import Moved, open_rotation
from paris.protocol.errors import RecordError, SignatureError
from paris.protocol.limits import LIMITS
from paris.protocol.records import Head, record_key
from paris.protocol.validation import UNKNOWN_RUN, Received, RunRules, check_admitted, check_head

NOBODY = ""
"""Where a name went that two keys claim to carry on: to neither, until the curators say."""


@dataclass(frozen=True)
class Equivocation:
    """Two different records of one signer under one sequence number: proof of a double tongue (or a copied key)."""

    seq: int
    first: bytes
    second: bytes


class Journal(Protocol):
    """Where a book writes down what must survive a restart. Called at every change, before the change counts."""

    def remember(self, received: Received) -> None:
        """The newest record of its signer in its slot is this one."""

    def forget(self, key: str, signer: str) -> None:
        """A record made room, and what was proven of it."""

    def convict(self, key: str, signer: str, proof: Equivocation) -> None:
        """A signer said two things at once."""

    def raise_head(self, key: str, head: Head) -> None:
        """No head below this one counts any more."""

    def move(self, run: str, moved: Moved) -> None:
        """A name went to another key."""


class NoJournal:
    """Nothing survives: for clients under a passing name, and for tests."""

    def remember(self, received: Received) -> None:
        """Do nothing."""

    def forget(self, key: str, signer: str) -> None:
        """Do nothing."""

    def convict(self, key: str, signer: str, proof: Equivocation) -> None:
        """Do nothing."""

    def raise_head(self, key: str, head: Head) -> None:
        """Do nothing."""

    def move(self, run: str, moved: Moved) -> None:
        """Do nothing."""


@dataclass
class RecordBook:
    """Memory of the newest record per slot and signer. Not thread-safe; one per node.

    Attributes:
        rules: What is known of runs, by run id; see `know`.
        journal: Where it writes down what must survive a restart.
        proven: Contributors whose work this node measured itself: in a run that admits anybody, a flood of new names
            does not push them out of a slot.
        own: This node's peer id, if it has one: its records always find room here.
    """

    rules: dict[str, RunRules] = field(default_factory=dict)
    journal: Journal = field(default_factory=NoJournal)
    proven: set[str] = field(default_factory=set)
    own: str = ""
    _slots: dict[str, dict[str, Received]] = field(default_factory=dict)
    _evidence: dict[tuple[str, str], Equivocation] = field(default_factory=dict)
    _heads: dict[str, Head] = field(default_factory=dict)
    _moved: dict[tuple[str, str], Moved] = field(default_factory=dict)
    _strangers: dict[tuple[str, str], None] = field(default_factory=dict)
    _count: int = 0

    def know(self, run: str, rules: RunRules) -> None:
        """Take in what a verified genesis, a newer version of it, or an admission list says.

        Under other curators heads begin anew: whoever took the old ones' keys could have counted to the end. What does
        not hold under these rules is forgotten: heads and rotations nobody could check before, claims of keys that were
        shut out.
        """
        before = self.rules.get(run)
        if before == rules:
            return
        if before and before.curators != rules.curators:
            self._heads.pop(record_key("head", run), None)
        self.rules[run] = rules
        for key, signers in list(self._slots.items()):
            for signer, received in list(signers.items()):
                if received.record.run == run:
                    self._strangers.pop((key, signer), None)
                    if not _holds(received, rules):
                        self._forget(key, signer)

    def offer(self, received: Received, now_s: float) -> None:
        """Remember a record, or refuse it in view of what is known. Offering the same again changes nothing.

        The same says the payload: a head that other curators signed too has other bytes, and says nothing else.

        Raises:
            RecordError: A lower sequence number, the same one with other bytes, a larger one without a later
                expiry, a head older than one known, or no room for one more signer.
            SignatureError: Its signer's name has moved to another key.
        """
        self._check_moves(received)
        known = self.newest(received.key, received.record.signer)
        if known and known.record == received.record:
            return
        if known and known.record.exp > now_s:
            self._compare(known, received)
        self._check_head(received)
        if known is None:
            self._make_room(received, now_s)
        self.journal.remember(received)
        self._put(received)

    def restore(
        self,
        records: Iterable[Received],
        heads: Iterable[tuple[str, Head]] = (),
        moves: Iterable[tuple[str, Moved]] = (),
        evidence: Iterable[tuple[str, str, Equivocation]] = (),
    ) -> None:
        """Take back what a journal kept, into an empty book."""
        self._moved = {(run, moved.old): moved for run, moved in moves}
        self._heads = dict(heads)
        for received in records:
            self._put(received)
        self._evidence = {(key, signer): proof for key, signer, proof in evidence if self.newest(key, signer)}

    def newest(self, key: str, signer: str) -> Received | None:
        """The newest record known of a signer under a key, expired or not."""
        return self._slots.get(key, {}).get(signer)

    def slot(self, key: str, now_s: float) -> tuple[Received, ...]:
        """Every live record known under a key, without those of signers caught with two."""
        known = self._slots.get(key, {}).values()
        return tuple(item for item in known if item.record.exp > now_s and not self.equivocation(item))

    def equivocation(self, received: Received) -> Equivocation | None:
        """Proof that the signer said two things under this very sequence number, if we hold any."""
        proof = self._evidence.get((received.key, received.record.signer))
        return proof if proof and proof.seq == received.record.seq else None

    def moved(self, run: str, key: str) -> Moved | None:
        """Where a key's name went, if it went."""
        return self._moved.get((run, key))

    def _put(self, received: Received) -> None:
        key, signer = received.key, received.record.signer
        self._count += self.newest(key, signer) is None
        self._slots.setdefault(key, {})[signer] = received
        if received.record.run not in self.rules:
            self._strangers[key, signer] = None

    def _compare(self, known: Received, received: Received) -> None:
        old, new = known.record, received.record
        who = f"{new.kind} of {new.signer}"
        if new.seq < old.seq:
            raise RecordError(f"this {who} is an old one", f"it has seq {new.seq}, we know seq {old.seq}")
        if new.seq == old.seq:
            self._convict(received, Equivocation(new.seq, known.envelope, received.envelope))
            raise RecordError(f"{new.signer} signed two different {new.kind} records", f"both have seq {new.seq}")
        if new.exp <= old.exp:
            why = f"it expires at {new.exp}, the one before it at {old.exp}, and the DHT keeps the later one"
            raise RecordError(f"this newer {who} could never replace the older", why, "let it expire later")

    def _convict(self, received: Received, proof: Equivocation) -> None:
        """One proof for a remembered record, and no longer than it: keys are free, and so are double tongues."""
        key, signer = received.key, received.record.signer
        if received.record.run in self.rules:
            self.journal.convict(key, signer, proof)
        self._evidence[key, signer] = proof

    def _check_head(self, received: Received) -> None:
        """Heads only go up, whoever of the curators publishes them; nobody may say two things in one version."""
        head, known = received.record, self._heads.get(received.key)
        if not isinstance(head, Head) or not self._rules(head.run).binds(head):
            return
        if known and head.version < known.version:
            raise RecordError(f"this head is an old one: version {head.version}", f"we know version {known.version}")
        if known and head.version == known.version and head.says != known.says:
            raise RecordError(f"there are two heads of version {head.version}", "the curators must agree on one")
        if known is None or head.version > known.version:
            self.journal.raise_head(received.key, head)
            self._heads[received.key] = head

    def _check_moves(self, received: Received) -> None:
        run = received.record.run
        for moved in reversed(received.authority.moves):  # from the name on: what forks there teaches nothing more
            if self._rules(run).curators:
                self._learn(run, moved, received.authority.name)
            known = self.moved(run, moved.old)
            if known and known.new != moved.new:
                why = "two keys claim to carry it on" if known.new == NOBODY else f"it went to {known.new}"
                raise SignatureError(f"the name of {moved.old} is not {moved.new}'s", why, "the curators can decide")
        for key in received.authority.acting:
            if self.moved(run, key):
                raise SignatureError(f"{key} may act no longer", "its name has moved", "sign with the new key")

    def _learn(self, run: str, moved: Moved, name: str) -> None:
        """Names that nobody listed, and their own keys alone moved, are many and free: there is a limit to those."""
        known, admission = self.moved(run, moved.old), self._rules(run).admission
        listed = admission.policy == "list" and admission.admits(name)
        if known is None and len(self._moved) >= LIMITS.records and not (listed or moved.by_curators):
            return
        if known is None or (moved.by_curators and not known.by_curators):
            settled = moved
        elif known.new == moved.new or (known.by_curators and not moved.by_curators):
            return
        else:
            settled = Moved(moved.old, NOBODY, moved.by_curators)
        self.journal.move(run, settled)
        self._moved[run, moved.old] = settled
        for key, signers in list(self._slots.items()):
            if moved.old in signers and signers[moved.old].record.run == run:
                self._forget(key, moved.old)

    def _rules(self, run: str) -> RunRules:
        return self.rules.get(run, UNKNOWN_RUN)

    def _make_room(self, received: Received, now_s: float) -> None:
        """Room in its slot, then in the book: runs this node knows come first, and no slot starves another."""
        key, stranger = received.key, received.record.run not in self.rules
        if self._count >= LIMITS.records or (stranger and len(self._strangers) >= LIMITS.stranger_records):
            self._forget_expired(now_s)
        if len(self._slots.get(key, {})) >= LIMITS.signers_per_slot:
            self._displace(key, received, now_s)
        elif stranger and len(self._strangers) >= LIMITS.stranger_records:
            raise self._no_room(received)
        elif self._count >= LIMITS.records and self._strangers:
            self._forget(*next(iter(self._strangers)))
        elif self._count >= LIMITS.records:
            biggest = max(self._slots, key=lambda key: len(self._slots[key]))
            if len(self._slots[biggest]) <= len(self._slots.get(key, {})) + 1:
                raise self._no_room(received)
            self._forget(biggest, self._worst(biggest, now_s))

    def _displace(self, key: str, received: Received, now_s: float) -> None:
        worst = self._slots[key][self._worst(key, now_s)]
        if worst.record.exp > now_s and self._rank(received) >= self._rank(worst):
            raise self._no_room(received)
        self._forget(key, worst.record.signer)

    def _worst(self, key: str, now_s: float) -> str:
        """Who leaves a slot first: expired ones, then who is least known, then who would leave soonest."""
        signers = self._slots[key]

        def order(name: str) -> tuple[bool, int, int]:
            return signers[name].record.exp > now_s, -self._rank(signers[name]), signers[name].record.exp

        return min(signers, key=order)

    def _no_room(self, received: Received) -> RecordError:
        why = f"it has {len(self._slots.get(received.key, {}))} signers and this node {self._count} records"
        return RecordError(f"there is no room for one more {received.record.kind} in this slot", why)

    def _rank(self, received: Received) -> int:
        """Whose records stay when there is no room for all; lower stays."""
        rules = self._rules(received.record.run)
        if received.record.signer == self.own:
            return 0
        listed = rules.admission.policy == "list" and rules.admission.admits(received.authority.name)
        by_curator = received.record.kind == "head" and rules.curators and received.record.signer in rules.curators.keys
        if listed or by_curator or rules.binds(received.record):
            return 1
        return 2 if received.authority.name in self.proven else 3

    def _forget_expired(self, now_s: float) -> None:
        gone = [
            (key, name)
            for key, signers in self._slots.items()
            for name, known in signers.items()
            if known.record.exp <= now_s
        ]
        for key, name in gone:
            self._forget(key, name)

    def _forget(self, key: str, name: str) -> None:
        self.journal.forget(key, name)
        del self._slots[key][name]
        if not self._slots[key]:
            del self._slots[key]
        self._evidence.pop((key, name), None)
        self._strangers.pop((key, name), None)
        self._count -= 1


def _holds(received: Received, rules: RunRules) -> bool:
    record = received.record
    try:
        check_head(record, received.signers, rules)
        check_admitted(record, received.authority.name, rules)
        for credential in map(strict_json.dumps, record.credentials):
            if envelope.kind_of(credential) == "rotation":
                open_rotation(credential, record.run, rules.curators)
    except SignatureError:
        return False
    return True
