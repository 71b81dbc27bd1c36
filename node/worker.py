"""The training child: one process, one unit. It reads a job, says on stdout what it does, and checkpoints on SIGTERM.

A crash of training cannot take the peer down, stopping it frees all its memory, and it ends by itself when the peer is
gone.

A job of several processes becomes `torchrun` over this same file: every process trains its share of each batch, the
first one alone speaks and writes. By hand, on each of N hosts:

    torchrun --nnodes N --nproc-per-node GPUS --rdzv-backend c10d --rdzv-endpoint HOST:PORT -m paris.node.worker JOB
"""

from __future__ import annotations

import math
import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import torch

from paris.models.cache import LatentCache
from paris.models.checkpoints import CheckpointError
from paris.models.distributed import ALONE, Ranks, joined, local_device
from paris.models.evaluation import predict_nothing
from paris.models.meter import Report
from paris.models.precision import affordable
from paris.models.snapshots import BackgroundWriter, Snapshot
from paris.models.training import NonFiniteError, Trainer
from paris.node.jobs import Event, Job
from paris.protocol.errors import ParisError, ResourceError, VerificationError
from paris.protocol.progress import TOLERANCE_PERCENT
from paris.registry.atomic import replace_directory, write_json
from paris.registry.workshop import EVALUATION_SAMPLES, be_deterministic, new_trainer, open_cache

MOST_LOSS_MICRO = 10**12
CLAIM_TOLERANCE = 1 + TOLERANCE_PERCENT / 100


class RefusedError(Exception):
    """The checkpoint to build on is not what it claims to be."""


class Stop:
    """Whether to stop: on SIGTERM or SIGINT, or when the parent process has gone."""

    def __init__(self) -> None:
        self._asked = False
        self._parent = os.getppid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True

    @property
    def orphaned(self) -> bool:
        """Whether the peer died; its pipe is then gone too, and nobody is there to publish."""
        return os.getppid() != self._parent

    def __call__(self) -> bool:
        """Ask."""
        return self._asked or self.orphaned


_speaking = threading.Lock()


def say(kind: str, **fields: object) -> None:
    """Send one event to the peer; of several ranks, the first one alone does."""
    if os.environ.get("RANK", "0") == "0":
        with _speaking:
            sys.stdout.write(Event(kind, fields).line() + "\n")
            sys.stdout.flush()


