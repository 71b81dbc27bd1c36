"""The committed golden vectors hold, and the script still makes exactly them."""

from __future__ import annotations

import json

import pytest
from make_vectors import vectors
from protocol_support import person
from vector_reader import VECTORS, data_of, load, read

from paris.protocol import envelope, errors
from paris.protocol.digests import sha256_of
from paris.protocol.identity import Identity, peer_id_of, public_key_of
from paris.protocol.records import RECORD_KINDS, record_key

VALID, INVALID = load("valid"), load("invalid")
ENVELOPED = [name for name, vector in VALID.items() if "seeds" in vector]
HINT = "the committed vectors differ from the code; if that is meant: python tests/protocol/make_vectors.py"


def test_the_script_still_makes_the_committed_files():
    committed = {str(path.relative_to(VECTORS)): path.read_bytes() for path in VECTORS.rglob("*.json")}
    made = vectors()
    assert committed.keys() == made.keys(), HINT
    assert [name for name in made if committed[name] != made[name]] == [], HINT


def test_every_kind_has_vectors_of_both_sorts():
    blobs = {"genesis", "checkpoint", "admission", "delegation", "rotation", "ensemble", "manifest"}
    kinds = {*RECORD_KINDS, *blobs, "key"}
    assert {vector["kind"] for vector in VALID.values()} == kinds
    assert {vector["kind"] for vector in INVALID.values()} == kinds


@pytest.mark.parametrize("name", VALID)
def test_a_valid_vector_is_accepted(name):
    assert read(VALID[name])


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_vector_raises_the_error_it_names(name):
    vector = INVALID[name]
    with pytest.raises(errors.ParisError) as caught:
        read(vector)
    assert type(caught.value).__name__ == vector["error"]
    assert issubclass(type(caught.value), errors.VerificationError | errors.UsageError)
    assert vector["why"].endswith(".")


@pytest.mark.parametrize("name", ENVELOPED)
def test_signing_the_payload_with_the_seeds_makes_the_very_bytes(name):
    vector = VALID[name]
    signers = [Identity.from_seed(bytes.fromhex(seed)) for seed in vector["seeds"].values()]
    assert [who.peer_id for who in signers] == list(vector["seeds"])
    data = envelope.sign(vector["kind"], vector["payload"], *signers)
    assert data == data_of(vector)
    assert sha256_of(data) == vector["digest"]
    verified = envelope.verify(data, vector["kind"])
    assert verified.signers == set(vector["seeds"])
    assert verified.payload == vector["payload"]


@pytest.mark.parametrize("name", ENVELOPED)
def test_a_model_writes_what_it_has_read(name):
    vector = VALID[name]
    signers = [Identity.from_seed(bytes.fromhex(seed)) for seed in vector["seeds"].values()]
    assert envelope.sign(vector["kind"], read(vector), *signers) == data_of(vector), name


@pytest.mark.parametrize("name", [name for name, vector in VALID.items() if vector["kind"] in RECORD_KINDS])
def test_a_records_key_follows_from_its_payload(name):
    vector, payload = VALID[name], VALID[name]["payload"]
    assert record_key(vector["kind"], payload["run"], payload.get("unit", "")) == vector["record_key"]


@pytest.mark.parametrize("name", [name for name, vector in VALID.items() if vector["kind"] in {"manifest", "ensemble"}])
def test_a_manifest_writes_the_very_bytes(name):
    vector = VALID[name]
    assert read(vector).to_bytes() == data_of(vector)
    assert read(vector).digest == vector["digest"]


@pytest.mark.parametrize("name", [name for name, vector in VALID.items() if vector["kind"] == "key"])
def test_seed_public_key_peer_id_and_file_belong_together(name):
    vector = VALID[name]
    identity = Identity.from_seed(bytes.fromhex(vector["seed"]))
    assert identity.to_libp2p() == data_of(vector)
    assert identity.public_key.hex() == vector["public_key"]
    assert identity.peer_id == peer_id_of(identity.public_key) == vector["peer_id"]
    assert public_key_of(vector["peer_id"]) == identity.public_key


def test_the_files_are_plain_to_read_in_any_language():
    for name, data in vectors().items():
        text = data.decode()
        assert json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n" == text, name
        assert len(data) < 64 * 2**10, name


def test_only_test_keys_are_published():
    known = {person(number).seed.hex() for number in range(1, 10)} | {person(2**255).seed.hex()}
    for vector in VALID.values():
        assert set(vector.get("seeds", {}).values()) | ({vector["seed"]} if "seed" in vector else set()) <= known
