"""Signed bytes: DSSE over JSON with Ed25519 (secure-systems-lab/dsse v1), the same in the DHT, on disk and elsewhere.

An envelope has exactly one form: canonical JSON, canonical base64, signatures sorted by keyid. So nobody can make a
second envelope, with another digest, from somebody's signature. `keyid` is the signer's peer id; it names the key to
try and proves nothing until the signature verifies with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import UnverifiedSignatureError

from paris.protocol import strict_json
from paris.protocol.digests import sha256_of
from paris.protocol.errors import EnvelopeError, SignatureError, UsageError
from paris.protocol.identity import Identity, verification_key
from paris.protocol.limits import LIMITS


@dataclass(frozen=True)
class Verified:
    """What is known after every signature of an envelope has verified.

    Attributes:
        kind: What the payload is, bound by the signature.
        payload: Parsed from the very bytes that were verified.
        signers: Peer ids whose signatures verified: all of them, at least one.
        digest: Digest of the envelope bytes.
    """

    kind: str
    payload: dict[str, Any]
    signers: frozenset[str]
    digest: str


def sign(kind: str, payload: Mapping[str, Any] | BaseModel, *identities: Identity) -> bytes:
    """Envelope of a payload, signed by each identity.

    Raises:
        UsageError: No identity was given, or one twice.
        EnvelopeError: The payload holds what signed payloads may not (floats and the like).
    """
    if not identities or len({identity.peer_id for identity in identities}) != len(identities):
        raise UsageError("an envelope needs at least one signer, each once")
    value = (
        payload.model_dump(mode="json", by_alias=True, exclude_none=True)
        if isinstance(payload, BaseModel)
        else dict(payload)
    )
    envelope = Envelope(strict_json.dumps(value), payload_type(kind), {})
    for identity in sorted(identities, key=lambda identity: identity.peer_id):
        envelope.sign(identity.signer)
    return strict_json.dumps(envelope.to_dict())


def cosign(data: bytes, kind: str, identity: Identity) -> bytes:
    """The same envelope with one more signature; signing again changes nothing.

    Raises:
        EnvelopeError: The bytes are no envelope of this kind.
        SignatureError: A signature that is there already does not verify.
    """
    verified = verify(data, kind)
    if identity.peer_id in verified.signers:
        return data
    envelope = _parse(data, LIMITS.blob_bytes)
    envelope.sign(identity.signer)
    in_order = dict(sorted(envelope.signatures.items()))
    return strict_json.dumps(Envelope(envelope.payload, envelope.payload_type, in_order).to_dict())


def verify(data: bytes, kind: str) -> Verified:
    """Check an envelope of a known kind and parse what it signs.

    Raises:
        EnvelopeError: Too big, not in the one canonical form, of another kind, or a payload that is no strict JSON.
        SignatureError: No signature, or one that does not verify with the key its keyid names.
    """
    limit_bytes = LIMITS.record_bytes if kind in LIMITS.life_s else LIMITS.blob_bytes
    envelope = _parse(data, limit_bytes)
    if envelope.payload_type != payload_type(kind):
        raise EnvelopeError(f"this is not a {kind}", f"its signed type is {envelope.payload_type[:80]!r}")
    signed_bytes = envelope.pae()
    for keyid, signature in envelope.signatures.items():
        try:
            verification_key(keyid).verify_signature(signature, signed_bytes)
        except UnverifiedSignatureError as error:
            why = "the bytes were changed after signing, or somebody else signed them"
            raise SignatureError(f"the signature of {keyid} on a {kind} does not verify", why) from error
    payload = strict_json.loads(envelope.payload, limit_bytes)
    return Verified(kind, payload, frozenset(envelope.signatures), sha256_of(data))


def payload_type(kind: str) -> str:
    """The DSSE payload type of a kind; it separates kinds from each other."""
    return f"application/vnd.paris.{kind}.v1+json"


def kind_of(data: bytes, limit_bytes: int = LIMITS.record_bytes) -> str:
    """The kind an envelope claims to be of; proves nothing until verified.

    Raises:
        EnvelopeError: The bytes are no envelope, or of no kind of ours.
    """
    claimed = _parse(data, limit_bytes).payload_type
    kind = claimed.removeprefix("application/vnd.paris.").removesuffix(".v1+json")
    if payload_type(kind) != claimed:
        raise EnvelopeError("this envelope is of no kind of ours", f"its type is {claimed[:80]!r}")
    return kind


def _parse(data: bytes, limit_bytes: int) -> Envelope:
    fields = strict_json.loads(data, limit_bytes)
    try:
        envelope = Envelope.from_dict(fields)
        canonical = strict_json.dumps(envelope.to_dict())
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise EnvelopeError("this is no signed envelope", why, "it may be damaged; fetch it again") from error
    if not all(isinstance(text, str) for text in (envelope.payload_type, *envelope.signatures)):
        raise EnvelopeError("this is no signed envelope", "its payload type or a keyid is not a string")
    unknown = any(signature.unrecognized_fields for signature in envelope.signatures.values())
    if canonical != data or unknown or list(envelope.signatures) != sorted(envelope.signatures):
        raise EnvelopeError("this envelope is not in its canonical form", "other bytes could carry the same signature")
    if not envelope.signatures:
        raise SignatureError("this envelope carries no signature")
    return envelope
