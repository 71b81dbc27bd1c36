"""The nine attacks of The Update Framework's specification, on what says which weights people draw with: heads.

A head is signed by the curators' threshold, counts up, and expires within a day; it names the newest genesis version
and one ensemble, which names one checkpoint a unit. Blobs come from anybody and are named by digest.
"""

from __future__ import annotations

from functools import partial

import pytest
from protocol_support import (
    NOW_S,
    curators,
    digest_of,
    genesis_fields,
    make_checkpoint,
    make_genesis,
    make_head,
    make_tip,
    person,
    signed,
)

from paris.protocol import digests, envelope, strict_json
from paris.protocol.book import RecordBook
from paris.protocol.curation import Admission
from paris.protocol.digests import sha256_of
from paris.protocol.ensemble import Ensemble
from paris.protocol.errors import (
    DigestError,
    EnvelopeError,
    LineageError,
    RecordError,
    SignatureError,
    VerificationError,
)
from paris.protocol.limits import LIMITS
from paris.protocol.lineage import chain
from paris.protocol.manifest import Manifest
from paris.protocol.succession import follow
from paris.protocol.transport.ledger import Ledger
from paris.protocol.validation import RunRules, check_record

RUN = digest_of("run")
BOARD = curators(1, 2, 3, threshold=2)
RULES = {RUN: RunRules(Admission(policy="open"), BOARD, RUN)}
DAY_S = 86_400


def head(*signers: int, now_s: float = NOW_S, rules=RULES, **changes):
    people = [person(number) for number in signers]
    return check_record(signed(make_head(people[0], **changes), *people), now_s, rules)


def ensemble(**units: str) -> Ensemble:
    return Ensemble(run=RUN, units={unit.replace("_", "-"): digest_of(name) for unit, name in units.items()})


def test_arbitrary_installation():
    """Somebody who is no curator, or not enough of them, says what to draw with."""
    assert head(1, 2)
    for signers in ((9,), (9, 8), (1,), (1, 9), (1, 2, 9)):
        with pytest.raises(SignatureError):
            head(*signers)
    claimed = make_head(person(1))
    with pytest.raises(SignatureError):
        check_record(envelope.sign("head", claimed, person(2), person(3)), NOW_S, RULES)


def test_endless_data():
    """Bounds come before parsing; a peer that sends more than it was asked for is in `test_blob_attacks.py`."""
    kinds = ("genesis", "checkpoint", "admission", "delegation", "rotation", "head", "tip", "claim")
    parsers = [Ensemble.from_bytes, Manifest.from_bytes, *(partial(envelope.verify, kind=kind) for kind in kinds)]
    for parse in parsers:
        with pytest.raises(EnvelopeError, match="too big"):
            parse(b"{" + b" " * LIMITS.blob_bytes)


def test_extraneous_dependency():
    """A unit or a field that nobody asked for makes the whole no ensemble and no head."""
    fields = ensemble(cluster_0="a").model_dump(mode="json")
    for changed in (
        fields | {"extra": 1},
        fields | {"units": fields["units"] | {"cluster-x": digest_of("b")}},
        fields | {"units": fields["units"] | {"../etc": digest_of("b")}},
    ):
        with pytest.raises(RecordError):
            Ensemble.from_bytes(strict_json.dumps(changed))
    payload = make_head(person(1)).model_dump(mode="json", exclude_none=True) | {"also": "this"}
    with pytest.raises(RecordError):
        check_record(envelope.sign("head", payload, person(1), person(2)), NOW_S, RULES)


def test_fast_forward_and_recovery():
    """Stolen keys count to the last number there is; new curators, signed in by the old ones, begin anew."""
    book = RecordBook(dict(RULES))
    book.offer(head(1, 2, version=LIMITS.integer), NOW_S)
    with pytest.raises(RecordError, match="old one"):
        book.offer(head(3, 2, version=2), NOW_S)
    later = {RUN: RunRules(Admission(policy="open"), curators(5, 6, threshold=2), digest_of("version 2"))}
    book.know(RUN, later[RUN])
    book.offer(head(5, 6, rules=later, version=1, genesis=digest_of("version 2")), NOW_S)


