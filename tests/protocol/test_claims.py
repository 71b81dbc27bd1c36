"""Leases: the order, the deadlines, and whole crowds that converge without a referee."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import NOW_S, digest_of, make_claim, person

from paris.protocol.claims import Complete, MakeClaim, Train, UnitView, View, Wait, Withdraw, decide, live, winner
from paris.protocol.genesis import Lease

RUN = digest_of("run")
LEASE = Lease(life_s=60, settle_s=2, progress_s=120)
EMPTY = UnitView("cluster-0", 100, 0, None, (), frozenset(), blocked=False, since_s=NOW_S)
ME = person(1).peer_id


def unit(*claimants: int, progressed=(), **changes) -> UnitView:
    view = replace(EMPTY, **changes)
    claims = tuple(make_claim(person(n), unit=view.unit, step=view.step, parent=view.checkpoint) for n in claimants)
    return replace(view, claims=claims, progressed=frozenset(person(n).peer_id for n in progressed))


def act(*units: UnitView, me: str = ME, now_s: float = NOW_S, **changes):
    return decide(View(units, LEASE, **changes), me, RUN, now_s)


def test_nothing_left_to_do():
    assert act(unit(step=100)) == Complete()
    assert act(unit(1, step=100)) == Complete()


def test_a_free_unit_is_claimed_from_its_newest_checkpoint():
    assert act(unit(step=30, checkpoint=digest_of("c"))) == MakeClaim("cluster-0", digest_of("c"), 30)


def test_a_held_unit_is_waited_for_no_longer_than_its_lease():
    action = act(unit(2))
    assert isinstance(action, Wait)
    assert action.seconds == LEASE.progress_s
    assert "held" in action.reason


def test_a_blocked_unit_is_not_claimed():
    assert isinstance(act(unit(blocked=True)), Wait)
    assert act(unit(blocked=True), unit(unit="base")).unit == "base"


def test_a_fresh_claim_settles_first():
    action = act(unit(1), claimed_at_s=NOW_S - 0.5)
    assert action == Wait(1.5, "settling the claim on cluster-0")
    assert act(unit(1), claimed_at_s=NOW_S - 2) == Train("cluster-0")
    assert act(unit(1)) == Train("cluster-0")


def test_the_loser_withdraws_and_names_the_winner():
    both = unit(1, 2)
    first = winner(both, RUN)
    loser = next(person(n).peer_id for n in (1, 2) if person(n).peer_id != first.signer)
    assert act(both, me=first.signer) == Train("cluster-0")
    assert act(both, me=loser) == Withdraw("cluster-0", first)


def test_evaluated_progress_beats_any_fresh_claim():
    for worker in range(2, 10):
        assert winner(unit(1, *range(2, 10), progressed=[worker]), RUN).signer == person(worker).peer_id


def test_a_boasted_step_moves_nobody():
    """A claimant cannot climb by declaring a step nobody has evaluated."""
    view = unit(*range(1, 9), step=20, checkpoint=digest_of("c"))
    before = winner(view, RUN)
    boast = tuple(
        claim.model_copy(update={"step": 10**9}) if claim.signer != before.signer else claim for claim in view.claims
    )
    assert winner(replace(view, claims=boast), RUN).signer == before.signer


def test_a_claim_that_is_behind_loses_to_one_that_is_not():
    view = unit(1, 2, step=20, checkpoint=digest_of("c"))
    for behind in range(2):
        claims = list(view.claims)
        claims[behind] = claims[behind].model_copy(update={"step": 0})
        assert winner(replace(view, claims=tuple(claims)), RUN) == claims[1 - behind]


@pytest.mark.parametrize("field", ["iat", "exp", "seq", "parent", "ext"])
def test_nothing_a_claimant_declares_about_itself_improves_its_place(field):
    view = unit(*range(1, 9))
    before = winner(view, RUN).signer
    lies = {"iat": 1, "exp": NOW_S + 1800, "seq": 10**6, "parent": digest_of("ground"), "ext": {"x": 1}}
    changed = tuple(
        claim.model_copy(update={field: lies[field]}) if claim.signer != before else claim for claim in view.claims
    )
    assert winner(replace(view, claims=changed), RUN).signer == before


@given(st.permutations(range(1, 8)))
def test_the_order_of_arrival_does_not_matter(order):
    assert winner(unit(*order), RUN) == winner(unit(*range(1, 8)), RUN)


def test_squatters_delay_and_never_block():
    crowd = unit(*range(2, 60))
    assert isinstance(act(crowd), Wait)
    late_s = NOW_S + LEASE.progress_s + 1
    assert act(crowd, now_s=late_s) == MakeClaim("cluster-0", None, 0)
    assert act(unit(1, *range(2, 60)), now_s=late_s) == Train("cluster-0")
    assert act(unit(1, 2, progressed=[2], since_s=late_s), now_s=late_s) == Withdraw(
        "cluster-0", make_claim(person(2), unit="cluster-0")
    )


def test_a_free_unit_is_preferred_to_an_overdue_one():
    late_s = NOW_S + LEASE.progress_s + 1
    assert act(unit(2), unit(unit="cluster-1"), now_s=late_s).unit == "cluster-1"


def test_released_and_expired_claims_hold_nothing():
    claims = [make_claim(person(1)), make_claim(person(2), released=True), make_claim(person(3), exp=NOW_S + 1)]
    assert [claim.signer for claim in live(claims, NOW_S + 1)] == [ME]


def test_peers_spread_over_free_units():
    units = tuple(unit(unit=f"cluster-{number}") for number in range(8))
    chosen = {act(*units, me=person(number).peer_id).unit for number in range(1, 60)}
    assert chosen == {view.unit for view in units}


def crowd_converges(peers: int, units: int, seed: int) -> dict[str, list[str]]:
    """Rounds of stale views: everybody decides on what it saw a round ago, in random order. Returns who trains what."""
    rng = random.Random(seed)
    people = [person(number) for number in range(1, peers + 1)]
    names = [f"cluster-{number}" for number in range(units)]
    claims: dict[str, dict[str, object]] = {name: {} for name in names}
    training: dict[str, str] = {}
    for _ in range(4 * units + 4):
        seen = tuple(replace(unit(unit=name), claims=tuple(claims[name].values())) for name in names)
        rng.shuffle(people)
        for who in people:
            match decide(View(seen, LEASE), who.peer_id, RUN, NOW_S):
                case MakeClaim(name):
                    claims[name][who.peer_id] = make_claim(who, unit=name)
                case Withdraw(name):
                    claims[name].pop(who.peer_id)
                    training.pop(who.peer_id, None)
                case Train(name):
                    training[who.peer_id] = name
    return {name: [who for who, held in training.items() if held == name] for name in names}


@pytest.mark.parametrize("seed", range(5))
def test_a_crowd_with_stale_views_ends_with_one_trainer_a_unit(seed):
    holders = crowd_converges(peers=40, units=8, seed=seed)
    assert all(len(who) == 1 for who in holders.values()), holders


def test_fewer_peers_than_units_all_find_work():
    holders = crowd_converges(peers=3, units=8, seed=0)
    assert sum(len(who) for who in holders.values()) == 3
    assert max(len(who) for who in holders.values()) == 1
