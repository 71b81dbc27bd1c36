"""What one contributor sees of a run at one moment: verified lineages, live claims, peers, and what counts here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from paris.node.announcer import Announcer
from paris.node.clock import now_s
from paris.node.evaluator import Evaluator
from paris.node.overview import claims_of, peer_names
from paris.node.session import Place
from paris.protocol.claims import Pending, UnitView, View, live
from paris.protocol.placement import watched
from paris.protocol.records import Checkpoint, Claim
from paris.registry.resolve import ResolvedRun, ResolvedUnit, resolve

AVOID_S = 120


def steady_s() -> float:
    """Seconds by a clock that never goes back: a jump of the wall clock lengthens no squatter's deadline."""
    return time.monotonic()


@dataclass(frozen=True)
class Survey:
    """One look at a run.

    Attributes:
        resolved: The units looked at, each with the lineage that carries it.
        claims: Live claims by unit.
        names: What peers call themselves, by peer id; its keys are the peers that announced themselves.
        view: The same as the claim rules see it.
    """

    resolved: ResolvedRun
    claims: dict[str, tuple[Claim, ...]]
    names: dict[str, str]
    view: View

    @property
    def units(self) -> dict[str, ResolvedUnit]:
        """The units looked at."""
        return self.resolved.units

    @property
    def peers(self) -> tuple[str, ...]:
        """Peers that announced themselves for the run."""
        return tuple(self.names)

    @property
    def claimed_complete(self) -> bool:
        """Whether every unit looked at is trained to its end, as measured or claimed."""
        return all(unit.newest.complete for unit in self.units.values())


class Surveyor:
    """Looks on behalf of a contributor: own claims count only while it stands behind them.

    Contract: one look reads the units this node watches, or the few it is asked about, and nothing else: ten thousand
    idle peers must cost a network little (`paris.protocol.placement.watched`).

    Attributes:
        claimed_at_s: When this node first claimed the unit it holds, by `steady_s`.
        fruitless: How many times in a row there was nothing to do.
    """

    def __init__(self, place: Place, announcer: Announcer, evaluator: Evaluator) -> None:
        self._place, self._announcer, self._evaluator = place, announcer, evaluator
        self._since_s: dict[tuple[str, str | None], float] = {}
        self._pending_since_s: dict[str, float] = {}
        self._avoided_until_s: dict[str, float] = {}
        self.claimed_at_s: float | None = None
        self.fruitless = 0

    def avoid(self, unit: ResolvedUnit) -> None:
        """Leave out a checkpoint whose files nobody serves, for a while: an earlier one may be had."""
        if unit.checkpoint:
            self._avoided_until_s[unit.checkpoint] = steady_s() + AVOID_S

    async def look(self, units: Sequence[str] | None = None) -> Survey:
        """Read the run anew.

        Args:
            units: The units to look at; None: those this node watches.

        Raises:
            NetworkError: the network does not answer.
        """
        place, library = self._place, self._place.peer.library
        names = await peer_names(library, place.run)
        if units is None:
            peers = len({*names, place.peer.peer_id})
            units = watched(place.run, place.peer.peer_id, place.genesis.units(), peers)
        proven = self._evaluator.proven
        resolved = await resolve(
            library, place.run, tuple(names), self._judge, units=units, proven=proven, charter=place.charter
        )
        self._evaluator.vouched |= {str(unit.checkpoint) for unit in resolved.units.values() if unit.evaluated}
        found = await claims_of(library, place.run, tuple(resolved.units))
        claims = {unit: tuple(c for c in live(all_, now_s()) if self._counts(c)) for unit, all_ in found.items()}
        views = tuple(self._view(resolved, unit, claims[unit.unit]) for unit in resolved.units.values())
        view = View(place.run, views, place.genesis.lease, self.claimed_at_s, self.fruitless)
        return Survey(resolved, claims, names, view)

    def _judge(self, digest: str, checkpoint: Checkpoint) -> bool | None:
        avoided = steady_s() < self._avoided_until_s.get(digest, 0.0)
        return False if avoided else self._evaluator.judge(digest, checkpoint)

    def _counts(self, claim: Claim) -> bool:
        """A claim of our own from before a restart, or one given up, binds nobody here."""
        return claim.signer != self._place.peer.peer_id or self._announcer.standing("claim", claim.unit)

    def _view(self, resolved: ResolvedRun, unit: ResolvedUnit, claims: tuple[Claim, ...]) -> UnitView:
        signers = {claim.signer for claim in claims}
        since_s = self._since_s.setdefault((unit.unit, unit.checkpoint), steady_s()) if claims else steady_s()
        return UnitView(
            unit=unit.unit,
            target_step=unit.target_steps,
            step=unit.step,
            checkpoint=unit.checkpoint,
            claims=claims,
            progressed=frozenset(signers & set(unit.holders[-1:])),
            blocked=self._blocked(resolved, unit),
            since_s=since_s,
            pending=self._pending(unit),
        )

    def _pending(self, unit: ResolvedUnit) -> Pending | None:
        newest = unit.pending
        if newest is None or newest.checkpoint is None or not self._evaluator.worth_measuring(newest):
            return None
        since_s = self._pending_since_s.setdefault(newest.checkpoint, steady_s())
        return Pending(newest.checkpoint, newest.step, since_s)

    def _blocked(self, resolved: ResolvedRun, unit: ResolvedUnit) -> bool:
        """Whether what the unit starts from is still being trained."""
        genesis = self._place.genesis
        waits = genesis.start.kind == "base" and genesis.cluster(unit.unit) is not None
        return waits and not resolved.units["base"].complete
