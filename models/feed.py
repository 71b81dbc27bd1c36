"""What a step trains on: its samples and its randomness, as a function of the step alone."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from paris.models.cache import Batch, LatentCache
from paris.models.distributed import ALONE, Ranks
from paris.models.objectives import Draw, Objective, draw
from paris.models.randomness import Stream
from paris.models.recipe import Recipe
from paris.models.text import TextBatch

PURPOSES = ("samples", "noise", "time", "text-dropout", "first-frame")


@dataclass(frozen=True)
class Part:
    """Some of a step's samples, with their randomness, in the host's memory."""

    batch: Batch
    draw: Draw

    def split(self, size: int) -> list[Part]:
        """Return consecutive parts of at most this many samples; views, nothing is copied."""
        total = len(self.batch.labels_B)
        return [self._rows(slice(start, start + size)) for start in range(0, total, size)]

    def to(self, device: torch.device) -> Part:
        """Send everything to a device without waiting for it."""
        return Part(self.batch.to(device), self.draw.to(device))

    def pinned(self) -> Part:
        """Return a copy in page-locked memory, which a GPU fetches while the host goes on."""
        text = TextBatch(*(part.pin_memory() for part in self.batch.text.parts()))
        batch = Batch(self.batch.latents_BCHW.pin_memory(), text, self.batch.labels_B.pin_memory())
        return Part(batch, self.draw.pinned())

    def _rows(self, rows: slice) -> Part:
        text = TextBatch(*(part[rows] for part in self.batch.text.parts()))
        batch = Batch(self.batch.latents_BCHW[rows], text, self.batch.labels_B[rows])
        return Part(batch, self.draw.rows(rows))


class Feed:
    """The steps of one unit.

    Contract: indices, noise, times and text dropout are those of the whole batch, drawn from counters; every rank then
    takes its own consecutive share, so that all ranks together see what one process alone would see.

    Args:
        cache: the data.
        objective: draws the times.
        recipe: batch, text dropout and seed.
        key: names that separate this unit's randomness.
        ranks: the processes that share the batch.
        device: where samples go; those for a GPU are put into page-locked memory.
        ahead: prepare the next step in a thread while the device computes this one. None: unless the device is the
            CPU, where both would want the same cores.
    """

    def __init__(
        self,
        cache: LatentCache,
        objective: Objective,
        recipe: Recipe,
        key: tuple[str, ...],
        *,
        ranks: Ranks = ALONE,
        device: torch.device | None = None,
        ahead: bool | None = None,
    ) -> None:
        self.cache, self.objective, self._recipe, self._ranks = cache, objective, recipe, ranks
        self._streams = {name: Stream.of(*key, str(recipe.seed), name) for name in PURPOSES}
        kind = device.type if device else "cpu"
        ahead, self._pin = kind != "cpu" if ahead is None else ahead, kind == "cuda"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed") if ahead else None
        self._coming: tuple[int, Future[Part]] | None = None

    def at(self, step: int) -> Part:
        """Return this rank's share of one step."""
        if self._thread is None:
            return self.prepare(step)
        coming, self._coming = self._coming, (step + 1, self._thread.submit(self.prepare, step + 1))
        return coming[1].result() if coming and coming[0] == step else self.prepare(step)

    def prepare(self, step: int) -> Part:
        """Read and draw this rank's share of one step."""
        size, share = self._recipe.batch, self._ranks.share(self._recipe.batch)
        indices = self._streams["samples"].batch_indices(step, size, len(self.cache))
        dropped = self._streams["text-dropout"].uniform(step, (size,)) < self._recipe.text_dropout
        streams = self._streams["noise"], self._streams["time"]
        whole = draw(self.objective, streams, step, (size, *self.cache.latents_NCHW.shape[1:]))
        if self._recipe.first_frames:
            known = self._streams["first-frame"].uniform(step, (size,)) < self._recipe.first_frames
            whole = replace(whole, given_B=torch.from_numpy(known))
        part = Part(self.cache.batch(indices[share], dropped[share]), whole.rows(share))
        return part.pinned() if self._pin else part
