"""Making a run: captioned data in, clusters, shards and a signed genesis out; the digest of the genesis is the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path

from paris.models.checkpoints import CheckpointError
from paris.models.filenames import CONFIG, WEIGHTS
from paris.models.inspect import check_config, check_weights
from paris.models.networks import read_config
from paris.models.presets import TEXT_ENCODERS, Preset
from paris.models.text import TextEncoder, open_text_encoder
from paris.models.video_presets import EVERY_PRESET
from paris.models.videocodec import open_codec_of
from paris.protocol import envelope
from paris.protocol.curation import Admission
from paris.protocol.errors import ResourceError, UsageError, VerificationError
from paris.protocol.genesis import Codec, Copies, Lease, RunName, Start
from paris.protocol.identity import Identity
from paris.protocol.records import Genesis
from paris.protocol.schema import Payload
from paris.registry.preparation import Prepared, Wanted, alone_in, prepare
from paris.registry.recipes import PLANS, Plan
from paris.registry.runkey import RunKey
from paris.registry.samples import Rejects, Source
from paris.registry.store import Store
from paris.registry.trainable import recipe_problem

Progress = Callable[[str, int, int], None]

PACKAGED_STARTS = {"tiny": "base", "video-tiny": "video-base"}
"""Folder of the start that comes with the package, by the preset it is of."""

PACKAGED_CODEC = "autoencoder"


@dataclass(frozen=True)
class Choices:
    """What a curator chooses.

    Attributes:
        name: Name of the run.
        clusters: K, the number of experts.
        preset: Name of a preset of `paris.models.presets`.
        features: What clusters are made of, see `paris.registry.features.parse_features`.
        start: `scratch`, `base` (the packaged start, where the preset has one) or a folder of exported weights.
        admitted: Peer ids that may contribute; none means open to everybody.
        plan: Recipes, lease times, copies.
        codec: Folder of an autoencoder as diffusers saves it; None: the one that comes with the package.
        wanted: How the data are prepared; its features are those above.
    """

    name: str
    clusters: int
    preset: str
    features: str
    start: str
    admitted: tuple[str, ...]
    plan: Plan
    codec: Path | None = None
    wanted: Wanted = field(default_factory=Wanted)

    @classmethod
    def default(cls, name: str, clusters: int, preset: str) -> Choices:
        """A preset's own choices.

        Raises:
            UsageError: there is no such preset.
        """
        if preset not in PLANS:
            choice = f"Choose one of {', '.join(PLANS)}; `paris-node models` says what each needs."
            why = (
                "the text encoders it was made for are not among those of this version"
                if preset in EVERY_PRESET
                else ""
            )
            raise UsageError(f"there is no preset {preset!r} to make a run of", why, choice)
        start = "base" if preset in PACKAGED_STARTS else "scratch"
        return cls(name, clusters, preset, "text", start, (), PLANS[preset])


@dataclass(frozen=True)
class Created:
    """A run that exists now, in the curator's store."""

    key: RunKey
    genesis: Genesis
    rejects: Rejects
    prepared: Prepared


def create_run(
    source: Source,
    choices: Choices,
    curator: Identity,
    store: Store,
    work: Path,
    now_s: int,
    progress: Progress,
    cache: Path | None = None,
) -> Created:
    """Cluster and shard the data, put everything a contributor needs into the store, and sign the genesis.

    Equal data, choices, curator and time give an equal run. Interrupted, the same call goes on with what was looked at
    and encoded (in `cache`, by default beside the work folder) and with the shards that are whole.

    Raises:
        UsageError: a choice is impossible (said before the data are read), too few samples for so many clusters, or
            another process makes this run.
        ResourceError: the disk is full, or the text encoder is not installed.
    """
    preset = EVERY_PRESET[choices.preset]
    rules = _rules(choices, preset, store)
    text = open_text_of(preset)
    wanted = replace(choices.wanted, features=choices.features)
    looks = cache or looks_folder(work.parent.parent)
    with alone_in(work):
        prepared = prepare(source, choices.clusters, wanted, text, work, looks, progress)
        data = store.add_tree(work, prepared.files)
    trained = sum(c.samples for c in prepared.clusters)
    genesis = Genesis.parse(
        {
            **rules.model_dump(mode="json"),
            "version": 1,
            "prev": None,
            "created": now_s,
            "curators": {"keys": [curator.peer_id], "threshold": 1},
            "model": {
                "preset": preset.name,
                "expert": preset.expert,
                "router": {**preset.router, "clusters": choices.clusters},
            },
            "training": {
                "expert": choices.plan.expert.model_dump(mode="json"),
                "router": choices.plan.router.model_dump(mode="json"),
            },
            "text": {**text.identity(), "sha256": _digest(text.identity()["sha256"]), "tokens": preset.text_tokens},
            "data": {
                "name": source.name,
                "license": source.license,
                "manifest": data.digest,
                "split_key": source.split_key,
                "features": prepared.survey.features,
                "samples": trained,
                "holdout_samples": sum(c.holdout_samples for c in prepared.clusters),
            },
            "clusters": [asdict(c) for c in prepared.clusters],
        }
    )
    run = store.put_bytes(envelope.sign("genesis", genesis, curator))
    return Created(RunKey(run), genesis, prepared.rejects, prepared)


