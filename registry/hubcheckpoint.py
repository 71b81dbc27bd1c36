"""What is published of a checkpoint and of a run: which files go where in a repository.

A contributor's repository holds parts of a `ParisPipeline` folder, and beside them the proofs:

    expert_0/  config.json, diffusion_pytorch_model.safetensors (bf16 average), metrics.json, manifest.json; the card's
               contact.png (of its cluster) and, once it is complete, samples.png (drawn by it)
    router/    likewise, without pictures
    scheduler/   the sampler's settings
    provenance/  genesis.json, <unit>-<step>.checkpoint.json of the whole lineage
    paris.json   the table of contents, written last
    README.md    the model card

A curator's holds the genesis, the data's manifest, the codec as `vae/`, peers.json, heads.json and the same table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from paris.models.filenames import CONFIG, STATE, STATE_NOTE, WEIGHTS
from paris.models.schedulers import make_scheduler
from paris.protocol.errors import UnavailableError
from paris.protocol.genesis import Genesis
from paris.protocol.identity import Identity
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import FileEntry, Manifest
from paris.registry.hubindex import Index, Lying, Newest, described, folder_of
from paris.registry.hublineage import Lineage, lineage_of
from paris.registry.hubwriter import Change
from paris.registry.modelcard import CARD, DRAWN, SHEET, CardUnit, contributor_card
from paris.registry.oms import seal
from paris.registry.showcase import contact_sheet, drawn_sheet
from paris.registry.store import Store
from paris.registry.weights import METRICS

MANIFEST: Final = "manifest.json"
GENESIS: Final = "provenance/genesis.json"
SCHEDULER: Final = "scheduler/scheduler_config.json"
SMALL_BYTES: Final = 2**20


def checkpoint_change(
    store: Store,
    genesis: Genesis,
    run: str,
    repository: str,
    checkpoint: str,
    *,
    full_state: bool = False,
    identity: Identity | None = None,
) -> Callable[[Index], Change | None]:
    """What a repository still lacks of a checkpoint, as a function of its table of contents.

    Args:
        store: Holds the checkpoint and its lineage.
        genesis: Of the run.
        run: The run's digest.
        repository: `owner/name`, for the card.
        checkpoint: Digest of the statement.
        full_state: Publish the training state too, where it is still here.
        identity: Seals the repository with a `model.sig`, see `oms.py`; None: it has none.

    Raises:
        UnavailableError: part of it is not in the store any more.
    """
    lineage = lineage_of(store, checkpoint)
    unit, step = lineage.newest.unit, lineage.newest.to_step
    files, digests = _files(store, genesis, run, lineage, full_state=full_state)
    sealing = None
    if identity:
        beside, sealing = seal(repository, identity)
        files |= beside
        digests |= described(files)

    def change(index: Index) -> Change | None:
        there = index.units.get(unit)
        if there and (there.checkpoint == checkpoint or there.step > step):
            return None
        lacking = {path: data for path, data in files.items() if index.files.get(path) != digests[path]}
        units = {**index.units, unit: Newest(checkpoint=checkpoint, step=step)}
        known = {**dict.fromkeys(index.files), **dict.fromkeys(files)}
        rows = [_card_unit(store, name, newest, known) for name, newest in sorted(units.items())]
        lacking[CARD] = contributor_card(genesis, run, repository, rows).encode()
        title = f"{unit} at step {step} of {genesis.target_steps(unit)}"
        return Change(title, lacking, {unit: units[unit]}, digests=digests, seal=sealing)

    return change


def _files(
    store: Store, genesis: Genesis, run: str, lineage: Lineage, *, full_state: bool
) -> tuple[dict[str, Path | bytes], dict[str, Lying]]:
    """Every file of a checkpoint by its path in the repository, and what each is."""
    newest, unit = lineage.newest, lineage.newest.unit
    folder = folder_of(unit)
    data = store.get_bytes(newest.manifest, LIMITS.blob_bytes)
    files: dict[str, Path | bytes] = {f"{folder}/{MANIFEST}": data, GENESIS: store.get_bytes(run, LIMITS.blob_bytes)}
    digests: dict[str, Lying] = {}
    optional = {METRICS, *((STATE, STATE_NOTE) if full_state else ())}
    for entry in Manifest.from_bytes(data).files:
        if entry.name not in {CONFIG, WEIGHTS, *optional}:
            continue
        found = _content(store, entry)
        if found is None and entry.name in optional:
            continue
        if found is None:
            raise UnavailableError(f"{entry.name} of {unit} at step {newest.to_step} is not in the store any more")
        files[f"{folder}/{entry.name}"] = found
        digests[f"{folder}/{entry.name}"] = Lying(sha256=entry.sha256, size=entry.size)
    for digest, segment in zip(lineage.digests, lineage.segments, strict=True):
        path = f"provenance/{unit}-{segment.to_step:08d}.checkpoint.json"
        files[path] = store.get_bytes(digest, LIMITS.blob_bytes)
    files[SCHEDULER] = _scheduler(genesis)
    if sheet := contact_sheet(store, genesis, unit):
        files[f"{folder}/{SHEET}"] = sheet
    complete = newest.to_step == genesis.target_steps(unit)
    if complete and (drawn := drawn_sheet(store, genesis, newest)):
        files[f"{folder}/{DRAWN}"] = drawn
    return files, {**digests, **described(files)}


def _content(store: Store, entry: FileEntry) -> Path | bytes | None:
    path = store.path(entry.sha256)
    if path is None:
        return None
    return path if entry.name.endswith(".safetensors") else store.get_bytes(entry.sha256, SMALL_BYTES)


def _scheduler(genesis: Genesis) -> bytes:
    """The sampler's settings, as diffusers reads them: its times are shifted as those of the training were."""
    return str(make_scheduler("euler", float(genesis.training.expert.time_shift)).to_json_string()).encode()


def _card_unit(store: Store, unit: str, newest: Newest, known: Mapping[str, object]) -> CardUnit:
    """A unit as the card tells of it; of what another machine published here, only what the table says."""
    folder = folder_of(unit)
    pictures = tuple(name for name in (SHEET, DRAWN) if f"{folder}/{name}" in known)
    has_state = f"{folder}/{STATE}" in known
    try:
        lineage = lineage_of(store, newest.checkpoint)
    except UnavailableError:
        return CardUnit(unit, newest.step, newest.checkpoint, None, (), pictures, has_state)
    loss = lineage.newest.holdout_loss_micro
    return CardUnit(unit, newest.step, newest.checkpoint, loss, lineage.holders, pictures, has_state)
