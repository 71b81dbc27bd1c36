"""The repositories of the loopback Hub: commits and contents in a folder, so that they survive a kill.

    objects/<sha256>                          every content, once
    repositories/<type>/<owner>/<name>.json   {"private", "commits": [{"oid", "parent", "title", "files"}]}

Files are by path. A file is {"sha256", "size", "blob" (git's SHA-1), "lfs": bool}.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import RLock
from typing import Any


@dataclass(frozen=True)
class StoredFile:
    """One file of a commit."""

    sha256: str
    size: int
    blob: str
    lfs: bool


@dataclass(frozen=True)
class Commit:
    """One commit, with all files of the repository as it left them."""

    oid: str
    parent: str | None
    title: str
    files: dict[str, StoredFile]

    @classmethod
    def of(cls, parent: Commit | None, title: str, files: dict[str, StoredFile]) -> Commit:
        named = json.dumps([parent.oid if parent else None, title, {p: asdict(f) for p, f in sorted(files.items())}])
        return cls(hashlib.sha1(named.encode()).hexdigest(), parent.oid if parent else None, title, files)


class Disk:
    """Contents and repositories under one folder. Every change is a rename."""

    def __init__(self, root: Path) -> None:
        self.lock = RLock()
        self._objects, self._repositories = root / "objects", root / "repositories"
        self._objects.mkdir(parents=True, exist_ok=True)

    def object(self, sha256: str) -> Path:
        """Where a content lies or shall lie."""
        return self._objects / sha256

    def has(self, sha256: str) -> bool:
        return self.object(sha256).is_file()

    def keep(self, data: bytes) -> str:
        """Store a content whole."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.has(sha256):
            self._write(self.object(sha256), data)
        return sha256

    def scratch(self) -> Path:
        """A name for a content that is still arriving."""
        return self._objects / f"incoming-{secrets.token_hex(8)}"

    def exists(self, kind: str, name: str) -> bool:
        return self._path(kind, name).is_file()

    def create(self, kind: str, name: str, *, private: bool = False) -> None:
        """A repository with the first commit the Hub makes by itself."""
        data = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
        first = {".gitattributes": StoredFile(self.keep(data), len(data), git_blob(data), lfs=False)}
        self._save(kind, name, private, [Commit.of(None, "initial commit", first)])

    def delete(self, kind: str, name: str) -> None:
        self._path(kind, name).unlink()

    def is_private(self, kind: str, name: str) -> bool:
        return bool(json.loads(self._path(kind, name).read_text())["private"])

    def commits(self, kind: str, name: str) -> list[Commit]:
        """All commits, oldest first."""
        stored = json.loads(self._path(kind, name).read_text())["commits"]
        return [Commit(**{**c, "files": {p: StoredFile(**f) for p, f in c["files"].items()}}) for c in stored]

    def append(self, kind: str, name: str, title: str, files: dict[str, StoredFile]) -> Commit:
        """One more commit on the main branch."""
        before = self.commits(kind, name)
        commit = Commit.of(before[-1], title, files)
        self._save(kind, name, self.is_private(kind, name), [*before, commit])
        return commit

    def _save(self, kind: str, name: str, private: bool, commits: list[Commit]) -> None:
        path = self._path(kind, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(path, json.dumps({"private": private, "commits": [asdict(c) for c in commits]}).encode())

    def _path(self, kind: str, name: str) -> Path:
        return self._repositories / kind / f"{name}.json"

    def _write(self, path: Path, data: bytes) -> None:
        temporary = self.scratch()
        temporary.write_bytes(data)
        temporary.replace(path)


def git_blob(data: bytes) -> str:
    """git's name of a content."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def described(path: str, file: StoredFile, *, xet: str | None = None) -> dict[str, Any]:
    """A file as the Hub's tree lists it."""
    entry: dict[str, Any] = {"type": "file", "path": path, "size": file.size, "oid": file.blob}
    if file.lfs:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
    if xet:
        entry["xetHash"] = xet
    return entry
