"""Shards named on the command line, as the cache an ensemble's codec and text encoder make of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from paris.node.console import progress_bar
from paris.protocol.errors import UsageError

if TYPE_CHECKING:
    from paris.models.cache import LatentCache
    from paris.models.latents import Codec
    from paris.models.pipeline import ParisPipeline


def cached(shards: Sequence[Path], pipeline: ParisPipeline, folder: Path) -> LatentCache:
    """Open the cache of these shards in a folder, or make it.

    Its name holds what its bytes follow from: the shards' bytes, the codec and the text encoder with their weights, and
    the size of what is encoded.

    Raises:
        UsageError: a shard does not exist.
    """
    from paris.models.cache import LatentCache
    from paris.models.ingestion import ingest, picture_size

    for path in shards:
        if not path.is_file():
            raise UsageError(f"{path} does not exist", hint="`paris-node data fetch` lays the shards of a run out.")
    digests = {path: _digest(path) for path in shards}
    side_px, frames = picture_size(pipeline.codec, pipeline.shape)
    what = {
        "shards": sorted(digests.values()),
        "codec": _identity(pipeline.codec),
        "text": {**pipeline.text.identity(), "tokens": pipeline.text.tokens},
        "shape": pipeline.shape,
        "picture_px": side_px,
        "frames": frames,
    }
    name = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:32]
    made = folder / f"cache-{name}.safetensors"
    if made.exists():
        return LatentCache.open(made)
    with progress_bar() as bar:
        task = bar.add_task("encoding, Ctrl-C is safe", total=None, unit="samples")
        return ingest(
            sorted(shards, key=lambda path: digests[path]),
            pipeline.codec,
            pipeline.text,
            made,
            progress=lambda done: bar.update(task, completed=done),
            picture_px=side_px,
            frames=frames,
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _identity(codec: Codec) -> str:
    """What tells a codec from any other: its kind, and of an autoencoder the configuration and every weight."""
    from paris.models.checkpoints import state_digest
    from paris.models.latents import Autoencoder

    if not isinstance(codec, Autoencoder):
        return codec.kind
    config = {name: value for name, value in codec.model.config.items() if not name.startswith("_")}
    return state_digest({"codec": codec.model.state_dict()}, {"kind": codec.kind, "config": config})
