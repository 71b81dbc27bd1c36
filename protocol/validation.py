"""Which records a node believes: checks of one record by itself, and of a record against what the node knows already.

Both run on every store and on every read. Cheap checks come first. For one signer and slot, a larger `seq` must come
with a later `exp`. So the order of `seq` and the DHT's own rule (the later expiration wins) agree on every replica, and
a replayed old record can never outlive the memory of a newer one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from paris.protocol import envelope
from paris.protocol.errors import RecordError, SignatureError
from paris.protocol.genesis import Admission
from paris.protocol.limits import LIMITS
from paris.protocol.records import Record, parse_record, record_key


@dataclass(frozen=True)
class Received:
    """A record that stands by itself: form, times and signature are right.

    Attributes:
        record: The verified content.
        envelope: The bytes that were verified.
        digest: Digest of these bytes.
    """

    record: Record
    envelope: bytes
    digest: str

    @property
    def key(self) -> str:
        """The one DHT key this record may lie under."""
        return record_key(self.record.kind, self.record.run, self.record.slot)


def check_record(value: bytes, now_s: float, admissions: Mapping[str, Admission]) -> Received:
    """Check one record by itself.

    Args:
        value: Envelope bytes from anywhere.
        now_s: UNIX seconds.
        admissions: Admission by run id; runs we do not know are taken as open.

    Raises:
        EnvelopeError: Too big, not canonical, of no kind of ours.
        RecordError: No DHT record, impossible content, expired, from the future, or living too long.
        SignatureError: A signature fails, the signer is another, or may not claim in this run.
    """
    kind = envelope.kind_of(value)
    verified = envelope.verify(value, kind)
    record = parse_record(kind, verified.payload)
    _check_times(record, now_s)
    if verified.signers != {record.signer}:
        raise SignatureError(f"this {kind} names {record.signer[:80]} and is signed by {', '.join(verified.signers)}")
    admission = admissions.get(record.run)
    if kind == "claim" and admission and not admission.admits(record.signer):
        hint = "ask a curator to admit the key; only listed keys can train here"
        raise SignatureError(f"{record.signer} is not admitted to this run", "the genesis lists its contributors", hint)
    return Received(record, value, verified.digest)


def _check_times(record: Record, now_s: float) -> None:
    life_s, most_s = record.exp - record.iat, LIMITS.life_s[record.kind]
    if not 0 < life_s <= most_s:
        raise RecordError(f"this {record.kind} lives {life_s} s", f"a {record.kind} may live 1 to {most_s} s")
    if record.exp <= now_s:
        raise RecordError(f"this {record.kind} expired {now_s - record.exp:.0f} s ago")
    if record.iat > now_s + LIMITS.skew_s:
        raise RecordError(
            f"this {record.kind} was issued {record.iat - now_s:.0f} s in the future",
            "its signer's clock or ours is wrong",
            "let NTP set the clock",
        )


@dataclass(frozen=True)
class Equivocation:
    """Two different records of one signer under one sequence number: proof of a double tongue (or a copied key)."""

    first: bytes
    second: bytes


@dataclass
class RecordBook:
    """Memory of the newest record per slot and signer. Not thread-safe; one per node.

    Attributes:
        admissions: Admission by run id, filled in as genesis files become known.
    """

    admissions: dict[str, Admission] = field(default_factory=dict)
    _slots: dict[str, dict[str, Received]] = field(default_factory=dict)
    _evidence: dict[tuple[str, str], Equivocation] = field(default_factory=dict)
    _count: int = 0

    def offer(self, received: Received, now_s: float) -> None:
        """Remember a record, or refuse it in view of what is known. Offering the same bytes again changes nothing.

        Raises:
            RecordError: A lower sequence number, the same one with other bytes, a larger one without a later
                expiry, or no room for one more signer.
        """
        known = self.newest(received.key, received.record.signer)
        if known and known.record.exp > now_s:
            self._compare(known, received)
        elif known is None:
            self._make_room(received, now_s)
            self._count += 1
        self._slots.setdefault(received.key, {})[received.record.signer] = received

    def newest(self, key: str, signer: str) -> Received | None:
        """The newest record known of a signer under a key, expired or not."""
        return self._slots.get(key, {}).get(signer)

    def equivocation(self, received: Received) -> Equivocation | None:
        """Proof that the signer said two things under this very sequence number, if we hold any."""
        known = self.newest(received.key, received.record.signer)
        evidence = self._evidence.get((received.key, received.record.signer))
        return evidence if known and known.record.seq == received.record.seq else None

    def _compare(self, known: Received, received: Received) -> None:
        old, new = known.record, received.record
        who = f"{new.kind} of {new.signer}"
        if new.seq < old.seq:
            raise RecordError(f"this {who} is an old one", f"it has seq {new.seq}, we know seq {old.seq}")
        if new.seq == old.seq and received.digest != known.digest:
            self._evidence[received.key, new.signer] = Equivocation(known.envelope, received.envelope)
            raise RecordError(f"{new.signer} signed two different {new.kind} records", f"both have seq {new.seq}")
        if new.seq > old.seq:
            if new.exp <= old.exp:
                why = f"it expires at {new.exp}, the one before it at {old.exp}, and the DHT keeps the later one"
                raise RecordError(f"this newer {who} could never replace the older", why, "let it expire later")
            self._evidence.pop((received.key, new.signer), None)

    def _make_room(self, received: Received, now_s: float) -> None:
        if self._count >= LIMITS.records:
            self._forget_expired(now_s)
        signers = self._slots.get(received.key, {})
        if len(signers) < LIMITS.signers_per_slot and self._count < LIMITS.records:
            return
        for name in sorted(signers, key=lambda name: signers[name].record.exp):
            if signers[name].record.exp <= now_s or (self._listed(received) and not self._listed(signers[name])):
                self._forget(received.key, name)
                return
        why = f"it already has {len(signers)} signers and this node {self._count} records"
        raise RecordError(f"there is no room for one more {received.record.kind} in this slot", why)

    def _listed(self, received: Received) -> bool:
        admission = self.admissions.get(received.record.run)
        return bool(admission and admission.policy == "list" and admission.admits(received.record.signer))

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
        del self._slots[key][name]
        if not self._slots[key]:
            del self._slots[key]
        self._evidence.pop((key, name), None)
        self._count -= 1
