"""Training one unit: files in, a child process, checkpoints out. It can be stopped at any moment and loses nothing."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from paris.node.jobs import Event, Job
from paris.node.peer import Peer
from paris.protocol.errors import ParisError, VerificationError
from paris.protocol.records import Genesis
from paris.registry.library import Progress
from paris.registry.resolve import ResolvedUnit

STOP_GRACE_S = 60.0


@dataclass(frozen=True)
class Place:
    """Where a session works and what it may use."""

    peer: Peer
    run: str
    genesis: Genesis
    threads: int

    def work(self, unit: str) -> Path:
        """The unit's folder under the node's home."""
        return self.peer.home.work(self.run, unit)


async def prepare_job(
    place: Place, parent: ResolvedUnit, providers: Sequence[str], progress: Progress | None = None
) -> Job:
    """Fetch and verify everything a stretch of training needs, and write it down as a job.

    Training goes on from the unit's newest published checkpoint, else from the start the genesis names.

    Raises:
        UnavailableError: shards or the parent's training state are nowhere to be had now.
    """
    genesis, unit, work = place.genesis, parent.unit, place.work(parent.unit)
    work.mkdir(parents=True, exist_ok=True)
    cluster = genesis.cluster(unit)
    clusters = [cluster] if cluster else list(genesis.clusters)
    shards = [name for c in clusters for name in c.shards]
    holdout = [name for c in clusters for name in c.holdout]
    everyone = tuple(dict.fromkeys((*parent.providers, *providers)))
    data = await _checkout(place, genesis.data.manifest, [*shards, *holdout], everyone, "data", progress)
    codec = genesis.codec.manifest and await _checkout(place, genesis.codec.manifest, None, everyone, "codec", progress)
    resume, start = None, None
    if parent.manifest:
        resume = await _checkout(place, parent.manifest, None, everyone, f"parent-{parent.step}", progress, unit)
    elif unit != "router" and genesis.start.manifest:
        start = await _checkout(place, genesis.start.manifest, None, everyone, "start", progress)
    taken_over = bool(parent.lineage) and parent.lineage[-1].signer != place.peer.peer_id
    return Job(
        run=place.run,
        unit=unit,
        network=genesis.model.router if unit == "router" else genesis.model.expert,
        recipe=genesis.recipe(unit).model_dump(mode="json"),
        shards=tuple(str(data / name) for name in shards),
        holdout=tuple(str(data / name) for name in holdout),
        codec={"kind": genesis.codec.kind, "folder": str(codec) if codec else None},
        text=genesis.text.model_dump(mode="json"),
        start=str(start) if start else None,
        resume=str(resume) if resume else None,
        evaluate=None,
        claimed_loss_micro=parent.lineage[-1].holdout_loss_micro if taken_over else None,
        work=str(work),
        cache=str(place.peer.home.cache),
        threads=place.threads,
    )


async def _checkout(
    place: Place,
    digest: str,
    names: list[str] | None,
    providers: Sequence[str],
    label: str,
    progress: Progress | None,
    unit: str = "",
) -> Path:
    """Fetch a manifest's files (or only `names`) and lay them out in a folder of the node's work."""
    library, store = place.peer.library, place.peer.home.store
    manifest = await library.manifest(digest, providers)
    wanted = manifest if names is None else manifest.select(lambda entry: entry.name in set(names))
    await library.files(wanted.files, providers, progress)
    folder = place.work(unit or "shared") / label
    if label == "data":
        folder = folder / digest.removeprefix("sha256:")[:16] / f"{len(wanted.files)}-{wanted.digest[-8:]}"
    return await asyncio.to_thread(store.checkout, manifest, folder, names)


class RefusedCheckpointError(VerificationError):
    """A stranger's checkpoint was measured and is worse than it claims."""


class Session:
    """A running training child.

    Contract: events arrive in the order the child produced them; `stop` makes the child write a checkpoint and end; the
    child ends by itself when this process dies.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        self.step = 0
        self.loss = 0.0
        self.per_s = 0.0
        self.stopping = False
        self._process: asyncio.subprocess.Process | None = None

    async def events(self) -> AsyncIterator[Event]:
        """Start the child and yield what it says until it ends.

        Raises:
            RefusedCheckpointError: what it should build on is worse than it claims.
            ParisError: the child failed; the message is the child's own.
        """
        job_file = Path(self.job.work) / "job.json"
        self.job.write(job_file)
        with (Path(self.job.work) / "worker.log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "paris.node.worker", str(job_file), stdout=asyncio.subprocess.PIPE, stderr=log
            )
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                event = Event.parse(line)
                if event is None:
                    continue
                self._note(event)
                if event.kind == "failed":
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
        if event.kind == "step":
            self.step, self.loss, self.per_s = event.fields["step"], event.fields["loss"], event.fields["per_s"]
        elif event.kind in {"checkpoint", "resumed"}:
            self.step = event.fields["step"]

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
    kind = RefusedCheckpointError if event.fields.get("exit_code") == VerificationError.exit_code else ParisError
    return kind(event.fields["what"], event.fields.get("why", ""), event.fields.get("hint", ""))
