"""A training state at one step, copied to the host, and its way to disk while training goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from paris.models import checkpoints


@dataclass(frozen=True)
class Snapshot:
    """Everything a bit-exact resume needs, in the host's memory.

    Attributes:
        groups: tensors by group ("weights", "average", AdamW's moments) and parameter.
        note: step, micro-batch, and whatever else decides the next bit.
        config: the network's config.json.
        about: what is worth knowing but decides nothing.
    """

    groups: Mapping[str, Mapping[str, Tensor]]
    note: Mapping[str, Any]
    config: Mapping[str, Any]
    about: Mapping[str, Any]

    def save(self, folder: Path) -> None:
        """Write state.safetensors and state.json, each whole or not at all."""
        checkpoints.save_state(folder, self.groups, self.note, self.about)

    def export(self, folder: Path, average: str = "average") -> None:
        """Write what others use: config.json and averaged weights as bf16 diffusion_pytorch_model.safetensors."""
        checkpoints.export_as(folder, self.config, self.groups[average])

    def digest(self) -> str:
        """Return a SHA-256 over every name, shape, number and the note: equal digests resume to equal bits."""
        return checkpoints.state_digest(self.groups, self.note)


class BackgroundWriter:
    """Writes in a thread, so that training never waits for the disk.

    Contract: one job is in flight; the next one waits for it. What goes wrong in a job is raised by the next `check`,
    `submit` or `wait`, once.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._job: Future[None] | None = None

    def submit(self, job: Callable[[], None]) -> None:
        """Begin a job, after the one before it is done."""
        self.wait()
        self._job = self._thread.submit(job)

    def check(self) -> None:
        """Raise what went wrong in a job that has ended; never waits."""
        if self._job is not None and self._job.done():
            self.wait()

    def wait(self) -> None:
        """Wait for the job in flight."""
        job, self._job = self._job, None
        if job is not None:
            job.result()
