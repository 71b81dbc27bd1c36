"""Read webdataset tars and notice where they break off.

`tarfile` (and with it the webdataset library) stops without a word at a header it cannot read, so that a damaged shard
looks like a short one. We look for the zero block that ends every whole tar.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from paris.models.shards import Member

MEMBER_BYTES = 256 * 2**20
"""No picture or clip is larger; a tar of kilobytes can say that a member has terabytes."""

Report = Callable[[str, str], None]
"""Told (what, reason) about everything that is left out."""


def members_by_key(shard: Path, report: Report) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Yield (key, bytes by suffix) for each run of adjacent members with one key, as webdataset groups them.

    Args:
        shard: a tar, perhaps compressed.
        report: told of duplicate members, and of a shard that breaks off; what came before is still yielded.
    """
    key, parts = "", dict[str, bytes]()
    for name, data in _members(shard, report):
        folder, slash, base = name.rpartition("/")
        stem, _, suffix = base.partition(".")
        if f"{folder}{slash}{stem}" != key:
            if parts:
                yield key, parts
            key, parts = f"{folder}{slash}{stem}", {}
        if suffix.lower() in parts:
            report(name, "duplicate member")
        parts.setdefault(suffix.lower(), data)
    if parts:
        yield key, parts


def _members(shard: Path, report: Report) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of the plain files; links, folders and devices are passed over."""
    try:
        with tarfile.open(shard, "r:*", tarinfo=Member) as tar:
            for member in tar:
                if member.issparse() or member.size > MEMBER_BYTES:
                    report(member.name, f"larger than {MEMBER_BYTES // 2**20} MiB, or sparse")
                    continue
                stream = tar.extractfile(member) if member.isfile() else None
                if stream is not None:
                    yield member.name, stream.read()
            assert tar.fileobj is not None
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                report(shard.name, "truncated shard: the rest of it was not read")
    except Exception as error:  # noqa: BLE001 - over damaged bytes tarfile and zlib raise what is in no list
        report(shard.name, f"truncated shard: {str(error) or type(error).__name__}; the rest of it was not read")
