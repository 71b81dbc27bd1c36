"""A content-addressed store on disk: bytes are named by their sha256, so a file is either right or not there.

    root/blobs/<first 2 hex>/<64 hex>     whole, verified blobs, read-only
    root/partial/<64 hex>.<16 hex>        downloads under way, named after the whole and the pieces they are promised to
                                          consist of; they survive a crash and are resumed
    root/damaged/<64 hex>                 blobs that no longer match their name, set aside to be fetched again

Several processes may share one root: a blob appears by an atomic rename, and two that put the same bytes agree anyway.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from paris.protocol.digests import hex_of, is_digest, sha256_of
from paris.protocol.errors import DigestError, UnavailableError, UsageError
from paris.protocol.manifest import FileEntry, Manifest, describe
from paris.registry import atomic

CHUNK_BYTES = 1 << 20
BLOB_MODE = 0o444


class Store:
    """The blobs one node holds. Opening it creates the folders and removes what killed writers left."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs, self._partial, self._damaged = root / "blobs", root / "partial", root / "damaged"
        for folder in (self._blobs, self._partial):
            atomic.make_directory(folder)
        atomic.sweep(self._blobs)

    def path(self, digest: str) -> Path | None:
        """Return where the blob lies, or None if it is not here; `digest` may be any string from a stranger."""
        if not is_digest(digest):
            return None
        path = self._blob(digest)
        return path if path.is_file() else None

    def partial(self, entry: FileEntry) -> Path:
        """Return where the unfinished download of a file lies or shall lie.

        Manifests that promise the same file and list other pieces of it (one of them lies) have different ones: what
        one download has verified, no other overwrites with anything else.
        """
        pieces = sha256_of("\n".join((str(entry.size), *entry.pieces)).encode())
        return self._partial / f"{hex_of(entry.sha256)}.{hex_of(pieces)[:16]}"

    def put_bytes(self, data: bytes) -> str:
        """Store `data` and return its digest. A damaged copy of it is replaced.

        Raises:
            ResourceError: the disk is full.
        """
        digest = sha256_of(data)
        path = self._blob(digest)
        if not path.is_file() or path.read_bytes() != data:
            atomic.write_bytes(path, data, mode=BLOB_MODE)
        return digest

    def put_file(self, path: Path, name: str) -> FileEntry:
        """Copy the file at `path` into the store, hashing what is copied, and return its entry under `name`.

        Raises:
            ResourceError: the disk is full.
        """
        incoming = atomic.temporary_beside(self._blobs / "incoming")
        size_bytes = path.stat().st_size
        with path.open("rb") as source, atomic.new_file(incoming, mode=BLOB_MODE, needed_bytes=size_bytes) as out:
            entry = describe(name, _copied(source, out))
        atomic.rename(incoming, self._blob(entry.sha256))
        return entry

    def add_tree(self, folder: Path, names: Sequence[str] | None = None) -> Manifest:
        """Store every file under `folder` (or only `names`, relative to it) and their manifest, itself a blob.

        Raises:
            UsageError: there is a symbolic link, or nothing to store.
            ResourceError: the disk is full.
        """
        chosen = _names_in(folder) if names is None else sorted(names)
        if not chosen:
            raise UsageError(f"There is no file in {folder}", "A manifest needs at least one")
        manifest = Manifest.of(self.put_file(folder / name, name) for name in chosen)
        self.put_bytes(manifest.to_bytes())
        return manifest

    def get_bytes(self, digest: str, limit_bytes: int) -> bytes:
        """Return a small blob, hashed again on the way.

        Raises:
            UnavailableError: the blob is not here.
            DigestError: it is larger than `limit_bytes`, or damaged (then it is set aside).
        """
        path = self._present(digest)
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise DigestError(
                f"Blob {digest} is too large",
                f"It holds {path.stat().st_size:,} bytes, {limit_bytes:,} are allowed here",
            )
        if sha256_of(data) != digest:
            self._set_aside(digest, path)
        return data

    def verify(self, entry: FileEntry) -> Path:
        """Hash a blob again and return its path.

        Raises:
            UnavailableError: the blob is not here.
            DigestError: it is damaged (then it is set aside, so that the next fetch brings it anew), or `entry` lies.
        """
        path = self._present(entry.sha256)
        if _digest_of(path) != entry.sha256:
            self._set_aside(entry.sha256, path)
        if path.stat().st_size != entry.size:
            raise DigestError(
                f"The manifest is wrong about {entry.name}", f"It promises {entry.size:,} bytes for {entry.sha256}"
            )
        return path

    def beginning(self, start: bytes, limit_bytes: int) -> Iterator[str]:
        """Yield the digests of blobs that begin with these bytes and are not larger; nothing is verified."""
        for path in sorted(self._blobs.glob("??/" + "?" * 64)):
            with suppress(FileNotFoundError), path.open("rb") as file:
                if path.stat().st_size <= limit_bytes and file.read(len(start)) == start:
                    yield f"sha256:{path.name}"

    def missing(self, manifest: Manifest) -> tuple[FileEntry, ...]:
        """Return the files of `manifest` that are not here (by name and size; `verify` reads the bytes)."""
        return tuple(entry for entry in manifest.files if not self._has(entry))

    def commit_partial(self, entry: FileEntry, hashed: str | None = None) -> Path:
        """Turn a finished download into a blob. It may have been committed by another process.

        Args:
            entry: What was downloaded.
            hashed: Digest of the whole, by whoever wrote it and hashed every byte on the way; None: it is hashed here.

        Raises:
            UnavailableError: there is neither a partial file nor the blob.
            DigestError: the partial file does not match; it stays, for its good pieces can be kept.
        """
        partial = self.partial(entry)
        try:
            if partial.stat().st_size != entry.size or (hashed or _digest_of(partial)) != entry.sha256:
                raise DigestError(
                    f"The download of {entry.name} does not match its digest {entry.sha256}",
                    f"{partial} was changed or is not finished",
                    "Fetch again: the pieces that are right are kept",
                )
            atomic.sync_file(partial)
            partial.chmod(BLOB_MODE)
            return atomic.rename(partial, self._blob(entry.sha256))
        except FileNotFoundError:
            return self._present(entry.sha256)

    def checkout(self, manifest: Manifest, folder: Path, names: Sequence[str] | None = None) -> Path:
        """Lay the verified files of `manifest` (or only `names`) out under `folder`, all at once or not at all.

        Files are hard links where the file system allows, so they are read-only. An earlier checkout is replaced.

        Raises:
            UnavailableError: a file is not here.
            DigestError: a file is damaged.
            UsageError: `folder` holds something that is not of this manifest.
            ResourceError: the disk is full.
        """
        wanted = [entry for entry in manifest.files if names is None or entry.name in names]
        _refuse_foreign_files(folder, {entry.name for entry in manifest.files})
        atomic.make_directory(folder.parent)
        staging = atomic.temporary_beside(folder)
        try:
            staging.mkdir()
            for entry in wanted:
                _link_or_copy(
                    self.verify(entry), atomic.make_directory((staging / entry.name).parent) / Path(entry.name).name
                )
            atomic.replace_directory(staging, folder)
        finally:
            atomic.remove_tree(staging)
        return folder

    def usage_bytes(self) -> int:
        """Return how many bytes the files under the root hold."""
        total = 0
        for path in self.root.rglob("*"):
            with suppress(FileNotFoundError):  # another process moved it meanwhile
                total += path.stat().st_size if path.is_file() else 0
        return total

    def remove(self, digest: str) -> bool:
        """Forget a blob and its partial downloads; say whether the blob was here."""
        for partial in self._partial.glob(f"{hex_of(digest)}.*"):
            partial.unlink(missing_ok=True)
        path = self.path(digest)
        if path is None:
            return False
        path.unlink(missing_ok=True)
        return True

    def _blob(self, digest: str) -> Path:
        name = hex_of(digest)
        return self._blobs / name[:2] / name

    def _present(self, digest: str) -> Path:
        path = self.path(digest)
        if path is None:
            raise UnavailableError(
                f"Blob {digest} is not in the store at {self.root}", hint="Fetch it from a peer first"
            )
        return path

    def _has(self, entry: FileEntry) -> bool:
        path = self.path(entry.sha256)
        return path is not None and path.stat().st_size == entry.size

    def _set_aside(self, digest: str, path: Path) -> None:
        aside = atomic.make_directory(self._damaged) / path.name
        with suppress(FileNotFoundError):  # another process found the damage too
            path.replace(aside)
        raise DigestError(
            f"Blob {digest} is damaged",
            f"Its bytes no longer match its name: the disk or another program changed it; it now lies at {aside}",
            "Run the command again to fetch a good copy, and check the disk",
        )


