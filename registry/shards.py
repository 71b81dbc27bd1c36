"""Write clustered samples as webdataset shards, training and hold-out apart; equal input gives equal bytes.

    cluster-000-train-000.tar  cluster-000-train-001.tar  ...  cluster-000-holdout-000.tar  cluster-001-train-000.tar

A sample is `<key>.<webp|png|jpg|gif|mp4|webm>` (the picture or clip as given) and `<key>.json` (caption, cluster, group
and the source's further fields, licence included). Each shard appears whole, and an interrupted run keeps the shards it
has finished. Shards that are not full yet lie on disk too, so memory does not grow with them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
from webdataset import TarWriter

from paris.protocol.errors import DigestError, UsageError
from paris.protocol.limits import LIMITS
from paris.registry import atomic
from paris.registry.clusters import Clustering
from paris.registry.features import REPORT_EVERY, Progress, Survey, fingerprint
from paris.registry.samples import Sample

SAMPLES_PER_SHARD = 1024
MOST_SHARDS = 3072
"""A manifest names 4096 files at most."""
MOST_BYTES = (LIMITS.blob_bytes - 256 * MOST_SHARDS) // 74 * LIMITS.piece_bytes
"""A manifest spends 74 bytes on each piece."""
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
    samples_per_shard: int | None = None,
    progress: Progress = lambda *_: None,
) -> tuple[ClusterShards, ...]:
    """Stream the samples once more into one line of shards for each cluster and split.

    Args:
        samples: the same samples in the same order as were surveyed.
        survey: what was surveyed, catalogue included.
        clustering: cluster of every group.
        folder: where the shards go; another plan's shards in it are removed.
        samples_per_shard: how many samples fill a shard; None: `SAMPLES_PER_SHARD`, or more where those would be more
            than `MOST_SHARDS` shards.
        progress: told ("shard", samples done, all samples).

    Raises:
        UsageError: a cluster has no training or no hold-out sample, or the data are more than a run can name.
        DigestError: the data changed between survey and writing, or something else wrote into the folder.
        ResourceError: the disk is full.
    """
    catalogue = survey.catalogue
    assert catalogue is not None
    _refuse_impossible(survey, clustering)
    full = samples_per_shard or max(SAMPLES_PER_SHARD, -(-catalogue.samples // MOST_SHARDS))
    _settle_plan(folder, survey, clustering, full)
    trains = [_Line(folder, f"cluster-{c.id:03d}-train", full) for c in clustering.clusters]
    holdouts = [_Line(folder, f"cluster-{c.id:03d}-holdout", full) for c in clustering.clusters]
    for done, (sample, row) in enumerate(zip_longest(samples, catalogue.rows())):
        if done % REPORT_EVERY == 0:
            progress("shard", done, catalogue.samples)
        if sample is None or row is None or fingerprint(sample) != row.fingerprint:
            _clear(folder)
            raise DigestError(
                "The data changed while shards were made of them",
                "The second pass read other samples than the first",
                "Run the command again once nothing writes to the data",
            )
        cluster_id = int(clustering.labels_G[row.group])
        (holdouts if is_holdout(sample.group) else trains)[cluster_id].add(sample, cluster_id)
    for line in (*trains, *holdouts):
        line.finish()
    progress("shard", catalogue.samples, catalogue.samples)
    return tuple(
        ClusterShards(cluster.id, train.samples, held.samples, tuple(train.names), tuple(held.names), cluster.words)
        for cluster, train, held in zip(clustering.clusters, trains, holdouts, strict=True)
    )


def shard_names(clusters: Iterable[ClusterShards]) -> list[str]:
    """Return the names of all shards: what `Store.add_tree` shall take from the folder."""
    return sorted(name for cluster in clusters for name in (*cluster.shards, *cluster.holdout))


class _Place(NamedTuple):
    """A sample in the file of a shard that is not full yet."""

    key: str
    suffix: str
    offset: int
    text_bytes: int
    picture_bytes: int
    digest: bytes


@dataclass
class _Line:
    """The growing row of shards of one cluster and split; of a shard's samples only their places are in memory."""

    folder: Path
    prefix: str
    samples_per_shard: int
    samples: int = 0
    names: list[str] = field(default_factory=list)
    _pending: int = 0
    _places: list[_Place] = field(default_factory=list)
    _size_bytes: int = 0

    def add(self, sample: Sample, cluster_id: int) -> None:
        self.samples += 1
        self._pending += 1
        if not self._shard.exists():
            self._keep(sample, cluster_id)
        if self._pending == self.samples_per_shard:
            self.finish()

    def finish(self) -> None:
        if not self._pending:
            return
        if self._places:
            self._write()
        self.names.append(self._shard.name)
        self._pending, self._places, self._size_bytes = 0, [], 0

    @property
    def _shard(self) -> Path:
        return self.folder / f"{self.prefix}-{len(self.names):03d}.tar"

    @property
    def _kept(self) -> Path:
        return self.folder / f".{self.prefix}.growing"

    def _keep(self, sample: Sample, cluster_id: int) -> None:
        known = {"caption": sample.caption, "cluster": cluster_id, "group": sample.group}
        text = json.dumps({**sample.fields, **known}, ensure_ascii=False, sort_keys=True).encode()
        # Opened each time: thousands of clusters are more files than a process may hold open.
        with atomic.explained_disk_errors(self._kept), self._kept.open("ab" if self._places else "wb") as out:
            out.write(text + sample.picture)
        digest = hashlib.sha256(text + sample.picture).digest()
        self._places.append(_Place(sample.key, sample.suffix, self._size_bytes, len(text), len(sample.picture), digest))
        self._size_bytes += len(text) + len(sample.picture)

    def _write(self) -> None:
        with (
            self._kept.open("rb") as kept,
            atomic.replacing(self._shard, needed_bytes=self._size_bytes) as out,
            TarWriter(out, encoder=False, mtime=0, user="", group="", compress=False) as tar,
        ):
            for place in sorted(self._places):
                kept.seek(place.offset)
                text, picture = kept.read(place.text_bytes), kept.read(place.picture_bytes)
                if hashlib.sha256(text + picture).digest() != place.digest:
                    raise DigestError(
                        f"{self._kept} does not hold what was written there",
                        "Another process wrote to it, or the disk is damaged",
                        "See that nothing else works in this folder, and run the command again",
                    )
                tar.write({"__key__": place.key, "json": text, place.suffix: picture})
        self._kept.unlink()


