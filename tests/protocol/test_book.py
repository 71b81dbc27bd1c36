"""What a record book remembers, and who finds room in it when somebody floods it."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
from protocol_support import (
    NOW_S,
    carried,
    curators,
    delegation,
    digest_of,
    make_claim,
    make_genesis,
    make_head,
    make_tip,
    person,
    rotation,
    signed,
)

from paris.protocol import book as book_module
from paris.protocol.book import NoJournal, RecordBook
from paris.protocol.curation import Admission
from paris.protocol.errors import RecordError, SignatureError
from paris.protocol.limits import LIMITS
from paris.protocol.validation import RunRules, check_record

RUN = digest_of("run")
OPEN = RunRules(Admission(policy="open"), curators(1, 2, 3), RUN)
LISTED = RunRules(Admission(policy="list", keys=(person(4).peer_id,)), curators(1, 2, 3), RUN)


def received(who, make=make_tip, *cosigners, rules=None, now_s=NOW_S, **changes):
    return check_record(signed(make(who, **changes), who, *cosigners), now_s, rules or {})


def tips(numbers, **changes):
    return [received(person(number), **changes) for number in numbers]


@pytest.fixture
def small(monkeypatch):
    """Room for 40 records, 10 of them of strangers' runs, 4 a slot."""
    limits = dataclasses.replace(LIMITS, records=40, stranger_records=10, signers_per_slot=4)
    monkeypatch.setattr(book_module, "LIMITS", limits)


class Spy(NoJournal):
    """Counts what a book would write down."""

    def __init__(self) -> None:
        self.lines = []

    def remember(self, received):
        self.lines.append(("remember", received.record.seq))

    def forget(self, key, signer):
        self.lines.append(("forget", signer))


def test_the_same_bytes_again_change_and_write_nothing():
    spy = Spy()
    book = RecordBook(journal=spy)
    for _ in range(3):
        book.offer(*tips([1]), NOW_S)
    assert spy.lines == [("remember", 1)]


def test_a_slot_shows_live_records_of_honest_signers(small):
    book = RecordBook()
    for item in (*tips([1, 2]), *tips([3], exp=NOW_S + 5)):
        book.offer(item, NOW_S)
    with pytest.raises(RecordError, match="two different"):
        book.offer(*tips([2], step=99), NOW_S)
    key = tips([1])[0].key
    assert [item.record.signer for item in book.slot(key, NOW_S + 5)] == [person(1).peer_id]
    assert book.slot("elsewhere", NOW_S) == ()


def test_a_flood_of_unknown_runs_leaves_known_runs_their_room(small):
    book = RecordBook()
    book.know(RUN, OPEN)
    strangers = [received(person(1), run=digest_of(str(number)), exp=NOW_S + 10) for number in range(11)]
    for item in strangers[:10]:
        book.offer(item, NOW_S)
    with pytest.raises(RecordError, match="no room"):
        book.offer(strangers[10], NOW_S)
    for unit in range(40):
        book.offer(received(person(9), unit=f"cluster-{unit}"), NOW_S)
    assert book.newest(received(person(9), unit="cluster-39").key, person(9).peer_id)
    assert not any(book.newest(item.key, person(1).peer_id) for item in strangers[:10])


def test_unknown_runs_get_their_room_back_when_their_records_expire(small):
    book = RecordBook()
    for number in range(10):
        book.offer(received(person(1), run=digest_of(str(number)), exp=NOW_S + 10), NOW_S)
    book.offer(received(person(1), run=digest_of("more"), now_s=NOW_S + 10), NOW_S + 10)


def test_a_run_that_becomes_known_is_no_stranger_any_more(small):
    book = RecordBook()
    for unit in range(10):
        book.offer(received(person(1), unit=f"cluster-{unit}"), NOW_S)
    book.know(RUN, OPEN)
    book.offer(received(person(1), run=digest_of("other")), NOW_S)
    assert book.newest(received(person(1)).key, person(1).peer_id)


