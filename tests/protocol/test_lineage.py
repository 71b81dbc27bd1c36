"""Lineages that hold, and every way one can be broken."""

from __future__ import annotations

import pytest
from protocol_support import NOW_S, delegation, digest_of, genesis_fields, make_checkpoint, make_genesis, person

from paris.protocol import envelope
from paris.protocol.curation import Admission
from paris.protocol.digests import sha256_of
from paris.protocol.errors import LineageError
from paris.protocol.limits import LIMITS
from paris.protocol.lineage import chain

RUN = digest_of("run")


class Blobs(dict):
    def add(self, who, **changes) -> str:
        data = envelope.sign("checkpoint", make_checkpoint(who, **changes), who)
        self[sha256_of(data)] = data
        return sha256_of(data)


@pytest.fixture
def blobs():
    return Blobs()


@pytest.fixture
def parent(blobs):
    return blobs.add(person(1))


def test_a_takeover_shows_both_names(blobs, parent):
    middle = blobs.add(person(1), parent=parent, from_step=10, to_step=20)
    tip = blobs.add(person(2), parent=middle, from_step=20, to_step=100)
    found = chain(tip, blobs.get, make_genesis(), RUN)
    assert [(link.signer, link.from_step, link.to_step) for link in found] == [
        (person(1).peer_id, 0, 10), (person(1).peer_id, 10, 20), (person(2).peer_id, 20, 100),
    ]  # fmt: skip
    assert len(chain(parent, blobs.get, make_genesis(), RUN)) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"parent": digest_of("nowhere"), "from_step": 10, "to_step": 20}, "is missing"),
        ({"from_step": 11, "to_step": 20}, "its parent ends at 10"),
        ({"from_step": 9, "to_step": 20}, "its parent ends at 10"),
        ({"from_step": 10, "to_step": 20, "unit": "cluster-1"}, "parent of another unit"),
        ({"from_step": 10, "to_step": 20, "unit": "cluster-7", "shards": {}}, "no unit of this run"),
        ({"from_step": 10, "to_step": 20, "run": digest_of("other")}, "another run"),
        ({"from_step": 10, "to_step": 101}, "went past the end"),
        ({"from_step": 10, "to_step": 20, "seed": 8}, "used seed 8"),
        ({"from_step": 10, "to_step": 20, "start": digest_of("x")}, "a parent and a start"),
        ({"from_step": 10, "to_step": 20, "shards": {}}, "not trained on the shards"),
        ({"from_step": 10, "to_step": 20, "shards": {"cluster-001-train-000.tar": digest_of("x")}}, "they differ in"),
        ({"parent": None, "from_step": 10, "to_step": 20}, "has no parent"),
    ],
)
def test_a_broken_link(blobs, parent, changes, reason):
    tip = blobs.add(person(2), **({"parent": parent} | changes))
    with pytest.raises(LineageError, match=reason) as caught:
        chain(tip, blobs.get, make_genesis(), RUN)
    assert caught.value.exit_code == 3


def test_bytes_swapped_under_a_digest(blobs, parent):
    tip = blobs.add(person(1), parent=parent, from_step=10, to_step=20)
    blobs[parent] = envelope.sign("checkpoint", make_checkpoint(person(3)), person(3))
    with pytest.raises(LineageError, match="does not match its digest"):
        chain(tip, blobs.get, make_genesis(), RUN)


def test_a_forged_signature_inside(blobs):
    data = envelope.sign("checkpoint", make_checkpoint(person(1)), person(2))
    blobs[sha256_of(data)] = data
    with pytest.raises(LineageError, match="not signed by its builder"):
        chain(sha256_of(data), blobs.get, make_genesis(), RUN)


def test_a_stranger_in_a_listed_run(blobs, parent):
    tip = blobs.add(person(2), parent=parent, from_step=10, to_step=20)
    listed = make_genesis(admission={"policy": "list", "keys": [person(1).peer_id]})
    assert chain(parent, blobs.get, listed, RUN)
    with pytest.raises(LineageError, match="does not admit"):
        chain(tip, blobs.get, listed, RUN)


