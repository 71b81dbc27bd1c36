"""From a resolved run to a folder people can use: weights, and beside them the proofs of where they come from."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paris.models.conversion import Prediction
from paris.models.filenames import CONFIG, WEIGHTS
from paris.models.index import write_index
from paris.protocol.errors import RecordError, UnavailableError, UsageError
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import Manifest
from paris.registry.atomic import (
    explained_disk_errors,
    remove_tree,
    replace_directory,
    temporary_beside,
    write_bytes,
    write_json,
)
from paris.registry.library import Library, Progress
from paris.registry.resolve import ResolvedRun, ResolvedUnit
from paris.registry.weights import model_files, weight_faults

PIPELINE_PARTS = frozenset(
    {"model_index.json", "text_encoder.json", "scheduler", "vae", "router", "base", "centroids", "provenance"}
)


async def fetch_ensemble(
    library: Library,
    resolved: ResolvedRun,
    folder: Path,
    providers: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> int:
    """Fetch every expert and the router and lay them out as a `ParisPipeline` folder, all at once or not at all.

    Args:
        library: Store and network.
        resolved: The run, with a verified checkpoint of every unit.
        folder: Where the ensemble goes; an earlier one there is replaced.
        providers: Peers to ask besides those the tips name.
        progress: Told bytes as they arrive.

    Returns:
        Bytes that came over the network.

    Raises:
        UnavailableError: a unit has no checkpoint yet, or no peer serves it now; what was fetched is kept.
        RecordError: a checkpoint lacks its weights, names files larger than its network can need, or holds weights
            that are not finite or of another network.
        UsageError: `folder` holds something that is no part of an ensemble and would be lost.
        ResourceError: the disk is full.
    """
    folder = _replaceable(folder)
    if missing := [unit.unit for unit in resolved.units.values() if not unit.lineage]:
        raise UnavailableError(
            f"the run has no checkpoint of {', '.join(missing)} yet",
            why="an ensemble needs every expert and the router",
            hint="See how far it is with `paris-node status`, or help with `paris-node start`.",
        )
    fetched_bytes = 0
    manifests: dict[str, Manifest] = {}
    for unit in resolved.units.values():
        serving = (*unit.providers, *providers)
        with _of(f"{unit.unit} at step {unit.step}"):
            manifest = await library.manifest(str(unit.manifest), serving)
            manifests[unit.unit] = await asyncio.to_thread(model_files, manifest, resolved.genesis, unit.unit)
            fetched_bytes += await library.files(manifests[unit.unit].files, serving, progress)
        await asyncio.to_thread(_refuse_broken, library, resolved, unit, manifests[unit.unit])
    codec = None
    if resolved.genesis.codec.manifest:
        with _of("the autoencoder"):
            codec = await library.manifest(resolved.genesis.codec.manifest, providers)
            fetched_bytes += await library.files(codec.files, providers, progress)
    with suppress(UnavailableError):  # only an audit of the folder alone wants the list of shards
        await library.blob(resolved.genesis.data.manifest, providers)
    await asyncio.to_thread(_lay_out, library, resolved, manifests, codec, folder)
    return fetched_bytes


@contextmanager
def _of(what: str) -> Iterator[None]:
    """Say of a file that is not to be had what it is a part of."""
    try:
        yield
    except UnavailableError as error:
        raise UnavailableError(f"{what} is not to be had whole: {error.what}", error.why, error.hint) from error


def _replaceable(folder: Path) -> Path:
    """The folder's whole path. An earlier ensemble may be replaced; whatever else lies there is somebody's."""
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", hint="Choose a folder")
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    foreign = [name for name in names if name not in PIPELINE_PARTS and not name.startswith("expert_")]
    ours = (folder / "provenance" / "run.json").is_file()
    if foreign or (names and not ours):
        raise UsageError(
            f"{folder} holds {(foreign or names)[0]}, which would be lost",
            why="it is no part of an ensemble fetched earlier, and only such a one is replaced, as a whole",
            hint="Choose a new or empty folder",
        )
    return folder


def _refuse_broken(library: Library, resolved: ResolvedRun, unit: ResolvedUnit, manifest: Manifest) -> None:
    """Signed is not sound: a stranger's weights are looked at before anybody draws with them."""
    entries = [manifest.entry(name) for name in (CONFIG, WEIGHTS)]
    config, weights = (library.store.path(entry.sha256) for entry in entries)
    assert config
    assert weights
    if faults := weight_faults(config, weights, resolved.genesis, unit.unit):
        for entry in entries:
            library.store.verify(entry)  # a disk may have spoiled them: then nobody signed this
        raise RecordError(
            f"the weights of {unit.unit} at step {unit.step} cannot be used",
            f"{faults[0]} They are signed by {unit.holders[-1]}",
            "Wait for another checkpoint of it; `paris-node audit` shows who trained what",
        )


def _lay_out(
    library: Library, resolved: ResolvedRun, manifests: dict[str, Manifest], codec: Manifest | None, folder: Path
) -> None:
    store, genesis = library.store, resolved.genesis
    staging = temporary_beside(folder)
    try:
        for unit, manifest in manifests.items():
            store.checkout(manifest, staging / unit.replace("cluster-", "expert_"))
        if codec:
            store.checkout(codec, staging / "vae")
        text = genesis.text.model_dump(mode="json")
        with explained_disk_errors(folder):
            recipes = [genesis.recipe(f"cluster-{k}") for k in range(len(genesis.clusters))]
            objectives = [Prediction.of(recipe.model_dump()).names() for recipe in recipes]
            absent = [k for k in range(len(genesis.clusters)) if f"cluster-{k}" not in manifests]
            measured = {"top_k": resolved.top_k} if resolved.top_k else None
            shift = float(genesis.training.expert.time_shift)
            write_index(
                staging, len(genesis.clusters), genesis.codec.kind, text,
                shift=shift, objectives=objectives, measured=measured, absent=absent,
            )  # fmt: skip
        _write_provenance(library, resolved, staging / "provenance")
        replace_directory(staging, folder)
    finally:
        remove_tree(staging)


def _write_provenance(library: Library, resolved: ResolvedRun, folder: Path) -> None:
    """The signed genesis, every statement and every newest manifest, so that the folder can be audited by itself."""
    write_bytes(folder / "genesis.json", library.store.get_bytes(resolved.run, LIMITS.blob_bytes))
    for name, digest in resolved.governing.items():
        write_bytes(folder / name, library.store.get_bytes(digest, LIMITS.blob_bytes))
    if library.store.path(resolved.genesis.data.manifest):
        write_bytes(folder / "data.json", library.store.get_bytes(resolved.genesis.data.manifest, LIMITS.blob_bytes))
    for unit in resolved.units.values():
        for digest, segment in zip(unit.digests, unit.lineage, strict=True):
            name = f"{unit.unit}-{segment.to_step:08d}.checkpoint.json"
            write_bytes(folder / name, library.store.get_bytes(digest, LIMITS.blob_bytes))
        newest = library.store.get_bytes(str(unit.manifest), LIMITS.blob_bytes)
        write_bytes(folder / f"{unit.unit}.manifest.json", newest)
    write_json(
        folder / "run.json", {"run": resolved.run, "units": {u.unit: _summary(u) for u in resolved.units.values()}}
    )


def _summary(unit: ResolvedUnit) -> dict[str, object]:
    return {"checkpoint": unit.checkpoint, "step": unit.step, "trained_by": list(unit.holders)}
