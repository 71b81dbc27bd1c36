"""Measuring other peers' checkpoints on hold-out data: only what this node has measured itself counts as progress."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from paris.node.session import Place, RefusedCheckpointError, Session, prepare_job
from paris.protocol.errors import ParisError
from paris.registry.resolve import ResolvedUnit

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

    async def measure(self, unit: ResolvedUnit, providers: Sequence[str]) -> bool:
        """Return whether the unit's newest checkpoint is as good on hold-out data as its trainer claims."""
        digest = unit.checkpoint
        if digest is None or digest in self.trusted | self.distrusted:
            return digest in self.trusted
        try:
            job = await prepare_job(self._place, unit, providers)
            claimed = unit.lineage[-1].holdout_loss_micro
            session = Session(replace(job, evaluate=job.resume, resume=None, claimed_loss_micro=claimed))
            async for _event in session.events():
                pass
            self.trusted.add(digest)
        except RefusedCheckpointError as error:
            log.warning("%s", error)
            self.distrusted.add(digest)
        except ParisError as error:
            log.warning("could not measure %s, will try again: %s", unit.unit, error)
        return digest in self.trusted
