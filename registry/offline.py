"""A home with nobody to ask: what its own store holds, as if that were a network."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Final

from paris.models.filenames import CONFIG, WEIGHTS
from paris.protocol.errors import UnavailableError, VerificationError
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import FileEntry, Manifest
from paris.protocol.records import Checkpoint, Record, Tip, open_checkpoint
from paris.protocol.validation import RunRules
from paris.registry.library import Progress, nobodys_tip
from paris.registry.store import Store

log = logging.getLogger(__name__)

ENVELOPE: Final = b'{"payload":"'
"""How every envelope begins: its JSON is canonical."""
NOBODY_ASKED: Final = "--offline asks nobody"
ONCE_ONLINE: Final = "Run the command once without --offline: what it fetches stays in this home"


class OfflineNetwork:
    """A home's own store behind `paris.registry.library.Network`. No socket is opened.

    Its records are tips nobody signed: of every checkpoint whose weights lie in the store, and of a unit of which none
    do, of every statement, so that what is missing gets a name.

    Args:
        store: Of the home.
        run: The run's digest.
        clock: UNIX seconds.
    """

    def __init__(self, store: Store, run: str, clock: Callable[[], float] = time.time) -> None:
        self._store, self._run, self._clock = store, run, clock

    async def records(self, kind: str, run: str, slot: str) -> list[Record]:
        """Tips of one unit; there are no other records.

        Raises:
            DigestError: a statement in the store is damaged (then it is set aside).
        """
        if (kind, run) != (Tip.kind, self._run):
            return []
        known = {digest: checkpoint for digest, checkpoint in self._known.items() if checkpoint.unit == slot}
        whole = {digest: checkpoint for digest, checkpoint in known.items() if self._is_whole(checkpoint)}
        if whole and _highest(known) > _highest(whole):
            said = "%s: step %d is known here and its weights are not; of those that are, the last has step %d"
            log.warning(said, slot, _highest(known), _highest(whole))
        now_s = int(self._clock())
        return [nobodys_tip(digest, checkpoint, now_s) for digest, checkpoint in (whole or known).items()]

    async def envelopes(self, kind: str, run: str, slot: str) -> list[bytes]:  # noqa: ARG002
        """Return nothing: what was seen of curators is in the home's memory of them."""
        return []

    def know(self, run: str, rules: RunRules) -> None:
        """Do nothing: there are no signed records to check."""

    async def fetch_blob(self, digest: str, providers: Sequence[str]) -> bytes:  # noqa: ARG002
        """Fetch nothing.

        Raises:
            UnavailableError: always.
        """
        raise UnavailableError(f"{digest[:19]}… is not in {self._store.root}", NOBODY_ASKED, ONCE_ONLINE)

    async def fetch_file(
        self,
        entry: FileEntry,
        providers: Sequence[str],  # noqa: ARG002
        partial: Path,  # noqa: ARG002
        progress: Progress,  # noqa: ARG002
    ) -> str | None:
        """Fetch nothing.

        Raises:
            UnavailableError: always.
        """
        what = f"{entry.name} ({entry.sha256[:19]}…, {entry.size:,} bytes) is not in {self._store.root}"
        raise UnavailableError(what, NOBODY_ASKED, ONCE_ONLINE)

    @cached_property
    def _known(self) -> dict[str, Checkpoint]:
        """Statements of the run in the store, by digest."""
        found: dict[str, Checkpoint] = {}
        for digest in self._store.beginning(ENVELOPE, LIMITS.blob_bytes):
            data = self._store.get_bytes(digest, LIMITS.blob_bytes)
            with suppress(VerificationError):  # an envelope of another kind
                checkpoint = open_checkpoint(data)
                if checkpoint.run == self._run:
                    found[digest] = checkpoint
        return found

    def _is_whole(self, checkpoint: Checkpoint) -> bool:
        """Whether what an ensemble takes of a checkpoint is here; what its bytes are is seen when they are used."""
        if self._store.path(checkpoint.manifest) is None:
            return False
        data = self._store.get_bytes(checkpoint.manifest, LIMITS.blob_bytes)
        with suppress(VerificationError):  # its trainer signed something that is no manifest, or lacks one of the two
            manifest = Manifest.from_bytes(data)
            return all(self._store.path(manifest.entry(name).sha256) for name in (CONFIG, WEIGHTS))
        return False


def _highest(checkpoints: dict[str, Checkpoint]) -> int:
    return max((checkpoint.to_step for checkpoint in checkpoints.values()), default=0)
