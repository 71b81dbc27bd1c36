"""Chains that compete for one unit: which carries it, for every honest observer alike."""

from __future__ import annotations

import pytest
from network_simulator import ANN, BEN, EVE, NOW_S, TARGET, NetworkSimulator, exported, person
from protocol_support import carried, delegation
from resolve_support import UNIT, measured, resolved

from paris.protocol.digests import sha256_of
from paris.registry.library import Library


def test_more_steps_win(library, network):
    first = network.publish(ANN, UNIT, 10)
    network.publish(BEN, UNIT, 12)
    assert resolved(library).step == 12
    network.publish(ANN, UNIT, 20, first)
    assert (resolved(library).step, resolved(library).holders) == (20, (ANN.peer_id,))


def test_equal_steps_go_to_the_lowest_digest_for_every_observer(library, network):
    digests = [network.publish(who, UNIT, 10, files=exported(UNIT, 5)) for who in (ANN, BEN, EVE)]
    assert resolved(library).checkpoint == min(digests)


def test_a_broken_chain_with_more_steps_does_not_hide_one_that_holds(library, network):
    network.publish(ANN, UNIT, 10)
    network.publish(EVE, UNIT, TARGET, from_step=10)
    found = resolved(library)
    assert found.step == 10
    assert len(found.refused) == 1


def test_the_best_chain_falls_to_the_next_when_its_providers_are_gone(library, network):
    first = network.publish(ANN, UNIT, 10)
    network.mirror(BEN, UNIT, first)
    network.publish(EVE, UNIT, 20)
    network.leave(EVE)
    found = resolved(library)
    assert (found.step, found.holders) == (10, (ANN.peer_id,))
    assert "step 20" in found.refused[0]


def test_what_is_in_the_store_survives_its_providers(library, network):
    network.publish(ANN, UNIT, 10)
    assert resolved(library).step == 10
    network.leave(ANN)
    assert resolved(library).step == 10


def test_a_refuted_tip_is_cut_back_to_its_parent(library, network):
    first = network.publish(ANN, UNIT, 10)
    second = network.publish(EVE, UNIT, 20, first)
    network.mirror(EVE, UNIT, second)
    found = resolved(library, judge=measured(second, good=(first,)))
    assert (found.step, found.digests, found.holders, found.pending) == (10, (first,), (ANN.peer_id,), None)


def test_what_was_built_on_a_refuted_checkpoint_falls_with_it(library, network):
    first = network.publish(EVE, UNIT, 10)
    second = network.publish(ANN, UNIT, 20, first)
    network.mirror(ANN, UNIT, second)
    assert resolved(library, judge=measured(first)).newest.lineage == ()
    assert resolved(library, judge=measured(sha256_of(b"unrelated"))).newest.step == 20


def test_a_shorter_honest_chain_wins_over_a_longer_refuted_one(library, network):
    honest = network.publish(ANN, UNIT, 10)
    liar = network.publish(EVE, UNIT, TARGET)
    assert resolved(library).checkpoint == liar
    assert resolved(library, judge=measured(liar, good=(honest,))).checkpoint == honest


def test_what_nobody_measured_counts_for_nobody_who_measures(library, network):
    """It looks complete to whoever takes claims as they are; whoever measures sees what to measure."""
    liar = network.train([UNIT])[UNIT][-1]
    taken = resolved(library)
    assert (taken.step, taken.evaluated) == (TARGET, False)
    found = resolved(library, judge=measured())
    assert (found.step, found.complete) == (0, False)
    assert (found.pending.step, found.pending.checkpoint) == (TARGET, liar)
    assert found.newest is found.pending
    counted = resolved(library, judge=measured(good=(liar,)))
    assert (counted.step, counted.evaluated, counted.pending) == (TARGET, True, None)


def test_garbage_that_honestly_declares_a_bad_loss_moves_nobody(library, network):
    """A child much worse than its parent, or than knowing nothing, is refused unmeasured, whatever its step."""
    first = network.publish(ANN, UNIT, 10, holdout_loss_micro=400_000)
    network.publish(EVE, UNIT, TARGET, first, holdout_loss_micro=900_000)
    assert resolved(library).checkpoint == first
    network.publish(EVE, "router", TARGET, holdout_loss_micro=800_000)
    assert resolved(library, "router").lineage == ()


def test_where_children_share_a_parent_the_better_one_carries_whatever_its_step(library, network):
    parent = network.publish(ANN, UNIT, 10, holdout_loss_micro=400_000)
    better = network.publish(BEN, UNIT, 20, parent, holdout_loss_micro=300_000)
    high = network.publish(EVE, UNIT, TARGET, parent, holdout_loss_micro=390_000)
    network.mirror(BEN, UNIT, better)
    network.mirror(EVE, UNIT, high)
    assert resolved(library).checkpoint == better


VOTERS = tuple(person(number) for number in range(40, 44))


@pytest.mark.parametrize(
    ("admission", "voters", "counts"),
    [
        ("list", VOTERS[:2], True),
        ("list", VOTERS[:1], None),
        ("list", (VOTERS[0], ANN), None),
        ("list", (VOTERS[0], EVE), None),
        ("open", VOTERS, None),
    ],
    ids=["two admitted", "one", "the trainer itself", "a stranger", "anybody in an open run"],
)
def test_whose_verdicts_count(store, admission, voters, counts):
    keys = [who.peer_id for who in (ANN, *VOTERS)] if admission == "list" else []
    network = NetworkSimulator(admission={"policy": admission, "keys": keys})
    checkpoint = network.publish(ANN, UNIT, TARGET)
    for who in voters:
        network.verdict(who, UNIT, checkpoint)
    found = resolved(Library(store, network), judge=measured())
    assert found.complete is bool(counts)


def test_a_verdict_can_spare_a_measurement_and_never_refute(store):
    """Otherwise admitted peers could undo honest work by damning it."""
    network = NetworkSimulator(admission={"policy": "list", "keys": [who.peer_id for who in (ANN, *VOTERS)]})
    checkpoint = network.publish(ANN, UNIT, TARGET)
    for who in VOTERS[:2]:
        network.verdict(who, UNIT, checkpoint)
    network.verdict(VOTERS[2], UNIT, checkpoint, holds=False)
    found = resolved(Library(store, network), judge=measured())
    assert (found.complete, found.pending.checkpoint) == (False, checkpoint)
    assert resolved(Library(store, network), judge=measured(good=(checkpoint,))).complete


def test_a_verdict_issued_before_its_delegation_began_is_nobodys_voice_and_breaks_no_look(store):
    """Anybody can lend one key's name to another, date a verdict back, and let every node believe the record."""
    network = NetworkSimulator(admission={"policy": "list", "keys": [who.peer_id for who in (ANN, *VOTERS)]})
    checkpoint = network.publish(ANN, UNIT, TARGET)
    for who in VOTERS[:2]:
        network.verdict(who, UNIT, checkpoint)
    lent = carried(delegation(EVE, BEN, run=network.run, iat=NOW_S))
    network.verdict(BEN, UNIT, checkpoint, holds=False, iat=NOW_S - 7200, credentials=lent)
    assert resolved(Library(store, network), judge=measured()).complete
