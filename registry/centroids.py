"""Where the clusters of a run lie, so that anybody can say to which one a new sample belongs.

Saved as safetensors beside the shards, and part of the run's data: `centroids` (M, D), `prices` (M), `cluster` (M), for
centred parts `mean.<part>` (D), and in the metadata the features that made the vectors. A vector x belongs to
`cluster[argmax(centroids @ x - prices)]`; M is K, or with two stages the number of cells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from paris.protocol.errors import VerificationError
from paris.registry import atomic
from paris.registry.catalogue import Vectors

CENTROIDS: Final = "centroids.safetensors"
_BLOCK_NUMBERS = 2**26
_TENSORS = {"centroids": np.float32, "prices": np.float64, "cluster": np.int64}


@dataclass(frozen=True)
class Centroids:
    """Points that claim what is nearest to them.

    Attributes:
        vectors_MD: the points.
        prices_M: taken off a point's similarity.
        cluster_M: the cluster each point stands for.
    """

    vectors_MD: Vectors
    prices_M: NDArray[np.float64]
    cluster_M: NDArray[np.int64]

    @classmethod
    def nearest(cls, vectors_MD: Vectors, *, spherical: bool) -> Centroids:
        """Return points that stand for a cluster each: by cosine, or by distance, |x|^2 - 2 (cx - |c|^2 / 2)."""
        prices_M = np.zeros(len(vectors_MD)) if spherical else (vectors_MD.astype(np.float64) ** 2).sum(axis=1) / 2
        return cls(vectors_MD, prices_M, np.arange(len(vectors_MD)))

    def assign(self, vectors_GD: Vectors) -> NDArray[np.int64]:
        """Return (G,) the cluster of every vector; memory is bounded."""
        labels_G = np.empty(len(vectors_GD), dtype=np.int64)
        rows = max(1, _BLOCK_NUMBERS // len(self.vectors_MD))
        for start in range(0, len(vectors_GD), rows):
            similarity_BM = vectors_GD[start : start + rows] @ self.vectors_MD.T - self.prices_M
            labels_G[start : start + rows] = self.cluster_M[np.argmax(similarity_BM, axis=1)]
        return labels_G

    def save(self, path: Path, note: Mapping[str, object], means: Mapping[str, Vectors]) -> None:
        """Write the points, what is to be known about their features, and what those took off."""
        tensors = {"centroids": self.vectors_MD, "prices": self.prices_M, "cluster": self.cluster_M}
        whole = {name: np.ascontiguousarray(tensor, _TENSORS[name]) for name, tensor in tensors.items()}
        whole |= {f"mean.{name}": mean for name, mean in means.items()}
        atomic.write_bytes(path, save(whole, {"paris": json.dumps(note, sort_keys=True)}))

    @classmethod
    def load(cls, path: Path) -> tuple[Centroids, dict[str, Any], dict[str, Vectors]]:
        """Read points, note and means.

        Raises:
            VerificationError: the file holds no such points.
        """
        try:
            with safe_open(path, "numpy") as file:
                found = cls(*(file.get_tensor(name) for name in _TENSORS))
                note = json.loads((file.metadata() or {}).get("paris", "{}"))
                names = [name for name in file.keys() if name.startswith("mean.")]  # noqa: SIM118 - no dictionary
                means = {name.removeprefix("mean."): file.get_tensor(name) for name in names}
        except (OSError, SafetensorError, ValueError, RecursionError) as error:
            why = f"{error}".partition("\n")[0]
            raise VerificationError(f"{path} holds no centroids", why, "Fetch the run's data again") from error
        points = len(found.vectors_MD)
        if found.vectors_MD.ndim != 2 or found.prices_M.shape != (points,) or found.cluster_M.shape != (points,):
            raise VerificationError(f"{path} holds no centroids", "its tensors do not fit each other", "Fetch it again")
        return found, note if isinstance(note, dict) else {}, means
