"""Keeping copies: a checkpoint only its trainer holds dies with it, so peers copy what falls to them by hashing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence

from paris.node.announcer import Announcer
from paris.node.publisher import forget_state, held_manifest, stand_behind
from paris.node.session import Place
from paris.protocol.errors import ParisError
from paris.protocol.placement import keepers
from paris.registry.resolve import ResolvedUnit
from paris.registry.weights import checkpoint_files

log = logging.getLogger(__name__)


class Mirror:
    """Copies other peers' newest checkpoints, full training state included, and announces itself as a provider.

    Contract: it announces only what it holds whole and verified. A copy that fails is tried again at the next round.
    What is copied need not have been measured, or a takeover could lose what nobody has looked at yet; but the training
    state of the newest checkpoint that counts here stays beside it, so garbage displaces nothing that is known to be
    good. Two training states a unit are held at most.
    """

    def __init__(self, place: Place, announcer: Announcer) -> None:
        self._place, self._announcer = place, announcer
        self._held: dict[str, set[str]] = {}

    async def round(self, units: Mapping[str, ResolvedUnit], peers: Sequence[str]) -> list[str]:
        """Copy what this node should keep of the units as they stand now; return the units copied."""
        copied = []
        for standing in units.values():
            unit = standing.newest
            if self._should_keep(unit, peers):
                try:
                    await self._copy(unit, standing.manifest)
                    copied.append(unit.unit)
                except ParisError as error:
                    log.warning("could not copy %s at step %d, will try again: %s", unit.unit, unit.step, error)
        return copied

    def kept(self, peers: Sequence[str]) -> list[str]:
        """The units whose newest checkpoints fall to this node, whoever trains them."""
        place, me = self._place, self._place.peer.peer_id
        copies = place.genesis.replicas + 1
        return [unit for unit in place.genesis.units() if me in keepers(place.run, unit, {*peers, me}, copies)]

    def _should_keep(self, unit: ResolvedUnit, peers: Sequence[str]) -> bool:
        me = self._place.peer.peer_id
        if not unit.lineage or unit.lineage[-1].signer == me or me in unit.providers:
            return False
        candidates = {*peers, me} - {unit.lineage[-1].signer}
        return me in keepers(self._place.run, unit.unit, candidates, self._place.genesis.replicas)

    async def _copy(self, unit: ResolvedUnit, counted: str | None) -> None:
        library, newest = self._place.peer.library, unit.lineage[-1]
        manifest = await library.manifest(newest.manifest, unit.providers)
        wanted = await asyncio.to_thread(checkpoint_files, manifest, self._place.genesis, unit.unit)
        await library.files(wanted.files, unit.providers)
        before = held_manifest(self._place, unit.unit)
        held = self._held.get(unit.unit, set()) | ({before} if before else set())
        await stand_behind(self._place, self._announcer, unit)
        self._held[unit.unit] = {newest.manifest} | (held & {counted})
        for old in held - self._held[unit.unit]:
            forget_state(self._place, old)