def train(job: Job, stop: Stop, ranks: Ranks = ALONE) -> None:
    """Train until the unit's last step, writing a checkpoint every `publish_every` steps and one when told to stop."""
    torch.set_num_threads(job.means.threads)
    holdout = _shared(job, job.holdout, stop, ranks)
    if job.evaluate:
        _measure(job, _trainer(job, holdout), holdout)
        return
    trainer = _trainer(job, _shared(job, job.shards, stop, ranks), ranks)
    if job.resume:
        _take_over(job, trainer, holdout, lambda: trainer.load(Path(str(job.resume))))
    elif job.start and job.resume_step:
        _take_over(job, trainer, holdout, lambda: trainer.start_from(Path(str(job.start)), job.resume_step))
    elif job.start:
        trainer.start_from(Path(job.start))
    own = job.resume and job.claimed_loss_micro is None
    micro_batch = trainer.passes.micro_batch if own else trainer.fit_memory()
    trainer.measure_peak()
    how = {"micro_batch": micro_batch, "precision": trainer.passes.precision, "ranks": ranks.count}
    say("resumed", step=trainer.step, begun_from=job.begun_from, **how)
    cadence, writer = job.recipe["publish_every"], BackgroundWriter()
    while trainer.step < trainer.recipe.steps and not ranks.any(stop()):
        until = min(trainer.recipe.steps, (trainer.step // cadence + 1) * cadence)
        _train_segment(job, trainer, holdout, until, stop, writer)
    writer.wait()
    say("stopped", step=trainer.step)


def _train_segment(
    job: Job, trainer: Trainer, holdout: LatentCache, until_step: int, stop: Stop, writer: BackgroundWriter
) -> None:
    from_step, started_s = trainer.step, time.time()
    trace: list[tuple[int, int]] = []

    def report(now: Report) -> None:
        trace.append((now.step, round(now.loss * 1e6)))
        per_s = (now.step - from_step) * trainer.recipe.batch / max(time.time() - started_s, 1e-9)
        by_noise = [None if loss is None else round(loss, 5) for loss in now.loss_by_noise]
        mfu = None if now.mfu is None else round(now.mfu, 4)
        say("step", step=now.step, loss=round(now.loss, 5), per_s=round(per_s, 1), mfu=mfu, loss_by_noise=by_noise)

    def ended() -> bool:
        writer.check()
        return stop()

    trainer.train(until_step, report, ended)
    if trainer.step == from_step or trainer.ranks.any(stop.orphaned):
        return
    metrics = {
        "from_step": from_step,
        "to_step": trainer.step,
        "loss_trace_micro": trace[:: max(1, len(trace) // 64)],
        "holdout_loss_micro": round(trainer.evaluate(holdout, EVALUATION_SAMPLES) * 1e6),
        "started_s": int(started_s),
        "finished_s": int(time.time()),
        "versions": _versions(job, trainer.ranks),
        "begun_from": job.begun_from if from_step == job.resume_step else "memory",
    }
    if job.is_router:
        metrics["holdout_accuracy_micro"] = round(trainer.accuracy(holdout, EVALUATION_SAMPLES) * 1e6)
    snapshot = trainer.snapshot()
    if trainer.ranks.first:
        writer.submit(lambda: _write_checkpoint(job, snapshot, metrics))


def _write_checkpoint(job: Job, snapshot: Snapshot, metrics: dict[str, object]) -> None:
    """Write everything beside its final place, then rename: a folder named `checkpoint-<step>` is always whole."""
    step = snapshot.note["step"]
    staging = Path(job.work) / f".writing-{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    snapshot.save(staging)
    snapshot.export(staging)
    write_json(staging / "metrics.json", metrics)
    folder = Path(job.work) / f"checkpoint-{step}"
    replace_directory(staging, folder)
    say("checkpoint", step=step, folder=str(folder), holdout_loss_micro=metrics["holdout_loss_micro"])


def _take_over(job: Job, trainer: Trainer, holdout: LatentCache, load: Callable[[], None]) -> None:
    """Load a checkpoint and, where it is a stranger's, measure it: a high step number alone moves nobody.

    Raises:
        Refused: it cannot be loaded, has other steps than signed, or is worse on hold-out data than it claims.
    """
    try:
        load()
        loss = trainer.evaluate(holdout, EVALUATION_SAMPLES) if job.claimed_loss_micro is not None else 0.0
    except (CheckpointError, NonFiniteError) as error:
        raise RefusedError(str(error)) from error
    if job.resume and trainer.step != job.resume_step:
        raise RefusedError(f"the training state has {trainer.step} steps, its statement says {job.resume_step}")
    if job.claimed_loss_micro is None:
        return
    if not loss * 1e6 <= job.claimed_loss_micro * CLAIM_TOLERANCE:
        claimed = job.claimed_loss_micro / 1e6
        raise RefusedError(f"its hold-out loss was measured as {loss:.4f}, it claims {claimed:.4f}")
    say("measured", measured_loss_micro=round(loss * 1e6), claimed_loss_micro=job.claimed_loss_micro)


def _measure(job: Job, trainer: Trainer, holdout: LatentCache) -> None:
    """Say what published weights are worth on hold-out data, and what knowing nothing is worth there.

    Raises:
        RefusedError: they cannot be loaded, or what they predict is not finite.
    """
    try:
        trainer.start_from(Path(str(job.evaluate)))
        loss = trainer.evaluate(holdout, EVALUATION_SAMPLES)
    except (CheckpointError, NonFiniteError) as error:
        raise RefusedError(str(error)) from error
    if not math.isfinite(loss):
        raise RefusedError(f"its hold-out loss is {loss}")
    nothing = None if job.is_router else trainer.evaluate(holdout, EVALUATION_SAMPLES, predict_nothing)
    say(
        "measured",
        measured_loss_micro=min(round(loss * 1e6), MOST_LOSS_MICRO),
        claimed_loss_micro=job.claimed_loss_micro,
        nothing_micro=None if nothing is None else round(nothing * 1e6),
        samples=min(EVALUATION_SAMPLES, len(holdout)),
    )


def _trainer(job: Job, cache: LatentCache, ranks: Ranks = ALONE) -> Trainer:
    means = job.means
    return new_trainer(
        job.run, job.unit, job.network, job.recipe, cache, threads=means.threads, compiled=means.compiled, ranks=ranks
    )


def _shared(job: Job, shards: tuple[str, ...], stop: Stop, ranks: Ranks) -> LatentCache:
    """Open a cache that the first rank made where it was missing; ranks on other hosts need the same folder."""
    if ranks.first:
        _ingested(job, shards, stop)
    ranks.any(False)
    return _ingested(job, shards, stop)


def _ingested(job: Job, shards: tuple[str, ...], stop: Stop) -> LatentCache:
    def report(done: int) -> None:
        say("prepare", done=done)
        if stop():
            raise SystemExit(0)

    paths = [Path(shard) for shard in shards]
    return open_cache(job.run, paths, job.codec, job.text, job.network, Path(job.cache), report)


def _versions(job: Job, ranks: Ranks) -> dict[str, str]:
    """What a replay must know to expect equal bits."""
    return {
        "paris-node": version("paris-node"),
        "torch": torch.__version__,
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(job.means.threads),
        "precision": affordable(job.recipe["precision"], local_device()),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "ranks": f"{ranks.count}{' sharded' if ranks.sharded else ''}",
    }


def main() -> int:
    """Run the job named on the command line; what goes wrong becomes one "failed" event with a sentence.

    Training gives way to the peer itself, whose records must be renewed in time.
    """
    job = Job.read(Path(sys.argv[1]))
    processes = job.means.shared_by(job.recipe["batch"], torch.cuda.device_count())
    if processes > 1 and "RANK" not in os.environ:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, *launcher, "-m", "paris.node.worker", sys.argv[1]]
        os.execv(sys.executable, command)  # noqa: S606 (the peer must go on talking to this very process)
    os.nice(5)
    be_deterministic()
    try:
        with joined(job.means.sharded) as ranks:
            train(job, Stop(), ranks)
    except RefusedError as error:
        say("refused", what="a checkpoint is not what it claims to be", why=str(error))
        return VerificationError.exit_code
    except ParisError as error:
        say("failed", what=error.what, why=error.why, hint=error.hint, exit_code=error.exit_code)
        return error.exit_code
    except (MemoryError, OSError) as error:
        say("failed", what="there is no memory or disk left to train this unit", why=str(error), hint="Make room.")
        return ResourceError.exit_code
    except ValueError as error:
        say("failed", what=str(error), why="", hint="")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
