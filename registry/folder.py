"""A fetched ensemble as something to audit by itself: its statements and files, as if a peer served them.

Nothing in the folder is believed. What is not beside it (the run's list of shards, hold-out data) cannot be looked at,
and the report says so; that the run is the one that was meant is for the reader to compare.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from paris.models.filenames import CONFIG, WEIGHTS
from paris.protocol.charter import Charter
from paris.protocol.digests import is_digest, sha256_of
from paris.protocol.errors import RecordError, UnavailableError, UsageError
from paris.protocol.genesis import open_genesis
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import FileEntry
from paris.protocol.records import Record
from paris.protocol.validation import RunRules
from paris.registry.findings import NOTHING, Audit, Check, reached
from paris.registry.library import Library, Progress
from paris.registry.resolve import ResolvedRun, resolve_named
from paris.registry.store import Store

PROVENANCE = "provenance"
NOT_KNOWN = "that this is the run you mean: compare its key with the one you were given"


class FolderNetwork:
    """The folder behind `paris.registry.library.Network`: blobs by digest, no records."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        paths = sorted((folder / PROVENANCE).glob("*.json"))
        small = [path for path in paths if path.stat().st_size <= LIMITS.blob_bytes]
        self._blobs = {sha256_of(data): data for data in (path.read_bytes() for path in small)}

    async def records(self, kind: str, run: str, slot: str) -> list[Record]:  # noqa: ARG002
        """Return nothing: records are of the network."""
        return []

    async def envelopes(self, kind: str, run: str, slot: str) -> list[bytes]:  # noqa: ARG002
        """Return nothing, as above."""
        return []

    def know(self, run: str, rules: RunRules) -> None:
        """Do nothing: there are no records to check."""

    async def fetch_blob(self, digest: str, providers: Sequence[str]) -> bytes:  # noqa: ARG002
        """Return a file of the provenance.

        Raises:
            UnavailableError: there is none of this digest.
        """
        if digest not in self._blobs:
            raise UnavailableError(f"{digest[:19]}… is not in {self._folder}", "a folder holds its own proofs only")
        return self._blobs[digest]

    async def fetch_file(
        self,
        entry: FileEntry,
        providers: Sequence[str],  # noqa: ARG002
        partial: Path,
        progress: Progress,
    ) -> str | None:
        """Copy the file of this name that is the one.

        Raises:
            UnavailableError: none is.
        """
        for path in sorted(self._folder.glob(f"*/{entry.name}")):
            if path.is_file() and path.stat().st_size == entry.size and await asyncio.to_thread(_is, path, entry):
                await asyncio.to_thread(shutil.copyfile, path, partial)
                progress(entry.size)
                return None
        raise UnavailableError(f"no {entry.name} in {self._folder} is the one that was signed", "it was changed")


@dataclass(frozen=True)
class Fetched:
    """A folder as it says it is: its library, its run, and the newest checkpoint of each unit."""

    folder: Path
    library: Library
    run: str
    units: dict[str, str]

    @classmethod
    def open(cls, folder: Path, scratch: Path) -> Fetched:
        """Read what a folder says of itself.

        Args:
            folder: As `paris-node fetch` wrote it.
            scratch: An empty folder that may be filled with copies.

        Raises:
            UsageError: it is no fetched ensemble.
        """
        note = folder / PROVENANCE / "run.json"
        try:
            said = json.loads(note.read_bytes())
            run, units = str(said["run"]), {str(name): str(unit["checkpoint"]) for name, unit in said["units"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            hint = "Give a run key, or a folder that `paris-node fetch` wrote."
            raise UsageError(f"{folder} is no fetched ensemble", f"{note} cannot be read: {error}", hint) from error
        if not is_digest(run) or not all(map(is_digest, units.values())):
            raise UsageError(f"{folder} is no fetched ensemble", f"{note} names no run and checkpoints by digest")
        return cls(folder, Library(Store(scratch), FolderNetwork(folder)), run, units)

    async def resolve(self) -> ResolvedRun:
        """The run as the folder has it, under what its curators signed, every chain verified.

        Raises:
            VerificationError: something signed does not hold.
            UnavailableError: a statement is missing.
        """
        genesis, _ = open_genesis(await self.library.blob(self.run))
        charter = Charter.begin(genesis, self.run)
        while later := self._read(f"genesis-{len(charter.versions) + 1}.json"):
            charter = charter.succeed(later)
        if head := self._read("head.json"):
            charter = charter.adopt(head, self._read("admission.json"), self._read("ensemble.json"))
        if odd := sorted({*self.units} - {*charter.genesis.units()}):
            raise RecordError(f"the folder holds {odd[0]!r}", "the run has no such unit")
        return await resolve_named(self.library, charter, self.units)

    def with_strangers(self, report: Audit) -> Audit:
        """The report with a check of what lies beside the networks and no manifest names: something may load it."""
        units = []
        for unit in report.units:
            place = self.folder / unit.unit.replace("cluster-", "expert_")
            found = sorted(path for path in place.rglob("*") if not path.is_dir())
            odd = [path.relative_to(self.folder).as_posix() for path in found if path.name not in {CONFIG, WEIGHTS}]
            detail = f"{odd[0]} was signed by nobody" if odd else "nothing beside the signed files"
            checks = (*unit.checks, Check("folder", ok=not odd, detail=detail))
            level = reached(checks) if unit.lineage else NOTHING
            units.append(replace(unit, checks=checks, level=level, not_checked=(*unit.not_checked, NOT_KNOWN)))
        return replace(report, units=tuple(units))

    def _read(self, name: str) -> bytes | None:
        path = self.folder / PROVENANCE / name
        return path.read_bytes() if path.is_file() and path.stat().st_size <= LIMITS.blob_bytes else None


def _is(path: Path, entry: FileEntry) -> bool:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == entry.sha256
