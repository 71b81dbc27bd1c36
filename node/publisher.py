"""From a checkpoint folder the training child wrote to a signed, announced checkpoint of the run."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from paris.models.filenames import CONFIG, STATE, STATE_NOTE, WEIGHTS
from paris.node.announcer import Announcer
from paris.node.credentials import held
from paris.node.hubqueue import locator
from paris.node.jobs import checkpoint_folders
from paris.node.session import Place
from paris.protocol import envelope
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import FileEntry, Manifest
from paris.protocol.records import Checkpoint, Tip, open_checkpoint, statement
from paris.registry.atomic import remove_tree, write_json
from paris.registry.resolve import ResolvedUnit
from paris.registry.weights import METRICS

CHECKPOINT_FILES = (CONFIG, WEIGHTS, METRICS, STATE_NOTE, STATE)
PARENT_NOTE = "parent.json"
TIP_NOTE = "tip.json"


class Publisher:
    """Signs what this node trained and stands behind it.

    Contract: order of writes is files, manifest, statement, note of what was published, announcement; a crash in
    between loses no step, the restart finds the folder and publishes again. The full training state of older
    checkpoints is dropped, except the last but one.
    """

    def __init__(self, place: Place, announcer: Announcer) -> None:
        self._place, self._announcer = place, announcer

    def begin(self, parent: ResolvedUnit) -> None:
        """Note which checkpoint the training that starts now continues."""
        write_json(self._place.work(parent.unit) / PARENT_NOTE, {"checkpoint": parent.checkpoint})

    def unpublished(self, parent: ResolvedUnit) -> Path | None:
        """The folder that continues `parent` and was written, but not published, before this node went down."""
        work = self._place.work(parent.unit)
        continues = not parent.lineage or parent.lineage[-1].signer == self._place.peer.peer_id
        if not continues and (work / PARENT_NOTE).exists():
            continues = json.loads((work / PARENT_NOTE).read_text())["checkpoint"] == parent.checkpoint
        for step, folder in checkpoint_folders(work).items():
            from_step = json.loads((folder / METRICS).read_text())["from_step"]
            if continues and step > parent.step == from_step:
                return folder
        return None

    async def publish(self, folder: Path, parent: ResolvedUnit, fence: int) -> ResolvedUnit:
        """Store, sign and announce a checkpoint; return the unit with its lineage one segment longer.

        Args:
            folder: `checkpoint-<step>`, written whole by the training child.
            parent: The unit as it stood before this segment.
            fence: Sequence number of the claim it was trained under.
        """
        place, store = self._place, self._place.peer.home.store
        metrics = json.loads((folder / METRICS).read_text())
        manifest = await asyncio.to_thread(store.add_tree, folder, CHECKPOINT_FILES)
        signed = envelope.sign(
            "checkpoint", self._statement(metrics, manifest.digest, parent, fence), place.peer.identity
        )
        digest = store.put_bytes(signed)
        checkpoint = open_checkpoint(signed)
        grown = replace(
            parent,
            lineage=(*parent.lineage, checkpoint),
            digests=(*parent.digests, digest),
            providers=(place.peer.peer_id,),
        )
        await stand_behind(place, self._announcer, grown)
        self.begin(grown)
        self._forget_old_states(grown)
        return grown

    def _statement(self, metrics: dict[str, Any], manifest: str, parent: ResolvedUnit, fence: int) -> Checkpoint:
        genesis, unit = self._place.genesis, parent.unit
        cluster = genesis.cluster(unit)
        names = [name for c in ([cluster] if cluster else genesis.clusters) for name in c.shards]
        store = self._place.peer.home.store
        return statement(
            run=self._place.run,
            unit=unit,
            from_step=parent.step,
            to_step=metrics["to_step"],
            fence=fence,
            seed=genesis.recipe(unit).seed,
            manifest=manifest,
            parent=parent.checkpoint,
            start=None if parent.checkpoint else parent.start,
            shards=data_digests(store.get_bytes(genesis.data.manifest, LIMITS.blob_bytes), names),
            signer=self._place.peer.peer_id,
            versions=metrics["versions"],
            invocation=f"{unit}-{fence}-{metrics['to_step']}",
            started_s=metrics["started_s"],
            finished_s=metrics["finished_s"],
            loss_trace_micro=[(step, loss) for step, loss in metrics["loss_trace_micro"]],
            holdout_loss_micro=metrics["holdout_loss_micro"],
            credentials=held(self._place.peer.home, self._place.run).envelopes,
            internal={name: metrics[name] for name in ("begun_from",) if name in metrics},
        )

    def _forget_old_states(self, unit: ResolvedUnit) -> None:
        for old in unit.lineage[:-2]:
            forget_state(self._place, old.manifest)
        for step, folder in checkpoint_folders(self._place.work(unit.unit)).items():
            if step < unit.step:
                remove_tree(folder)


async def stand_behind(place: Place, announcer: Announcer, unit: ResolvedUnit) -> None:
    """Announce that this node holds and serves a unit's newest checkpoint, now and after every restart."""
    newest = unit.lineage[-1]
    fields = {
        "unit": unit.unit,
        "checkpoint": unit.checkpoint,
        "manifest": newest.manifest,
        "step": newest.to_step,
        "loss_micro": newest.holdout_loss_micro or 0,
    }
    await _announce_tip(place, announcer, fields)
    write_json(place.work(unit.unit) / TIP_NOTE, fields)