def test_full_slots_make_way_for_a_slot_nobody_has_flooded(small):
    book = RecordBook()
    book.know(RUN, OPEN)
    for unit in range(10):
        for item in tips(range(1, 5), unit=f"cluster-{unit}"):
            book.offer(item, NOW_S)
    book.offer(received(person(9), unit="router"), NOW_S)
    book.offer(received(person(8), unit="router"), NOW_S)
    assert len(book.slot(received(person(9), unit="router").key, NOW_S)) == 2
    sizes = sorted(len(book.slot(received(person(1), unit=f"cluster-{unit}").key, NOW_S)) for unit in range(10))
    assert sizes == [3, 3, *[4] * 8]


def test_a_book_of_equally_small_slots_is_full(small):
    book = RecordBook()
    book.know(RUN, OPEN)
    for unit in range(40):
        book.offer(received(person(1), unit=f"cluster-{unit}"), NOW_S)
    with pytest.raises(RecordError, match="40 records"):
        book.offer(received(person(1), unit="router"), NOW_S)


def test_an_own_record_always_finds_room(small):
    book = RecordBook(own=person(9).peer_id)
    for item in tips([1, 2, 3, 4]):
        book.offer(item, NOW_S)
    with pytest.raises(RecordError, match="no room"):
        book.offer(*tips([8]), NOW_S)
    book.offer(*tips([9]), NOW_S)
    assert book.newest(tips([9])[0].key, person(9).peer_id)


def test_whoever_has_proven_its_work_is_not_flooded_out_of_an_open_run(small):
    book = RecordBook()
    book.know(RUN, OPEN)
    for item in tips([11, 12, 13, 14]):
        book.offer(item, NOW_S)
    book.proven.add(person(5).peer_id)
    book.offer(*tips([5]), NOW_S)
    assert book.newest(tips([5])[0].key, person(5).peer_id)
    with pytest.raises(RecordError, match="no room"):
        book.offer(*tips([6]), NOW_S)


def test_a_listed_name_goes_before_a_proven_one_also_by_delegation(small):
    book = RecordBook(proven={person(number).peer_id for number in (11, 12, 13, 14)})
    book.know(RUN, LISTED)
    for item in tips([11, 12, 13, 14]):
        book.offer(item, NOW_S)
    book.offer(received(person(5), credentials=carried(delegation(person(4), person(5)))), NOW_S)
    assert book.newest(tips([5])[0].key, person(5).peer_id)


def test_twenty_thousand_signers_leave_a_listed_run_as_it_was():
    """Their signatures need no check here: the flood is of names, and names are what the book counts."""
    book = RecordBook()
    book.know(RUN, LISTED)
    honest = received(person(4))
    book.offer(honest, NOW_S)
    names = [f"12D3KooW{number:044}" for number in range(20_000)]
    kept = 0
    for name in names:
        record = honest.record.model_copy(update={"signer": name})
        acting = dataclasses.replace(honest.authority, name=name, acting=(name,))
        try:
            book.offer(dataclasses.replace(honest, record=record, digest=name, authority=acting), NOW_S)
            kept += 1
        except RecordError:
            assert kept == LIMITS.signers_per_slot - 1
    assert book.newest(honest.key, person(4).peer_id) == honest


# Heads


def head(number=1, version=1, *cosigners, **changes):
    return received(person(number), make_head, *cosigners, rules={RUN: OPEN}, version=version, **changes)


@pytest.fixture
def governed():
    book = RecordBook()
    book.know(RUN, OPEN)
    return book


def test_rollback_to_an_older_head_by_another_curator(governed):
    governed.offer(head(1, version=5), NOW_S)
    with pytest.raises(RecordError, match="version 4"):
        governed.offer(head(2, version=4, exp=NOW_S + 9000), NOW_S)
    governed.offer(head(2, version=6), NOW_S)


def test_rollback_after_the_newer_head_has_expired(governed):
    """TUF: an expired local copy still counts against older ones."""
    governed.offer(head(1, version=5, exp=NOW_S + 10), NOW_S)
    late_s = NOW_S + 3600
    older = check_record(signed(make_head(person(2), version=4, exp=NOW_S + 7200), person(2)), late_s, {RUN: OPEN})
    with pytest.raises(RecordError, match="version 4"):
        governed.offer(older, late_s)


