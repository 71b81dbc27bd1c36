"""OpenSSF Model Signing: a `model.sig` that the public tool `model_signing` verifies over a whole repository.

OMS v1.0 (https://github.com/sigstore/model-transparency) knows NIST curves only, and our names are Ed25519. So a P-256
key is derived from the node's secret, and the node signs, in an envelope of its own, that this key is its. It is an
export for those who have that tool; what counts are the statements.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.dsse import Envelope

from paris.protocol import envelope
from paris.protocol.errors import RecordError
from paris.protocol.identity import Identity

SIGNATURE: Final = "model.sig"
PUBLIC_KEY: Final = "provenance/oms.pub"
KEY_STATEMENT: Final = "provenance/oms-key.json"
KIND: Final = "oms-key"
IGNORED: Final = (SIGNATURE, ".cache", ".git", ".gitattributes", ".github", ".gitignore")
"""What may lie beside the signed files: the signature, what git keeps, and what the Hub's client leaves in a folder."""
_IN_TOTO: Final = "application/vnd.in-toto+json"
_BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256 (FIPS 186-5)."""

Seal = Callable[[Mapping[str, str]], tuple[str, bytes]]
"""Makes `(path, content)` of a signature from the digests of all other files by path."""


def signing_key(identity: Identity) -> ec.EllipticCurvePrivateKey:
    """The P-256 key that follows from a node's secret, by HKDF-SHA256 (RFC 5869)."""
    wide = HKDF(hashes.SHA256(), 48, salt=None, info=b"paris/oms/p-256/1").derive(identity.seed)
    return ec.derive_private_key(int.from_bytes(wide, "big") % (_ORDER - 1) + 1, ec.SECP256R1())


def public_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Its public half, as `model_signing verify key --public-key` reads it."""
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def key_statement(identity: Identity) -> bytes:
    """An envelope by which a node says that the key is its own."""
    pem = public_pem(signing_key(identity)).decode()
    return envelope.sign(KIND, {"v": 1, "signer": identity.peer_id, "public_key": pem}, identity)


def seal(repository: str, identity: Identity) -> tuple[dict[str, bytes], Seal]:
    """What a node seals a repository with.

    Args:
        repository: `owner/name`.
        identity: Of the node.

    Returns:
        The files that belong to the key, and what makes the signature.
    """
    key = signing_key(identity)
    beside = {KEY_STATEMENT: key_statement(identity), PUBLIC_KEY: public_pem(key)}
    return beside, lambda every: (SIGNATURE, model_signature(repository, every, key))


def owner_of(statement: bytes, pem: bytes) -> str:
    """The peer id that says of a public key that it is its own.

    Raises:
        EnvelopeError: It is no such statement.
        SignatureError: It is not signed by who it names.
        RecordError: It speaks of another key.
    """
    verified = envelope.verify(statement, KIND)
    said = verified.payload
    if said.get("public_key") != pem.decode() or verified.signers != {said.get("signer")}:
        raise RecordError("this statement is about another key", "what it names is not what it came with")
    return str(said["signer"])


def model_signature(name: str, digests: Mapping[str, str], key: ec.EllipticCurvePrivateKey) -> bytes:
    """The content of `model.sig`.

    Args:
        name: Of the model.
        digests: "sha256:<hex>" of every file by its path, all that the folder holds except `IGNORED`.
        key: Signs it; equal input gives equal bytes.
    """
    body = json.dumps(_statement(name, digests), sort_keys=True).encode()
    pae = Envelope(body, _IN_TOTO, {}).pae()
    signature = key.sign(pae, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    hint = hashlib.sha256(public_pem(key)).hexdigest()
    bundle = {
        "mediaType": _BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(body).decode(),
            "payloadType": _IN_TOTO,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle, sort_keys=True).encode()


def _statement(name: str, digests: Mapping[str, str]) -> dict[str, Any]:
    resources = [
        {"name": path, "algorithm": "sha256", "digest": digests[path].removeprefix("sha256:")}
        for path in sorted(digests)
    ]
    root = hashlib.sha256(b"".join(bytes.fromhex(resource["digest"]) for resource in resources)).hexdigest()
    serialization = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": list(IGNORED)}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"serialization": serialization, "resources": resources},
    }