async def stand_behind_again(place: Place, announcer: Announcer) -> list[str]:
    """After a restart, announce what this node still holds; return the units."""
    units = []
    for unit in place.genesis.units():
        note = place.work(unit) / TIP_NOTE
        if note.exists():
            await _announce_tip(place, announcer, json.loads(note.read_text()))
            units.append(unit)
    return units


async def _announce_tip(place: Place, announcer: Announcer, fields: dict[str, Any]) -> None:
    """Announce a tip, from the moment the Hub holds the unit too with where it lies there."""

    def located() -> dict[str, Any]:
        return {**fields, **locator(place.peer.home, place.run, fields["unit"])}

    await announcer.keep("tip", fields["unit"], Tip, LIMITS.life_s["tip"], located)


def data_digests(manifest: bytes, names: list[str]) -> dict[str, str]:
    """Digests of the named shards."""
    wanted = set(names)
    return {entry.name: entry.sha256 for entry in Manifest.from_bytes(manifest).files if entry.name in wanted}


def held_manifest(place: Place, unit: str) -> str | None:
    """Manifest of the checkpoint of a unit this node stands behind."""
    note = place.work(unit) / TIP_NOTE
    return str(json.loads(note.read_text())["manifest"]) if note.exists() else None


def forget_state(place: Place, manifest: str) -> None:
    """Drop the full training state of an old checkpoint; its weights, manifest and statement stay for audits.

    A hostile manifest may call anything its training state, so nothing goes that something kept still names.
    """
    store = place.peer.home.store
    for entry in _files(place, manifest):
        if entry.name == STATE and entry.sha256 not in _needed(place):
            store.remove(entry.sha256)


def _needed(place: Place) -> set[str]:
    """Digests of every blob this node must not lose: the run's own files, and those of the tips it stands behind."""
    genesis = place.genesis
    manifests = [genesis.data.manifest, genesis.codec.manifest, genesis.start.manifest]
    notes = [place.work(unit) / TIP_NOTE for unit in genesis.units()]
    tips = [json.loads(note.read_text()) for note in notes if note.exists()]
    manifests += [tip["manifest"] for tip in tips]
    named = {entry.sha256 for digest in manifests if digest for entry in _files(place, digest)}
    return named | {digest for digest in manifests if digest} | {tip["checkpoint"] for tip in tips} | {place.run}


def _files(place: Place, manifest: str) -> tuple[FileEntry, ...]:
    store = place.peer.home.store
    if not store.path(manifest):
        return ()
    return Manifest.from_bytes(store.get_bytes(manifest, LIMITS.blob_bytes)).files
