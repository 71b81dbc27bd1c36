"""Curators of the simulated run at work, and somebody who follows them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from network_simulator import CURATOR, NOW_S, NetworkSimulator, person

from paris.protocol import envelope
from paris.protocol.ensemble import Ensemble
from paris.protocol.limits import LIMITS
from paris.protocol.records import Head
from paris.registry.governance import Governance, follow_curators
from paris.registry.library import Library
from paris.registry.proposals import (
    complete,
    sign,
)
from paris.registry.store import Store

DAY_S = LIMITS.life_s["head"]
DEE, FAY = person(11), person(12)


def follow(library: Library, memory: Path, now_s: float = NOW_S) -> Governance:
    network = library.network
    return asyncio.run(follow_curators(library, network.run, memory, now_s, network.providers))


def head(network: NetworkSimulator, charter, version: int, *signers, ensemble: Ensemble | None = None, **changes):
    people = signers or (CURATOR,)
    fields = {
        "run": network.run, "signer": people[0].peer_id, "seq": version, "iat": NOW_S, "exp": NOW_S + 600 + version,
        "version": version, "genesis": charter.digest,
    }  # fmt: skip
    named = {"ensemble": ensemble.digest} if ensemble else {}
    return envelope.sign("head", Head.parse({**fields, **named, **changes}), *people)


def promoted(network: NetworkSimulator, chains: dict[str, list[str]], *units: str, back: int = 1) -> Ensemble:
    return Ensemble(run=network.run, units={unit: chains[unit][-back] for unit in units or chains})


def publish(network: NetworkSimulator, charter, proposal, who=CURATOR, now_s: int = NOW_S):
    """Sign alone, serve everything, and return what is in force then."""
    whole = sign(proposal, charter, who, now_s)
    network.rule(*whole.blobs, whole.head)
    return complete(whole, charter)


def newcomer(tmp_path: Path, network: NetworkSimulator, name: str) -> Library:
    return Library(Store(tmp_path / name), network)
