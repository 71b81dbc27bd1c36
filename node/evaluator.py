"""Measuring other peers' checkpoints on hold-out data: only what was measured counts (`paris.protocol.progress`)."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from paris.node.announcer import Announcer
from paris.node.session import Place, RefusedCheckpointError, Session, prepare_measurement
from paris.protocol.errors import ParisError, RecordError
from paris.protocol.limits import LIMITS
from paris.protocol.progress import TOLERANCE_PERCENT, failing, nothing_micro
from paris.protocol.records import Checkpoint, Verdict
from paris.registry.resolve import ResolvedUnit

MOST_REFUTED = 4
"""Children of one checkpoint that may turn out to be garbage before unproven names are left unmeasured there: a flood
of lies costs this node so many measurements, then it goes on from what it knows."""
log = logging.getLogger(__name__)


class Evaluator:
    """Remembers which checkpoints are as good as they claim, and says so in signed verdicts.

    Contract: a checkpoint is measured once, in a child process, one at a time. One that could not be measured is
    neither trusted nor distrusted.

    Attributes:
        trusted: Digests of checkpoints measured and found good.
        distrusted: Digests of those found worse than claimed, worse than nothing, or impossible to build on.
        vouched: Digests of those that enough admitted others found good; they go on counting when verdicts run out.
        proven: Signers of trusted checkpoints.
    """

    def __init__(self, place: Place, announcer: Announcer) -> None:
        self._place, self._announcer = place, announcer
        self.trusted: set[str] = set()
        self.distrusted: set[str] = set()
        self.vouched: set[str] = set()
        self.proven: set[str] = set()
        self._refuted: Counter[tuple[str, str | None]] = Counter()
        self._one_at_a_time = asyncio.Lock()

    def judge(self, digest: str, checkpoint: Checkpoint) -> bool | None:
        """Whether a checkpoint counts here; None where nobody knows. Own work counts (`paris.protocol.progress`)."""
        if digest in self.distrusted:
            return False
        own = checkpoint.signer == self._place.peer.peer_id
        return True if own or digest in self.trusted or digest in self.vouched else None

    def worth_measuring(self, pending: ResolvedUnit) -> bool:
        """Whether to spend a measurement on a unit's pending checkpoint."""
        newest = pending.lineage[-1]
        return newest.signer in self.proven or self._refuted[pending.unit, newest.parent] < MOST_REFUTED

    def distrust(self, unit: ResolvedUnit) -> None:
        """Never count, nor build on, a unit's newest checkpoint again."""
        self.distrusted.add(str(unit.checkpoint))
        self.trusted.discard(str(unit.checkpoint))
        self._refuted[unit.unit, unit.lineage[-1].parent] += 1

    async def measure(self, unit: ResolvedUnit, providers: Sequence[str]) -> bool | None:
        """Whether the unit's newest checkpoint counts, measured now if it was not before; None: it could not be."""
        async with self._one_at_a_time:
            known = self.judge(str(unit.checkpoint), unit.lineage[-1])
            return await self._measure(unit, providers) if known is None else known

    async def _measure(self, unit: ResolvedUnit, providers: Sequence[str]) -> bool | None:
        found: dict[str, Any] = {}
        try:
            job = await prepare_measurement(self._place, unit, providers)
            async with aclosing(Session(job).events()) as events:
                async for event in events:
                    if event.kind == "measured":
                        found = event.fields
        except (RefusedCheckpointError, RecordError) as error:
            log.warning("%s", error)
            self.distrust(unit)
            return False
        except ParisError as error:
            log.warning("could not measure %s, will try again: %s", unit.unit, error)
            return None
        return await self._conclude(unit, found) if found else None

    async def _conclude(self, unit: ResolvedUnit, found: dict[str, Any]) -> bool:
        newest = unit.lineage[-1]
        clusters = len(self._place.genesis.clusters)
        nothing = nothing_micro(unit.unit, clusters) or found["nothing_micro"]
        measured, claimed = found["measured_loss_micro"], newest.holdout_loss_micro
        reason = failing(claimed, measured, nothing, last=unit.complete)
        if reason:
            log.warning("%s at step %d by %s: %s", unit.unit, unit.step, newest.signer, reason)
            self.distrust(unit)
        else:
            self.trusted.add(str(unit.checkpoint))
            self.proven.add(newest.signer)
            self._place.peer.swarm.book.proven.add(newest.signer)
        fields = {
            "unit": unit.unit,
            "checkpoint": unit.checkpoint,
            "step": unit.step,
            "level": "evaluated",
            "holds": reason is None,
            "loss_micro": measured,
            "tolerance_micro": (claimed or 0) * TOLERANCE_PERCENT // 100,
            "samples": found["samples"],
            "note": reason or "",
        }
        await self._announcer.keep("verdict", unit.unit, Verdict, LIMITS.life_s["verdict"], lambda: fields)
        return reason is None