def _refuse_impossible(survey: Survey, clustering: Clustering) -> None:
    """Say what no run can be made of, before hours of writing.

    Raises:
        UsageError: a cluster has no training or no hold-out sample, or the pictures are too many bytes.
    """
    sides = set(zip(map(int, clustering.labels_G), map(is_holdout, survey.groups), strict=True))
    for cluster in clustering.clusters:
        for holdout, side in ((False, "training"), (True, "hold-out")):
            if (cluster.id, holdout) not in sides:
                raise UsageError(
                    f"Cluster {cluster.id} has no {side} sample",
                    f"One group of samples in {HOLDOUT_ONE_IN}, chosen by hash, is held out, and this cluster is small",
                    "Use fewer clusters or more data",
                )
    if survey.catalogue and survey.catalogue.picture_bytes > MOST_BYTES:
        raise UsageError(
            f"The pictures have {survey.catalogue.picture_bytes / 1e9:,.0f} GB",
            f"The manifest of one run can name about {MOST_BYTES / 1e9:,.0f} GB",
            "Store the pictures smaller, leave more of them out, or make several runs",
        )


def _settle_plan(folder: Path, survey: Survey, clustering: Clustering, samples_per_shard: int) -> None:
    """Keep the finished shards of an interrupted run with the same plan, and only those."""
    plan = {
        "v": 2,
        "samples": survey.digest_hex,
        "clusters": hashlib.sha256(np.ascontiguousarray(clustering.labels_G).tobytes()).hexdigest(),
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
    for shard in (*folder.glob("cluster-*.tar"), *folder.glob(".cluster-*.growing")):
        shard.unlink(missing_ok=True)
