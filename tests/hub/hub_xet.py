"""Uploads through Xet, the client's default where `hf_xet` is installed: its local mode writes into a folder of ours.

`local://` is not documented by hf_xet; what was tried is the version in constraints.txt. Contents come out
of that folder again by Xet itself, so that what is committed is a plain file afterwards.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HEADER_BYTES = ENTRY_BYTES = 48
END = b"\xff" * 32
HAS_VERIFICATION, HAS_METADATA = 1 << 31, 1 << 30


def known(folder: Path) -> dict[str, tuple[str, int]]:
    """Xet's name and the size in bytes of every file in the folder, by SHA-256."""
    shards = (folder / "xet" / "xorbs" / "shards").glob("*.mdb")
    return {sha256: (name, size) for shard in shards for sha256, name, size in _files(shard.read_bytes())}


def _files(shard: bytes) -> Iterator[tuple[str, str, int]]:
    """SHA-256, Xet's name and size of the files a metadata shard describes, in entries of 48 bytes after its header."""
    at = HEADER_BYTES
    while shard[at : at + 32] != END:
        name = _hex(shard[at : at + 32])
        flags, segments = struct.unpack_from("<II", shard, at + 32)
        sizes = [struct.unpack_from("<I", shard, at + ENTRY_BYTES * (1 + i) + 36)[0] for i in range(segments)]
        at += ENTRY_BYTES * (1 + segments + (segments if flags & HAS_VERIFICATION else 0))
        if flags & HAS_METADATA:
            yield _hex(shard[at : at + 32]), name, sum(sizes)
            at += ENTRY_BYTES


def _hex(stored: bytes) -> str:
    """A hash as it is written: its four words are stored the other way round."""
    return b"".join(stored[i : i + 8][::-1] for i in range(0, 32, 8)).hex()


def take_out(token_url: str, name: str, size: int, target: Path) -> None:
    """Write a file out of the folder that the token leads to: hf_xet would hold up this process."""
    asked = [sys.executable, __file__, token_url, name, str(size), str(target)]
    subprocess.run(asked, check=True, timeout=120)


if __name__ == "__main__":
    import hf_xet

    url, hashed, length, out = sys.argv[1:]
    with hf_xet.XetSession().new_file_download_group(
        token_refresh_url=url, token_refresh_headers={}, custom_headers={}
    ) as group:
        group.start_download_file(hf_xet.XetFileInfo(hashed, int(length)), out)
