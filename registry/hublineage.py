"""A checkpoint's whole chain of statements as the local store has it: what is published with it."""

from __future__ import annotations

from dataclasses import dataclass

from paris.protocol.limits import LIMITS
from paris.protocol.records import Checkpoint, open_checkpoint
from paris.registry.store import Store


@dataclass(frozen=True)
class Lineage:
    """A checkpoint with everything before it, oldest first, from the local store."""

    segments: tuple[Checkpoint, ...]
    digests: tuple[str, ...]

    @property
    def newest(self) -> Checkpoint:
        """The checkpoint itself."""
        return self.segments[-1]

    @property
    def holders(self) -> tuple[str, ...]:
        """Who trained it, in order, each once in a row."""
        signers = [segment.signer for segment in self.segments]
        return tuple(s for i, s in enumerate(signers) if i == 0 or signers[i - 1] != s)


def lineage_of(store: Store, checkpoint: str) -> Lineage:
    """Read a chain of statements from the store, where resolving or publishing has put it.

    Raises:
        UnavailableError: a statement is not here.
    """
    segments: list[Checkpoint] = []
    digests: list[str] = []
    cursor: str | None = checkpoint
    while cursor is not None and len(segments) < LIMITS.lineage_checkpoints:
        segments.append(open_checkpoint(store.get_bytes(cursor, LIMITS.blob_bytes)))
        digests.append(cursor)
        cursor = segments[-1].parent
    return Lineage(tuple(reversed(segments)), tuple(reversed(digests)))
