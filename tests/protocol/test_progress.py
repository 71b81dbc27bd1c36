"""What counts as progress: believable claims, measurements, verdicts, and which of several children carries."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import digest_of, make_checkpoint, make_verdict, person

from paris.protocol.curation import Admission
from paris.protocol.progress import (
    Chain,
    Standing,
    agreed,
    carrying,
    failing,
    nothing_micro,
    sound,
    stale,
    standing,
    unbelievable,
)

LISTED = Admission(policy="list", keys=tuple(person(number).peer_id for number in range(1, 6)))
GOOD = digest_of("checkpoint")


def made(step: int, loss_micro: int | None, who: int = 1, fence: int = 1):
    changes = {"from_step": 0, "to_step": step, "fence": fence, "holdout_loss_micro": loss_micro}
    return make_checkpoint(person(who), **changes)


def chain(*links: tuple[str, int, int | None]) -> Chain:
    """A chain of (name, step, loss)."""
    return Chain(tuple(made(step, loss) for _, step, loss in links), tuple(digest_of(name) for name, _, _ in links))


def knows(**verdicts: bool):
    known = {digest_of(name): value for name, value in verdicts.items()}
    return lambda digest, _checkpoint: known.get(digest)


def everything(_digest, _checkpoint) -> bool:
    return True


def tip(found: Chain) -> tuple[int, str | None]:
    return found.step, found.tip


def test_knowing_nothing_is_known_of_the_router_alone():
    assert nothing_micro("router", 8) == round(1e6 * math.log(8))
    assert nothing_micro("cluster-0", 8) is None
    assert nothing_micro("router", 1) is None, "with one cluster there is nothing to know"


def test_claims_that_nobody_needs_to_measure():
    parent = made(10, 400_000)
    assert "no hold-out loss" in unbelievable(made(20, None), parent, None)
    assert "worse than knowing nothing" in unbelievable(made(20, 900_000), None, 700_000)
    assert "its parent one of 0.4000" in unbelievable(made(20, 560_000), parent, None)
    assert unbelievable(made(20, 540_000), parent, None) is None
    assert unbelievable(made(20, 9**9), made(10, None), None) is None
    assert unbelievable(made(20, 300_000), parent, 700_000) is None


@pytest.mark.parametrize(
    ("claimed", "measured", "nothing", "last", "reason"),
    [
        (None, 1, None, False, "claims no hold-out loss"),
        (400_000, 409_000, None, False, "it claims 0.4000"),
        (400_000, 407_000, None, False, None),
        (400_000, 300_000, 350_000, True, None),
        (400_000, 390_000, 350_000, False, "knowing nothing"),
        (400_000, 350_000, 350_000, True, "knowing nothing"),
        (400_000, 350_000, 350_000, False, None),
    ],
)
def test_a_measurement_against_a_claim(claimed, measured, nothing, last, reason):
    found = failing(claimed, measured, nothing, last=last)
    assert (found is None) if reason is None else reason in found


def voices(*said: tuple[int, bool], **changes):
    return [(person(n).peer_id, make_verdict(person(n), holds=holds, **changes)) for n, holds in said]


def test_verdicts_spare_a_measurement_where_the_run_lists_who_is_admitted():
    trainer = person(1).peer_id
    assert agreed(voices((2, True), (3, True)), GOOD, trainer, LISTED) is True
    for found in (
        voices((2, True)),
        voices((2, True), (1, True)),
        voices((2, True), (9, True)),
        voices((2, True), (3, True), (4, False)),
        voices((2, False), (3, False)),
        voices((2, True), (3, True), checkpoint=digest_of("another")),
        voices((2, True), (3, True), level="attested"),
        [],
    ):
        assert agreed(found, GOOD, trainer, LISTED) is None
    assert agreed(voices((2, True), (3, True)), GOOD, trainer, Admission(policy="open")) is None


def test_two_keys_of_one_contributor_are_one_voice():
    name = person(2).peer_id
    found = [(name, make_verdict(person(7))), (name, make_verdict(person(8)))]
    assert agreed(found, GOOD, person(1).peer_id, LISTED) is None


def test_the_better_child_carries_whatever_its_step():
    start = ("start", 10, 500_000)
    better, higher = chain(start, ("better", 20, 300_000)), chain(start, ("higher", 100, 390_000))
    assert tip(carrying([better, higher], everything)) == (20, digest_of("better"))
    assert tip(carrying([higher], everything)) == (100, digest_of("higher"))


def test_within_the_tolerance_more_steps_carry_then_the_lower_digest():
    one, two = chain(("one", 20, 300_000)), chain(("two", 30, 303_000))
    assert carrying([one, two], everything).step == 30
    twins = [chain((name, 20, 300_000)) for name in ("a", "b", "c")]
    assert carrying(twins, everything).tip == min(twin.tip for twin in twins)


def test_what_a_branch_has_achieved_stays_achieved():
    """A branch that overfits later does not swing back to one that never was as good."""
    fell = chain(("a", 10, 300_000), ("a2", 20, 380_000))
    other = chain(("b", 10, 350_000), ("b2", 20, 340_000))
    assert carrying([fell, other], everything).digests[0] == digest_of("a")


def test_only_what_counts_carries_and_it_makes_its_ancestors_count():
    long = chain(("a", 10, 500_000), ("b", 20, 400_000), ("c", 30, 300_000))
    assert carrying([long], lambda digest, _: digest == digest_of("b")).step == 20
    assert carrying([long], lambda *_: False) == Chain()
    assert carrying([], everything).tip is None
    without = chain(("x", 10, None))
    assert carrying([without, chain(("y", 10, 900_000))], everything).tip == digest_of("y")


@given(st.permutations(range(6)))
def test_equal_views_lead_to_equal_choices(order):
    chains = [chain((f"a{n}", 10 + n % 3, 300_000 + 1000 * n), (f"b{n}", 30, 290_000)) for n in range(6)]
    assert carrying([chains[n] for n in order], everything) == carrying(chains, everything)


def test_nothing_built_on_what_was_refuted_counts():
    long = chain(("a", 10, 500_000), ("b", 20, 400_000), ("c", 30, 300_000))
    assert sound(long, knows(b=False), None).step == 10
    assert sound(long, knows(), None).step == 30
    wild = chain(("a", 10, 300_000), ("b", 20, 900_000), ("c", 30, 250_000))
    assert sound(wild, knows(), None).step == 10
    assert sound(wild, knows(b=True), None).step == 30, "what counts is never unbelievable: own work counts"


def test_what_is_worth_measuring_next():
    start = ("a", 10, 500_000)
    good, boast = chain(start, ("good", 20, 400_000)), chain(start, ("boast", 100, 1_000))
    assert standing([good], knows(a=True, good=True), None, lambda _: False) == Standing(good)
    seen = standing([good, boast], knows(a=True, good=True), None, lambda _: False)
    assert (seen.counted.tip, seen.pending.tip) == (good.tip, boast.tip)
    refuted = standing([good, boast], knows(a=True, good=True, boast=False), None, lambda _: False)
    assert (refuted.counted.tip, refuted.pending) == (good.tip, None)


def test_whose_work_counted_before_is_measured_before_strangers():
    known = Chain((made(20, 400_000, who=2),), (digest_of("known"),))
    stranger = Chain((made(100, 1_000, who=3),), (digest_of("stranger"),))
    seen = standing([known, stranger], knows(), None, lambda signer: signer == person(2).peer_id)
    assert seen.pending == known
    assert standing([known, stranger], knows(), None, lambda _: False).pending == stranger


def test_a_lease_that_had_been_replaced():
    sound_lineage = [made(10, 1, fence=1), made(20, 1, who=2, fence=9), made(30, 1, fence=1)]
    assert stale(sound_lineage) is None
    late = made(40, 1, who=2, fence=8)
    assert stale([*sound_lineage, late]) is late