def test_two_heads_of_one_version_that_say_different_things(governed):
    governed.offer(head(1, version=5), NOW_S)
    governed.offer(head(2, version=5), NOW_S)
    with pytest.raises(RecordError, match="must agree"):
        governed.offer(head(3, version=5, ensemble=digest_of("mixed and matched")), NOW_S)


def test_fast_forward_is_undone_by_other_curators(governed):
    """Whoever stole the old keys may have counted to the last version there is."""
    governed.offer(head(1, version=2**53), NOW_S)
    with pytest.raises(RecordError, match="old one"):
        governed.offer(head(2, version=6), NOW_S)
    second = digest_of("version 2")
    after = RunRules(OPEN.admission, curators(7), second)
    governed.know(RUN, OPEN)
    with pytest.raises(RecordError, match="old one"):
        governed.offer(head(2, version=6), NOW_S)
    governed.know(RUN, after)
    data = signed(make_head(person(7), version=7, genesis=second), person(7))
    governed.offer(check_record(data, NOW_S, {RUN: after}), NOW_S)


def test_strangers_cannot_raise_the_head_of_a_run_nobody_here_knows():
    """A node that cannot check curators stores heads and learns nothing from them."""
    book = RecordBook()
    book.offer(received(person(9), make_head, version=2**53), NOW_S)
    book.know(RUN, OPEN)
    book.offer(head(1, version=1), NOW_S)


def test_heads_by_curators_to_come_pass_and_bind_nobody_yet(governed):
    """Who knows version 1 only cannot tell whether version 2 has these curators; it must still find their heads."""
    unknown = received(person(7), make_head, rules={RUN: OPEN}, version=9, genesis=digest_of("version 2"))
    governed.offer(unknown, NOW_S)
    governed.offer(head(1, version=1), NOW_S)
    with pytest.raises(SignatureError, match="names other curators"):
        received(person(7), make_head, rules={RUN: OPEN}, version=9)


def test_a_flood_of_false_heads_leaves_the_true_one_its_room(governed, small):
    for number in range(11, 15):
        false = received(person(number), make_head, rules={RUN: OPEN}, version=9, genesis=digest_of("version 2"))
        governed.offer(false, NOW_S)
    governed.offer(head(1, version=1), NOW_S)
    assert governed.newest(head(1).key, person(1).peer_id)


# Moves


def moved_claim(new, *credentials, **changes):
    return received(new, make_claim, rules={RUN: LISTED}, credentials=carried(*credentials), **changes)


@pytest.fixture
def listed():
    book = RecordBook()
    book.know(RUN, LISTED)
    return book


def test_a_key_that_moved_may_act_no_longer(listed):
    old, new, node = person(4), person(5), person(8)
    before = received(old, make_claim, rules={RUN: LISTED})
    listed.offer(before, NOW_S)
    listed.offer(moved_claim(new, rotation(old, new)), NOW_S)
    assert listed.newest(before.key, old.peer_id) is None
    with pytest.raises(SignatureError, match="may act no longer"):
        listed.offer(received(old, make_claim, rules={RUN: LISTED}, seq=2), NOW_S)
    with pytest.raises(SignatureError, match="may act no longer"):
        listed.offer(moved_claim(node, delegation(old, node)), NOW_S)
    listed.offer(moved_claim(node, delegation(new, node), rotation(old, new)), NOW_S)


def test_a_stolen_key_that_counted_to_the_end_is_overtaken_by_its_successor(listed):
    old, new = person(4), person(5)
    listed.offer(received(old, make_claim, rules={RUN: LISTED}, seq=2**53), NOW_S)
    listed.offer(moved_claim(new, rotation(old, new), seq=1), NOW_S)
    assert listed.moved(RUN, old.peer_id).new == new.peer_id


