"""Training one unit: files in, a child process, checkpoints out. It can be stopped at any moment and loses nothing."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from paris.node.jobs import Event, Job, Means
from paris.node.peer import Peer
from paris.protocol.charter import Charter
from paris.protocol.errors import ParisError, UnavailableError, VerificationError
from paris.protocol.manifest import Manifest
from paris.protocol.records import Genesis
from paris.registry.atomic import remove_tree
from paris.registry.library import Progress
from paris.registry.resolve import ResolvedUnit
from paris.registry.weights import checkpoint_files, model_files, network_of

log = logging.getLogger(__name__)

STOP_GRACE_S = 60.0
MEASURED = "measured"
CHECKED_OUT = "checked-out"


@dataclass
class Place:
    """Where a session works, what it may use, and what is in force there.

    Attributes:
        genesis: The newest version known.
        charter: What the curators say, where this node follows them.
    """

    peer: Peer
    run: str
    genesis: Genesis
    means: Means
    charter: Charter | None = None

    def follow(self, charter: Charter) -> None:
        """Work by what is in force now."""
        self.charter, self.genesis = charter, charter.genesis

    def work(self, unit: str) -> Path:
        """The unit's folder under the node's home."""
        return self.peer.home.work(self.run, unit)


async def prepare_job(
    place: Place, parent: ResolvedUnit, providers: Sequence[str], progress: Progress | None = None
) -> Job:
    """Fetch and verify everything a stretch of training needs, and write it down as a job.

    Training goes on from the unit's newest published checkpoint, else from the start the genesis names. A stranger's
    checkpoint is to be measured first; one that claims no loss claims the impossible. Where only the published weights
    of a checkpoint survive, its full training state being nowhere to be had, the job is a warm start from them.

    Raises:
        UnavailableError: shards, or the parent's weights, are nowhere to be had now.
    """
    genesis, unit = place.genesis, parent.unit
    everyone = tuple(dict.fromkeys((*parent.providers, *providers)))
    fetch = partial(_checkout, place, everyone, progress)
    job = await _data_job(place, parent, fetch, training=True)
    _sweep(Path(job.work))
    taken_over = bool(parent.lineage) and parent.lineage[-1].signer != place.peer.peer_id
    claimed = (parent.lineage[-1].holdout_loss_micro or 0) if taken_over else None
    if parent.manifest:
        try:
            state = await fetch(parent.manifest, lambda files: checkpoint_files(files, genesis, unit))
            return replace(job, resume=str(state), claimed_loss_micro=claimed)
        except UnavailableError as error:
            log.warning("the training state of %s at step %d is lost: %s", unit, parent.step, error)
        weights = await fetch(parent.manifest, lambda files: model_files(files, genesis, unit))
        return replace(job, start=str(weights), claimed_loss_micro=claimed)
    if parent.start:
        start = await fetch(parent.start, lambda files: model_files(files, genesis, unit))
        return replace(job, start=str(start))
    return job


async def prepare_measurement(place: Place, unit: ResolvedUnit, providers: Sequence[str]) -> Job:
    """Fetch what measuring a unit's newest checkpoint needs: its published weights and the hold-out shards.

    Raises:
        UnavailableError: they are nowhere to be had now.
    """
    everyone = tuple(dict.fromkeys((*unit.providers, *providers)))
    fetch = partial(_checkout, place, everyone, None)
    job = await _data_job(place, unit, fetch, training=False)
    weights = await fetch(str(unit.manifest), lambda files: model_files(files, place.genesis, unit.unit))
    work = Path(job.work) / MEASURED
    work.mkdir(exist_ok=True)
    claimed = unit.lineage[-1].holdout_loss_micro
    return replace(job, work=str(work), evaluate=str(weights), claimed_loss_micro=claimed)


async def _data_job(place: Place, unit: ResolvedUnit, fetch: Callable[..., Awaitable[Path]], *, training: bool) -> Job:
    """A job with its data laid out, and nothing to begin from yet; measuring needs the hold-out shards only."""
    genesis, work = place.genesis, place.work(unit.unit)
    work.mkdir(parents=True, exist_ok=True)
    cluster = genesis.cluster(unit.unit)
    clusters = [cluster] if cluster else list(genesis.clusters)
    shards = [name for c in clusters for name in c.shards] if training else []
    holdout = [name for c in clusters for name in c.holdout]
    names = {*shards, *holdout}
    data = await fetch(genesis.data.manifest, lambda files: files.select(lambda entry: entry.name in names))
    codec = genesis.codec.manifest and await fetch(genesis.codec.manifest)
    return Job(
        run=place.run,
        unit=unit.unit,
        network=dict(network_of(genesis, unit.unit)[1]),
        recipe=genesis.recipe(unit.unit).model_dump(mode="json"),
        shards=tuple(str(data / name) for name in shards),
        holdout=tuple(str(data / name) for name in holdout),
        codec={"kind": genesis.codec.kind, "folder": str(codec) if codec else None},
        text=genesis.text.model_dump(mode="json"),
        start=None,
        resume=None,
        resume_step=unit.step,
        evaluate=None,
        claimed_loss_micro=None,
        work=str(work),
        cache=str(place.peer.home.cache),
        means=place.means,
    )


async def _checkout(
    place: Place,
    providers: Sequence[str],
    progress: Progress | None,
    digest: str,
    select: Callable[[Manifest], Manifest] = lambda files: files,
) -> Path:
    """Fetch a manifest's selected files and lay them out in a folder named by what is in it: it is never stale."""
    library = place.peer.library
    wanted = await asyncio.to_thread(select, await library.manifest(digest, providers))
    folder = place.work(CHECKED_OUT) / wanted.digest.removeprefix("sha256:")[:24]
    if not folder.is_dir():
        await library.files(wanted.files, providers, progress)
        await asyncio.to_thread(place.peer.home.store.checkout, wanted, folder)
    return folder


