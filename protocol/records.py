"""What lies in the DHT: short-lived signed records, one per signer and slot.

`peer`: where a node is. `claim`: a lease on one unit. `tip`: the newest checkpoint of a unit that the signer holds and
serves; mirrors publish tips too. Checkpoints and the genesis are blobs, named by digest.
"""

from __future__ import annotations

import hashlib
from types import MappingProxyType
from typing import Any, ClassVar

from pydantic import Field

from paris.protocol.checkpoint import Checkpoint, open_checkpoint, statement
from paris.protocol.digests import hex_of
from paris.protocol.errors import RecordError
from paris.protocol.genesis import Genesis, Recipe, open_genesis
from paris.protocol.schema import Count, Digest, Extensible, One, PeerId, Text, Unit

__all__ = [
    "RECORD_KINDS",
    "Checkpoint",
    "Claim",
    "Genesis",
    "Peer",
    "Recipe",
    "Record",
    "Tip",
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
    """

    kind: ClassVar[str]
    v: One = 1
    run: Digest
    signer: PeerId
    seq: Count
    iat: Count
    exp: Count

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


RECORD_KINDS: MappingProxyType[str, type[Record]] = MappingProxyType(
    {model.kind: model for model in (Peer, Claim, Tip)}
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
        slot: A unit; empty for `peer`.
    """
    parts = (b"paris/1", kind.encode(), hex_of(run).encode(), slot.encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
