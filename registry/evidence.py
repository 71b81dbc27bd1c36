"""What measuring and replaying need, fetched, verified and laid out: weights, training states, data as caches."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paris.models.cache import CacheError, LatentCache
from paris.models.shards import ShardError
from paris.protocol.errors import ParisError, RecordError, UnavailableError
from paris.protocol.genesis import Genesis
from paris.protocol.manifest import Manifest
from paris.registry.library import Library
from paris.registry.resolve import ResolvedRun, ResolvedUnit
from paris.registry.weights import model_files, network_of, state_file
from paris.registry.workshop import open_cache

TRAIN, HOLDOUT = "train", "holdout"


@dataclass
class Evidence:
    """A run's files as folders.

    Contract: everything was hashed against what is signed. Folders are named by their content, so nothing is stale.

    Attributes:
        library: Store and network.
        resolved: The run.
        providers: Peers to ask besides those the tips name.
        folder: Where checkouts and caches go; an auditor's own.
        threads: CPU threads to measure with; a replay takes the builder's number.
    """

    library: Library
    resolved: ResolvedRun
    providers: tuple[str, ...]
    folder: Path
    threads: int = 1
    _caches: dict[tuple[str, str], LatentCache] = field(default_factory=dict)

    @property
    def genesis(self) -> Genesis:
        """The run's rules."""
        return self.resolved.genesis

    @property
    def run(self) -> str:
        """The run's digest."""
        return self.resolved.run

    async def manifest(self, unit: ResolvedUnit, index: int) -> Manifest:
        """What files a checkpoint of a unit's lineage consists of."""
        return await self.library.manifest(unit.lineage[index].manifest, self._serving(unit, index))

    async def weights(self, unit: ResolvedUnit, index: int) -> Path:
        """A folder with config.json and the published weights.

        Raises:
            UnavailableError: nobody serves them any more.
            RecordError: they are larger than their network can be.
        """
        manifest = await self.manifest(unit, index)
        wanted = await asyncio.to_thread(model_files, manifest, self.genesis, unit.unit)
        return await self._laid_out(wanted, self._serving(unit, index))

    async def state(self, unit: ResolvedUnit, index: int) -> Path | None:
        """A folder with the full training state; None where no peer holds it any more."""
        try:
            manifest = await self.manifest(unit, index)
            wanted = await asyncio.to_thread(state_file, manifest, self.genesis, unit.unit)
            return await self._laid_out(wanted, self._serving(unit, index))
        except (UnavailableError, RecordError):
            return None

    async def start(self) -> Path | None:
        """A folder with the weights experts start from, where the genesis names such."""
        digest = self.genesis.start.manifest
        if digest is None:
            return None
        manifest = await self.library.manifest(digest, self.providers)
        wanted = await asyncio.to_thread(model_files, manifest, self.genesis, "cluster-0")
        return await self._laid_out(wanted, self.providers)

    async def data(self, unit: str, side: str, secret: random.Random | None = None) -> LatentCache:
        """A unit's training or hold-out samples.

        Args:
            unit: A cluster, or `router` for all of them.
            side: `train` or `holdout`.
            secret: Take one shard of a cluster only, chosen by it: enough to measure on.

        Raises:
            UnavailableError: nobody serves a shard.
            RecordError: a shard cannot be read.
        """
        genesis, cluster = self.genesis, self.genesis.cluster(unit)
        clusters = [cluster] if cluster else list(genesis.clusters)
        lists = [list(c.shards if side == TRAIN else c.holdout) for c in clusters]
        names = [name for shards in lists for name in (shards if secret is None else [secret.choice(shards)])]
        known = (" ".join(names), side)
        if known not in self._caches:
            self._caches[known] = await self._cache(names)
        return self._caches[known]

    async def _cache(self, names: Sequence[str]) -> LatentCache:
        genesis = self.genesis
        manifest = await self.library.manifest(genesis.data.manifest, self.providers)
        folder = await self._laid_out(manifest.select(lambda entry: entry.name in set(names)), self.providers)
        codec = None
        if genesis.codec.manifest:
            codec = await self._laid_out(
                await self.library.manifest(genesis.codec.manifest, self.providers), self.providers
            )
        try:
            return await asyncio.to_thread(
                open_cache,
                self.run,
                [folder / name for name in names],
                {"kind": genesis.codec.kind, "folder": codec},
                genesis.text.model_dump(mode="json"),
                network_of(genesis, "cluster-0")[1],
                self.folder / "caches",
            )
        except (ShardError, CacheError) as error:
            raise RecordError("the run's data cannot be read", str(error)) from error

    async def _laid_out(self, wanted: Manifest, serving: Sequence[str]) -> Path:
        folder = self.folder / wanted.digest.removeprefix("sha256:")[:24]
        if not folder.is_dir():
            await self.library.files(wanted.files, serving)
            await asyncio.to_thread(self.library.store.checkout, wanted, folder)
        return folder

    def _serving(self, unit: ResolvedUnit, index: int) -> tuple[str, ...]:
        """Newest files are where the tips say; older ones, if anywhere, with who made them or built on them."""
        makers = [segment.signer for segment in unit.lineage[index:]]
        return tuple(dict.fromkeys((*unit.providers, *makers, *self.providers)))


def in_words(error: ParisError) -> str:
    """Why something could not be had."""
    return error.what if not error.why else f"{error.what} ({error.why})"
