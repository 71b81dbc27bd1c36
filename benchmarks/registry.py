"""Audit beside plain SHA-256, sharding beside repacking, the Hub beside its own client, replay beside training."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.cheating import EVERY, STEPS, VICTIM, make_run, make_world
from benchmarks.hub import fetching
from benchmarks.measure import Row, compare
from paris.models.checkpoints import export
from paris.models.dit import DiT
from paris.models.presets import PRESETS
from paris.models.router import Router
from paris.models.text import open_text_encoder
from paris.protocol import envelope
from paris.protocol.checkpoint import statement
from paris.protocol.genesis import Genesis
from paris.protocol.identity import Identity
from paris.protocol.manifest import Manifest
from paris.protocol.records import Record, Tip
from paris.registry.audit import audit
from paris.registry.clusters import cluster
from paris.registry.evidence import Evidence
from paris.registry.features import PixelFeatures, survey
from paris.registry.library import Library
from paris.registry.recipes import PLANS
from paris.registry.replay import replay_segment
from paris.registry.resolve import ResolvedRun, resolve
from paris.registry.shards import write_shards
from paris.registry.sources import SAMPLE_FOLDER, Sample, open_source, read_samples
from paris.registry.store import Store

NOW_S = 1_800_000_000
WHO = Identity.from_seed(b"benchmark contributor".ljust(32))
SHARD = "cluster-{:03d}-train-000.tar"


def run(*, quick: bool) -> list[Row]:
    """Measure everything of this module."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            auditing(Path(folder), experts=1 if quick else 8, quick=quick, repeats=1 if quick else 5),
            sharding(
                Path(folder), samples=100 if quick else None, clusters=2 if quick else 4, repeats=1 if quick else 3
            ),
            fetching(Path(folder), size_mb=10 if quick else 500, repeats=1 if quick else 5),
            replaying(Path(folder) / "replay", steps=8 if quick else STEPS, repeats=1 if quick else 5),
        ]


def auditing(folder: Path, experts: int, *, quick: bool, repeats: int) -> Row:
    """Resolve and audit a finished run that lies in the local store."""
    preset = PRESETS["micro" if quick else "tiny"]
    router = {**preset.router, "clusters": experts}
    store = Store(folder / "store")
    run_id, genesis, shards = _create(store, preset.name, preset.expert, router, experts)
    tips = [_train(store, folder / unit, run_id, genesis, unit, shards) for unit in genesis.units()]
    library = Library(store, _Tips(tips))
    files = [path for path in (folder / "store" / "blobs").rglob("*") if path.is_file()]
    size_bytes = sum(path.stat().st_size for path in files)

    def ours() -> None:
        report = asyncio.run(_audited(library, run_id))
        assert report == "ok", report

    def hash_everything() -> None:
        for path in files:
            with path.open("rb") as file:
                hashlib.file_digest(file, "sha256")

    return compare(
        f"audit a finished run of {experts} experts",
        ours,
        hash_everything,
        against="sha256 of every file, once",
        work=size_bytes / 1e6,
        unit="MB",
        repeats=repeats,
        note=f"{size_bytes / 1e6:.0f} MB in {len(files)} files; an audit also looks at every number: is it finite?",
    )


def replaying(folder: Path, steps: int, repeats: int) -> Row:
    """One published segment executed again and compared, beside training as many steps; both on one thread."""
    world = make_world(make_run(folder / "shared", 20 if steps < STEPS else EVERY, steps), 0, folder, folder / "shared")
    unit = asyncio.run(world.resolved()).units[VICTIM]
    resolved = ResolvedRun(world.run, world.charter.genesis, {VICTIM: unit})
    trainer, began = world.trainer(VICTIM), world.states[f"{VICTIM}-1"]
    done = unit.lineage[1].to_step - unit.lineage[1].from_step

    def ours() -> None:
        evidence = Evidence(world.library, resolved, (), world.folder)
        assert asyncio.run(replay_segment(evidence, unit, 1)).equal

    def train() -> None:
        trainer.train(trainer.step + done)

    def rewind() -> None:
        trainer.load(began)

    return compare(
        f"replay a segment of {done} steps",
        ours,
        train,
        against="training as many steps",
        work=done,
        unit="steps",
        repeats=repeats,
        before=rewind,
        note="data ingested before; a replay also loads three states, and compares every number of two",
    )


def sharding(folder: Path, samples: int | None, clusters: int, repeats: int) -> Row:
    """From `sample:emoji` to shards of clusters, given the clusters."""

    def read() -> Iterator[Sample]:
        return itertools.islice(read_samples(open_source("sample:emoji")), samples)

    surveyed = survey(read(), PixelFeatures())
    clustering, folders = cluster(surveyed, clusters), itertools.count()
    total = int(sum(surveyed.samples))

    return compare(
        "shard sample:emoji: decode, check, split, write",
        lambda: write_shards(read(), surveyed, clustering, folder / f"shards-{next(folders)}"),
        lambda: _repack(folder / "plain.tar", 2 * total),
        against="the same tar members repacked by tarfile",
        work=total,
        unit="samples",
        repeats=repeats,
        note="every picture is decoded to see that it is whole; shards are written with fsync",
    )