def _sweep(work: Path) -> None:
    """Remove what a killed child left half written."""
    for leftover in work.glob(".writing-*"):
        remove_tree(leftover)


class RefusedCheckpointError(VerificationError):
    """A stranger's checkpoint cannot be loaded, or was measured and is worse than it claims."""


class Session:
    """A running training child.

    Contract: events arrive in the order the child produced them; `stop` makes the child write a checkpoint and end; the
    child ends by itself when this process dies.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.step = job.resume_step
        self.stopping = False
        self._process: asyncio.subprocess.Process | None = None

    async def events(self) -> AsyncGenerator[Event]:
        """Start the child and yield what it says until it ends.

        Raises:
            RefusedCheckpointError: what it should build on is worse than it claims.
            ParisError: the child failed; the message is the child's own.
        """
        if self.stopping:
            return
        job_file = Path(self.job.work) / "job.json"
        self.job.write(job_file)
        with (Path(self.job.work) / "worker.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "paris.node.worker", str(job_file), stdout=asyncio.subprocess.PIPE, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        if self.stopping:
            self.stop()
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                event = Event.parse(line)
                if event is None:
                    continue
                self._note(event)
                if event.kind in {"failed", "refused"}:
                    raise _failure(event)
                yield event
            code = await self._process.wait()
            if code != 0 and not self.stopping:
                raise ParisError(
                    f"the training process of {self.job.unit} ended with code {code}",
                    why=f"its last words are in {Path(self.job.work) / 'worker.log'}",
                    hint="Start again: training goes on from the last checkpoint.",
                )
        finally:
            await self._end()

    def stop(self) -> None:
        """Ask the child to checkpoint and end."""
        self.stopping = True
        if self._process and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    def _note(self, event: Event) -> None:
        self.step = event.fields.get("step", self.step)

    async def _end(self) -> None:
        if self._process and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), STOP_GRACE_S)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


def _failure(event: Event) -> ParisError:
    """The child's error as it would have been raised here."""
    kind = RefusedCheckpointError if event.kind == "refused" else ParisError
    return kind(event.fields["what"], event.fields.get("why", ""), event.fields.get("hint", ""))