def test_indefinite_freeze():
    """Whoever hides newer heads and repeats an old one has a day, and no second more."""
    last = make_head(person(1), exp=NOW_S + DAY_S)
    data = signed(last, person(1), person(2))
    assert check_record(data, last.exp - 1, RULES)
    with pytest.raises(RecordError, match="expired"):
        check_record(data, last.exp, RULES)
    with pytest.raises(RecordError, match="lives"):
        head(1, 2, exp=NOW_S + DAY_S + 1)
    book = RecordBook(dict(RULES))
    book.offer(check_record(data, NOW_S, RULES), NOW_S)
    assert book.slot(book.newest(head(1, 2).key, person(1).peer_id).key, last.exp) == ()


def test_malicious_mirror():
    """A mirror returns another version of anything under the right name: one bit is enough to be noticed."""
    good = ensemble(cluster_0="a", router="r").to_bytes()
    for index in range(len(good)):
        bent = bytearray(good)
        bent[index] ^= 1
        with pytest.raises(DigestError):
            digests.check(bytes(bent), sha256_of(good), "the ensemble")


def test_mix_and_match():
    """One unit of today with another of last week: a head names all of them by one digest, and a version once."""
    today, week_old = ensemble(cluster_0="new", router="new"), ensemble(cluster_0="old", router="old")
    mixed = ensemble(cluster_0="new", router="old")
    assert len({today.digest, week_old.digest, mixed.digest}) == 3
    book = RecordBook(dict(RULES))
    book.offer(head(1, 2, version=7, ensemble=today.digest), NOW_S)
    for signer in ((2, 1), (3, 1)):
        with pytest.raises(RecordError, match="agree"):
            book.offer(head(*signer, version=7, ensemble=mixed.digest), NOW_S)


@pytest.mark.parametrize("expired", [False, True])
def test_rollback_also_after_a_restart_and_after_the_local_copy_expired(tmp_path, expired):
    now_s = NOW_S + (700 if expired else 0)
    ledger, book = Ledger.open(tmp_path / "ledger"), RecordBook(dict(RULES))
    ledger.load(book, NOW_S)
    book.offer(head(1, 2, version=8, exp=NOW_S + 600), NOW_S)
    ledger.close()
    ledger, book = Ledger.open(tmp_path / "ledger"), RecordBook(dict(RULES))
    ledger.load(book, now_s)
    try:
        with pytest.raises(RecordError, match="version 7"):
            book.offer(head(2, 3, version=7, exp=NOW_S + DAY_S, now_s=now_s), now_s)
        book.offer(head(2, 3, version=9, exp=NOW_S + DAY_S, now_s=now_s), now_s)
    finally:
        ledger.close()


def test_rollback_of_the_genesis():
    """An old version is no successor of a newer one, and a branch that was not taken is no version."""
    board = curators(1, threshold=1).model_dump(mode="json")

    def version(number: int, prev: str | None = None, **changes) -> bytes:
        fields = genesis_fields(version=number, curators=board, **changes) | ({"prev": prev} if prev else {})
        return envelope.sign("genesis", fields, person(1))

    first = version(1)
    second = version(2, sha256_of(first), replicas=3)
    third = version(3, sha256_of(second), replicas=4)
    branch = version(2, sha256_of(first), replicas=9)
    assert follow(sha256_of(first), [first, second, third])[0].replicas == 4
    for versions in ([first, second, third, second], [first, branch, third], [first, second, second], [second]):
        with pytest.raises(VerificationError):
            follow(sha256_of(first), versions)


def test_wrong_software():
    """Rightly signed, for something else: another run, another unit, another kind."""
    with pytest.raises(RecordError):
        check_record(envelope.sign("tip", make_head(person(1)), person(1)), NOW_S, RULES)
    with pytest.raises(EnvelopeError, match="not a head"):
        envelope.verify(signed(make_tip(person(1)), person(1)), "head")
    assert head(1, 2, run=digest_of("other"), rules={}).key != head(1, 2).key
    other_unit = make_checkpoint(
        person(1), unit="cluster-1", shards={"cluster-000-train-000.tar": digest_of("shard 0")}
    )
    data = envelope.sign("checkpoint", other_unit, person(1))
    with pytest.raises(LineageError, match="shards of its unit"):
        chain(sha256_of(data), {sha256_of(data): data}.get, make_genesis(), RUN)
