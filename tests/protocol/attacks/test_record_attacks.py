"""Attacks on record validation: replay, equivocation, clocks, floods. Pure, no network."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_support import NOW_S, digest_of, make_claim, make_peer, make_tip, person, signed

from paris.protocol import envelope
from paris.protocol.book import RecordBook
from paris.protocol.curation import Admission
from paris.protocol.errors import EnvelopeError, RecordError, SignatureError
from paris.protocol.limits import LIMITS
from paris.protocol.records import record_key
from paris.protocol.validation import Received, RunRules, check_record

RUN = digest_of("run")
OPEN: dict[str, RunRules] = {}
LISTED = {RUN: RunRules(Admission(policy="list", keys=(person(1).peer_id, person(2).peer_id)))}


def received(number: int = 1, make=make_claim, now_s: float = NOW_S, **changes) -> Received:
    who = person(number)
    return check_record(signed(make(who, **changes), who), now_s, OPEN)


def test_a_good_record_is_believed():
    got = received()
    assert got.record == make_claim(person(1))
    assert got.key == record_key("claim", RUN, "cluster-0")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"exp": NOW_S}, "lives 0 s"),
        ({"exp": NOW_S - 1}, "lives -1 s"),
        ({"exp": NOW_S + LIMITS.life_s["claim"] + 1}, "lives 1801 s"),
        ({"iat": NOW_S - 700, "exp": NOW_S}, "expired 0 s ago"),
        ({"iat": NOW_S + 121, "exp": NOW_S + 500}, "121 s in the future"),
        ({"exp": 2**53}, "lives"),
    ],
)
def test_times_that_cannot_be(changes, reason):
    with pytest.raises(RecordError, match=reason):
        received(**changes)


def test_a_clock_two_minutes_off_is_tolerated_ten_are_not():
    assert received(iat=NOW_S + LIMITS.skew_s)
    with pytest.raises(RecordError, match="NTP"):
        received(iat=NOW_S + 600, exp=NOW_S + 700)


def test_the_signer_is_another():
    data = signed(make_claim(person(1)), person(2))
    with pytest.raises(SignatureError, match="is signed by"):
        check_record(data, NOW_S, OPEN)
    with pytest.raises(SignatureError, match="is signed by"):
        check_record(signed(make_claim(person(1)), person(1), person(2)), NOW_S, OPEN)


def test_replay_as_another_kind():
    fields = make_claim(person(1)).model_dump(mode="json", exclude_none=True)
    with pytest.raises(RecordError, match="tip is not valid"):
        check_record(envelope.sign("tip", fields, person(1)), NOW_S, OPEN)
    with pytest.raises(RecordError, match="no DHT record"):
        check_record(envelope.sign("rotation", fields, person(1)), NOW_S, OPEN)


def test_replay_in_another_run_lies_under_another_key():
    assert received().key != received(run=digest_of("other")).key


def test_an_oversize_record():
    with pytest.raises(EnvelopeError, match="too big"):
        received(make=make_peer, addrs=("x" * 1000,) * 13)


def test_only_listed_keys_claim_but_anybody_mirrors():
    assert check_record(signed(make_claim(person(1)), person(1)), NOW_S, LISTED)
    assert check_record(signed(make_tip(person(3)), person(3)), NOW_S, LISTED)
    with pytest.raises(SignatureError, match="not admitted"):
        check_record(signed(make_claim(person(3)), person(3)), NOW_S, LISTED)


def test_a_lower_sequence_number_is_refused_and_changes_nothing():
    book = RecordBook()
    new, old = received(seq=5, exp=NOW_S + 600), received(seq=4, exp=NOW_S + 599)
    book.offer(new, NOW_S)
    for _ in range(2):
        with pytest.raises(RecordError, match="seq 4, we know seq 5"):
            book.offer(old, NOW_S)
        book.offer(new, NOW_S)
    assert book.newest(new.key, person(1).peer_id) == new


def test_a_newer_record_must_outlive_the_older():
    book = RecordBook()
    book.offer(received(seq=1), NOW_S)
    with pytest.raises(RecordError, match="let it expire later"):
        book.offer(received(seq=2), NOW_S)
    book.offer(received(seq=2, exp=NOW_S + 601), NOW_S)


def test_rollback_after_expiry_is_impossible_because_older_records_expire_first():
    book = RecordBook()
    book.offer(received(seq=2, exp=NOW_S + 601), NOW_S)
    with pytest.raises(RecordError, match="expired"):
        received(seq=1, exp=NOW_S + 600, now_s=NOW_S + 601)


def test_two_records_under_one_sequence_number_are_kept_as_evidence():
    book = RecordBook()
    one, two = received(step=0), received(step=9)
    book.offer(one, NOW_S)
    with pytest.raises(RecordError, match="two different"):
        book.offer(two, NOW_S)
    evidence = book.equivocation(one)
    assert {evidence.first, evidence.second} == {one.envelope, two.envelope}
    assert all(
        envelope.verify(proof, "claim").signers == {person(1).peer_id} for proof in (evidence.first, evidence.second)
    )
    book.offer(received(seq=2, exp=NOW_S + 601), NOW_S)
    assert book.equivocation(received(seq=2, exp=NOW_S + 601)) is None


def test_a_flood_of_signers_is_bounded_and_cannot_push_out_the_first():
    book = RecordBook()
    first = received(1)
    book.offer(first, NOW_S)
    for number in range(2, LIMITS.signers_per_slot + 1):
        book.offer(received(number), NOW_S)
    for number in range(1000, 1100):
        with pytest.raises(RecordError, match="no room"):
            book.offer(received(number), NOW_S)
    assert book.newest(first.key, person(1).peer_id) == first


def test_a_flood_cannot_keep_listed_contributors_out():
    book = RecordBook(dict(LISTED))
    for number in range(10, 10 + LIMITS.signers_per_slot):
        book.offer(received(number, make_tip), NOW_S)
    book.offer(received(1, make_tip), NOW_S)
    book.offer(received(2, make_tip), NOW_S)
    assert book.newest(received(1, make_tip).key, person(1).peer_id)
    with pytest.raises(RecordError, match="no room"):
        book.offer(received(99, make_tip), NOW_S)


def test_expired_signers_make_room():
    book = RecordBook()
    for number in range(LIMITS.signers_per_slot):
        book.offer(received(number, exp=NOW_S + 10), NOW_S)
    with pytest.raises(RecordError, match="no room"):
        book.offer(received(100), NOW_S)
    book.offer(received(100, now_s=NOW_S + 10), NOW_S + 10)


@settings(max_examples=100)
@given(st.lists(st.integers(1, 6), max_size=12))
def test_in_any_order_of_arrival_the_newest_stays_and_the_memory_never_goes_back(order):
    book = RecordBook()
    highest = 0
    for seq in order:
        offered = received(seq=seq, exp=NOW_S + 600 + seq)
        if seq >= highest:
            book.offer(offered, NOW_S)
            highest = seq
        else:
            with pytest.raises(RecordError):
                book.offer(offered, NOW_S)
        assert book.newest(offered.key, person(1).peer_id).record.seq == highest


def test_a_record_after_the_expired_one_of_the_same_signer_takes_its_place_and_its_room():
    book = RecordBook()
    old = received(seq=9, exp=NOW_S + 10)
    book.offer(old, NOW_S)
    for number in range(2, LIMITS.signers_per_slot + 1):
        book.offer(received(number), NOW_S)
    new = received(seq=1, exp=NOW_S + 600, now_s=NOW_S + 10)
    book.offer(new, NOW_S + 10)
    assert book.newest(new.key, person(1).peer_id) == new
    with pytest.raises(RecordError, match="no room"):
        book.offer(received(99), NOW_S + 10)
