"""The contributor's loop: survey, decide, act, until the run is complete or somebody says stop."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from contextlib import aclosing, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from paris.node.announcer import Announcer
from paris.node.clock import now_s
from paris.node.credentials import in_force
from paris.node.evaluator import Evaluator
from paris.node.follower import Follower
from paris.node.jobs import Means
from paris.node.mirror import Mirror
from paris.node.overview import peer_names
from paris.node.peer import Peer
from paris.node.publisher import Publisher, stand_behind_again
from paris.node.session import Place, RefusedCheckpointError, Session, prepare_job
from paris.node.survey import Survey, Surveyor, steady_s
from paris.protocol.claims import Action, Complete, MakeClaim, Measure, Train, Wait, Withdraw, decide, fruitless, idle_s
from paris.protocol.credentials import authority
from paris.protocol.errors import NetworkError, ParisError, UnavailableError
from paris.protocol.records import Claim, Genesis
from paris.protocol.records import Peer as PeerRecord
from paris.registry.governance import Governance
from paris.registry.resolve import ResolvedUnit
from paris.registry.weights import get_ready

log = logging.getLogger(__name__)

Report = Callable[..., None]
T = TypeVar("T")
HAND_OVER_S = 20
"""How long a node that was told to stop waits for a copy of its last checkpoint to exist elsewhere."""
PEER_LIFE_S = 600
"""Short, because peers that are gone must not be counted on to keep copies."""
MOST_ADDRESSES = 32
MOST_NAME_CHARS = 64
MIRROR_EVERY_S = 60.0
"""A copy is made at most this long after a checkpoint was announced, and the time it takes to fetch."""
FOLLOW_EVERY_S = 300.0
"""Longest pause between two looks at what the curators say."""
MOST_FAILURES = 3
"""Times in a row the training child may fail before the node gives up."""


class Contributor:
    """One contributor in one run.

    Contract: at any moment it holds at most one claim and trains at most one unit. Whatever it has published stays
    published; what its training child wrote is published at the next start if this process dies in between. The network
    may come and go: training goes on, announcements wait.
    """

    def __init__(
        self,
        peer: Peer,
        run: str,
        governance: Governance,
        means: Means,
        name: str,
        report: Report,
        *,
        trains: bool = True,
    ) -> None:
        self._peer, self._run = peer, run
        self._name, self._report, self._trains = name, report, trains
        self._place = Place(peer, run, governance.charter.genesis, means)
        self._follower = Follower(self._place, governance, report)
        credentials = in_force(peer.home, run, now_s(), self._genesis.curators)
        self._acts_for = authority(peer.peer_id, credentials.envelopes, run, now_s(), self._genesis.curators).name
        self._announcer = Announcer(
            run, peer.identity, peer.swarm.publish, now_s, steady_s, credentials=credentials.carried
        )
        self._publisher = Publisher(self._place, self._announcer)
        self._mirror = Mirror(self._place, self._announcer)
        self._evaluator = Evaluator(self._place, self._announcer)
        self._surveyor = Surveyor(self._place, self._announcer, self._evaluator)
        self._session: Session | None = None
        self._stopping, self._hurrying = asyncio.Event(), asyncio.Event()
        self._rng = random.Random()
        self._failures = 0
        self._reason = ""

    def stop(self) -> None:
        """Checkpoint, publish, give others a moment to copy, leave. The second call leaves out the moment."""
        if self._stopping.is_set():
            self._hurrying.set()
        self._stopping.set()
        if self._session:
            self._session.stop()

    async def run(self, *, leave_when_complete: bool) -> None:
        """Contribute until the run is complete (and then, unless told to leave, go on serving) or `stop` is called."""
        ready = asyncio.to_thread(get_ready, self._genesis)
        background = [asyncio.create_task(work) for work in (self._upkeep(), self._renew(), self._follow(), ready)]
        try:
            while not self._stopping.is_set():
                survey = await self._survey()
                if survey is None:
                    break
                action = self._decide(survey)
                self._surveyor.fruitless = fruitless(self._surveyor.fruitless, action)
                if isinstance(action, Complete):
                    if await self._finished(leave_when_complete=leave_when_complete):
                        return
                else:
                    await self._act(action, survey)
                await self._let_go(survey)
            await self._hand_over()
        finally:
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)

    async def _act(self, action: Action, survey: Survey) -> None:
        match action:
            case Wait(seconds=seconds, reason=reason):
                self._wait_for(reason)
                await self._pause(seconds)
            case Measure(unit=unit):
                await self._unless_stopped(self._measure(survey.units[unit], survey.peers))
            case MakeClaim(unit=unit):
                await self._claim(unit)
            case Train(unit=unit):
                await self._train(survey.units[unit], survey)
            case Withdraw(unit=unit, winner=winner):
                self._report("withdrawn", unit=unit, winner=winner.signer)
                await self._release(survey.units[unit])

    async def _hand_over(self) -> None:
        """Stay a little after stopping, until somebody else holds what this node trained last."""
        deadline_s = steady_s() + HAND_OVER_S
        while steady_s() < deadline_s and not self._hurrying.is_set():
            try:
                if self._copied(await self._surveyor.look(self._genesis.units())):
                    return
            except NetworkError:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hurrying.wait(), 1)

    async def _finished(self, *, leave_when_complete: bool) -> bool:
        """Serve on, looking rarely; or, where told to, leave as soon as nothing would be lost with this node.

        What a node watches may be complete while the run is not: of the rest it knows what others claim.
        """
        survey = await self._survey(self._genesis.units())
        if survey is None:
            return False
        complete = survey.claimed_complete
        if complete and self._reason != "complete":
            self._report("complete", units=len(survey.units))
            self._reason = "complete"
        elif not complete:
            self._wait_for("what this node watches is complete, the rest is others' to train")
        if complete and leave_when_complete and self._copied(survey):
            return True
        await self._pause(self._period_s if complete and leave_when_complete else self._idle_s)
        return False

    def _copied(self, survey: Survey) -> bool:
        """Whether somebody else, if there is anybody, holds everything this node trained last."""
        me = self._peer.peer_id
        mine = [unit for unit in survey.units.values() if unit.holders[-1:] == (me,)]
        return not set(survey.peers) - {me} or all(set(unit.providers) - {me} for unit in mine)

    def _decide(self, survey: Survey) -> Action:
        if not self._trains:
            return Wait(self._idle_s, "this node only keeps and serves") if not survey.claimed_complete else Complete()
        return decide(survey.view, self._peer.peer_id, steady_s(), self._rng)

    def _wait_for(self, reason: str) -> None:
        """Say why this node waits, once for each reason."""
        kind = reason.partition(";")[0]
        if kind != self._reason:
            self._report("waiting", reason=reason)
        self._reason = kind

    async def introduce(self) -> None:
        """Announce that this node is here for this run, and what it holds of it."""
        fields = {
            "addrs": self._peer.swarm.addrs[:MOST_ADDRESSES],
            "agent": f"paris-node/{version('paris-node')} {self._name[:MOST_NAME_CHARS]}".strip(),
            "abilities": ["train", "store"] if self._trains else ["store"],
        }
        await self._announcer.keep("peer", "", PeerRecord, PEER_LIFE_S, lambda: fields)
        await stand_behind_again(self._place, self._announcer)

    def announce_soon(self) -> None:
        """Let what this node stands behind be announced anew: there is more to say of it."""
        self._announcer.hurry()

    async def announce_again(self) -> None:
        """Announce everything this node stands behind to those who are there now."""
        self._follower.hurry()
        self._announcer.hurry()
        await self._announcer.flush()

    async def _claim(self, name: str) -> None:
        """Announce a claim, then give others time to be heard; the next survey reads back who holds it."""
        survey = await self._survey([name])
        if survey is None:
            return
        unit = survey.units[name]
        self._report("claiming", unit=name, step=unit.step)
        fields = {"unit": name, "parent": unit.checkpoint, "step": unit.step}
        self._surveyor.claimed_at_s = steady_s()
        await self._announcer.keep("claim", name, Claim, self._genesis.lease.life_s, lambda: fields)
        await self._pause(self._genesis.lease.settle_s)

    async def _let_go(self, survey: Survey) -> None:
        """Give back a claim on what turned out to be complete before it was trained here."""
        for unit in survey.units.values():
            if unit.complete and self._announcer.standing("claim", unit.unit):
                await self._release(unit)

    async def _measure(self, unit: ResolvedUnit, peers: Sequence[str]) -> None:
        """Find out what a unit's pending checkpoint is worth."""
        pending = unit.pending
        if pending is None:
            return
        held = await self._evaluator.measure(pending, peers)
        if held is None:
            self._surveyor.avoid(pending)
        newest = pending.lineage[-1]
        self._report("evaluated", unit=unit.unit, step=pending.step, counts=bool(held), by=newest.signer)

    async def _release(self, unit: ResolvedUnit) -> None:
        """Give a claim up at once, so that nobody waits for it to run out."""
        fields = {"unit": unit.unit, "parent": unit.checkpoint, "step": unit.step, "released": True}
        await self._announcer.keep("claim", unit.unit, Claim, self._genesis.lease.life_s, lambda: fields)
        self._announcer.drop("claim", unit.unit)

    async def _train(self, parent: ResolvedUnit, survey: Survey) -> None:
        """Train a unit this node holds, publishing every checkpoint, until it is complete, lost or stopped."""
        unit, fence = parent.unit, self._announcer.sequence("claim", parent.unit)
        try:
            while folder := self._publisher.unpublished(parent):
                parent = await self._publish(folder, parent, fence)
            if parent.complete:
                return
            job = await self._unless_stopped(prepare_job(self._place, parent, survey.peers))
            if job is None:
                return
            self._publisher.begin(parent)
            session = self._session = Session(job)
            await self._announcer.keep(
                "claim", unit, Claim, self._genesis.lease.life_s, lambda: self._claim_fields(parent)
            )
            self._report(
                "training", unit=unit, step=parent.step, target=parent.target_steps, parent_by=parent.holders[-1:]
            )
            async with aclosing(session.events()) as events:
                async for event in events:
                    if event.kind == "checkpoint":
                        parent = await self._publish(Path(event.fields["folder"]), parent, fence)
                    else:
                        self._report(event.kind, unit=unit, **event.fields)
            self._failures = 0
        except RefusedCheckpointError as error:
            log.warning("%s", error)
            self._evaluator.distrust(parent)
            await self._pause(1)
        except UnavailableError as error:
            self._wait_for(f"{unit} cannot be trained yet: {error}")
            self._surveyor.avoid(parent)
            await self._pause(self._period_s)
        except ParisError as error:
            self._failures += 1
            self._report("failed", unit=unit, reason=str(error), times=self._failures)
            if self._failures >= MOST_FAILURES:
                raise
            await self._pause(self._period_s)
        finally:
            self._session = None
            await self._release(parent)

    def _claim_fields(self, parent: ResolvedUnit) -> dict[str, Any]:
        step = self._session.step if self._session else parent.step
        return {"unit": parent.unit, "parent": parent.checkpoint, "step": max(step, parent.step)}

    async def _publish(self, folder: Path, parent: ResolvedUnit, fence: int) -> ResolvedUnit:
        grown = await self._publisher.publish(folder, parent, fence)
        loss = grown.lineage[-1].holdout_loss_micro
        self._report(
            "published", unit=parent.unit, step=grown.step, checkpoint=grown.checkpoint, holdout_loss_micro=loss
        )
        return grown

    async def _upkeep(self) -> None:
        """Copy what this node should keep, and notice when a unit was lost to somebody else.

        The unit in training is looked at often, what is to be copied now and then, and nothing else.
        """
        mirrored_s = 0.0
        while True:
            try:
                if self._session:
                    await self._watch(self._session)
                if steady_s() - mirrored_s >= self._mirror_every_s * self._rng.uniform(0.8, 1.2):
                    mirrored_s = steady_s()
                    await self._copy_others()
            except ParisError as error:
                log.warning("the network is not reachable, training goes on: %s", error)
            except Exception:
                log.exception("upkeep failed and will be tried again, training goes on")
            await asyncio.sleep(self._period_s * self._rng.uniform(0.8, 1.2))

    async def _watch(self, session: Session) -> None:
        """Stop training a unit that somebody else holds first or has completed; measure what says so."""
        unit = session.job.unit
        survey = await self._surveyor.look([unit])
        action = self._decide(survey)
        if isinstance(action, Measure):
            await self._measure(survey.units[unit], survey.peers)
        elif (survey.units[unit].complete or isinstance(action, Withdraw)) and self._session is session:
            self._report("lost", unit=unit)
            session.stop()

    async def _copy_others(self) -> None:
        names = await peer_names(self._peer.library, self._run)
        survey = await self._surveyor.look(self._mirror.kept(tuple(names)))
        for unit in await self._mirror.round(survey.units, survey.peers):
            self._report("copied", unit=unit, step=survey.units[unit].newest.step)

    async def _renew(self) -> None:
        """Keep this node's records alive, whatever else it waits for."""
        while True:
            try:
                await self._announcer.flush()
            except ParisError as error:
                log.warning("what this node stands behind was not announced, will try again: %s", error)
            except Exception:
                log.exception("announcing failed and will be tried again, training goes on")
            await asyncio.sleep(self._period_s / 2)

    async def _follow(self) -> None:
        """Follow the curators. Shut out by them, this node trains no longer; its next claim says why, and ends it."""
        while True:
            try:
                await self._follower.look()
                if self._session and not self._admitted:
                    self._report("expelled", name=self._acts_for)
                    self._session.stop()
            except ParisError as error:
                log.warning("what the curators say could not be read, will try again: %s", error)
            except Exception:
                log.exception("following the curators failed and will be tried again, training goes on")
            await asyncio.sleep(min(FOLLOW_EVERY_S, self._idle_s))

    async def _survey(self, units: Sequence[str] | None = None) -> Survey | None:
        """Look until the network answers; None if told to stop before it did."""
        while not self._stopping.is_set():
            try:
                return await self._surveyor.look(units)
            except NetworkError as error:
                self._wait_for(f"the network is not reachable: {error}")
                await self._pause(self._period_s)
        return None

    @property
    def _genesis(self) -> Genesis:
        return self._place.genesis

    @property
    def _admitted(self) -> bool:
        charter = self._place.charter
        return charter is None or charter.admission.admits(self._acts_for)

    @property
    def _period_s(self) -> float:
        return max(1.0, min(30.0, self._genesis.lease.life_s / 5))

    @property
    def _idle_s(self) -> float:
        return idle_s(self._genesis.lease) * self._rng.uniform(0.5, 1.0)

    @property
    def _mirror_every_s(self) -> float:
        return min(MIRROR_EVERY_S, idle_s(self._genesis.lease))

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of something long, or None as soon as this node is told to stop."""
        task, stopped = asyncio.create_task(work), asyncio.create_task(self._stopping.wait())
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not self._stopping.is_set():
            return task.result()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return None

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
