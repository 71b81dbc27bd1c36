"""Reading webdataset shards: plain tars of `<key>.<picture suffix>` and `<key>.json` members, one pair a sample."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

PICTURE_SUFFIXES = frozenset({"webp", "png", "jpg", "jpeg"})
TAR_END_BYTES = 1024
NO_LABEL = -1


class ShardError(ValueError):
    """A shard is cut short or holds something that is not a sample; the message names the shard."""


@dataclass(frozen=True)
class ShardSample:
    """One picture with its caption and, where the shard says so, its cluster (else -1)."""

    shard: Path
    key: str
    picture: bytes
    caption: str
    cluster: int

    def pixels(self, side_px: int) -> np.ndarray:
        """Decode to (3, side, side) float32 in [-1, 1]; a larger picture is box-averaged, any is made square.

        Raises:
            ShardError: where the bytes are no picture.
        """
        try:
            image: Image.Image = Image.open(io.BytesIO(self.picture)).convert("RGB")
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise _unreadable(self.shard, self.key, error) from error
        if image.size != (side_px, side_px):
            image = image.resize((side_px, side_px), Image.Resampling.BOX)
        return np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1


def read_shard(path: Path) -> Iterator[ShardSample]:
    """Yield a shard's samples in order.

    Raises:
        ShardError: where the tar is truncated (at a member's edge too), or a sample is incomplete or unreadable.
    """
    pending: dict[str, dict[str, bytes]] = {}
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                stream = tar.extractfile(member)
                if stream is None:
                    continue
                key, _, suffix = member.name.rpartition(".")
                parts = pending.setdefault(key, {})
                parts["json" if suffix == "json" else "picture"] = stream.read()
                if len(parts) == 2:
                    yield _sample(path, key, pending.pop(key))
            end_bytes = tar.offset
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _truncated(path, str(error)) from error
    with path.open("rb") as raw:
        raw.seek(end_bytes)
        if raw.read(TAR_END_BYTES) != bytes(TAR_END_BYTES):
            raise _truncated(path, "the end mark of the tar is missing")
    if pending:
        raise ShardError(
            f"The shard {path} holds a sample {min(pending)!r} that lacks its picture or its json. Rebuild the shard."
        )


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
