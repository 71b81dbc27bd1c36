"""Versions of a genesis and who may make them, name by name; the refusals by bytes are among the golden vectors."""

from __future__ import annotations

import itertools

import pytest
from protocol_support import NOW_S, admission_list, curators, digest_of, genesis_fields, person

from paris.protocol import envelope
from paris.protocol.curation import Admission, open_admission
from paris.protocol.digests import sha256_of
from paris.protocol.ensemble import Ensemble
from paris.protocol.errors import LineageError, ParisError, RecordError, SignatureError
from paris.protocol.limits import LIMITS
from paris.protocol.succession import follow


def version(number: int, prev: str | None, board: dict, *signers: int, **changes) -> bytes:
    fields = genesis_fields(version=number, curators=board, **changes) | ({"prev": prev} if prev else {})
    return envelope.sign("genesis", fields, *(person(signer) for signer in signers))


def board(*numbers: int, threshold: int) -> dict:
    return curators(*numbers, threshold=threshold).model_dump(mode="json")


def accepted(old: dict, new: dict, signers: tuple[int, ...]) -> bool:
    first = version(1, None, old, *old_signers(old))
    second = version(2, sha256_of(first), new, *signers)
    try:
        follow(sha256_of(first), [first, second])
    except SignatureError:
        return False
    return True


def old_signers(old: dict) -> tuple[int, ...]:
    return tuple(number for number in range(1, 10) if person(number).peer_id in old["keys"])


@pytest.mark.parametrize("count", range(1, 5))
def test_every_set_of_signers_of_a_rotation_of_curators(count):
    """2 of {1, 2, 3} hand over to 2 of {3, 4, 5}: both thresholds must be met, key 3 counts for both, 9 for none."""
    old, new = board(1, 2, 3, threshold=2), board(3, 4, 5, threshold=2)
    for signers in itertools.combinations((1, 2, 3, 4, 5, 9), count):
        enough = len({1, 2, 3} & {*signers}) >= 2 and len({3, 4, 5} & {*signers}) >= 2
        assert accepted(old, new, signers) == (enough and 9 not in signers), signers


def test_walking_as_far_as_allowed_and_no_further():
    one = board(1, threshold=1)
    versions = [version(1, None, one, 1)]
    for number in range(2, LIMITS.genesis_versions + 2):
        versions.append(version(number, sha256_of(versions[-1]), one, 1, replicas=number % 60 + 1))
    run = sha256_of(versions[0])
    newest, digest = follow(run, versions[:-1])
    assert (newest.version, digest) == (256, sha256_of(versions[-2]))
    with pytest.raises(LineageError, match="more than 256"):
        follow(run, versions)
    with pytest.raises(LineageError, match="does not follow"):
        follow(run, [versions[0], versions[2]])
    with pytest.raises(LineageError, match="begins with one"):
        follow(run, [])


def test_curators_who_were_replaced_cannot_come_back_by_themselves():
    first = version(1, None, board(1, threshold=1), 1)
    second = version(2, sha256_of(first), board(2, threshold=1), 1, 2)
    back = version(3, sha256_of(second), board(1, threshold=1), 1)
    run = sha256_of(first)
    assert follow(run, [first, second])[0].curators.keys == (person(2).peer_id,)
    with pytest.raises(SignatureError, match="by the curators before"):
        follow(run, [first, second, back])


def test_a_base_recipe_may_grow_with_the_others():
    training = genesis_fields()["training"]
    base = training["expert"] | {"steps": 30}
    with_base = {"training": training | {"base": base}, "start": {"kind": "base"}}
    longer = {"training": training | {"base": base | {"steps": 60, "publish_every": 20}}, "start": {"kind": "base"}}
    one = board(1, threshold=1)
    first = version(1, None, one, 1, **with_base)
    follow(sha256_of(first), [first, version(2, sha256_of(first), one, 1, **longer)])
    with pytest.raises(RecordError, match="changes training"):
        follow(sha256_of(first), [first, version(2, sha256_of(first), one, 1, start={"kind": "base"}, **shrunk(base))])


def shrunk(base: dict) -> dict:
    training = genesis_fields()["training"]
    return {"training": training | {"base": base | {"steps": 1}}}


@pytest.mark.parametrize("field", ["name", "data", "clusters", "model", "text", "codec", "start"])
def test_what_a_run_is_never_changes(field):
    one = board(1, threshold=1)
    first = version(1, None, one, 1)
    other = {
        "name": "hounds",
        "data": genesis_fields()["data"] | {"manifest": digest_of("x")},
        "clusters": genesis_fields()["clusters"][:2],
        "model": genesis_fields()["model"] | {"preset": "tiny"},
        "text": genesis_fields()["text"] | {"tokens": 17},
        "codec": {"kind": "autoencoder-tiny", "manifest": digest_of("x")},
        "start": {"kind": "checkpoint", "manifest": digest_of("x")},
    }
    with pytest.raises(RecordError, match=f"changes {field}"):
        follow(sha256_of(first), [first, version(2, sha256_of(first), one, 1, **{field: other[field]})])


def test_admission_of_now_and_of_then():
    gone = Admission.parse(
        {"policy": "list", "keys": [person(4).peer_id], "former": [{"key": person(6).peer_id, "until": 100}]}
    )
    assert gone.admits(person(4).peer_id)
    assert not gone.admits(person(6).peer_id)
    assert [gone.admitted(person(6).peer_id, at_s) for at_s in (100, 101)] == [True, False]
    assert not gone.admitted(person(7).peer_id, 0)
    banned = Admission.parse({"policy": "open", "former": [{"key": person(6).peer_id, "until": 100}]})
    assert banned.admits(person(7).peer_id)
    assert not banned.admits(person(6).peer_id)


def test_a_newer_admission_list_replaces_the_older_whole():
    run = digest_of("run")
    listed = open_admission(admission_list(person(1), person(3)), run, curators(1, 2, 3, threshold=2))
    assert listed.admission.admits(person(4).peer_id)
    assert listed.created == NOW_S


def test_an_ensemble_has_one_spelling():
    ensemble = Ensemble(run=digest_of("run"), units={"router": digest_of("r"), "cluster-1": digest_of("1")})
    assert Ensemble.from_bytes(ensemble.to_bytes()) == ensemble
    assert ensemble.digest == sha256_of(ensemble.to_bytes())
    with pytest.raises(ParisError):
        Ensemble.from_bytes(b"[]")
