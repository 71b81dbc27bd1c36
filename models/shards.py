"""Reading webdataset shards: plain tars of a picture or clip `<key>.<suffix>` and `<key>.json`, one pair a sample."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np
from PIL import Image

from paris.models.decoding import DecodeError, first_frame, spread_frames

TAR_END_BYTES = 1024
HEADER_BYTES = 2**20
"""Most that may be said of one member besides its first header, such as a long name; usual are a hundred bytes."""
NO_LABEL = -1
_EXTENSIONS: Final = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip
_SPARSE = "a sparse member, whose map may be endless"


class ShardError(ValueError):
    """A shard is cut short or holds something that is not a sample; the message names the shard."""


class Member(tarfile.TarInfo):
    """A member of a tar that says a bounded lot of itself: `tarfile` reads all of it, before anybody can refuse.

    It also follows a negative size backwards, for ever (CVE-2025-8194).
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """Read one header, as `tarfile.TarInfo` does.

        Raises:
            tarfile.ReadError: it is that of a sparse member, or extends another one by more than `HEADER_BYTES`.
        """
        member = super().frombuf(buf, encoding, errors)
        if member.type in _EXTENSIONS and member.size > HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        if member.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError(_SPARSE)
        return member

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> Self:
        """Read a member's headers; `tarfile.TarInfo` calls this again for each further one.

        Raises:
            tarfile.ReadError: they are longer than `HEADER_BYTES` together, or say that it has less than no bytes.
        """
        assert tar.fileobj is not None
        if tar.fileobj.tell() - tar.offset > HEADER_BYTES:
            raise tarfile.ReadError(f"headers of more than {HEADER_BYTES:,} bytes")
        member = super().fromtarfile(tar)
        if member.size < 0:
            raise tarfile.ReadError(f"a member of {member.size:,} bytes")
        return member

    def _proc_gnusparse_10(self, *_: object) -> None:
        raise tarfile.ReadError(_SPARSE)


@dataclass(frozen=True)
class ShardSample:
    """One picture or clip with its caption and, where the shard says so, its cluster (else -1)."""

    shard: Path
    key: str
    picture: bytes
    caption: str
    cluster: int

    def pixels(self, side_px: int, frames: int | None = None) -> np.ndarray:
        """Decode to float32 in [-1, 1]; what is larger is box-averaged, anything is made square.

        Args:
            side_px: of the square.
            frames: F for a clip (3, F, side, side), its frames at equal distances over the whole; None for the picture
                (3, side, side), of a clip the first frame.

        Raises:
            ShardError: where the bytes are no picture and no clip.
        """
        try:
            images = [first_frame(self.picture)] if frames is None else spread_frames(self.picture, frames)
        except DecodeError as error:
            raise _unreadable(self.shard, self.key, error) from error
        levels_FHW3 = np.stack([_squared(image, side_px) for image in images])
        pixels = levels_FHW3.astype(np.float32).transpose(3, 0, 1, 2) / 127.5 - 1
        return pixels[:, 0] if frames is None else pixels


def _squared(image: Image.Image, side_px: int) -> np.ndarray:
    size = side_px, side_px
    return np.asarray(image if image.size == size else image.resize(size, Image.Resampling.BOX))


def read_shard(path: Path) -> Iterator[ShardSample]:
    """Yield a shard's samples in order.

    Raises:
        ShardError: where the tar is truncated (at a member's edge too), or a sample is incomplete or unreadable, or
            says that it is larger than the shard.
    """
    pending: dict[str, dict[str, bytes]] = {}
    try:
        size_bytes = path.stat().st_size
        # A compressed one may hold a thousand times its size.
        with tarfile.open(path, "r:", tarinfo=Member) as tar:
            for member in tar:
                _require_within(path, member, size_bytes)
                stream = tar.extractfile(member) if member.isfile() else None  # links would say a member many times
                if stream is None:
                    continue
                key, _, suffix = member.name.rpartition(".")
                parts = pending.setdefault(key, {})
                parts["json" if suffix == "json" else "picture"] = stream.read()
                if len(parts) == 2:
                    yield _sample(path, key, pending.pop(key))
            end_bytes = tar.offset
    except ShardError:
        raise
    except Exception as error:  # over hostile headers tarfile raises what is in no list, MemoryError too
        raise _truncated(path, str(error) or type(error).__name__) from error
    with path.open("rb") as raw:
        raw.seek(end_bytes)
        if raw.read(TAR_END_BYTES) != bytes(TAR_END_BYTES):
            raise _truncated(path, "the end mark of the tar is missing")
    if pending:
        raise ShardError(
            f"The shard {path} holds a sample {min(pending)!r} that lacks its picture or its json. Rebuild the shard."
        )


def _require_within(path: Path, member: tarfile.TarInfo, size_bytes: int) -> None:
    if member.issparse() or member.size > size_bytes:
        raise ShardError(f"The shard {path} says that {member.name!r:.80} is larger than it. Rebuild it.")


def _sample(path: Path, key: str, parts: dict[str, bytes]) -> ShardSample:
    try:
        meta = json.loads(parts["json"])
        return ShardSample(path, key, parts["picture"], str(meta["caption"]), int(meta.get("cluster", NO_LABEL)))
    except (KeyError, ValueError, TypeError) as error:
        raise _unreadable(path, key, error) from error


def _unreadable(path: Path, key: str, error: Exception) -> ShardError:
    return ShardError(
        f"The shard {path} holds a sample {key!r} that cannot be read ({error!r}). "
        "A sample is a picture and a json with a 'caption'. Fetch the shard again or rebuild it."
    )


def _truncated(path: Path, reason: str) -> ShardError:
    return ShardError(
        f"The shard {path} is not a whole tar: {reason}. It was probably cut short while it was copied or downloaded. "
        "Fetch it again."
    )
