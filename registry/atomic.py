"""Writes that are wholly there or not there at all: temporary file, fsync, rename, fsync of the folder.

Everything in paris that matters on disk is written through this file. After a crash, kill -9 included, the final name
holds either the old bytes or the new ones; what may stay behind is a temporary file, which `sweep` removes later.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from paris.protocol.errors import ResourceError

TEMPORARY_SUFFIX = ".paris-tmp"
STALE_TEMPORARY_S = 3600.0
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def temporary_beside(path: Path) -> Path:
    """Return a fresh name beside `path` (same file system, so that a rename is atomic), recognised by `sweep`."""
    return path.with_name(f".{path.name[:64]}.{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")


def sync_file(path: Path) -> None:
    """Make the bytes of a file survive a power cut; of a folder, the names in it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(folder: Path) -> Path:
    """Create `folder` and its parents durably and return it."""
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync_file(made.parent)
    return folder


@contextmanager
def explained_disk_errors(path: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn the operating system's full-disk errors into a sentence.

    Raises:
        ResourceError: there is no room (or quota, or allowed file size) for `needed_bytes` at `path`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        free_bytes = shutil.disk_usage(path.parent).free
        need = "" if needed_bytes is None else f"{needed_bytes:,} bytes are needed; "
        raise ResourceError(
            f"There is no room to write {path}",
            f"{need}{free_bytes:,} bytes are free there ({os.strerror(error.errno or 0)})",
            "Free some space (or raise the quota or file size limit) and run the same command again: nothing was lost",
        ) from error


@contextmanager
def new_file(path: Path, *, mode: int = 0o666, needed_bytes: int | None = None) -> Iterator[BinaryIO]:
    """Open a new file that is synced when the block ends well, and removed when it does not.

    Args:
        path: its name, usually from `temporary_beside`; a file that is there already is an error.
        mode: permission bits, before the umask.
        needed_bytes: expected size, for the message of a full disk.

    Raises:
        ResourceError: the disk is full.
    """
    make_directory(path.parent)
    with explained_disk_errors(path, needed_bytes):
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(handle, "wb") as out:
                yield out
                out.flush()
                os.fsync(handle)
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def rename(finished: Path, path: Path) -> Path:
    """Give a synced file the name `path` durably, over whatever has it, and return that name."""
    make_directory(path.parent)
    finished.replace(path)
    sync_file(path.parent)
    return path


@contextmanager
def replacing(path: Path, *, mode: int = 0o666, needed_bytes: int | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file that takes the name `path` when the block ends well, and vanishes when it does not.

    Arguments and errors are those of `new_file`.
    """
    temporary = temporary_beside(path)
    with new_file(temporary, mode=mode, needed_bytes=needed_bytes) as out:
        yield out
    rename(temporary, path)


def write_bytes(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write `data` to `path` atomically and durably; see `replacing`."""
    with replacing(path, mode=mode, needed_bytes=len(data)) as out:
        out.write(data)


def json_bytes(value: Any) -> bytes:
    """Return `value` as JSON for people: sorted keys, indented, one final newline. Equal values give equal bytes."""
    return f"{json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)}\n".encode()


def write_json(path: Path, value: Any, *, mode: int = 0o666) -> None:
    """Write `value` as JSON to `path` atomically and durably; see `json_bytes`."""
    write_bytes(path, json_bytes(value), mode=mode)


def replace_directory(staging: Path, folder: Path) -> None:
    """Give the finished folder `staging` the name `folder`; what stood there before is removed.

    POSIX has no rename over a folder that is not empty, so for an instant neither stands there: never half of one.
    """
    old = temporary_beside(folder)
    if folder.is_dir():
        folder.rename(old)
    staging.rename(folder)
    sync_file(folder.parent)
    remove_tree(old)


def remove_tree(path: Path) -> None:
    """Remove a file or a folder with all it holds; nothing happens where it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sweep(folder: Path, older_than_s: float = STALE_TEMPORARY_S) -> int:
    """Remove temporary files under `folder` that nobody has written to for `older_than_s`: their writer was killed.

    Returns:
        How many were removed.
    """
    oldest = time.time() - older_than_s
    removed = 0
    for left_over in folder.rglob(f".*{TEMPORARY_SUFFIX}"):
        with suppress(FileNotFoundError):  # another process sweeps too
            if left_over.stat().st_mtime < oldest:
                remove_tree(left_over)
                removed += 1
    return removed
