"""Shards named on the command line, as the cache an ensemble's codec and text encoder make of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paris.node.console import progress_bar
from paris.protocol.errors import UsageError

if TYPE_CHECKING:
    from paris.models.cache import LatentCache
    from paris.models.pipeline import ParisPipeline


def cached(shards: Sequence[Path], pipeline: ParisPipeline, folder: Path) -> LatentCache:
    """Open the cache of these shards in a folder, or make it.

    Raises:
        UsageError: a shard does not exist.
    """
    from paris.models.cache import LatentCache
    from paris.models.ingestion import ingest, picture_size

    for path in shards:
        if not path.is_file():
            raise UsageError(f"{path} does not exist", hint="`paris-node data fetch` lays the shards of a run out.")
    parts = sorted(f"{path.resolve()} {path.stat().st_size}" for path in shards)
    made = folder / f"cache-{hashlib.sha256(chr(10).join(parts).encode()).hexdigest()[:16]}.safetensors"
    if made.exists():
        return LatentCache.open(made)
    side_px, frames = picture_size(pipeline.codec, pipeline.shape)
    with progress_bar() as bar:
        task = bar.add_task("encoding, Ctrl-C is safe", total=None, unit="samples")
        return ingest(
            shards,
            pipeline.codec,
            pipeline.text,
            made,
            progress=lambda done: bar.update(task, completed=done),
            picture_px=side_px,
            frames=frames,
        )
