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
from paris.protocol.genesis import Genesis, open_genesis
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import FileEntry, Manifest
from paris.protocol.records import Record
from paris.protocol.validation import RunRules
from paris.registry.audit import Depth, Told, audit
from paris.registry.findings import NOTHING, Audit, Check, UnitAudit, reached
from paris.registry.hubindex import folder_of
from paris.registry.library import Library, Progress
from paris.registry.resolve import ResolvedRun, resolve_named
from paris.registry.store import Store

PROVENANCE, CODEC = "provenance", "vae"
NOTE = f"{PROVENANCE}/run.json"
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
        note = folder / NOTE
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

    async def audited(self, told: Told, depth: Depth | None = None) -> tuple[ResolvedRun, Audit]:
        """What can be said of the folder by itself; what is checked is in the library's store from then on.

        Args:
            told: Told what is being looked at.
            depth: How deep to look.

        Raises:
            VerificationError: something signed does not hold.
            UnavailableError: a statement is missing.
        """
        resolved = await self.resolve()
        alone = replace(depth or Depth(), alone=True)
        report = await audit(self.library, resolved, (), told, alone, "this folder's")
        codec = await asyncio.to_thread(self._codec_problem, resolved.genesis)
        return resolved, replace(report, units=tuple(self._with_folder(unit, codec) for unit in report.units))

    def _with_folder(self, unit: UnitAudit, codec: str) -> UnitAudit:
        """A unit's report with a check of what lies beside the networks: something may load it."""
        place = self.folder / folder_of(unit.unit)
        found = sorted(path for path in place.rglob("*") if not path.is_dir())
        odd = [path.relative_to(self.folder).as_posix() for path in found if path.name not in {CONFIG, WEIGHTS}]
        detail = f"{odd[0]} was signed by nobody" if odd else codec or "nothing beside the signed files"
        checks = (*unit.checks, Check("folder", ok=not (odd or codec), detail=detail))
        level = reached(checks) if unit.lineage else NOTHING
        return replace(unit, checks=checks, level=level, not_checked=(*unit.not_checked, NOT_KNOWN))

    def _codec_problem(self, genesis: Genesis) -> str:
        """What is wrong with the autoencoder. The genesis names its manifest, which follows from its files."""
        place, store, expected = self.folder / CODEC, self.library.store, genesis.codec.manifest
        paths = sorted(path for path in place.rglob("*") if path.is_file())
        if not paths:
            return f"{CODEC}/ is missing" if expected else ""
        found = Manifest.of(store.put_file(path, path.relative_to(place).as_posix()) for path in paths)
        return "" if store.put_bytes(found.to_bytes()) == expected else f"{CODEC}/ is not the run's autoencoder"

    def _read(self, name: str) -> bytes | None:
        path = self.folder / PROVENANCE / name
        return path.read_bytes() if path.is_file() and path.stat().st_size <= LIMITS.blob_bytes else None


def _is(path: Path, entry: FileEntry) -> bool:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}" == entry.sha256
