"""Pictures for the card of a repository: what an expert was trained on, and what it draws by itself."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch
from PIL import Image

from paris.models.conversion import Prediction
from paris.models.decoding import first_frame
from paris.models.distributed import local_device
from paris.models.ensemble import Ensemble
from paris.models.filenames import CONFIG, WEIGHTS
from paris.models.images import to_images
from paris.models.kinds import expert_of, latent_shape
from paris.models.networks import load_network
from paris.models.routing import Routing
from paris.models.sampling import sample
from paris.models.schedulers import make_scheduler
from paris.models.shards import ShardError, ShardSample, read_shard
from paris.models.text import open_text_encoder
from paris.models.videocodec import open_codec_of
from paris.protocol.errors import ParisError
from paris.protocol.genesis import Genesis
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import Manifest
from paris.protocol.records import Checkpoint
from paris.registry.store import Store

log = logging.getLogger(__name__)

SHEET_PICTURES, DRAWN_PICTURES, COLUMNS, THUMB_PX = 32, 8, 8, 64
DRAWN_STEPS: Final = 20
DRAWN_GUIDANCE: Final = 3.0
MOST_PARAMETERS: Final = 50_000_000
"""What a CPU draws a sheet with in seconds; larger experts are shown only where there is an accelerator."""


def contact_sheet(store: Store, genesis: Genesis, unit: str) -> bytes | None:
    """A PNG of the first pictures of a unit's cluster, or first frames of clips, from shards in the store, if any."""
    cluster = genesis.cluster(unit)
    if cluster is None:
        return None
    pictures: list[Image.Image] = []
    try:
        for one in _samples(store, genesis, cluster.shards):
            pictures.append(first_frame(one.picture))
            if len(pictures) == SHEET_PICTURES:
                break
    except (ShardError, OSError, ValueError):
        return None
    return _png(pictures) if pictures else None


def drawn_sheet(store: Store, genesis: Genesis, checkpoint: Checkpoint) -> bytes | None:
    """A PNG of what an expert draws by itself, from the first captions of its cluster that it was not trained on.

    None for a router, where the captions, the codec or the text encoder are not at hand, and where drawing would take
    this machine long: publishing waits for no picture.
    """
    cluster = genesis.cluster(checkpoint.unit)
    if cluster is None:
        return None
    try:
        captions = _captions(store, genesis, cluster.holdout)
        return _png(_drawn(store, genesis, checkpoint, captions)) if captions else None
    except (ParisError, ShardError, OSError, ValueError, RuntimeError) as error:
        log.info("the card of %s shows nothing drawn: %s", checkpoint.unit, error)
        return None


def _captions(store: Store, genesis: Genesis, shards: tuple[str, ...]) -> list[str]:
    captions: dict[str, None] = {}
    for one in _samples(store, genesis, shards):
        captions.setdefault(one.caption)
        if len(captions) == DRAWN_PICTURES:
            break
    return list(captions)


def _samples(store: Store, genesis: Genesis, shards: tuple[str, ...]) -> Iterator[ShardSample]:
    """The samples of those shards that are here."""
    if not store.path(genesis.data.manifest):
        return
    manifest = Manifest.from_bytes(store.get_bytes(genesis.data.manifest, LIMITS.blob_bytes))
    for name in shards:
        if path := store.path(manifest.entry(name).sha256):
            yield from read_shard(path)


@torch.no_grad()
def _drawn(store: Store, genesis: Genesis, checkpoint: Checkpoint, captions: list[str]) -> list[Image.Image]:
    device, recipe = local_device(), genesis.recipe(checkpoint.unit)
    text = open_text_encoder(genesis.text.kind, genesis.text.name, genesis.text.tokens)
    shape = latent_shape(genesis.model.expert)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = Manifest.from_bytes(store.get_bytes(checkpoint.manifest, LIMITS.blob_bytes))
        store.checkout(manifest.select(lambda entry: entry.name in {CONFIG, WEIGHTS}), folder / "expert")
        network = load_network(expert_of(genesis.model.expert), folder / "expert")
        if device.type == "cpu" and sum(p.numel() for p in network.parameters()) > MOST_PARAMETERS:
            raise ValueError("without an accelerator it would take long")
        codec_folder = None
        if genesis.codec.manifest:
            codec_folder = folder / "codec"
            store.checkout(
                Manifest.from_bytes(store.get_bytes(genesis.codec.manifest, LIMITS.blob_bytes)), codec_folder
            )
        codec = open_codec_of(shape, genesis.codec.kind, codec_folder)
        # The oracle asks no router, so one expert is an ensemble by itself.
        ensemble = Ensemble(
            [network.to(device)],
            torch.nn.Identity(),
            Routing("oracle"),
            predictions=[Prediction.of(recipe.model_dump())],
        )
        latents, _ = sample(
            ensemble,
            text.encode(captions).to(device),
            text.encode([""]).repeat(len(captions)).to(device),
            shape,
            make_scheduler("euler", float(recipe.time_shift)),
            steps=DRAWN_STEPS,
            guidance=DRAWN_GUIDANCE,
            seeds=range(len(captions)),
            labels_B=torch.zeros(len(captions), dtype=torch.long),
        )
        pictures = codec.decode(latents.cpu())
    return to_images(pictures[:, :, 0] if pictures.ndim == 5 else pictures)


def _png(pictures: list[Image.Image]) -> bytes:
    columns = min(COLUMNS, len(pictures))
    sheet = Image.new("RGB", (columns * THUMB_PX, -(-len(pictures) // columns) * THUMB_PX), "white")
    for i, picture in enumerate(pictures):
        small = picture.resize((THUMB_PX, THUMB_PX), Image.Resampling.LANCZOS)
        sheet.paste(small, (i % columns * THUMB_PX, i // columns * THUMB_PX))
    out = io.BytesIO()
    sheet.save(out, "PNG")
    return out.getvalue()