class _Rules(Payload):
    """The part of a genesis that needs no data, so that what is wrong with it shows before hours of clustering."""

    name: RunName
    admission: Admission
    codec: Codec
    start: Start
    lease: Lease
    replicas: Copies


def _rules(choices: Choices, preset: Preset, store: Store) -> _Rules:
    plan = choices.plan
    if problem := recipe_problem(plan.expert, preset) or recipe_problem(plan.router, preset):
        raise UsageError("nobody could train this run", problem, "Correct the number named there")
    fields = {
        "name": choices.name,
        "admission": {"policy": "list" if choices.admitted else "open", "keys": list(choices.admitted)},
        "codec": {"kind": preset.codec, "manifest": _codec_manifest(choices.codec, preset, store)},
        "start": _start(choices, preset, store),
        "lease": {"life_s": plan.life_s, "settle_s": plan.settle_s, "progress_s": plan.progress_s},
        "replicas": plan.replicas,
    }
    try:
        return _Rules.parse(fields)
    except VerificationError as error:
        raise UsageError("this run cannot be made as asked", error.why, "Correct what is named there") from error


def open_text_of(preset: Preset) -> TextEncoder:
    """Return the text encoder of a preset.

    Raises:
        ResourceError: it is not here.
    """
    kind, name = TEXT_ENCODERS[preset.expert["text_dim"]]
    try:
        return open_text_encoder(kind, name, preset.text_tokens)
    except ValueError as error:
        raise ResourceError(str(error)) from error


def _digest(hexadecimal: str) -> str:
    return "sha256:" + hexadecimal.removeprefix("sha256:")


def _codec_manifest(folder: Path | None, preset: Preset, store: Store) -> str | None:
    """The autoencoder of a run, stored and named by digest. It is opened once here: contributors could not mend it."""
    if preset.codec == "pixels":
        return None
    if folder is None and preset.codec == "autoencoder-tiny":
        return _packaged(PACKAGED_CODEC, store)
    if folder is None:
        raise UsageError(
            f"the preset {preset.name} needs an autoencoder, and none of its kind comes with the package",
            hint="Give one with --codec: a folder that diffusers' AutoencoderKL saved, e.g. stabilityai/sd-vae-ft-mse",
        )
    try:
        open_codec_of(preset.shape, preset.codec, folder)
    except (ValueError, OSError) as error:
        raise UsageError(f"{folder} is no autoencoder for the preset {preset.name}", str(error)) from error
    return store.add_tree(folder, [CONFIG, WEIGHTS]).digest


def _start(choices: Choices, preset: Preset, store: Store) -> dict[str, object]:
    """Where experts begin. A start given as weights is stored and named by digest, so that every lineage shows it."""
    if choices.start == "scratch":
        return {"kind": "scratch", "manifest": None, "note": ""}
    if choices.start == "base":
        return _packaged_start(preset, store)
    folder = Path(choices.start)
    if not (folder / CONFIG).is_file():
        raise UsageError(
            f"{choices.start!r} is no start",
            why="it is neither 'scratch' nor 'base' nor a folder with config.json and weights",
            hint="Give an expert's folder that `fetch` or `save_pretrained` wrote, or a checkpoint's export.",
        )
    _refuse_other_networks(folder, preset)
    manifest = store.add_tree(folder, [CONFIG, WEIGHTS])
    return {"kind": "checkpoint", "manifest": manifest.digest, "note": f"weights from {folder.name}"}


def _packaged_start(preset: Preset, store: Store) -> dict[str, object]:
    name = PACKAGED_STARTS.get(preset.name, PACKAGED_STARTS["tiny"])
    with as_file(files("paris.models") / "weights" / name) as folder:
        _refuse_other_networks(folder, preset)
        data = json.loads((folder / "base.json").read_text())["data"]
    note = f"packaged base: one small model trained on {data}, see scripts/train_base.py"
    return {"kind": "checkpoint", "manifest": _packaged(name, store), "note": note}


def _refuse_other_networks(folder: Path, preset: Preset) -> None:
    """A start that does not fit would be signed for ever and stop every contributor."""
    try:
        problems = check_config(read_config(folder), preset.expert, "expert")
    except CheckpointError as error:
        problems = [str(error)]
    problems += check_weights(folder / WEIGHTS, preset.expert, "expert")
    if problems:
        raise UsageError(
            f"the weights in {folder} are no start for the preset {preset.name}",
            why=problems[0],
            hint="Choose the preset they were trained with, or --start scratch.",
        )


def _packaged(name: str, store: Store) -> str:
    """Put weights that come with the package into the store and return their manifest's digest."""
    with as_file(files("paris.models") / "weights" / name) as folder:
        return store.add_tree(
            folder, sorted(p.name for p in folder.iterdir() if p.suffix in {".json", ".safetensors"})
        ).digest


def work_folder(home: Path, source: str, choices: Choices) -> Path:
    """Where the shards of one creation are written, so that the same command finds them again."""
    asked = f"{source} {choices.clusters} {choices.preset} {choices.features} {choices.wanted}"
    name = hashlib.sha256(asked.encode()).hexdigest()[:16]
    return home / "create" / name


def looks_folder(home: Path) -> Path:
    """Where what was seen in pictures and encoded of captions is kept, for all creations."""
    return home / "create" / "cache"


def fetched_folder(home: Path) -> Path:
    """Where files that creations fetch over http are kept."""
    return home / "create" / "fetched"
