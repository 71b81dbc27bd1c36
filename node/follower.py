"""Following a run's curators from a serving node: take over what they say, hand it on, renew what they promised."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from paris.node.clock import now_s
from paris.node.overview import in_words, peer_names
from paris.node.peer import Peer
from paris.node.session import Place
from paris.node.survey import steady_s
from paris.protocol import strict_json
from paris.protocol.errors import EnvelopeError, NetworkError, ParisError, RecordError
from paris.protocol.limits import LIMITS
from paris.protocol.placement import keepers
from paris.protocol.records import Head
from paris.registry.atomic import write_json
from paris.registry.governance import Governance
from paris.registry.proposals import renewed
from paris.registry.resolve import load_genesis

log = logging.getLogger(__name__)

SHARE_OF_LIFE = 3
"""A head is handed on again, and renewed where that was promised, at this share of its life."""
_PROMISE = "promise.json"
_PROMISE_BYTES = 1024


@dataclass(frozen=True)
class Promise:
    """How long this home, where one curator is enough, renews the head it promoted.

    Attributes:
        version: The head's version; another one ends the promise.
        until: UNIX seconds.
        life_s: How long each renewal lives.
    """

    version: int
    until: int
    life_s: int

    def keep(self, memory: Path) -> None:
        """Write it down."""
        write_json(memory / _PROMISE, {"version": self.version, "until": self.until, "life_s": self.life_s})

    @classmethod
    def kept(cls, memory: Path) -> Promise | None:
        """What was promised, if anything was."""
        try:
            fields = strict_json.loads((memory / _PROMISE).read_bytes(), _PROMISE_BYTES)
            return cls(*(int(fields[name]) for name in ("version", "until", "life_s")))
        except FileNotFoundError:
            return None
        except (OSError, EnvelopeError, KeyError, TypeError, ValueError) as error:
            log.warning("%s is passed over: %s", memory / _PROMISE, error)
            return None

    def due(self, head: Head, now: int) -> bool:
        """Whether the head should be renewed now."""
        early_s = self.life_s - self.life_s // SHARE_OF_LIFE
        return head.version == self.version and now < self.until and head.exp < min(now + early_s, self.until)


class Follower:
    """One serving node's following.

    Contract: the place learns of a charter after it was written down. A head that is in force is in the DHT again
    within a look of this node's, where this node is one of those who keep it there.
    """

    def __init__(self, place: Place, governance: Governance, report: Callable[..., None]) -> None:
        self._place, self._governance, self._report = place, governance, report
        self._due_s = 0.0
        self._told: tuple[int, int] = (1, 0)
        place.follow(governance.charter)

    async def look(self) -> bool:
        """Look for news once; return whether there was any.

        Raises:
            NetworkError: the network does not answer, or nobody serves what a head names.
        """
        place, governance = self._place, self._governance
        names = await peer_names(place.peer.library, place.run)
        changed = await governance.refresh(now_s(), tuple(names))
        if changed:
            place.follow(governance.charter)
            self._due_s = 0.0
        self._tell()
        await self._renew()
        await self._hand_on({*names, place.peer.peer_id})
        return changed

    def hurry(self) -> None:
        """Hand on at the next look: whoever is there now may have heard nothing."""
        self._due_s = 0.0

    def _tell(self) -> None:
        charter = self._governance.charter
        head = charter.head
        told = (charter.genesis.version, head.version if head else 0)
        if told == self._told:
            return
        self._told = told
        admitted = "everybody" if charter.admission.policy == "open" else f"{len(charter.admission.keys)} keys"
        units = sorted(charter.ensemble.units) if charter.ensemble else []
        said: dict[str, object] = {"words": in_words(charter, now_s())}
        said |= {"head": head.version, "until": head.exp} if head else {}
        self._report("curators", genesis=charter.genesis.version, admitted=admitted, ensemble=units, **said)

    async def _renew(self) -> None:
        charter, place = self._governance.charter, self._place
        promise = Promise.kept(place.peer.home.charter(place.run))
        if charter.head is None or promise is None or not promise.due(charter.head, now_s()):
            return
        try:
            life_s = min(promise.life_s, promise.until - now_s())
            await place.peer.swarm.publish(renewed(charter, place.peer.identity, now_s(), life_s))
            await self._governance.refresh(now_s())
            place.follow(self._governance.charter)
        except ParisError as error:
            log.warning("the head could not be renewed, will try again: %s", error)

    async def _hand_on(self, peers: set[str]) -> None:
        """Keep a live head in the DHT, whoever published it: the signatures travel with it."""
        charter, me = self._governance.charter, self._place.peer.peer_id
        mine = me in charter.signers or me in keepers(charter.run, Head.kind, peers, charter.genesis.replicas + 1)
        if not charter.live(now_s()) or not mine or steady_s() < self._due_s:
            return
        try:
            await self._place.peer.swarm.publish(charter.envelope)
        except (NetworkError, RecordError) as error:
            log.warning("the curators' head could not be handed on, will try again: %s", error)
        else:
            self._due_s = steady_s() + LIMITS.life_s["head"] / SHARE_OF_LIFE


async def follow(peer: Peer, run: str, hints: tuple[str, ...]) -> Governance:
    """What is in force in a run for a node that starts, with a network or without.

    Raises:
        UnavailableError: the genesis is nowhere to be had.
        VerificationError: it does not hold, or this version cannot train what it describes.
    """
    genesis = await load_genesis(peer.library, run, hints=hints)
    governance = await Governance.recall(peer.library, run, genesis, peer.home.charter(run))
    try:
        await governance.refresh(now_s(), tuple(await peer_names(peer.library, run)))
    except NetworkError as error:
        log.warning("what the curators say could not be read anew: %s", error)
    return governance