def _copied(source: BinaryIO, out: BinaryIO) -> Iterator[bytes]:
    """Yield what is read from `source` after writing it to `out`."""
    while chunk := source.read(CHUNK_BYTES):
        out.write(chunk)
        yield chunk


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _names_in(folder: Path) -> list[str]:
    """Return the relative names of all files under `folder`; symbolic links are refused, our temporaries skipped."""
    names = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise UsageError(f"{path} is a symbolic link", "Only plain files can be stored and shared")
        if path.is_file() and not path.name.endswith(atomic.TEMPORARY_SUFFIX):
            names.append(path.relative_to(folder).as_posix())
    return sorted(names)


def _refuse_foreign_files(folder: Path, known: set[str]) -> None:
    """Raise UsageError if replacing `folder` would delete a file that is not of the manifest."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", hint="Choose a folder")
    for name in _names_in(folder) if folder.is_dir() else ():
        if name not in known:
            raise UsageError(
                f"{folder} holds {name}, which would be lost",
                "It is no part of what is laid out there",
                "Choose another folder",
            )


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        with (
            atomic.replacing(target, mode=BLOB_MODE, needed_bytes=source.stat().st_size) as out,
            source.open("rb") as file,
        ):
            shutil.copyfileobj(file, out, CHUNK_BYTES)
