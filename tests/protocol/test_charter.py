"""What is in force in a run: it moves forward, under the curators' signatures, and never back."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import (
    NOW_S,
    admission_list,
    curators,
    digest_of,
    fresh,
    genesis_fields,
    make_claim,
    make_head,
    person,
    signed,
)

from paris.protocol import envelope
from paris.protocol.book import RecordBook
from paris.protocol.charter import Charter
from paris.protocol.curation import Admission
from paris.protocol.digests import sha256_of
from paris.protocol.ensemble import Ensemble
from paris.protocol.errors import DigestError, EnvelopeError, LineageError, RecordError, SignatureError
from paris.protocol.genesis import open_genesis
from paris.protocol.limits import LIMITS
from paris.protocol.validation import RunRules, check_record

BOARD = curators(1, 2, 3, threshold=2).model_dump(mode="json")
FIRST = envelope.sign("genesis", genesis_fields(curators=BOARD), person(1), person(2))
RUN = sha256_of(FIRST)
BEGUN = Charter.begin(open_genesis(FIRST)[0], RUN)


def later(charter: Charter, *signers: int, **changes) -> bytes:
    """The next version of the genesis, by the old curators where nothing else is said."""
    fields = charter.genesis.model_dump(mode="json", exclude_none=True)
    fields |= {"version": charter.genesis.version + 1, "prev": charter.digest, **changes}
    return envelope.sign("genesis", fields, *(person(number) for number in signers or (1, 2)))


def head(charter: Charter, version: int, *signers: int, **changes) -> bytes:
    people = [person(number) for number in signers or (1, 2)]
    fields = {"run": RUN, "version": version, "genesis": charter.digest, "ensemble": None, "top_k": None}
    return signed(make_head(people[0], **(fields | changes)), *people)


def listing(version: int, *signers: int, **changes) -> bytes:
    people = [person(number) for number in signers or (1, 2)]
    return admission_list(*people, run=RUN, version=version, **changes)


def ensemble(**units: str) -> Ensemble:
    return Ensemble(run=RUN, units={unit.replace("_", "-"): digest_of(name) for unit, name in units.items()})


def test_a_run_begins_with_what_its_key_pins():
    assert (BEGUN.digest, BEGUN.versions, BEGUN.floor, BEGUN.ensemble) == (RUN, (RUN,), 0, None)
    assert BEGUN.admission == BEGUN.genesis.admission
    assert BEGUN.rules == RunRules.of(BEGUN.genesis, RUN)
    assert not BEGUN.live(NOW_S)


def test_a_head_puts_its_ensemble_and_its_list_in_force():
    promoted, listed = ensemble(cluster_0="a", router="r"), listing(1)
    data = head(BEGUN, 3, ensemble=promoted.digest, admission=sha256_of(listed), top_k=2)
    charter = BEGUN.adopt(data, listed, promoted.to_bytes())
    assert charter.ensemble == promoted
    assert charter.admission.admits(person(4).peer_id)
    assert not charter.admission.admits(person(9).peer_id)
    assert (charter.floor, charter.envelope) == (3, data)
    assert charter.signers == tuple(sorted(person(number).peer_id for number in (1, 2)))
    assert charter.live(charter.head.exp - 1)
    assert not charter.live(charter.head.exp)
    assert charter.adopt(data, listed, promoted.to_bytes()) == charter


@pytest.mark.parametrize("signers", [(1,), (9,), (9, 8), (1, 9), (1, 2, 9)])
def test_arbitrary_installation_by_too_few_curators_or_strangers(signers):
    with pytest.raises(SignatureError):
        BEGUN.adopt(head(BEGUN, 1, *signers))


def test_rollback_to_an_older_head():
    charter = BEGUN.adopt(head(BEGUN, 5))
    for version in (1, 4):
        old = head(BEGUN, version, 3, 1, exp=NOW_S + 86_000)
        with pytest.raises(RecordError, match="old one"):
            charter.adopt(old)
    assert charter.adopt(head(BEGUN, 6, 3, 1)).floor == 6


def test_mix_and_match_two_heads_of_one_version():
    one, other = ensemble(cluster_0="a"), ensemble(cluster_0="b")
    charter = BEGUN.adopt(head(BEGUN, 5, ensemble=one.digest), None, one.to_bytes())
    with pytest.raises(RecordError, match="must agree"):
        charter.adopt(head(BEGUN, 5, 2, 3, ensemble=other.digest), None, other.to_bytes())
    longer = head(BEGUN, 5, 3, 2, ensemble=one.digest, exp=NOW_S + 900)
    assert charter.adopt(longer, None, one.to_bytes()).head.exp == NOW_S + 900


def test_mix_and_match_the_wrong_ensemble_or_list_beside_a_true_head():
    promoted, listed = ensemble(cluster_0="a"), listing(1)
    data = head(BEGUN, 1, ensemble=promoted.digest, admission=sha256_of(listed))
    for given_list, given_ensemble in (
        (listing(2), promoted.to_bytes()),
        (listed, ensemble(cluster_0="b").to_bytes()),
        (None, promoted.to_bytes()),
        (listed, None),
    ):
        with pytest.raises(DigestError):
            BEGUN.adopt(data, given_list, given_ensemble)


def test_rollback_of_the_admission_list_under_a_newer_head():
    """A key that was shut out does not come back by an old list, nor by leaving the list out."""
    lists = [listing(1), listing(2, admission={"policy": "list", "keys": []})]
    charter = BEGUN.adopt(head(BEGUN, 1, admission=sha256_of(lists[1])), lists[1])
    for old in (lists[0], listing(2)):
        with pytest.raises(RecordError, match="old admission list"):
            charter.adopt(head(BEGUN, 2, admission=sha256_of(old)), old)
    with pytest.raises(RecordError, match="names no admission list"):
        charter.adopt(head(BEGUN, 2))
    assert charter.adopt(head(BEGUN, 2, admission=sha256_of(lists[1])), lists[1]).floor == 2


def test_a_list_signed_by_too_few_curators_stays_out():
    alone = listing(1, 1)
    with pytest.raises(SignatureError):
        BEGUN.adopt(head(BEGUN, 1, admission=sha256_of(alone)), alone)


def test_extraneous_dependency_a_unit_the_run_does_not_have():
    odd = ensemble(cluster_7="a")
    with pytest.raises(RecordError, match="cluster-7"):
        BEGUN.adopt(head(BEGUN, 1, ensemble=odd.digest), None, odd.to_bytes())
    foreign = Ensemble(run=digest_of("other"), units={"router": digest_of("r")})
    with pytest.raises(RecordError, match="another run"):
        BEGUN.adopt(head(BEGUN, 1, ensemble=foreign.digest), None, foreign.to_bytes())


def test_wrong_software_another_run_another_kind_another_publisher():
    with pytest.raises(RecordError, match="another genesis"):
        BEGUN.adopt(head(BEGUN, 1, run=digest_of("other")))
    with pytest.raises(RecordError, match="another genesis"):
        BEGUN.adopt(head(BEGUN, 1, genesis=digest_of("other")))
    with pytest.raises(EnvelopeError):
        BEGUN.adopt(listing(1))
    unsigned = make_head(person(3), run=RUN, genesis=RUN)
    with pytest.raises(RecordError, match="who publishes it"):
        BEGUN.adopt(envelope.sign("head", unsigned, person(1), person(2)))


def test_the_next_version_ends_what_the_one_before_said():
    listed = listing(1)
    before = BEGUN.adopt(head(BEGUN, 5, admission=sha256_of(listed)), listed)
    after = before.succeed(later(before, replicas=3))
    assert (after.genesis.replicas, after.head, after.listed, after.floor) == (3, None, None, 5)
    assert after.versions == (RUN, after.digest)
    with pytest.raises(RecordError, match="another genesis"):
        after.adopt(head(before, 9))
    with pytest.raises(RecordError, match="must agree"):
        after.adopt(head(after, 5))
    assert after.adopt(head(after, 6)).floor == 6
    with pytest.raises(LineageError, match="does not follow"):
        after.succeed(later(before, replicas=4))


def test_fast_forward_is_undone_by_other_curators():
    stolen = BEGUN.adopt(head(BEGUN, LIMITS.integer))
    same = stolen.succeed(later(stolen, replicas=3))
    with pytest.raises(RecordError, match="old one"):
        same.adopt(head(same, 1))
    board = curators(5, 6, threshold=2).model_dump(mode="json")
    rescued = stolen.succeed(later(stolen, 1, 2, 5, 6, curators=board))
    assert rescued.adopt(head(rescued, 1, 5, 6)).floor == 1
    with pytest.raises(SignatureError):
        rescued.adopt(head(rescued, 1, 1, 2))


def test_endless_data_more_versions_than_anybody_follows():
    full = dataclasses.replace(BEGUN, versions=(RUN,) * LIMITS.genesis_versions)
    with pytest.raises(LineageError, match="too many versions"):
        full.succeed(later(BEGUN))


def test_what_would_change_anything():
    known = BEGUN.adopt(head(BEGUN, 5))

    def newer(version: int, **changes) -> bool:
        fields = {"run": RUN, "genesis": RUN, "version": version} | changes
        return known.newer(make_head(person(1), **fields))

    assert BEGUN.newer(make_head(person(1), run=RUN, genesis=RUN))
    assert newer(6)
    assert newer(5, exp=NOW_S + 700)
    assert not newer(5)
    assert not newer(4, exp=NOW_S + 900)
    assert not newer(6, genesis=digest_of("other"))


@given(st.lists(st.integers(1, 6), max_size=12))
def test_whatever_order_heads_come_in_the_highest_wins_and_the_floor_only_rises(versions):
    charter, floors = BEGUN, [0]
    for version in versions:
        promoted = ensemble(cluster_0=f"of version {version}")
        try:
            charter = charter.adopt(head(BEGUN, version, ensemble=promoted.digest), None, promoted.to_bytes())
        except RecordError:
            assert version < charter.floor
        floors.append(charter.floor)
    assert floors == sorted(floors)
    assert charter.floor == max(versions, default=0)
    if versions:
        assert charter.ensemble == ensemble(cluster_0=f"of version {max(versions)}")


class TestTheBookUnderNewRules:
    """A node's memory follows the charter at once."""

    def test_claims_of_a_key_that_was_shut_out_are_gone(self):
        open_rules = RunRules(Admission(policy="open"), curators(1), RUN)
        book = RecordBook({RUN: open_rules})
        claims = {
            number: check_record(signed(make_claim(person(number), run=RUN), person(number)), NOW_S, book.rules)
            for number in (4, 5)
        }
        other = make_claim(person(4), run=digest_of("other"))
        elsewhere = check_record(signed(other, person(4)), NOW_S, {})
        for claim in (*claims.values(), elsewhere):
            book.offer(claim, NOW_S)
        banned = Admission.parse({"policy": "open", "former": [{"key": person(4).peer_id, "until": NOW_S}]})
        book.know(RUN, dataclasses.replace(open_rules, admission=banned))
        assert book.slot(claims[4].key, NOW_S) == (claims[5],)
        assert book.slot(elsewhere.key, NOW_S) == (elsewhere,)
        with pytest.raises(SignatureError, match="shut it out"):
            check_record(claims[4].envelope, NOW_S, book.rules)

    def test_heads_that_nobody_could_check_are_gone_once_they_can_be(self):
        book = RecordBook()
        true = check_record(head(BEGUN, 2), NOW_S, {})
        false = check_record(signed(make_head(person(9), run=RUN, genesis=RUN), person(9)), NOW_S, {})
        for received in (true, false):
            book.offer(received, NOW_S)
        book.know(RUN, BEGUN.rules)
        assert book.slot(true.key, NOW_S) == (true,)

    def test_one_head_with_more_signatures_is_no_double_tongue(self):
        """2 of 3 may be another 2, or all 3: the publisher said one thing."""
        book = RecordBook({RUN: BEGUN.rules})
        signatures = [head(BEGUN, 2, 1, 2), head(BEGUN, 2, 1, 3), head(BEGUN, 2, 1, 2, 3)]
        received = [check_record(data, NOW_S, book.rules) for data in signatures]
        for each in received:
            book.offer(each, NOW_S)
        assert not any(book.equivocation(each) for each in received)
        assert book.slot(received[0].key, NOW_S) == (received[0],)

    def test_a_flood_before_a_handover_leaves_room_for_curators_heads(self, monkeypatch):
        """Heads of a version nobody here knows yet: those by known curators stay."""
        monkeypatch.setattr("paris.protocol.book.LIMITS", dataclasses.replace(LIMITS, signers_per_slot=3))
        book = RecordBook({RUN: BEGUN.rules})
        coming = digest_of("version 2")
        for number in range(11, 14):
            made = signed(make_head(person(number), run=RUN, genesis=coming), person(number))
            book.offer(check_record(made, NOW_S, book.rules), NOW_S)
        true = check_record(head(BEGUN, 1, genesis=coming), NOW_S, book.rules)
        book.offer(true, NOW_S)
        assert true in book.slot(true.key, NOW_S)


def test_records_made_now_are_checked_by_the_charter_of_now():
    """The rules of a charter are what a node checks records by."""
    listed = listing(1)
    charter = BEGUN.adopt(head(BEGUN, 1, admission=sha256_of(listed)), listed)
    claim = fresh(make_claim, person(9), run=RUN)
    with pytest.raises(SignatureError, match="lists its contributors"):
        check_record(signed(claim, person(9)), claim.iat, {RUN: charter.rules})
