"""Measuring other peers' checkpoints on hold-out data: only what this node has measured itself counts as progress."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

from paris.node.session import Place, RefusedCheckpointError, Session, prepare_job
from paris.protocol.errors import ParisError
from paris.registry.resolve import ResolvedUnit

MEASURED = "measured"
log = logging.getLogger(__name__)


class Evaluator:
    """Remembers which checkpoints hold what they claim.

    Contract: a checkpoint is measured once, in a child process. `trusted` and `distrusted` hold digests of checkpoints;
    one that could not be measured is in neither and is tried again.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self.trusted: set[str] = set()
        self.distrusted: set[str] = set()
        self._one_at_a_time = asyncio.Lock()

    async def measure(self, unit: ResolvedUnit, providers: Sequence[str]) -> bool:
        """Return whether the unit's newest checkpoint is as good on hold-out data as its trainer claims."""
        async with self._one_at_a_time:
            return await self._measure(unit, providers)

    async def _measure(self, unit: ResolvedUnit, providers: Sequence[str]) -> bool:
        digest = unit.checkpoint
        if digest is None or digest in self.trusted | self.distrusted:
            return digest in self.trusted
        claimed = unit.lineage[-1].holdout_loss_micro
        if claimed is None:
            self.distrusted.add(digest)
            return False
        try:
            job = await prepare_job(self._place, unit, providers)
            work = Path(job.work) / MEASURED
            work.mkdir(exist_ok=True)
            measuring = replace(job, work=str(work), evaluate=job.resume, resume=None, claimed_loss_micro=claimed)
            async with aclosing(Session(measuring).events()) as events:
                async for _event in events:
                    pass
            self.trusted.add(digest)
        except RefusedCheckpointError as error:
            log.warning("%s", error)
            self.distrusted.add(digest)
        except ParisError as error:
            log.warning("could not measure %s, will try again: %s", unit.unit, error)
        return digest in self.trusted