def test_shards_are_checked_against_the_data_manifest(blobs, parent):
    shard = "cluster-000-train-000.tar"
    assert chain(parent, blobs.get, make_genesis(), RUN, shard_digests={shard: digest_of("shard 0")})
    with pytest.raises(LineageError, match="trained on other data"):
        chain(parent, blobs.get, make_genesis(), RUN, shard_digests={shard: digest_of("swapped")})


def test_the_start_is_the_one_of_the_genesis(blobs):
    start = digest_of("pretrained")
    genesis = make_genesis(start={"kind": "checkpoint", "manifest": start})
    assert chain(blobs.add(person(1), start=start), blobs.get, genesis, RUN)[0].start == start
    for wrong in (None, digest_of("mine")):
        with pytest.raises(LineageError, match="does not start where"):
            chain(blobs.add(person(1), start=wrong), blobs.get, genesis, RUN)
    assert chain(blobs.add(person(1), unit="router"), blobs.get, genesis, RUN)
    with pytest.raises(LineageError, match="does not start where"):
        chain(blobs.add(person(1), unit="router", start=start), blobs.get, genesis, RUN)


def test_experts_branch_from_a_verified_base(blobs):
    training = genesis_fields()["training"]
    genesis = make_genesis(training=training | {"base": training["expert"]}, start={"kind": "base"})
    base = chain(blobs.add(person(1), unit="base", to_step=100), blobs.get, genesis, RUN)[-1]
    expert = blobs.add(person(2), start=base.manifest)
    assert chain(expert, blobs.get, genesis, RUN, bases=[base.manifest])
    with pytest.raises(LineageError, match="the genesis allows base"):
        chain(expert, blobs.get, genesis, RUN)
    with pytest.raises(LineageError, match="names nothing"):
        chain(blobs.add(person(2)), blobs.get, genesis, RUN, bases=[base.manifest])


def test_an_endless_lineage(blobs, parent, monkeypatch):
    import dataclasses

    from paris.protocol import lineage

    monkeypatch.setattr(lineage, "LIMITS", dataclasses.replace(LIMITS, lineage_checkpoints=2))
    middle = blobs.add(person(1), parent=parent, from_step=10, to_step=20)
    tip = blobs.add(person(1), parent=middle, from_step=20, to_step=30)
    with pytest.raises(LineageError, match="too long"):
        chain(tip, blobs.get, make_genesis(), RUN)


def test_a_stale_fence(blobs, parent):
    """Its signer has held a later claim since: what it trained under the older one comes too late."""
    kept = blobs.add(person(1), parent=parent, from_step=10, to_step=20, fence=7)
    stale = blobs.add(person(1), parent=kept, from_step=20, to_step=30, fence=6)
    with pytest.raises(LineageError, match="is stale"):
        chain(stale, blobs.get, make_genesis(), RUN)
    other = blobs.add(person(2), parent=kept, from_step=20, to_step=30, fence=1)
    assert chain(other, blobs.get, make_genesis(), RUN)


LISTED = make_genesis(admission={"policy": "list", "keys": [person(4).peer_id]})


def test_a_node_builds_under_the_name_of_its_contributor(blobs):
    node = person(5)
    tip = blobs.add(node, credentials=(delegation(person(4), node),))
    assert chain(tip, blobs.get, LISTED, RUN)[0].signer == node.peer_id
    alone = blobs.add(node)
    with pytest.raises(LineageError, match="does not admit"):
        chain(alone, blobs.get, LISTED, RUN)


def test_a_delegation_that_had_expired_when_the_segment_was_finished(blobs):
    node = person(5)
    late = blobs.add(node, credentials=(delegation(person(4), node, exp=NOW_S + 30),))
    with pytest.raises(LineageError, match="is not in force"):
        chain(late, blobs.get, LISTED, RUN)


def test_what_a_former_contributor_finished_in_time_still_counts(blobs):
    tip = blobs.add(person(6))
    finished_s = NOW_S + 60
    for until_s, counts in ((finished_s, True), (finished_s - 1, False)):
        former = [{"key": person(6).peer_id, "until": until_s}]
        admission = Admission.parse({"policy": "list", "keys": [person(4).peer_id], "former": former})
        if counts:
            assert chain(tip, blobs.get, LISTED, RUN, admission=admission)
            continue
        with pytest.raises(LineageError, match="does not admit"):
            chain(tip, blobs.get, LISTED, RUN, admission=admission)
