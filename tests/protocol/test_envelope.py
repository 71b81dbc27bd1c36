"""Envelopes: DSSE, one canonical form, every signature counted once and verified."""

from __future__ import annotations

import base64
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_support import make_claim, person, signed

from paris.protocol import envelope
from paris.protocol.digests import sha256_of
from paris.protocol.errors import EnvelopeError, SignatureError, UsageError


def test_a_signed_payload_verifies_and_reads_back():
    data = envelope.sign("claim", {"a": 1}, person(1))
    verified = envelope.verify(data, "claim")
    assert verified.kind == "claim"
    assert verified.payload == {"a": 1}
    assert verified.signers == {person(1).peer_id}
    assert verified.digest == sha256_of(data)
    assert envelope.kind_of(data) == "claim"


def test_several_people_sign_one_thing_in_any_order():
    people = [person(number) for number in (1, 2, 3)]
    data = envelope.sign("genesis", {"a": 1}, *people)
    assert data == envelope.sign("genesis", {"a": 1}, *reversed(people))
    assert envelope.verify(data, "genesis").signers == {who.peer_id for who in people}


def test_the_signature_is_plain_dsse():
    """The published DSSE v1 pre-authentication encoding, written out, verifies with a bare Ed25519 key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    fields = json.loads(envelope.sign("claim", {"a": 1}, person(1)))
    kind, payload = fields["payloadType"].encode(), base64.b64decode(fields["payload"])
    pae = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    key = Ed25519PublicKey.from_public_bytes(person(1).public_key)
    key.verify(base64.b64decode(fields["signatures"][0]["sig"]), pae)


def test_a_model_is_signed_without_its_empty_fields():
    payload = envelope.verify(signed(make_claim(person(1)), person(1)), "claim").payload
    assert "parent" not in payload
    assert payload["unit"] == "cluster-0"


def test_nobody_or_one_person_twice_cannot_sign():
    with pytest.raises(UsageError, match="at least one signer"):
        envelope.sign("claim", {})
    with pytest.raises(UsageError, match="each once"):
        envelope.sign("claim", {}, person(1), person(1))


def test_an_envelope_of_another_project_is_of_no_kind():
    with pytest.raises(EnvelopeError, match="no kind of ours"):
        envelope.kind_of(envelope.sign("x", {}, person(1)).replace(b"vnd.paris", b"vnd.berlin"))


@settings(max_examples=50)
@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), st.integers(-9, 9), max_size=5),
    st.integers(1, 9),
)
def test_sign_then_verify_is_the_identity(payload, number):
    assert envelope.verify(envelope.sign("tip", payload, person(number)), "tip").payload == payload


def test_signatures_can_be_added_one_by_one_in_any_order():
    three = [person(number) for number in (1, 2, 3)]
    whole = envelope.sign("admission", {"v": 1}, *three)
    for order in itertools.permutations(three):
        data = envelope.sign("admission", {"v": 1}, order[0])
        for who in order[1:]:
            data = envelope.cosign(data, "admission", who)
        assert data == whole
        assert envelope.cosign(data, "admission", order[0]) == whole


def test_nothing_is_added_to_what_does_not_verify():
    data = envelope.sign("admission", {"v": 1}, person(1))
    with pytest.raises(EnvelopeError):
        envelope.cosign(data, "rotation", person(2))
    with pytest.raises(SignatureError):
        envelope.cosign(data.replace(b'"sig":"', b'"sig":"AAAA', 1), "admission", person(2))
