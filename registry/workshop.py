"""Whatever a unit is trained, measured or replayed with, built from what its genesis says: networks, caches, trainers.

Contributors and auditors build the same things here, or nothing could ever come out equal.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from paris.models.cache import LatentCache
from paris.models.distributed import ALONE, Ranks, local_device
from paris.models.ingestion import ingest, picture_size
from paris.models.kinds import expert_of, latent_shape, router_of
from paris.models.latents import Autoencoder
from paris.models.objectives import Objective, RoutingObjective, expert_objective
from paris.models.precision import affordable
from paris.models.text import open_text_encoder
from paris.models.training import Trainer
from paris.models.videocodec import open_codec_of
from paris.protocol.errors import VerificationError

ROUTER = "router"
EVALUATION_SAMPLES = 256
"""Hold-out samples behind every published loss, or all where there are fewer."""


def initial_network(run: str, unit: str, architecture: Mapping[str, Any]) -> Any:
    """A network with the random weights every honest training of this unit begins with, on this process's device."""
    torch.manual_seed(int(hashlib.sha256(f"{run} {unit}".encode()).hexdigest()[:15], 16))
    network = (router_of if unit == ROUTER else expert_of)(architecture)(**architecture)
    torch.nn.Module.to(network, local_device())
    return network


def objective_of(unit: str, recipe: Mapping[str, Any]) -> Objective:
    """What a unit learns, as its recipe says."""
    return RoutingObjective() if unit == ROUTER else expert_objective(recipe)


def new_trainer(
    run: str,
    unit: str,
    architecture: Mapping[str, Any],
    recipe: Mapping[str, Any],
    cache: LatentCache,
    *,
    threads: int,
    precision: str | None = None,
    compiled: str | None = None,
    ranks: Ranks = ALONE,
) -> Trainer:
    """A trainer of one unit at step 0, in a named precision, or the recipe's as far as this machine can afford it."""
    return Trainer(
        initial_network(run, unit, architecture),
        objective_of(unit, recipe),
        cache,
        recipe,
        (run, unit),
        threads=threads,
        compiled=compiled,
        precision=precision or affordable(recipe["precision"], local_device()),
        ranks=ranks,
    )


def cache_path(
    run: str,
    shards: Sequence[Path],
    codec: Mapping[str, Any],
    text: Mapping[str, Any],
    network: Mapping[str, Any],
    folder: Path,
) -> Path:
    """Where `open_cache` keeps the cache of these shards."""
    parts = [shard.name + str(shard.stat().st_size) for shard in shards]
    what = [run, parts, codec["kind"], latent_shape(network), dict(text)]
    name = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]
    return folder / f"{name}.safetensors"


def open_cache(
    run: str,
    shards: Sequence[Path],
    codec: Mapping[str, Any],
    text: Mapping[str, Any],
    network: Mapping[str, Any],
    folder: Path,
    progress: Callable[[int], None] | None = None,
) -> LatentCache:
    """Open the cache of these shards, or make it: named by all that goes into it, so it is never stale.

    Args:
        run: The run's digest.
        shards: Files, in the genesis' order.
        codec: `kind` and `folder`, None for pixels.
        text: `kind`, `name`, `tokens` and `sha256` of the text encoder.
        network: Architecture of a network that learns from it: it says the shape of the latents.
        folder: Where caches are kept.
        progress: Told the samples encoded so far.

    Raises:
        VerificationError: the text encoder installed here is not the run's.
    """
    path = cache_path(run, shards, codec, text, network, folder)
    if path.exists():
        return LatentCache.open(path)
    encoder = open_text_encoder(text["kind"], text["name"], text["tokens"])
    if "sha256:" + encoder.identity()["sha256"].removeprefix("sha256:") != text["sha256"]:
        raise VerificationError(
            f"the text encoder {text['name']} installed here is not the one of this run",
            why="its weights have another digest than the genesis names",
            hint="Install the version the run's page names.",
        )
    opened = open_codec_of(latent_shape(network), codec["kind"], Path(codec["folder"]) if codec["folder"] else None)
    (picture_px, frames), device = picture_size(opened, latent_shape(network)), local_device()
    if isinstance(opened, Autoencoder):
        opened.to(device)
    return ingest(shards, opened, encoder, path, progress, picture_px=picture_px, frames=frames, device=device)


def be_deterministic() -> None:
    """Choose GPU kernels that sum in the same order every time, where there are such; the CPU's all do."""
    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
