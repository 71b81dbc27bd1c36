"""What the node tells its training child, and what it answers: JSON, one file in, one line an event out."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from paris.registry.atomic import write_json


@dataclass(frozen=True)
class Means:
    """What of this machine trains a unit.

    Attributes:
        threads: CPU threads of each process.
        processes: That train the unit together on this host; 0: one a GPU.
        sharded: Whether they cut the network among them (FSDP2), because it does not fit one, instead of copying it.
        compiled: Backend of `torch.compile`, usually "inductor"; None does not compile.
    """

    threads: int
    processes: int = 0
    sharded: bool = False
    compiled: str | None = None

    def shared_by(self, batch: int, gpus: int) -> int:
        """How many processes share batches of this size: where nobody asked for a number, the most GPUs that can."""
        return self.processes or max(count for count in range(1, max(1, gpus) + 1) if batch % count == 0)


@dataclass(frozen=True)
class Job:
    """One stretch of training of one unit.

    Attributes:
        run: The run's digest: part of the key of all randomness.
        unit: "base", "cluster-<k>" or "router".
        network: Keyword arguments of the expert or router.
        recipe: The genesis' recipe for this unit.
        shards: Training shards on disk.
        holdout: Hold-out shards on disk.
        codec: {"kind", "folder"}; folder is None for pixels.
        text: {"kind", "name", "tokens", "sha256"}.
        start: Folder of exported weights to start from, or None.
        resume: Folder of a full training state to go on from, or None.
        resume_step: Steps that state must have, or that the weights to start from have behind them.
        evaluate: Folder of exported weights to measure on hold-out data, and nothing else; None for training.
        claimed_loss_micro: Hold-out loss the parent checkpoint claims; measured again before building on it.
        work: Where checkpoints are written, as `checkpoint-<step>/`.
        cache: Where shards are ingested to.
        means: What of this machine trains it.
    """

    run: str
    unit: str
    network: dict[str, Any]
    recipe: dict[str, Any]
    shards: tuple[str, ...]
    holdout: tuple[str, ...]
    codec: dict[str, Any]
    text: dict[str, Any]
    start: str | None
    resume: str | None
    resume_step: int
    evaluate: str | None
    claimed_loss_micro: int | None
    work: str
    cache: str
    means: Means

    @property
    def begun_from(self) -> str:
        """What the training begins from, in a word: a warm start is shown in the checkpoint's statement."""
        if self.resume:
            return "state"
        return "weights" if self.start and self.resume_step else "start"

    @property
    def is_router(self) -> bool:
        """Whether the unit is the router."""
        return self.unit == "router"

    def write(self, path: Path) -> None:
        """Write the job for the child to read."""
        write_json(path, asdict(self))

    @classmethod
    def read(cls, path: Path) -> Job:
        """Read a job written by `write`."""
        fields = json.loads(path.read_text())
        shards, holdout = tuple(fields["shards"]), tuple(fields["holdout"])
        return cls(**{**fields, "shards": shards, "holdout": holdout, "means": Means(**fields["means"])})


@dataclass(frozen=True)
class Event:
    """One line of the child.

    Kinds: "prepare" (done) - "resumed" (step, begun_from, micro_batch, precision, ranks) - "measured"
    (measured_loss_micro, claimed_loss_micro; from a job that only measures also nothing_micro, samples) - "step" (step,
    loss, per_s, mfu, loss_by_noise) - "checkpoint" (step, folder, holdout_loss_micro) - "stopped" (step) - "refused"
    (what, why): the checkpoint to build on is not what it claims to be - "failed" (what, why, hint).
    """

    kind: str
    fields: dict[str, Any]

    def line(self) -> str:
        """The event as one line of JSON."""
        return json.dumps({"event": self.kind, **self.fields})

    @classmethod
    def parse(cls, line: bytes) -> Event | None:
        """Read a line; anything a library printed in between is no event."""
        try:
            fields = json.loads(line)
            return cls(fields.pop("event"), fields)
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
            return None


def checkpoint_folders(work: Path) -> dict[int, Path]:
    """The checkpoint folders of a unit that were written whole, by step, fewest steps first."""
    found = ((re.fullmatch(r"checkpoint-(\d+)", p.name), p) for p in work.glob("checkpoint-*"))
    whole = {int(match[1]): p for match, p in found if match and (p / "metrics.json").is_file()}
    return dict(sorted(whole.items()))
