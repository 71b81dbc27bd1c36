"""Pictures and clips in some folders, named by what is in them: nothing else of this machine can be asked for."""

from __future__ import annotations

import hashlib
import logging
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from paris.node.dashboard.studio import Drawn

log = logging.getLogger(__name__)

KINDS: Final = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
}
"""What is shown, and as what. Formats that can hold scripts are not among them."""
MOST_FILES: Final = 200
MOST_BYTES: Final = 64 * 2**20
MOST_NOTE_BYTES: Final = 2**20


@dataclass(frozen=True)
class Piece:
    """One picture or clip.

    Attributes:
        path: Its file, which is no link.
        digest: 64 hex digits of its SHA-256.
        kind: `picture`, `animation` (an image that moves) or `video`.
        size_bytes: Its size when it was hashed.
        changed_ns: When its file was last written by then.
        drawn: What was written down beside it when it was drawn here, if it was.
    """

    path: Path
    digest: str
    kind: str
    size_bytes: int
    changed_ns: int
    drawn: Drawn | None

    @property
    def media_type(self) -> str:
        """As what it is sent."""
        return KINDS[self.path.suffix.lower()]

    def as_json(self) -> dict[str, Any]:
        """The piece as the page sees it."""
        drawn = self.drawn.model_dump() if self.drawn else None
        made_s = self.changed_ns // 10**9
        return {"digest": self.digest, "kind": self.kind, "name": self.path.name, "made_s": made_s, "drawn": drawn}


class Gallery:
    """The newest pictures and clips in some folders, not in folders below them.

    Contract: what `find` returns was hashed and has not changed since; links and large files are never looked at. Every
    file is read once until it changes, one that cannot be shown too. Calls come from one thread at a time.

    Args:
        folders: Where to look; one that is not there is empty.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._pieces: dict[Path, Piece] = {}
        self._refused: dict[Path, tuple[int, int]] = {}

    def look(self) -> list[Piece]:
        """Look at the folders anew, newest first."""
        files = sorted(self._files(), key=lambda file: -file[1])[:MOST_FILES]
        pieces = {path: self._piece(path, changed_ns, size) for path, changed_ns, size in files}
        self._pieces = {path: piece for path, piece in pieces.items() if piece}
        self._refused = {path: (changed_ns, size) for path, changed_ns, size in files if not pieces[path]}
        return list({piece.digest: piece for piece in self._pieces.values()}.values())

    def find(self, digest: str) -> Piece | None:
        """The piece with a digest, if its file is still the one that was hashed."""
        for piece in self._pieces.values():
            if piece.digest == digest and (piece.changed_ns, piece.size_bytes) == _stamp(piece.path):
                return piece
        return None

    def _files(self) -> Iterator[tuple[Path, int, int]]:
        for folder in self.folders:
            for path in folder.glob("*") if folder.is_dir() else ():
                stamp = _stamp(path) if path.suffix.lower() in KINDS else None
                if stamp and stamp[1] <= MOST_BYTES:
                    yield path, *stamp

    def _piece(self, path: Path, changed_ns: int, size_bytes: int) -> Piece | None:
        known = self._pieces.get(path)
        if known and (known.changed_ns, known.size_bytes) == (changed_ns, size_bytes):
            return known
        if self._refused.get(path) == (changed_ns, size_bytes):
            return None
        try:
            kind, digest = _kind(path), hashlib.sha256(path.read_bytes()).hexdigest()
        except (OSError, ValueError, SyntaxError) as error:
            log.info("%s is not shown: %s", path, error)
            return None
        return Piece(path, digest, kind, size_bytes, changed_ns, _drawn(path.with_suffix(".json")))


def _stamp(path: Path) -> tuple[int, int] | None:
    """When a file was written, and its size; None for what is no plain file."""
    try:
        found = path.stat(follow_symlinks=False)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size) if stat.S_ISREG(found.st_mode) else None


def _kind(path: Path) -> str:
    """Whether it moves.

    Raises:
        OSError, ValueError, SyntaxError: it cannot be read as what its name says.
    """
    if KINDS[path.suffix.lower()].startswith("video/"):
        return "video"
    from PIL import Image  # noqa: PLC0415 - only where there are pictures

    try:
        with Image.open(path) as image:
            return "animation" if getattr(image, "is_animated", False) else "picture"
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error


def _drawn(path: Path) -> Drawn | None:
    """What `paris.node.dashboard.studio` wrote down beside a drawing."""
    try:
        if path.stat().st_size > MOST_NOTE_BYTES:
            return None
        return Drawn.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
