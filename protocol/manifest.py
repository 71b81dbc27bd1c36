"""Manifests: what files a blob tree has, each with its size, digest and the digests of its 4 MiB pieces.

The manifest's digest covers names and sizes, not only contents.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Self

from pydantic import ConfigDict, Field, model_validator

from paris.protocol import strict_json
from paris.protocol.digests import sha256_of
from paris.protocol.errors import RecordError
from paris.protocol.limits import LIMITS
from paris.protocol.schema import Count, Digest, One, Payload

_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


class FileEntry(Payload):
    """One file.

    Attributes:
        name: Canonical relative name, forward slashes.
        size: Bytes.
        sha256: Digest of the whole file.
        pieces: Digests of its consecutive pieces of `LIMITS.piece_bytes`; none for an empty file.
    """

    name: Annotated[str, Field(min_length=1, max_length=LIMITS.name_chars)]
    size: Count
    sha256: Digest
    pieces: tuple[Digest, ...]

    @model_validator(mode="after")
    def _plausible(self) -> Self:
        problem = name_problem(self.name)
        if problem:
            raise ValueError(f"{self.name!r} is no safe file name: {problem}")
        if len(self.pieces) != -(-self.size // LIMITS.piece_bytes):
            raise ValueError(f"{self.name!r} has {self.size} bytes and {len(self.pieces)} pieces")
        if len(self.pieces) == 1 and self.pieces[0] != self.sha256:
            raise ValueError(f"{self.name!r} is one piece, yet file and piece have different digests")
        return self

    def span(self, piece: int) -> tuple[int, int]:
        """Offset and length of a piece, bytes."""
        offset = piece * LIMITS.piece_bytes
        return offset, min(LIMITS.piece_bytes, self.size - offset)


class _Wire(Payload):
    """The canonical JSON form of a manifest."""

    model_config = ConfigDict(title="Manifest")

    v: One = 1
    files: tuple[FileEntry, ...] = Field(max_length=LIMITS.manifest_files)

    @model_validator(mode="after")
    def _canonical(self) -> Self:
        names = [entry.name for entry in self.files]
        if names != sorted(names):
            raise ValueError("files are not sorted by name")
        folded = [name.casefold() for name in names]
        if len(set(folded)) != len(folded):
            raise ValueError("two names differ by nothing or by case only")
        folders = {
            "/".join(parts[:end]) for parts in (name.split("/") for name in folded) for end in range(1, len(parts))
        }
        if folders & set(folded):
            raise ValueError("a name is a file and a folder at once")
        return self


@dataclass(frozen=True)
class Manifest:
    """The files of one blob tree, sorted by name."""

    files: tuple[FileEntry, ...]

    @classmethod
    def of(cls, files: Iterable[FileEntry]) -> Manifest:
        """Manifest of files in any order.

        Raises:
            RecordError: Too many files, or names that clash.
        """
        entries = sorted(files, key=lambda entry: entry.name)
        return cls(_Wire.parse({"files": [entry.model_dump(mode="json") for entry in entries]}).files)

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Parse manifest bytes. The caller has checked their digest.

        Raises:
            EnvelopeError: Not strict JSON, or too big.
            RecordError: Not canonical: order, names, sizes, unknown fields.
        """
        manifest = cls(_Wire.parse(strict_json.loads(data, LIMITS.blob_bytes)).files)
        if manifest.to_bytes() != data:
            raise RecordError("this manifest is not in its canonical form", "other bytes could name the same files")
        return manifest

    def to_bytes(self) -> bytes:
        """Canonical bytes, which the digest covers."""
        return strict_json.dumps(_Wire(files=self.files).model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """Name of this manifest as a blob."""
        return sha256_of(self.to_bytes())

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together."""
        return sum(entry.size for entry in self.files)

    def entry(self, name: str) -> FileEntry:
        """The file of a name.

        Raises:
            RecordError: There is none.
        """
        for entry in self.files:
            if entry.name == name:
                return entry
        raise RecordError(f"the manifest has no file {name!r}", f"it has {len(self.files)} others")

    def select(self, predicate: Callable[[FileEntry], bool]) -> Manifest:
        """The part of the files for which `predicate` holds."""
        return Manifest(tuple(entry for entry in self.files if predicate(entry)))


def describe(name: str, chunks: Iterable[bytes]) -> FileEntry:
    """Entry of a file from its content.

    Args:
        name: Canonical relative name.
        chunks: The content in order, cut anywhere.

    Raises:
        RecordError: The name is not safe.
    """
    whole, piece, pieces = hashlib.sha256(), hashlib.sha256(), []
    size = 0
    for chunk in chunks:
        view = memoryview(chunk)
        whole.update(view)
        while view:
            room = LIMITS.piece_bytes - size % LIMITS.piece_bytes
            piece.update(view[:room])
            size += len(view[:room])
            view = view[room:]
            if size % LIMITS.piece_bytes == 0:
                pieces.append(f"sha256:{piece.hexdigest()}")
                piece = hashlib.sha256()
    if size % LIMITS.piece_bytes:
        pieces.append(f"sha256:{piece.hexdigest()}")
    return FileEntry.parse({"name": name, "size": size, "sha256": f"sha256:{whole.hexdigest()}", "pieces": pieces})


def name_problem(name: str) -> str:
    """Why a relative file name is not safe on every file system; empty if it is."""
    parts = name.split("/")
    if "" in parts or "." in parts or ".." in parts:
        return "it leaves its folder, is absolute, or has an empty part"
    if any(char in '\\:*?"<>|' or not char.isprintable() for char in name):
        return "it holds a character some systems treat specially"
    if unicodedata.normalize("NFC", name) != name:
        return "its letters have a second spelling"
    if any(part[-1] in ". " or part.split(".")[0].casefold() in _DEVICES for part in parts):
        return "some systems read a part of it as another name"
    return ""
