"""Payloads: genesis, records, checkpoints."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import (
    NOW_S,
    digest_of,
    genesis_fields,
    make_checkpoint,
    make_claim,
    make_genesis,
    make_head,
    make_peer,
    make_tip,
    make_verdict,
    person,
)

from paris.protocol import envelope
from paris.protocol.errors import ParisError, RecordError, SignatureError
from paris.protocol.genesis import open_genesis
from paris.protocol.records import RECORD_KINDS, Checkpoint, Claim, open_checkpoint, parse_record, record_key

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 99) | st.text(max_size=5), lambda v: st.lists(v, max_size=3)
)


def test_every_record_kind_survives_signing():
    who = person(1)
    for record in (make_peer(who), make_claim(who, parent=digest_of("x")), make_tip(who)):
        data = envelope.sign(record.kind, record, who)
        assert parse_record(record.kind, envelope.verify(data, record.kind).payload) == record
        assert len(data) < 2048


def test_slots_and_keys():
    run = digest_of("run")
    assert make_peer(person(1)).slot == ""
    assert make_claim(person(1)).slot == make_tip(person(1)).slot == "cluster-0"
    keys = {
        record_key(kind, r, slot) for kind in RECORD_KINDS for r in (run, digest_of("2")) for slot in ("", "router")
    }
    assert len(keys) == 2 * 2 * len(RECORD_KINDS)
    # SHA-256("paris/1" 0 "claim" 0 64 hex digits 0 "router"), computed with sha256sum
    assert record_key("claim", "sha256:" + "0" * 64, "router") == KNOWN_KEY


KNOWN_KEY = "9694a510e601e6564cda2bcb35eb7413f2ff8ebb93b0c8cd4e5e283a9ae2d427"


@given(st.dictionaries(st.sampled_from(["v", "run", "unit", "seq", "iat", "exp", "signer", "step", "x"]), JSON))
def test_any_payload_is_a_claim_or_refused_by_name(payload):
    with pytest.raises(RecordError, match="claim is not valid"):
        Claim.parse(payload)


@pytest.mark.parametrize(
    "change",
    [
        {"unknown": 1}, {"v": 2}, {"v": True}, {"seq": -1}, {"seq": "1"}, {"seq": True}, {"run": "x"},
        {"unit": "cluster-01"}, {"unit": "../x"}, {"unit": "cluster-99999"}, {"signer": "me"}, {"parent": "sha256:0"},
        {"run": digest_of("x") + "\n"},
    ],
)  # fmt: skip
def test_impossible_claims(change):
    fields = make_claim(person(1)).model_dump(mode="json", exclude_none=True)
    with pytest.raises(RecordError):
        Claim.parse(fields | change)


def test_extensions_have_one_place():
    claim = make_claim(person(1), ext={"colour": ["red"]})
    assert Claim.parse(claim.model_dump(mode="json", exclude_none=True)).ext == {"colour": ["red"]}


def test_a_blob_kind_is_no_record():
    with pytest.raises(RecordError, match="the rest are blobs"):
        parse_record("genesis", {})


def test_a_genesis_names_its_units_recipes_and_run():
    genesis = make_genesis()
    assert genesis.units() == ("cluster-0", "cluster-1", "cluster-2", "router")
    assert (genesis.target_steps("cluster-1"), genesis.target_steps("router")) == (100, 50)
    assert genesis.cluster("cluster-2").id == 2
    assert genesis.cluster("router") is None
    data = envelope.sign("genesis", genesis, person(1))
    opened, run = open_genesis(data)
    assert (opened, run) == (genesis, envelope.verify(data, "genesis").digest)
    for unit in ("base", "cluster-3", "x"):
        with pytest.raises(RecordError, match="no unit"):
            genesis.recipe(unit)


def test_a_base_is_one_more_unit():
    training = genesis_fields()["training"]
    base = training["expert"] | {"steps": 30}
    genesis = make_genesis(training=training | {"base": base}, start={"kind": "base"})
    assert genesis.units()[0] == "base"
    assert genesis.target_steps("base") == 30
    assert genesis.target_steps("cluster-0") == 100


@pytest.mark.parametrize(
    "change",
    [
        {"clusters": list(reversed(genesis_fields()["clusters"]))},
        {"clusters": []},
        {"version": 2},
        {"prev": digest_of("x")},
        {"start": {"kind": "base"}},
        {"start": {"kind": "checkpoint"}},
        {"start": {"kind": "scratch", "manifest": digest_of("x")}},
        {"codec": {"kind": "autoencoder-tiny"}},
        {"codec": {"kind": "pixels", "manifest": digest_of("x")}},
        {"curators": {"keys": [person(1).peer_id], "threshold": 2}},
        {"curators": {"keys": [person(1).peer_id] * 2, "threshold": 1}},
        {"curators": {"keys": [], "threshold": 0}},
        {"lease": {"life_s": 10, "settle_s": 10, "progress_s": 60}},
        {"lease": {"life_s": 86_400, "settle_s": 1, "progress_s": 60}},
        {"name": "../../etc"},
        {"replicas": 0},
        {"protocol": 2},
        {"protocol": True},
        {"model": genesis_fields()["model"] | {"t_data": False}},
    ],
)
def test_a_genesis_that_contradicts_itself(change):
    with pytest.raises(RecordError, match="genesis is not valid"):
        make_genesis(**change)


def test_a_genesis_counts_distinct_curators_only():
    curators = {"keys": [person(n).peer_id for n in (1, 2, 3)], "threshold": 2}
    genesis = make_genesis(curators=curators)
    assert open_genesis(envelope.sign("genesis", genesis, person(1), person(3)))[0] == genesis
    with pytest.raises(SignatureError, match="asks for 2 curators and carries 1"):
        open_genesis(envelope.sign("genesis", genesis, person(1)))
    with pytest.raises(SignatureError, match="names other curators"):
        open_genesis(envelope.sign("genesis", genesis, person(1), person(9)))


def test_admission():
    assert make_genesis().admission.admits(person(5).peer_id)
    listed = make_genesis(admission={"policy": "list", "keys": [person(5).peer_id]})
    assert listed.admission.admits(person(5).peer_id)
    assert not listed.admission.admits(person(6).peer_id)


def test_a_checkpoint_says_what_it_is():
    who = person(1)
    made = make_checkpoint(who, parent=digest_of("p"), from_step=5, internal={"resumed": "state"})
    opened = open_checkpoint(envelope.sign("checkpoint", made, who))
    assert opened == made
    assert (opened.run, opened.unit, opened.from_step, opened.to_step) == (digest_of("run"), "cluster-0", 5, 10)
    assert (opened.parent, opened.start, opened.manifest) == (digest_of("p"), None, digest_of("weights"))
    assert (opened.signer, opened.fence, opened.seed) == (who.peer_id, 1, 7)
    assert (opened.holdout_loss_micro, opened.loss_trace_micro) == (410_000, ((1, 900_000), (10, 400_000)))
    assert opened.shards() == {"cluster-000-train-000.tar": digest_of("shard 0")}
    assert opened.versions == {"torch": "2.13.0"}
    assert make_checkpoint(who, holdout_loss_micro=None).holdout_loss_micro is None
    assert opened.predicate.run_details.metadata.started_on == "2027-01-15T08:00:00Z"


def test_in_toto_and_slsa_accept_a_checkpoint():
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1 import statement_pb2
    from in_toto_attestation.v1.statement import Statement

    who = person(1)
    payload = envelope.verify(envelope.sign("checkpoint", make_checkpoint(who), who), "checkpoint").payload
    statement = Statement.copy_from_pb(json_format.ParseDict(payload, statement_pb2.Statement()))
    statement.validate()
    provenance = json_format.ParseDict(payload["predicate"], provenance_pb2.Provenance())
    assert provenance.run_details.builder.id == f"urn:libp2p:{who.peer_id}"
    assert provenance.build_definition.resolved_dependencies[0].name == "shard/cluster-000-train-000.tar"
    assert provenance.run_details.metadata.started_on.ToSeconds() == NOW_S


def test_somebody_elses_checkpoint_cannot_be_signed():
    with pytest.raises(SignatureError, match="not signed by its builder"):
        open_checkpoint(envelope.sign("checkpoint", make_checkpoint(person(1)), person(2)))
    with pytest.raises(SignatureError, match="not signed by its builder"):
        open_checkpoint(envelope.sign("checkpoint", make_checkpoint(person(1)), person(1), person(2)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0"),
        ("https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v0.2"),
        ("training-segment:v1", "training-segment:v2"),
        ('"to_step":10', '"to_step":0'),
        ('"fence":1', '"fence":1,"bonus":2'),
        ("cluster-0@10", "x" * 2000),
        ("2027-01-15T08:00:00Z", "yesterday"),
        ("2027-01-15T08:00:00Z", "2027-02-30T08:00:00Z"),
        ("2027-01-15T08:00:00Z", "2027-01-15T25:00:00Z"),
        ("2027-01-15T08:00:00Z", "\u0662\u0660\u0662\u0667-01-15T08:00:00Z"),
        ('"name":"holdout"', '"name":"loss"'),
    ],
)
def test_a_statement_of_another_kind(old, new):
    text = json.dumps(
        make_checkpoint(person(1)).model_dump(mode="json", by_alias=True, exclude_none=True), separators=(",", ":")
    )
    assert old in text
    with pytest.raises(RecordError, match="checkpoint is not valid"):
        Checkpoint.parse(json.loads(text.replace(old, new)))


def test_two_parents_of_one_checkpoint():
    """One reader would follow the first, another the second."""
    fields = make_checkpoint(person(1), parent=digest_of("a"), from_step=5).model_dump(
        mode="json", by_alias=True, exclude_none=True
    )
    dependencies = fields["predicate"]["buildDefinition"]["resolvedDependencies"]
    second = {"name": "parent", "digest": {"sha256": digest_of("b").removeprefix("sha256:")}}
    for extra in (second, {"name": "parent"}):
        dependencies.insert(0, extra)
        with pytest.raises(RecordError, match="two readers"):
            Checkpoint.parse(fields)
        dependencies.pop(0)
    assert Checkpoint.parse(fields).parent == digest_of("a")


@pytest.mark.parametrize("loss_micro", [-1, True, None, "low", 1.5, [1], 2**53 + 1])
def test_a_hold_out_loss_no_tip_could_carry(loss_micro):
    """It would be copied into a tip that every mirror then refuses."""
    made = make_checkpoint(person(1)).model_dump(mode="json", by_alias=True, exclude_none=True)
    made["predicate"]["runDetails"]["byproducts"][1]["annotations"] = {"loss_micro": loss_micro}
    with pytest.raises(ParisError):
        Checkpoint.parse(made)


@pytest.mark.parametrize(
    "points", ["none", None, [1], [[3]], [[8, 9, 10]], [{"step": 1}], [[4, None]], [[5, "6"]], [[1, -1]], [[True, 1]]]
)
def test_a_loss_trace_that_is_none(points):
    made = make_checkpoint(person(1)).model_dump(mode="json", by_alias=True, exclude_none=True)
    made["predicate"]["runDetails"]["byproducts"][0]["annotations"] = {"points": points}
    with pytest.raises(RecordError, match="no loss in millionths"):
        Checkpoint.parse(made)


def test_a_contributor_may_have_measured_nothing():
    made = make_checkpoint(person(1)).model_dump(mode="json", by_alias=True, exclude_none=True)
    made["predicate"]["runDetails"]["byproducts"] = [{"name": "loss"}, {"name": "holdout", "annotations": {}}]
    checkpoint = Checkpoint.parse(made)
    assert (checkpoint.loss_trace_micro, checkpoint.holdout_loss_micro) == ((), None)


def test_a_cluster_may_have_an_objective_of_its_own():
    clusters = genesis_fields()["clusters"]
    genesis = make_genesis(clusters=[clusters[0] | {"objective": "ddpm-noise"}, *clusters[1:]])
    assert [genesis.recipe(unit).objective for unit in genesis.units()] == ["ddpm-noise", *["velocity"] * 3]


def test_every_kind_of_head_and_verdict_survives_signing():
    who = person(1)
    for record in (make_verdict(who), make_verdict(who, level="attested"), make_head(who), make_head(who, top_k=None)):
        assert parse_record(record.kind, envelope.verify(envelope.sign(record.kind, record, who), record.kind).payload)
    assert make_verdict(who).slot == "cluster-0"
    assert make_head(who).says == (1, digest_of("run"), None, digest_of("ensemble"), 2)
