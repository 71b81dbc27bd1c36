"""Which records a node believes: the check of one record by itself. `paris.protocol.book` holds it against others.

Both run on every store and on every read. Cheap checks come first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from paris.protocol import envelope, strict_json
from paris.protocol.credentials import Authority, authority
from paris.protocol.curation import Admission, Curators
from paris.protocol.envelope import Verified
from paris.protocol.errors import RecordError, SignatureError
from paris.protocol.genesis import Genesis
from paris.protocol.limits import LIMITS
from paris.protocol.records import Head, Record, parse_record, record_key


@dataclass(frozen=True)
class RunRules:
    """What a node knows of a run whose records it checks.

    Attributes:
        admission: Who may claim.
        curators: Who signs heads that name `genesis`; None where the genesis is not known.
        genesis: Digest of the newest version known.
    """

    admission: Admission = field(default_factory=lambda: Admission(policy="open"))
    curators: Curators | None = None
    genesis: str = ""

    @classmethod
    def of(cls, genesis: Genesis, digest: str) -> Self:
        """The rules of a verified genesis of this digest."""
        return cls(genesis.admission, genesis.curators, digest)

    def binds(self, record: Record) -> bool:
        """Whether these rules can tell a true head from a false one: those of other versions they cannot."""
        return isinstance(record, Head) and self.curators is not None and record.genesis == self.genesis


UNKNOWN_RUN = RunRules()


@dataclass(frozen=True)
class Received:
    """A record that stands by itself: form, times and signatures are right.

    Attributes:
        record: The verified content.
        envelope: The bytes that were verified.
        digest: Digest of these bytes.
        authority: Under which name its signer acts.
        signers: Everybody whose signature it carries; only heads have several.
    """

    record: Record
    envelope: bytes
    digest: str
    authority: Authority
    signers: frozenset[str]

    @property
    def key(self) -> str:
        """The one DHT key this record may lie under."""
        return record_key(self.record.kind, self.record.run, self.record.slot)


def check_record(value: bytes, now_s: float, rules: Mapping[str, RunRules]) -> Received:
    """Check one record by itself.

    Args:
        value: Envelope bytes from anywhere.
        now_s: UNIX seconds.
        rules: What is known of runs, by run id; others are taken as open.

    Raises:
        EnvelopeError: Too big, not canonical, of no kind of ours.
        RecordError: No DHT record, impossible content, expired, from the future, or living too long.
        SignatureError: A signature or credential fails, the signer is another, or may not sign this.
    """
    kind = envelope.kind_of(value)
    verified = envelope.verify(value, kind)
    record = parse_record(kind, verified.payload)
    _check_times(record, now_s)
    known = rules.get(record.run, UNKNOWN_RUN)
    _check_signers(record, verified)
    check_head(record, verified.signers, known)
    credentials = tuple(strict_json.dumps(credential) for credential in record.credentials)
    acting = authority(record.signer, credentials, record.run, now_s, known.curators)
    check_admitted(record, acting.name, known)
    return Received(record, value, verified.digest, acting, verified.signers)


def check_head(record: Record, signers: frozenset[str], known: RunRules) -> None:
    """Raise unless a head is signed by enough curators and by nobody else; other records pass.

    A head of a version that is not known yet passes too, for its curators may be others: whoever reads it finds that
    version, checks that it follows from the known one, and reads again.

    Raises:
        SignatureError: Too few curators signed, or a stranger did.
    """
    if not (known.curators and known.binds(record)):
        return
    if strangers := signers - set(known.curators.keys):
        raise SignatureError(f"{', '.join(sorted(strangers))} signed this head", "the genesis names other curators")
    known.curators.check(signers, "this head")


def check_admitted(record: Record, name: str, known: RunRules) -> None:
    """Raise where a claim is made under a name that is not admitted; other records pass.

    Raises:
        SignatureError: It is not admitted.
    """
    if record.kind == "claim" and not known.admission.admits(name):
        why = "the run lists its contributors" if known.admission.policy == "list" else "the curators shut it out"
        hint = "ask a curator to admit the key; only admitted keys can train here"
        raise SignatureError(f"{name} is not admitted to this run", why, hint)


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


def _check_signers(record: Record, verified: Verified) -> None:
    """Every record is signed by its signer; only a head may carry more signatures, of curators."""
    others = verified.signers - {record.signer}
    if record.signer not in verified.signers or (others and record.kind != "head"):
        names = ", ".join(sorted(verified.signers))
        raise SignatureError(f"this {record.kind} names {record.signer} and is signed by {names}")
