"""Write clustered samples as webdataset shards, training and hold-out apart; equal input gives equal bytes.

    cluster-000-train-000.tar  cluster-000-train-001.tar  ...  cluster-000-holdout-000.tar  cluster-001-train-000.tar

A sample is `<key>.<webp|png|jpg>` (the picture as given) and `<key>.json` (caption, cluster, group and the source's
further fields, licence included). Each shard appears whole, and an interrupted run keeps the shards it has finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from webdataset import TarWriter

from paris.protocol.errors import DigestError, UsageError
from paris.registry import atomic
from paris.registry.clusters import Clustering
from paris.registry.features import REPORT_EVERY, Progress, Survey, fingerprint
from paris.registry.sources import Sample

SAMPLES_PER_SHARD = 1024
HOLDOUT_ONE_IN = 10
PLAN_NAME = "plan.json"


@dataclass(frozen=True)
class ClusterShards:
    """What one cluster became; the fields are those of a genesis.

    Attributes:
        id: number of the cluster.
        samples: training samples.
        holdout_samples: held-out samples.
        shards: names of the training shards.
        holdout: names of the hold-out shards.
        words: the words that set the cluster apart.
    """

    id: int
    samples: int
    holdout_samples: int
    shards: tuple[str, ...]
    holdout: tuple[str, ...]
    words: tuple[str, ...]


def is_holdout(group: str) -> bool:
    """Say whether a group is held out: one in ten, by the first four bytes of its SHA-256, for ever the same."""
    return int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], "big") % HOLDOUT_ONE_IN == 0


def write_shards(
    samples: Iterable[Sample],
    survey: Survey,
    clustering: Clustering,
    folder: Path,
    *,
    samples_per_shard: int = SAMPLES_PER_SHARD,
    progress: Progress = lambda *_: None,
) -> tuple[ClusterShards, ...]:
    """Stream the samples once more into one line of shards for each cluster and split.

    Args:
        samples: the same samples in the same order as were surveyed.
        survey: what was surveyed, to see that it is the same.
        clustering: cluster of every group.
        folder: where the shards go; another plan's shards in it are removed.
        samples_per_shard: how many samples fill a shard.
        progress: told ("shard", samples done, all samples).

    Raises:
        UsageError: a cluster has no training or no hold-out sample.
        DigestError: the data changed between survey and writing.
        ResourceError: the disk is full.
    """
    _refuse_empty_sides(survey, clustering)
    _settle_plan(folder, survey, clustering, samples_per_shard)
    trains = [_Line(folder, f"cluster-{c.id:03d}-train", samples_per_shard) for c in clustering.clusters]
    holdouts = [_Line(folder, f"cluster-{c.id:03d}-holdout", samples_per_shard) for c in clustering.clusters]
    total, digest = sum(survey.samples), hashlib.sha256()
    for done, sample in enumerate(samples):
        if done % REPORT_EVERY == 0:
            progress("shard", done, total)
        digest.update(fingerprint(sample))
        cluster_id = clustering.cluster_of.get(sample.group)
        if cluster_id is not None:
            (holdouts if is_holdout(sample.group) else trains)[cluster_id].add(sample, cluster_id)
    if digest.hexdigest() != survey.digest_hex:
        _clear(folder)
        raise DigestError(
            "The data changed while shards were made of them",
            "The second pass read other samples than the first",
            "Run the command again once nothing writes to the data",
        )
    for line in (*trains, *holdouts):
        line.finish()
    progress("shard", total, total)
    return tuple(
        ClusterShards(cluster.id, train.samples, held.samples, tuple(train.names), tuple(held.names), cluster.words)
        for cluster, train, held in zip(clustering.clusters, trains, holdouts, strict=True)
    )


def shard_names(clusters: Iterable[ClusterShards]) -> list[str]:
    """Return the names of all shards: what `Store.add_tree` shall take from the folder."""
    return sorted(name for cluster in clusters for name in (*cluster.shards, *cluster.holdout))


@dataclass
class _Line:
    """The growing row of shards of one cluster and split; at most one shard's samples are held in memory."""

    folder: Path
    prefix: str
    samples_per_shard: int
    samples: int = 0
    names: list[str] = field(default_factory=list)
    _pending: list[tuple[Sample, int]] = field(default_factory=list)

    def add(self, sample: Sample, cluster_id: int) -> None:
        self._pending.append((sample, cluster_id))
        self.samples += 1
        if len(self._pending) == self.samples_per_shard:
            self.finish()

    def finish(self) -> None:
        if not self._pending:
            return
        name = f"{self.prefix}-{len(self.names):03d}.tar"
        if not (self.folder / name).exists():
            _write_shard(self.folder / name, self._pending)
        self.names.append(name)
        self._pending = []


def _write_shard(path: Path, samples: list[tuple[Sample, int]]) -> None:
    size_bytes = sum(len(sample.picture) for sample, _ in samples)
    with (
        atomic.replacing(path, needed_bytes=size_bytes) as out,
        TarWriter(out, encoder=False, mtime=0, user="", group="", compress=False) as tar,
    ):
        for sample, cluster_id in sorted(samples, key=lambda pair: pair[0].key):
            known = {"caption": sample.caption, "cluster": cluster_id, "group": sample.group}
            text = json.dumps({**sample.fields, **known}, ensure_ascii=False, sort_keys=True)
            tar.write({"__key__": sample.key, "json": text.encode(), sample.suffix: sample.picture})


def _refuse_empty_sides(survey: Survey, clustering: Clustering) -> None:
    sides = {(clustering.cluster_of[group], is_holdout(group)) for group in survey.groups}
    for cluster in clustering.clusters:
        for holdout, side in ((False, "training"), (True, "hold-out")):
            if (cluster.id, holdout) not in sides:
                raise UsageError(
                    f"Cluster {cluster.id} has no {side} sample",
                    f"One group of samples in {HOLDOUT_ONE_IN}, chosen by hash, is held out, and this cluster is small",
                    "Use fewer clusters or more data",
                )


def _settle_plan(folder: Path, survey: Survey, clustering: Clustering, samples_per_shard: int) -> None:
    """Keep the finished shards of an interrupted run with the same plan, and only those."""
    assignment = json.dumps(dict(clustering.cluster_of), sort_keys=True).encode()
    plan = {
        "v": 1,
        "samples": survey.digest_hex,
        "clusters": hashlib.sha256(assignment).hexdigest(),
        "samples_per_shard": samples_per_shard,
    }
    path = atomic.make_directory(folder) / PLAN_NAME
    atomic.sweep(folder)
    if path.is_file():
        if path.read_bytes() == atomic.json_bytes(plan):
            return
        _clear(folder)
    elif any(folder.glob("cluster-*.tar")):
        raise UsageError(
            f"{folder} holds shards of another origin", f"There is no {PLAN_NAME}", "Choose another folder"
        )
    atomic.write_json(path, plan)


def _clear(folder: Path) -> None:
    for shard in folder.glob("cluster-*.tar"):
        shard.unlink(missing_ok=True)
