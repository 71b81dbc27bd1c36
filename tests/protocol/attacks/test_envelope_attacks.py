"""Attacks on envelopes. Each test is one."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_support import make_claim, person, signed

from paris.protocol import envelope, strict_json
from paris.protocol.errors import EnvelopeError, SignatureError, VerificationError
from paris.protocol.identity import peer_id_of
from paris.protocol.limits import LIMITS

GOOD = signed(make_claim(person(1)), person(1))


def altered(**changes) -> bytes:
    return strict_json.dumps(json.loads(GOOD) | changes)


def with_payload(payload: bytes) -> bytes:
    """An envelope that signs any bytes at all, correctly."""
    from securesystemslib.dsse import Envelope

    made = Envelope(payload, envelope.payload_type("claim"), {})
    made.sign(person(1).signer)
    return strict_json.dumps(made.to_dict())


@pytest.mark.parametrize("bit", [0, 1, 4, 7])
def test_no_bit_of_an_envelope_can_be_flipped(bit):
    for index in range(len(GOOD)):
        data = bytearray(GOOD)
        data[index] ^= 1 << bit
        with pytest.raises(VerificationError):
            envelope.verify(bytes(data), "claim")


@settings(max_examples=200)
@given(st.data())
def test_no_slice_of_an_envelope_can_be_replaced(data):
    start = data.draw(st.integers(0, len(GOOD)))
    end = data.draw(st.integers(start, min(len(GOOD), start + 8)))
    changed = GOOD[:start] + data.draw(st.binary(max_size=8)) + GOOD[end:]
    if changed != GOOD:
        with pytest.raises(VerificationError):
            envelope.verify(changed, "claim")


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_noise_is_refused_by_name(data):
    with pytest.raises(VerificationError):
        envelope.verify(data, "claim")


def test_a_claim_passed_off_as_a_tip():
    with pytest.raises(EnvelopeError, match="this is not a tip"):
        envelope.verify(GOOD, "tip")


def test_the_payload_type_is_swapped_after_signing():
    data = altered(payloadType=envelope.payload_type("tip"))
    with pytest.raises(SignatureError, match="does not verify"):
        envelope.verify(data, "tip")


def test_a_stranger_signs_and_writes_anothers_name_as_keyid():
    fields = json.loads(signed(make_claim(person(1)), person(2)))
    fields["signatures"][0]["keyid"] = person(1).peer_id
    with pytest.raises(SignatureError, match="does not verify"):
        envelope.verify(strict_json.dumps(fields), "claim")


def test_a_keyid_that_names_no_key():
    for keyid in ("", "admin", "12D3KooW" + "z" * 44):
        signatures = [json.loads(GOOD)["signatures"][0] | {"keyid": keyid}]
        with pytest.raises(SignatureError):
            envelope.verify(altered(signatures=signatures), "claim")


@pytest.mark.parametrize("first", [0, 1, 0xEC])
def test_a_name_without_a_secret_under_which_everybody_could_sign(first):
    """With the curve's neutral point as key, one constant signature verifies for every message (RFC 8032 allows it)."""
    rest = bytes(31) if first < 2 else b"\xff" * 30 + b"\x7f"
    weak = bytes([first]) + rest
    signature = {"keyid": peer_id_of(weak), "sig": base64.b64encode(bytes([1]) + bytes(63)).decode()}
    with pytest.raises(SignatureError, match="weak key"):
        envelope.verify(altered(signatures=[signature]), "claim")


def test_one_good_signature_does_not_carry_a_bad_one():
    good = json.loads(GOOD)["signatures"][0]
    bad = good | {"keyid": person(2).peer_id}
    both = sorted([good, bad], key=lambda signature: signature["keyid"])
    with pytest.raises(SignatureError, match=person(2).peer_id):
        envelope.verify(altered(signatures=both), "claim")


def test_no_signature_at_all():
    with pytest.raises(SignatureError, match="no signature"):
        envelope.verify(altered(signatures=[]), "claim")


def test_two_signatures_of_one_key_are_not_two_people():
    signature = json.loads(GOOD)["signatures"][0]
    with pytest.raises(EnvelopeError, match="no signed envelope"):
        envelope.verify(altered(signatures=[signature, signature]), "claim")


def test_a_second_envelope_is_made_from_somebodys_signature():
    """Other spelling, same signed bytes: it would have another digest, so another checkpoint id or run id."""
    fields = json.loads(GOOD)
    signature = fields["signatures"][0]["sig"]
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    index = last.index(signature[85])
    same_bytes = signature[:85] + last[index ^ 1] + "=="
    assert base64.b64decode(same_bytes) == base64.b64decode(signature)
    spellings = [
        json.dumps(fields).encode(),
        GOOD + b"\n",
        GOOD.replace(b"sha256", b"sha\\u003256"),
        altered(note="extra field"),
        altered(signatures=[fields["signatures"][0] | {"cert": "x"}]),
        altered(signatures=[{"keyid": fields["signatures"][0]["keyid"], "sig": same_bytes}]),
        altered(payload=fields["payload"].rstrip("=") + "\n"),
    ]
    for data in spellings:
        if data != GOOD:
            with pytest.raises(EnvelopeError):
                envelope.verify(data, "claim")


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"seq":1,"seq":2}', "twice"),
        (b'{"loss":0.1}', "float"),
        (b'{"seq":9007199254740993}', "beyond"),
        (b"[]", "not an object"),
        (b"\x80\x04", "UTF-8"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "nested"),
    ],
)
def test_a_correctly_signed_ambiguous_payload_is_still_refused(payload, reason):
    with pytest.raises(EnvelopeError, match=reason):
        envelope.verify(with_payload(payload), "claim")


def test_endless_data():
    with pytest.raises(EnvelopeError, match="too big"):
        envelope.verify(b"{" + b" " * LIMITS.record_bytes, "claim")
    with pytest.raises(EnvelopeError, match="too big"):
        envelope.verify(b"{" + b" " * LIMITS.blob_bytes, "genesis")


@pytest.mark.parametrize("field", ["payload", "payloadType", "signatures"])
@pytest.mark.parametrize("value", [None, 5, [], {}, "", ["x"], [{}], [{"keyid": 5, "sig": "AAAA"}]])
def test_fields_of_another_type(field, value):
    with pytest.raises(VerificationError):
        envelope.verify(altered(**{field: value}), "claim")
