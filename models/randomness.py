"""Random numbers as a function of (key, step): nothing runs on, so training resumes and replays from anywhere exactly.

Generator: Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3") as NumPy ships it. The key
is the first 128 bits of a SHA-256 over the stream's names; the step is the third word of the counter, which leaves
2**128 blocks to each step.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stream:
    """One named source of numbers, for example of the noise of one unit of one run."""

    key: int

    @classmethod
    def of(cls, *names: str) -> Stream:
        """Derive a stream from names; each name is length-prefixed, so that no two lists of names collide."""
        joined = b"".join(len(part).to_bytes(8, "big") + part for part in (name.encode() for name in names))
        return cls(int.from_bytes(hashlib.sha256(joined).digest()[:16], "big"))

    def at(self, step: int) -> np.random.Generator:
        """Return a fresh generator that holds this stream's numbers of one step."""
        return np.random.Generator(np.random.Philox(key=self.key, counter=step << 128))

    def normal(self, step: int, shape: tuple[int, ...]) -> np.ndarray:
        """Standard normal float32 numbers of one step."""
        return self.at(step).standard_normal(shape, dtype=np.float32)

    def uniform(self, step: int, shape: tuple[int, ...]) -> np.ndarray:
        """Float32 numbers of one step, uniform in [0, 1)."""
        return self.at(step).random(shape, dtype=np.float32)

    def batch_indices(self, step: int, batch: int, population: int) -> np.ndarray:
        """Indices of the samples of one step: every epoch visits all of them once, in its own order.

        Raises:
            ValueError: for an empty population.
        """
        if population < 1:
            raise ValueError("There is no sample to draw a batch from: the data set is empty. Check the shards.")
        positions = np.arange(step * batch, (step + 1) * batch)
        epochs, places = np.divmod(positions, population)
        indices = np.empty(batch, dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            indices[here] = _permutation(self, int(epoch), population)[places[here]]
        return indices


@functools.lru_cache(maxsize=4)
def _permutation(stream: Stream, epoch: int, population: int) -> np.ndarray:
    return stream.at(epoch).permutation(population)
