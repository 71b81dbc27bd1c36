"""Vectors of what every implementation must decide alike: who goes first on a unit, in which order to try units, who
keeps copies. No bytes are read here, so they stand apart from the valid and the invalid ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from protocol_support import NOW_S, digest_of, make_claim, person

from paris.protocol.claims import MakeClaim, UnitView, View, decide, winner
from paris.protocol.genesis import Lease
from paris.protocol.placement import keepers

RUN = digest_of("run")
LEASE = Lease(life_s=60, settle_s=2, progress_s=120)
UNITS = ("base", "cluster-0", "cluster-1", "cluster-2", "cluster-10", "router")
NAMES = [person(number).peer_id for number in range(1, 9)]


def free(unit: str) -> UnitView:
    return UnitView(unit, 100, 0, None, (), frozenset(), blocked=False, since_s=NOW_S)


def orders() -> Iterator[tuple[str, dict]]:
    """Claims on one unit, as (person, claimed step); who has evaluated progress; who goes first."""
    checkpoint = digest_of("checkpoint")
    cases = {
        "order-fresh": ("Nobody made progress: the lowest hash.", 0, None, [(n, 0) for n in range(1, 9)], ()),
        "order-later": ("The hash depends on the checkpoint.", 20, checkpoint, [(n, 20) for n in range(1, 9)], ()),
        "order-behind": ("A claim that is behind loses.", 20, checkpoint, [(1, 20), (2, 0), (3, 0)], ()),
        "order-boast": ("A step nobody evaluated does not count.", 20, checkpoint, [(1, 10**9), (2, 20)], ()),
        "order-progress": ("Progress beats everything.", 20, checkpoint, [(1, 0), (2, 20), (3, 20)], (1,)),
    }  # fmt: skip
    for name, (why, step, digest, claims, progressed) in cases.items():
        made = tuple(make_claim(person(n), unit="cluster-1", step=claimed) for n, claimed in claims)
        ahead = frozenset(person(number).peer_id for number in progressed)
        view = UnitView("cluster-1", 100, step, digest, made, ahead, blocked=False, since_s=NOW_S)
        first = winner(view, RUN)
        assert first is not None
        yield (
            name,
            {
                "why": why,
                "run": RUN,
                "unit": "cluster-1",
                "evaluated": {"step": step, "checkpoint": digest},
                "claims": [{"signer": claim.signer, "step": claim.step} for claim in made],
                "progressed": sorted(ahead),
                "first": first.signer,
            },
        )


def preferences() -> Iterator[tuple[str, dict]]:
    """The order in which a peer tries free units, found by asking what it would claim next."""
    for number in (1, 2):
        left, tried = list(UNITS), []
        while left:
            action = decide(View(RUN, tuple(map(free, left)), LEASE), person(number).peer_id, NOW_S, Random(0))
            assert isinstance(action, MakeClaim)
            tried.append(action.unit)
            left.remove(action.unit)
        why = "The order in which a peer tries free units."
        yield f"preference-{number}", {"why": why, "run": RUN, "peer": person(number).peer_id, "units": tried}


def copies() -> Iterator[tuple[str, dict]]:
    for unit in ("cluster-0", "router"):
        why = "Who keeps copies of a unit's newest checkpoint, best first."
        chosen = list(keepers(RUN, unit, NAMES, 3))
        yield f"keepers-{unit}", {
            "why": why, "run": RUN, "unit": unit, "peers": NAMES, "replicas": 3, "keepers": chosen,
        }  # fmt: skip


def rules() -> dict[str, dict]:
    """Content of every rule vector by name."""
    return {name: vector for group in (orders, preferences, copies) for name, vector in group()}
