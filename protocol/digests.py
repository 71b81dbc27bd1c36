"""Digests are strings `sha256:<64 lower-case hex>`."""

from __future__ import annotations

import hashlib
import re

from paris.protocol.errors import DigestError

PATTERN = r"^sha256:[0-9a-f]{64}\Z"
_DIGEST = re.compile(PATTERN)


def sha256_of(data: bytes | bytearray | memoryview) -> str:
    """Digest of bytes held in memory."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def is_digest(text: object) -> bool:
    """Whether `text` has the exact form of a digest."""
    return isinstance(text, str) and _DIGEST.match(text) is not None


def hex_of(digest: str) -> str:
    """The 64 hex digits of a digest.

    Raises:
        DigestError: `digest` has another form.
    """
    if not is_digest(digest):
        raise DigestError(f"{digest[:80]!r} is not a digest", "a digest reads sha256: and 64 lower-case hex digits")
    return digest.removeprefix("sha256:")


def check(data: bytes | bytearray | memoryview, digest: str, name: str = "the data") -> None:
    """Raise unless `data` hashes to `digest`.

    Raises:
        DigestError: It does not.
    """
    found = sha256_of(data)
    if found != digest:
        raise DigestError(f"{name} does not match its digest", f"asked for {digest}, got bytes that hash to {found}")
