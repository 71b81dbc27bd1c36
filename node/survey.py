"""What one node sees of a run at one moment: verified lineages, live claims, peers; and the same as rows for people."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from paris.node.announcer import Announcer
from paris.node.evaluator import Evaluator
from paris.node.peer import now_s
from paris.node.session import Place
from paris.protocol.claims import UnitView, View, live, winner
from paris.protocol.records import Claim, Genesis
from paris.protocol.records import Peer as PeerRecord
from paris.registry.library import Library
from paris.registry.resolve import ResolvedRun, ResolvedUnit, resolve

AVOID_S = 120


@dataclass(frozen=True)
class Survey:
    """One look at a run.

    Attributes:
        resolved: Every unit's best verified lineage.
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
        """Every unit's best verified lineage."""
        return self.resolved.units

    @property
    def peers(self) -> tuple[str, ...]:
        """Peers that announced themselves for the run."""
        return tuple(self.names)

    @property
    def complete(self) -> bool:
        """Whether every unit is trained to its end."""
        return self.resolved.complete


async def look(
    library: Library, run: str, genesis: Genesis, distrusted: frozenset[str] = frozenset()
) -> tuple[ResolvedRun, dict[str, tuple[Claim, ...]], dict[str, str]]:
    """Read every record of a run and verify what it points to: lineages, live claims, peers' names."""
    announced = [r for r in await library.records("peer", run) if isinstance(r, PeerRecord)]
    names = {r.signer: r.agent.partition(" ")[2] for r in announced}
    resolved = await resolve(library, run, tuple(names), distrusted)
    units = genesis.units()
    found = await asyncio.gather(*(library.records("claim", run, unit) for unit in units))
    claims = {
        unit: tuple(r for r in records if isinstance(r, Claim)) for unit, records in zip(units, found, strict=True)
    }
    return resolved, claims, names


class Surveyor:
    """Looks on behalf of a contributor: own claims count only while it stands behind them, contests are measured."""

    def __init__(self, place: Place, announcer: Announcer, evaluator: Evaluator) -> None:
        self._place, self._announcer, self._evaluator = place, announcer, evaluator
        self._since_s: dict[tuple[str, str | None], float] = {}
        self._avoided_until_s: dict[str, float] = {}
        self.claimed_at_s: float | None = None

    def avoid(self, unit: ResolvedUnit) -> None:
        """Leave out a checkpoint whose files nobody serves, for a while: an earlier one may be had."""
        if unit.checkpoint:
            self._avoided_until_s[unit.checkpoint] = now_s() + AVOID_S

    async def look(self) -> Survey:
        """Read the run anew.

        Raises:
            NetworkError: the network does not answer.
        """
        place = self._place
        avoided = {digest for digest, until_s in self._avoided_until_s.items() if now_s() < until_s}
        unusable = frozenset(self._evaluator.distrusted | avoided)
        resolved, claims, names = await look(place.peer.library, place.run, place.genesis, unusable)
        claims = {unit: tuple(c for c in live(found, now_s()) if self._counts(c)) for unit, found in claims.items()}
        views = [await self._view(resolved.units[unit], found, tuple(names)) for unit, found in claims.items()]
        return Survey(resolved, claims, names, View(tuple(views), place.genesis.lease, self.claimed_at_s))

    def _counts(self, claim: Claim) -> bool:
        """A claim of our own from before a restart, or one given up, binds nobody here."""
        return claim.signer != self._place.peer.peer_id or self._announcer.standing("claim", claim.unit)

    async def _view(self, unit: ResolvedUnit, claims: tuple[Claim, ...], peers: tuple[str, ...]) -> UnitView:
        signers = {claim.signer for claim in claims}
        trainer = unit.lineage[-1].signer if unit.lineage else None
        progressed = trainer in signers and await self._measured(unit, str(trainer), signers, peers)
        return UnitView(
            unit=unit.unit,
            target_step=unit.target_steps,
            step=unit.step,
            checkpoint=unit.checkpoint,
            claims=claims,
            progressed=frozenset({str(trainer)} if progressed else ()),
            blocked=False,
            since_s=self._since_s.setdefault((unit.unit, unit.checkpoint), now_s()) if claims else now_s(),
        )

    async def _measured(self, unit: ResolvedUnit, trainer: str, signers: set[str], peers: tuple[str, ...]) -> bool:
        """Whether the newest checkpoint counts as progress; measured only by those who compete with its trainer."""
        me = self._place.peer.peer_id
        return me not in signers - {trainer} or await self._evaluator.measure(unit, peers)


def rows(resolved: ResolvedRun, claims: dict[str, tuple[Claim, ...]], names: dict[str, str]) -> list[dict[str, Any]]:
    """One row a unit, for tables and JSON: who holds it, how far it is, how good, how long the lease still runs."""
    table = []
    for name, unit in resolved.units.items():
        held = live(claims.get(name, ()), now_s())
        trainers = frozenset(unit.holders[-1:])
        view = UnitView(
            name, unit.target_steps, unit.step, unit.checkpoint, held, trainers, blocked=False, since_s=now_s()
        )
        claim = None if unit.complete else winner(view, resolved.run)
        cluster = resolved.genesis.cluster(name)
        table.append(
            {
                "unit": name,
                "words": list(cluster.words[:4]) if cluster else [],
                "holder": claim.signer if claim else None,
                "holder_name": names.get(claim.signer, "") if claim else "",
                "step": min(unit.target_steps, max(unit.step, claim.step if claim else 0)),
                "published_step": unit.step,
                "target": unit.target_steps,
                "holdout_loss_micro": unit.lineage[-1].holdout_loss_micro if unit.lineage else None,
                "lease_s": max(0, claim.exp - now_s()) if claim else None,
                "trained_by": list(unit.holders),
                "copies": len(unit.providers),
            }
        )
    return table
