"""Past one machine: looking at pictures and encoding texts as Ray Data jobs, ahead of the local passes.

Workers read the parts of a source themselves and send back what encoders saw, batch by batch, under the same digests as
a local pass would; the local pass then finds everything in its cache, decodes nothing, and comes out equal, bit for bit
on like machines. So the machines need to reach the data (shared folder, http, `hf://`), not this machine's disk; where
they do see its cache, nothing is looked at twice after a kill.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from paris.models.text import TextEncoder, open_text_encoder
from paris.protocol.errors import ResourceError
from paris.registry.catalogue import Catalogue, Vectors
from paris.registry.encoders import HASH_NAME, open_image_encoder
from paris.registry.features import (
    Features,
    Progress,
    open_image_encoders,
    text_batches,
    text_digest,
    text_encoders,
    text_identity,
)
from paris.registry.looks import WHOLE, LookCache, Looker, Seen, batches
from paris.registry.samples import Part, Rejects, Sample, Source

TEXT_BATCHES_AT_ONCE = 256
Row = dict[str, Any]


@dataclass(frozen=True)
class Ahead:
    """Looks and encodes on a Ray cluster: the one RAY_ADDRESS names, or this machine's cores.

    Attributes:
        features: what clusters are made of.
        weights: of encoders; folders must be there on every machine.
        hashed: whether near-duplicates are looked for.
        cache: what was seen before, and where new looks go.
    """

    features: str
    weights: tuple[tuple[str, str], ...]
    hashed: bool
    cache: LookCache

    def look(self, source: Source, progress: Progress) -> None:
        """Look at all pictures of a source.

        Raises:
            ResourceError: Ray is not installed or cannot be reached.
        """
        parts = [{"part": part} for part in source.parts(Rejects())]
        self._run(parts, _Look, (self, torch.get_num_threads()), "look", len(parts), progress)

    def encoding(self, features: Features, text: TextEncoder) -> Features:
        """Return the same features, whose texts are encoded on the cluster first."""
        return _Encoding(self, features, text_encoders(self.features, text, dict(self.weights)))

    def encode(self, encoder: TextEncoder, catalogue: Catalogue, progress: Progress) -> None:
        """Encode all texts of a catalogue that were not yet."""
        identity = text_identity(encoder)
        named = {"kind": encoder.identity()["kind"], "name": encoder.identity()["name"], "tokens": encoder.tokens}
        done = 0
        lacking = (
            {"texts": texts, "digest": digest}
            for texts, _ in text_batches(catalogue)
            if self.cache.get(identity, digest := text_digest(texts)) is None
        )
        while some := list(islice(lacking, TEXT_BATCHES_AT_ONCE)):
            self._run(some, _Encode, (named, identity, torch.get_num_threads()), "encode ahead", 0, progress, done)
            done += len(some)

    def _run(
        self,
        rows: Sequence[Row],
        work: Callable[..., Any],
        arguments: tuple[Any, ...],
        stage: str,
        total: int,
        progress: Progress,
        before: int = 0,
    ) -> None:
        """Give every row to one of the cluster's workers and keep what comes back, in whatever order."""
        ray = _ray()
        workers = max(1, min(len(rows), int(ray.cluster_resources().get("CPU", 1))))
        job = ray.data.from_items(list(rows), override_num_blocks=max(1, len(rows)))
        seen = job.flat_map(work, fn_constructor_args=arguments, num_cpus=1, concurrency=workers)
        done = before
        for row in seen.iter_rows():
            if row["seen"]:
                self.cache.put_bytes(row["encoder"], row["digest"], row["seen"])
            done += row["last"]
            progress(stage, done, total)


class _Look:
    """A worker that looks at parts of a source."""

    def __init__(self, ahead: Ahead, threads: int) -> None:
        torch.set_num_threads(threads)  # the last bits of a network's numbers depend on it
        weights = dict(ahead.weights)
        hashing = (open_image_encoder(HASH_NAME),) if ahead.hashed else ()
        self._looker, self._cache = Looker((*open_image_encoders(ahead.features, weights), *hashing)), ahead.cache

    def __call__(self, row: Row) -> Iterator[Row]:
        part: Part = row["part"]
        names = [WHOLE, *(encoder.identity for encoder in self._looker.encoders)]
        for batch in batches(part.candidates(Rejects())):
            if any(self._cache.get(name, batch.digest) is None for name in names):
                for name, seen in self._looker.seen(batch).items():
                    yield {"encoder": name, "digest": batch.digest, "seen": seen.to_bytes(), "last": 0}
        yield {"encoder": "", "digest": "", "seen": b"", "last": 1}


class _Encode:
    """A worker that encodes batches of texts."""

    def __init__(self, named: Mapping[str, Any], identity: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._encoder, self._identity = open_text_encoder(named["kind"], named["name"], named["tokens"]), identity
        if text_identity(self._encoder) != identity:
            raise ResourceError(f"a worker's {named['kind']} text encoder is another one than here")

    def __call__(self, row: Row) -> Iterator[Row]:
        seen = Seen(self._encoder.encode(list(row["texts"])).pooled_BE.numpy())
        yield {"encoder": self._identity, "digest": row["digest"], "seen": seen.to_bytes(), "last": 1}


@dataclass(frozen=True)
class _Encoding:
    """Features whose texts are encoded ahead."""

    ahead: Ahead
    features: Features
    encoders: Sequence[TextEncoder]

    @property
    def name(self) -> str:
        """The features' own."""
        return self.features.name

    @property
    def means(self) -> Mapping[str, Vectors]:
        """The features' own."""
        return self.features.means

    def see(self, group: int, sample: Sample, catalogue: Catalogue) -> None:
        """Show the sample to the features."""
        self.features.see(group, sample, catalogue)

    def vectors(self, catalogue: Catalogue, progress: Progress) -> Vectors:
        """Encode the texts on the cluster, then return the features' vectors."""
        for encoder in self.encoders:
            self.ahead.encode(encoder, catalogue, progress)
        return self.features.vectors(catalogue, progress)


def _ray() -> Any:
    try:
        import ray  # noqa: PLC0415 (an extra)
        import ray.data  # noqa: PLC0415
    except ImportError as error:
        why = "the library ray is not installed"
        raise ResourceError("--engine ray is not possible here", why, "pip install 'paris-node[scale]'") from error
    try:
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False)
    except (ConnectionError, OSError, RuntimeError) as error:
        hint = "Check RAY_ADDRESS, or unset it to use this machine's cores"
        raise ResourceError("the Ray cluster cannot be reached", str(error), hint) from error
    ray.data.DataContext.get_current().enable_progress_bars = False
    return ray