class _Tips:
    """A network that only knows who is how far; every byte lies in the store already."""

    def __init__(self, tips: list[Tip]) -> None:
        self._tips = tips

    async def records(self, kind: str, _run: str, slot: str) -> list[Record]:
        return [tip for tip in self._tips if (kind, slot) == ("tip", tip.unit)]

    async def fetch_blob(self, digest: str, *_: object) -> bytes:
        raise AssertionError(f"{digest} should be here")

    async def fetch_file(self, entry: object, *_: object) -> None:
        raise AssertionError(f"{entry} should be here")


async def _audited(library: Library, run_id: str) -> str:
    return (await audit(library, await resolve(library, run_id))).verdict()


def _create(
    store: Store, preset: str, expert: dict[str, Any], router: dict[str, Any], experts: int
) -> tuple[str, Genesis, dict[str, str]]:
    """Sign a genesis over one small shard a cluster; return run id, genesis and shard digests."""
    names = [SHARD.format(k) for k in range(experts)]
    data = store.root.parent / "data"
    data.mkdir()
    for name in names:
        (data / name).write_bytes(name.encode())
    manifest = store.add_tree(data)
    plan, text = PLANS[preset], open_text_encoder("minilm", "all-MiniLM-L6-v2", 16)
    clusters = [
        {"id": k, "samples": 9, "holdout_samples": 1, "shards": [name], "holdout": [f"holdout-{name}"], "words": []}
        for k, name in enumerate(names)
    ]
    genesis = Genesis.parse(
        {
            "name": "benchmark",
            "version": 1,
            "created": NOW_S,
            "curators": {"keys": [WHO.peer_id], "threshold": 1},
            "admission": {"policy": "open", "keys": []},
            "model": {"preset": preset, "expert": expert, "router": router},
            "training": {
                "expert": plan.expert.model_dump(mode="json"),
                "router": plan.router.model_dump(mode="json"),
            },
            "codec": {"kind": "pixels"},
            "text": {**text.identity(), "tokens": text.tokens},
            "start": {"kind": "scratch"},
            "data": {
                "name": "nothing",
                "license": "CC0-1.0",
                "manifest": manifest.digest,
                "split_key": "group",
                "features": "text",
                "samples": 9 * experts,
                "holdout_samples": experts,
            },
            "clusters": clusters,
            "lease": {"life_s": 60, "settle_s": 2, "progress_s": 120},
            "replicas": 1,
        }
    )
    run_id = store.put_bytes(envelope.sign("genesis", genesis, WHO))
    return run_id, genesis, {entry.name: entry.sha256 for entry in manifest.files}


def _train(store: Store, folder: Path, run_id: str, genesis: Genesis, unit: str, shards: dict[str, str]) -> Tip:
    """Put random weights and a signed statement about them into the store, as if they had been trained in one go."""
    network = Router(**genesis.model.router) if unit == "router" else DiT(**genesis.model.expert)
    export(folder, network, {name: torch.randn(p.shape) * 0.05 for name, p in network.state_dict().items()})
    manifest: Manifest = store.add_tree(folder)
    cluster_of_unit, steps = genesis.cluster(unit), genesis.target_steps(unit)
    made = statement(
        run=run_id,
        unit=unit,
        from_step=0,
        to_step=steps,
        fence=1,
        seed=genesis.recipe(unit).seed,
        manifest=manifest.digest,
        parent=None,
        start=None,
        shards={name: shards[name] for name in cluster_of_unit.shards} if cluster_of_unit else shards,
        signer=WHO.peer_id,
        versions={"torch": torch.__version__},
        invocation=unit,
        started_s=NOW_S,
        finished_s=NOW_S + 1,
        holdout_loss_micro=100_000,
    )
    checkpoint = store.put_bytes(envelope.sign("checkpoint", made, WHO))
    return Tip(
        run=run_id,
        unit=unit,
        signer=WHO.peer_id,
        seq=1,
        iat=NOW_S,
        exp=NOW_S + 60,
        checkpoint=checkpoint,
        manifest=manifest.digest,
        step=steps,
        loss_micro=0,
    )


def _repack(target: Path, members: int) -> None:
    """Copy tar members as they are: no picture is looked at, nothing is split."""
    with tarfile.open(target, "w") as out:
        for member, content in itertools.islice(_members(), members):
            info = tarfile.TarInfo(member.name)
            info.size = member.size
            out.addfile(info, content)


def _members() -> Iterator[tuple[tarfile.TarInfo, Any]]:
    for shard in sorted(SAMPLE_FOLDER.glob("emoji-*.tar.gz")):
        with tarfile.open(shard) as tar:
            for member in tar:
                yield member, tar.extractfile(member)
