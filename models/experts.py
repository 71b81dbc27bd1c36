"""Experts that are in memory only while they are needed: loaded on first use, dropped least recently used first.

Weights come out of memory-mapped safetensors, so an expert that is loaded again is mostly still in the page cache.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from paris.models.checkpoints import CheckpointError
from paris.models.filenames import WEIGHTS
from paris.models.kinds import EXPERTS, kind_in
from paris.models.networks import load_network


class MemoryCapError(ValueError):
    """The memory cap is below what one expert needs."""


def load_expert(folder: Path, dtype: torch.dtype) -> Any:
    """Load one expert strictly, on the CPU: of pictures or of clips, as its config.json says."""
    return load_network(kind_in(folder, EXPERTS), folder, dtype)


class ExpertPool:
    """K experts behind a memory cap.

    Contract: `get` returns a network in evaluation mode on the pool's device, whatever had to leave for it. Experts
    given as networks stay where they are and are not counted. Not for use from several threads.

    Args:
        sources: networks, or folders with exported weights, in cluster order.
        dtype: precision experts are loaded in.
        device: where experts compute.
        memory_bytes: cap on the weights of experts loaded from folders; None for no cap.
        offload: keep experts that leave the device in the host's memory instead of dropping them.
        load: how a folder becomes a network on the CPU.
    """

    def __init__(
        self,
        sources: Sequence[Any],
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        memory_bytes: int | None = None,
        offload: bool = False,
        load: Callable[[Path, torch.dtype], Any] = load_expert,
    ) -> None:
        self.sources, self.dtype, self.device = list(sources), dtype, torch.device(device)
        self.memory_bytes, self.offload, self._load = memory_bytes, offload, load
        self._resident: OrderedDict[int, Any] = OrderedDict()
        self._coming: dict[int, Future[Any]] = {}
        self._offloaded: dict[int, Any] = {}
        self._sizes: dict[int, int] = {}
        self._thread: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def resident(self) -> list[int]:
        """Experts now loaded from folders, least recently used first."""
        return list(self._resident)

    def used_bytes(self) -> int:
        """Return the weights of experts that are loaded or on their way."""
        return sum(self.size_bytes(index) for index in {*self._resident, *self._coming})

    def size_bytes(self, index: int) -> int:
        """Return what one expert's weights take in memory, from the header of its file."""
        if index not in self._sizes:
            self._sizes[index] = weights_count(self.sources[index]) * self.dtype.itemsize
        return self._sizes[index]

    def get(self, index: int) -> Any:
        """Return one expert, making room for it and loading it where necessary.

        Raises:
            MemoryCapError: the cap is smaller than this expert alone.
            checkpoints.CheckpointError: its folder holds no such network.
        """
        if not isinstance(self.sources[index], Path):
            return self.sources[index].eval()
        if index not in self._resident:
            self._make_room(index)
            self._resident[index] = self._arrive(index)
        self._resident.move_to_end(index)
        return self._resident[index]

    def prefetch(self, index: int) -> None:
        """Begin to load an expert in a thread, where it fits beside the one now in use (the most recent)."""
        if not isinstance(self.sources[index], Path) or index in self._resident or index in self._coming:
            return
        in_use = next(reversed(self._resident), None)
        needed = self.size_bytes(index) + (0 if in_use is None else self.size_bytes(in_use))
        if index in self._offloaded or (self.memory_bytes is not None and needed > self.memory_bytes):
            return
        self._make_room(index, keep=in_use)
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="expert-prefetch")
        self._coming[index] = self._thread.submit(self._load, self.sources[index], self.dtype)

    def in_order(self, indices: Iterable[int]) -> list[int]:
        """Return experts in the order that loads least: those on hand first."""
        return sorted(indices, key=lambda index: (index not in self._resident, index not in self._coming, index))

    def to(self, device: torch.device | str, dtype: torch.dtype) -> None:
        """Move every expert; those from folders are loaded anew where the precision changes."""
        if dtype != self.dtype:
            self._sizes.clear()
            self._offloaded.clear()
            self._resident.clear()
            self._coming.clear()
        self.device, self.dtype = torch.device(device), dtype
        networks = [source for source in self.sources if not isinstance(source, Path)]
        for network in (*networks, *self._resident.values()):
            torch.nn.Module.to(network, self.device, dtype)

    def _arrive(self, index: int) -> Any:
        if index in self._offloaded:
            network = self._offloaded.pop(index)
        elif index in self._coming:
            network = self._coming.pop(index).result()
        else:
            network = self._load(self.sources[index], self.dtype)
        return torch.nn.Module.to(network, self.device).eval()

    def _make_room(self, index: int, keep: int | None = None) -> None:
        if self.memory_bytes is None:
            return
        size = self.size_bytes(index)
        if size > self.memory_bytes:
            raise MemoryCapError(
                f"Expert {index} needs {size / 1e6:.0f} MB for its weights, and the memory cap is "
                f"{self.memory_bytes / 1e6:.0f} MB. Raise the cap, or load in half precision."
            )
        # An expert that was fetched ahead and is not the one now wanted is the first to go.
        for other in [*self._coming, *self._resident]:
            arriving = 0 if index in self._coming else size
            if self.used_bytes() + arriving <= self.memory_bytes:
                return
            if other not in {index, keep}:
                self._leave(other)

    def _leave(self, index: int) -> None:
        if index in self._coming:
            self._coming.pop(index).cancel()
            return
        network = self._resident.pop(index)
        if self.offload and self.device.type != "cpu":
            self._offloaded[index] = torch.nn.Module.to(network, "cpu")


def weights_count(folder: Path) -> int:
    """Return how many numbers a folder's weights are, without reading them.

    Raises:
        CheckpointError: where there is no whole weights file.
    """
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (no mapping)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"The weights {folder / WEIGHTS} cannot be read ({error}). Fetch them again.") from error
    return sum(torch.Size(shape).numel() for shape in shapes)