def test_two_rotations_of_one_name_count_for_neither_until_the_curators_say(listed):
    old, owner, thief, final = person(4), person(5), person(6), person(7)
    listed.offer(moved_claim(thief, rotation(old, thief)), NOW_S)
    for who in (owner, thief):
        with pytest.raises(SignatureError, match="two keys claim"):
            listed.offer(moved_claim(who, rotation(old, who), seq=2, exp=NOW_S + 700), NOW_S)
    listed.offer(moved_claim(final, rotation(old, final, final, person(1))), NOW_S)
    assert listed.moved(RUN, old.peer_id).new == final.peer_id
    with pytest.raises(SignatureError, match="it went to"):
        listed.offer(moved_claim(owner, rotation(old, owner), seq=3, exp=NOW_S + 800), NOW_S)
    listed.offer(moved_claim(final, rotation(old, final, final, person(2)), seq=2, exp=NOW_S + 700), NOW_S)
    with pytest.raises(SignatureError, match="two keys claim"):
        listed.offer(moved_claim(owner, rotation(old, owner, owner, person(2))), NOW_S)


def test_a_node_that_does_not_know_the_curators_learns_no_moves():
    """Otherwise anybody could move anybody's name there."""
    book = RecordBook()
    old, thief = person(4), person(6)
    forged = received(thief, make_claim, credentials=carried(rotation(old, thief, thief, person(9))))
    book.offer(forged, NOW_S)
    book.offer(received(old, make_claim), NOW_S)
    with pytest.raises(SignatureError, match="not signed by enough curators"):
        moved_claim(thief, rotation(old, thief, thief, person(9)))


def test_a_flood_of_moved_names_is_bounded_and_keeps_no_listed_name_from_moving(listed, small):
    for number in range(100, 260, 4):
        *middle, last = (person(number + more) for more in range(4))
        chain = carried(*(rotation(old, new) for old, new in zip(middle, [*middle[1:], last], strict=True)))[::-1]
        with contextlib.suppress(RecordError):
            listed.offer(received(last, rules={RUN: LISTED}, credentials=chain), NOW_S)
    assert len(listed._moved) == 40
    old, new = person(4), person(5)
    listed.offer(moved_claim(new, rotation(old, new)), NOW_S)
    assert listed.moved(RUN, old.peer_id).new == new.peer_id
    decided = carried(rotation(person(8), person(9), person(9), person(1)))
    with pytest.raises(RecordError, match="no room"):
        listed.offer(received(person(9), rules={RUN: LISTED}, credentials=decided), NOW_S)
    assert listed.moved(RUN, person(8).peer_id).by_curators


@pytest.mark.parametrize("make", [make_claim, make_tip])
def test_a_name_stolen_before_the_curators_were_known_is_given_back_when_they_are(make):
    """Any second key co-signs for an unknown curator; what then lies in the slot must not outlive the genesis."""
    owner, thief, heir = person(4), person(6), person(7)
    book = RecordBook()
    forged = received(thief, make, credentials=carried(rotation(owner, thief, thief, person(9))))
    honest = received(heir, make, credentials=carried(delegation(owner, person(5)), rotation(person(5), heir))[::-1])
    for item in (forged, honest):
        book.offer(item, NOW_S)
    assert forged.authority.name == owner.peer_id
    book.know(RUN, LISTED)
    assert book.slot(forged.key, NOW_S) == (honest,)


def test_a_book_restored_is_the_book_it_was(listed):
    old, new = person(4), person(5)
    listed.offer(moved_claim(new, rotation(old, new)), NOW_S)
    listed.offer(head(1, version=5), NOW_S)
    again = RecordBook()
    again.know(RUN, LISTED)
    claims = listed.slot(moved_claim(new, rotation(old, new)).key, NOW_S)
    heads = [(head(1).key, head(1, version=5).record)]
    again.restore(claims, heads, [(RUN, listed.moved(RUN, old.peer_id))])
    assert again.slot(claims[0].key, NOW_S) == claims
    with pytest.raises(SignatureError, match="may act no longer"):
        again.offer(received(old, make_claim, rules={RUN: LISTED}), NOW_S)
    with pytest.raises(RecordError, match="version 4"):
        again.offer(head(2, version=4), NOW_S)


def test_rules_follow_from_a_genesis():
    genesis = make_genesis()
    assert RunRules.of(genesis, RUN) == RunRules(genesis.admission, genesis.curators, RUN)
