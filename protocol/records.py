"""What lies in the DHT: short-lived signed records, one per signer and slot.

`peer`: where a node is. `claim`: a lease on one unit. `tip`: the newest checkpoint of a unit that the signer holds and
serves; mirrors publish tips too. `verdict`: what the signer found when it checked a checkpoint. `head`: what the
curators say is in force. Checkpoints and the genesis are blobs, named by digest.
"""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, JsonValue, model_validator

from paris.protocol.checkpoint import Checkpoint, open_checkpoint, statement
from paris.protocol.curation import Positive
from paris.protocol.digests import hex_of
from paris.protocol.errors import RecordError
from paris.protocol.genesis import Genesis, Recipe, open_genesis
from paris.protocol.limits import LIMITS
from paris.protocol.schema import Count, Digest, Extensible, One, PeerId, Text, Unit

__all__ = [
    "RECORD_KINDS",
    "Checkpoint",
    "Claim",
    "Genesis",
    "Head",
    "Peer",
    "Recipe",
    "Record",
    "Tip",
    "Verdict",
    "open_checkpoint",
    "open_genesis",
    "parse_record",
    "record_key",
    "statement",
]


class Record(Extensible):
    """Fields of every record.

    Attributes:
        run: Run id.
        signer: Peer id of the one signer.
        seq: Larger replaces smaller, per signer and slot.
        iat: Issued at, UNIX seconds.
        exp: Gone from this moment on, UNIX seconds; equals the DHT's expiration.
        credentials: Envelopes of delegations and rotations the signer relies on, nearest to it first.
    """

    kind: ClassVar[str]
    v: One = 1
    run: Digest
    signer: PeerId
    seq: Count
    iat: Count
    exp: Count
    credentials: tuple[dict[str, JsonValue], ...] = Field(default=(), max_length=LIMITS.credentials)

    @property
    def slot(self) -> str:
        """Which of a run's slots this record belongs to: its unit, or nothing."""
        return ""


class Peer(Record):
    """Where a node is and what it can do."""

    kind: ClassVar[str] = "peer"
    addrs: tuple[Text, ...] = Field(max_length=32)
    agent: Text
    abilities: tuple[Text, ...] = Field(max_length=32)


class Claim(Record):
    """A lease on one unit.

    Attributes:
        unit: What is leased.
        step: The step reached.
        parent: The checkpoint training continues from; None: the start.
        released: The signer gives the lease back: records cannot be withdrawn, only replaced by one that expires later.
    """

    kind: ClassVar[str] = "claim"
    unit: Unit
    step: Count
    parent: Digest | None = None
    released: bool = False

    @property
    def slot(self) -> str:
        """The unit."""
        return self.unit


class Tip(Record):
    """The newest checkpoint of one unit that the signer holds and serves.

    Attributes:
        checkpoint: Digest of the checkpoint's envelope, a blob.
        manifest: Digest of its manifest, a blob.
        step: Steps the checkpoint has.
        loss_micro: Its hold-out loss in millionths.
    """

    kind: ClassVar[str] = "tip"
    unit: Unit
    checkpoint: Digest
    manifest: Digest
    step: Count
    loss_micro: Count

    @property
    def slot(self) -> str:
        """The unit."""
        return self.unit


class Verdict(Record):
    """What the signer found when it checked a checkpoint itself.

    Attributes:
        unit: Its unit.
        checkpoint: Digest of the checkpoint's envelope.
        step: Steps the checkpoint has.
        level: How far the check went: the files and signatures, the hold-out loss, or training itself.
        holds: Whether what was claimed held.
        loss_micro: Hold-out loss measured, in millionths; where `level` is `evaluated` or `replayed`.
        tolerance_micro: How far from the claim it may lie, in millionths; with `loss_micro`.
        samples: How many hold-out samples were measured; with `loss_micro`.
        note: For people.
    """

    kind: ClassVar[str] = "verdict"
    unit: Unit
    checkpoint: Digest
    step: Count
    level: Literal["attested", "consistent", "evaluated", "replayed"]
    holds: bool
    loss_micro: Count | None = None
    tolerance_micro: Count | None = None
    samples: Count | None = None
    note: Text = ""

    @model_validator(mode="after")
    def _measured(self) -> Self:
        numbers = (self.loss_micro, self.tolerance_micro, self.samples)
        if any(number is not None for number in numbers) and None in numbers:
            raise ValueError("a measured loss, its tolerance and its samples go together")
        if self.level == "evaluated" and self.loss_micro is None:
            raise ValueError("an evaluation says what it measured")
        return self

    @property
    def slot(self) -> str:
        """The unit."""
        return self.unit


class Head(Record):
    """What is in force in a run, by enough of its curators; one of them, `signer`, publishes it.

    Attributes:
        version: Counts up; the highest counts.
        genesis: Digest of the newest version of the genesis; the run id while there is one only.
        admission: Digest of the admission list in force, a blob; absent: the genesis' own.
        ensemble: Digest of the `Ensemble` to use, a blob; absent: none was promoted yet.
        top_k: Experts a sample that serve this ensemble best, as measured; absent: not measured.
    """

    kind: ClassVar[str] = "head"
    version: Positive
    genesis: Digest
    admission: Digest | None = None
    ensemble: Digest | None = None
    top_k: Positive | None = None

    @property
    def says(self) -> tuple[object, ...]:
        """What two heads of one version must agree in."""
        return (self.version, self.genesis, self.admission, self.ensemble, self.top_k)


RECORD_KINDS: MappingProxyType[str, type[Record]] = MappingProxyType(
    {model.kind: model for model in (Peer, Claim, Tip, Verdict, Head)}
)


def parse_record(kind: str, payload: dict[str, Any]) -> Record:
    """Model of a verified payload of a record kind.

    Raises:
        RecordError: The kind may not lie in the DHT, or the content is not valid.
    """
    if kind not in RECORD_KINDS:
        raise RecordError(f"a {kind} is no DHT record", f"the DHT holds {', '.join(RECORD_KINDS)}; the rest are blobs")
    return RECORD_KINDS[kind].parse(payload)


def record_key(kind: str, run: str, slot: str = "") -> str:
    """DHT key of a slot: 64 hex digits of SHA-256 over `paris/1`, kind, run and slot, joined by zero bytes.

    Args:
        kind: Record kind.
        run: Run id.
        slot: A unit; empty for `peer` and `head`.
    """
    parts = (b"paris/1", kind.encode(), hex_of(run).encode(), slot.encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
