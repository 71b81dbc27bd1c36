"""Leases: the order, the deadlines, and whole crowds that converge without a referee."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import NOW_S, digest_of, make_claim, person

from paris.protocol.claims import (
    Complete,
    MakeClaim,
    Measure,
    Pending,
    Train,
    UnitView,
    View,
    Wait,
    Withdraw,
    decide,
    fruitless,
    idle_s,
    live,
    winner,
)
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
    return decide(View(RUN, units, LEASE, **changes), me, now_s, random.Random(0))


def opens_s(view: UnitView, me: str = ME) -> float:
    """When a claimed unit is open to a peer: after one to two deadlines, as its name hashes."""
    late_s = next(now_s for now_s in range(NOW_S, NOW_S + 3 * LEASE.progress_s) if not waits(view, me, now_s))
    assert late_s >= view.since_s + LEASE.progress_s
    return late_s


def waits(view: UnitView, me: str, now_s: float) -> bool:
    return isinstance(act(view, me=me, now_s=now_s), Wait)


def pending(step: int, since_s: float = NOW_S) -> Pending:
    return Pending(digest_of("pending"), step, since_s)


def test_nothing_left_to_do():
    assert act(unit(step=100)) == Complete()
    assert act(unit(1, step=100)) == Complete()


def test_a_free_unit_is_claimed_from_its_newest_checkpoint():
    assert act(unit(step=30, checkpoint=digest_of("c"))) == MakeClaim("cluster-0", digest_of("c"), 30)


def test_a_held_unit_is_looked_at_more_rarely_the_longer_nothing_changes():
    looks = [act(unit(2), fruitless=times) for times in range(20)]
    assert all(isinstance(look, Wait) and "held" in look.reason for look in looks)
    seconds = [look.seconds for look in looks]
    assert seconds == sorted(seconds)
    assert seconds[0] <= 1
    assert idle_s(LEASE) / 2 <= seconds[-1] <= idle_s(LEASE)


def test_a_look_that_found_something_starts_the_patience_anew():
    assert fruitless(3, Wait(1, "")) == 4
    assert fruitless(3, Measure("router", digest_of("x"))) == fruitless(3, Complete()) == 3
    assert fruitless(3, Train("router")) == 0


def test_a_blocked_unit_is_not_claimed():
    assert "still being trained" in act(unit(blocked=True)).reason
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
    assert act(both, me=loser, claimed_at_s=NOW_S - LEASE.settle_s) == Withdraw("cluster-0", first)


def test_a_holder_past_its_first_lease_yields_to_measured_progress_and_to_nothing_else():
    """Hysteresis: names made to measure take nothing from somebody in training, and nobody swings back and forth."""
    for rival in range(2, 40):
        late = {"claimed_at_s": NOW_S - LEASE.settle_s - LEASE.life_s}
        assert act(unit(1, rival), **late) == Train("cluster-0")
        assert act(unit(1, rival)) == Train("cluster-0")
        ahead = act(unit(1, rival, progressed=[rival]), **late)
        assert isinstance(ahead, Withdraw)
        assert ahead.winner.signer == person(rival).peer_id


def test_a_clock_that_jumped_back_ends_no_settling_early_and_none_late():
    """Settling is over where the moment of claiming lies in the future: better to train twice than to wait for ever."""
    assert act(unit(1), claimed_at_s=NOW_S + 10**6) == Train("cluster-0")


def test_what_nobody_measured_is_measured_before_it_is_built_on_contested_or_believed_to_be_the_end():
    checkpoint = digest_of("pending")
    assert act(unit(pending=pending(50))) == Measure("cluster-0", checkpoint)
    assert act(unit(1, pending=pending(50))) == Measure("cluster-0", checkpoint)
    assert isinstance(act(unit(2, pending=pending(50))), Wait)
    ended = unit(pending=pending(100))
    assert ended.looks_complete
    assert not ended.complete
    seen_s = next(now_s for now_s in range(NOW_S, NOW_S + 200) if not waits(ended, ME, now_s))
    assert seen_s - NOW_S <= idle_s(LEASE)
    assert act(ended, now_s=seen_s) == Measure("cluster-0", checkpoint)


def test_peers_do_not_all_measure_the_end_of_a_unit_at_once():
    ended = unit(pending=pending(100))
    moments = {
        next(now_s for now_s in range(NOW_S, NOW_S + 200) if not waits(ended, person(n).peer_id, now_s))
        for n in range(1, 30)
    }
    assert len(moments) > 10


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
    assert isinstance(act(crowd, now_s=NOW_S + LEASE.progress_s - 1), Wait)
    assert act(crowd, now_s=NOW_S + 2 * LEASE.progress_s) == MakeClaim("cluster-0", None, 0)
    late_s = NOW_S + LEASE.progress_s + 1
    assert act(unit(1, *range(2, 60)), now_s=late_s, claimed_at_s=late_s - 3) == Train("cluster-0")
    assert act(unit(1, 2, progressed=[2], since_s=late_s), now_s=late_s) == Withdraw(
        "cluster-0", make_claim(person(2), unit="cluster-0")
    )


def test_a_crowd_does_not_fall_upon_an_overdue_unit_at_once():
    crowd = unit(*range(60, 99))
    moments = sorted(opens_s(crowd, person(n).peer_id) for n in range(1, 30))
    assert len(set(moments)) > 20
    assert moments[-1] - moments[0] > LEASE.progress_s / 2


def test_a_free_unit_is_preferred_to_an_overdue_one():
    late_s = NOW_S + 2 * LEASE.progress_s
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
    claimed_s: dict[str, float] = {}
    for turn in range(4 * units + 4):
        now_s = NOW_S + turn * LEASE.settle_s / 2
        seen = tuple(replace(unit(unit=name), claims=tuple(claims[name].values())) for name in names)
        rng.shuffle(people)
        for who in people:
            view = View(RUN, seen, LEASE, claimed_at_s=claimed_s.get(who.peer_id))
            match decide(view, who.peer_id, now_s, rng):
                case MakeClaim(name):
                    claims[name][who.peer_id] = make_claim(who, unit=name)
                    claimed_s[who.peer_id] = now_s
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
