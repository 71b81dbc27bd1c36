"""Everything a reader must refuse, made from fixed seeds: what it is, the error it must raise, a sentence why."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from protocol_support import (
    NOW_S,
    digest_of,
    genesis_fields,
    make_checkpoint,
    make_claim,
    make_head,
    make_peer,
    make_tip,
    make_verdict,
    person,
    signed,
)
from securesystemslib.dsse import Envelope

from paris.protocol import envelope, strict_json
from paris.protocol.identity import peer_id_of
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import describe

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493
GOOD = signed(make_claim(person(1)), person(1))
FIELDS = json.loads(GOOD)
SIGNATURE = FIELDS["signatures"][0]
CLAIM = make_claim(person(1)).model_dump(mode="json", exclude_none=True)
PEER = make_peer(person(1)).model_dump(mode="json")
TIP = make_tip(person(1)).model_dump(mode="json")
VERDICT = make_verdict(person(1)).model_dump(mode="json", exclude_none=True)
HEAD = make_head(person(1)).model_dump(mode="json", exclude_none=True)


@dataclass(frozen=True)
class Broken:
    """One thing to refuse.

    Attributes:
        name: File name without suffix; begins with the kind a reader takes it for, or with `envelope` or `payload`.
        error: Class the reader raises.
        why: What is wrong, one sentence.
        data: The bytes.
        kind: What the reader takes it for.
        extra: What else the reader knows: `admission`.
    """

    name: str
    error: str
    why: str
    data: bytes
    kind: str = "claim"
    extra: dict = field(default_factory=dict)


def spelled(**changes) -> bytes:
    """The good claim's envelope with other outer fields, spelled canonically."""
    return strict_json.dumps(FIELDS | changes)


def signatures(*changes: dict) -> bytes:
    return spelled(signatures=[SIGNATURE | change for change in changes])


def signing(payload: bytes, kind: str = "claim") -> bytes:
    """An envelope that signs any bytes at all, correctly."""
    made = Envelope(payload, envelope.payload_type(kind), {})
    made.sign(person(1).signer)
    return strict_json.dumps(made.to_dict())


def sig_bytes(change) -> dict:
    """The good signature with its 64 bytes changed by a function."""
    return {"sig": base64.b64encode(change(base64.b64decode(SIGNATURE["sig"]))).decode()}


def plus_order(signature: bytes) -> bytes:
    """The same point and S + L: satisfies the Ed25519 equation, refused by RFC 8032 section 5.1.7."""
    scalar = int.from_bytes(signature[32:], "little") + ED25519_ORDER
    return signature[:32] + scalar.to_bytes(32, "little")


def unused_bit(text: str) -> str:
    """Base64 of the same bytes, with one of the bits set that base64 leaves unused before `==`."""
    return text[:85] + ALPHABET[ALPHABET.index(text[85]) ^ 1] + text[86:]


def envelopes() -> Iterator[Broken]:
    outer, proof = "EnvelopeError", "SignatureError"
    other = json.loads(signed(make_claim(person(1)), person(2)))["signatures"][0]
    pair = sorted([SIGNATURE, other | {"sig": SIGNATURE["sig"]}], key=lambda item: item["keyid"])
    both = json.loads(signed(make_claim(person(1)), person(1), person(2)))
    unsorted = strict_json.dumps(both | {"signatures": both["signatures"][::-1]})
    yield Broken("envelope-empty", outer, "There are no bytes.", b"")
    yield Broken("envelope-not-json", outer, "The bytes are not JSON.", b"paris")
    yield Broken("envelope-not-utf8", outer, "The bytes are not UTF-8.", b'{"payload":"\xff"}')
    yield Broken("envelope-array", outer, "The JSON text is not an object.", b"[" + GOOD + b"]")
    yield Broken("envelope-spaces", outer, "The JSON is not canonical: it has spaces.", json.dumps(FIELDS).encode())
    yield Broken("envelope-newline", outer, "A newline follows the canonical bytes.", GOOD + b"\n")
    backwards = json.dumps(dict(reversed(FIELDS.items())), separators=(",", ":")).encode()
    yield Broken("envelope-key-order", outer, "The keys are not sorted.", backwards)
    escaped = GOOD.replace(b"payloadType", b"payload\\u0054ype")
    yield Broken("envelope-escaped", outer, "A letter is escaped that JSON lets stand.", escaped)
    twice = GOOD.replace(b'{"payload":', b'{"payload":"e30=","payload":', 1)
    yield Broken("envelope-duplicate-key", outer, "The payload stands twice.", twice)
    yield Broken("envelope-unknown-field", outer, "It has a field that DSSE does not name.", spelled(note="x"))
    yield Broken("envelope-missing-payload", outer, "The payload is missing.", strict_json.dumps({"signatures": []}))
    yield Broken("envelope-payload-number", outer, "The payload is not text.", spelled(payload=1))
    yield Broken("envelope-type-null", outer, "The payload type is null.", spelled(payloadType=None))
    unpadded = spelled(payload=base64.b64encode(strict_json.dumps({"a": 1})).decode().rstrip("="))
    yield Broken("envelope-base64-unpadded", outer, "The base64 is not padded.", unpadded)
    loose = signatures({"sig": unused_bit(SIGNATURE["sig"])})
    yield Broken("envelope-base64-unused-bits", outer, "The base64 sets bits that decoding drops.", loose)
    cert = signatures({"cert": "x"})
    yield Broken("envelope-signature-field", outer, "A signature has a field that DSSE does not name.", cert)
    yield Broken("envelope-same-key-twice", outer, "One key signs twice.", signatures({}, {}))
    yield Broken("envelope-unsorted", outer, "The signatures are not sorted by keyid.", unsorted)
    tip = signed(make_tip(person(1)), person(1))
    yield Broken("envelope-other-kind", outer, "A good tip is offered as a claim.", tip)
    big = signing(strict_json.dumps(CLAIM | {"ext": {"x": "x" * LIMITS.record_bytes}}))
    yield Broken("envelope-oversize", outer, "A record has more than 16 KiB.", big)
    yield Broken("envelope-unsigned", proof, "Nobody signed it.", spelled(signatures=[]))
    flipped = signatures(sig_bytes(lambda raw: bytes([raw[0] ^ 1]) + raw[1:]))
    yield Broken("envelope-signature-bit", proof, "One bit of the signature is flipped.", flipped)
    short = signatures(sig_bytes(lambda raw: raw[:63]))
    yield Broken("envelope-signature-short", proof, "The signature has 63 bytes.", short)
    mauled = signatures(sig_bytes(plus_order))
    yield Broken("envelope-signature-malleable", proof, "The signature's scalar S is not below the order L.", mauled)
    changed = spelled(payload=base64.b64encode(strict_json.dumps(CLAIM | {"step": 9})).decode())
    yield Broken("envelope-payload-changed", proof, "The payload was changed after signing.", changed)
    retyped = spelled(payloadType=envelope.payload_type("tip"))
    yield Broken("envelope-type-changed", proof, "The payload type was changed after signing.", retyped, "tip")
    stolen = signatures(other | {"keyid": person(1).peer_id})
    yield Broken("envelope-keyid-stolen", proof, "Another key signed under this keyid.", stolen)
    yield Broken("envelope-keyid-name", proof, "The keyid is no peer id.", signatures({"keyid": "admin"}))
    rsa = signatures({"keyid": "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"})
    yield Broken("envelope-keyid-rsa", proof, "The keyid is the peer id of an RSA key.", rsa)
    neutral = {"keyid": peer_id_of(bytes([1]) + bytes(31)), "sig": base64.b64encode(bytes([1]) + bytes(63)).decode()}
    why = "The key is the curve's neutral point, under which one signature fits every message."
    nobodys = strict_json.dumps(CLAIM | {"signer": neutral["keyid"]})
    weak = spelled(payload=base64.b64encode(nobodys).decode(), signatures=[neutral])
    yield Broken("envelope-keyid-weak", proof, why, weak)
    one_bad = spelled(signatures=pair)
    yield Broken("envelope-one-bad", proof, "One of two signatures is bad; the good one does not carry it.", one_bad)


def payloads() -> Iterator[Broken]:
    """Ambiguous payloads, correctly signed."""
    cases = {
        "duplicate-key": (b'{"seq":1,"seq":2}', "A key stands twice."),
        "float": (b'{"loss":0.5}', "It holds a float."),
        "exponent": (b'{"step":1e3}', "It holds a number with an exponent."),
        "nan": (b'{"loss":NaN}', "It holds NaN."),
        "big-integer": (b'{"seq":9007199254740993}', "It holds an integer beyond 2**53."),
        "deep": (b'{"a":' * 17 + b"1" + b"}" * 17, "It is nested 17 deep."),
        "array": (b"[]", "It is not an object."),
        "surrogate": (b'{"a":"\\ud800"}', "It holds half a surrogate pair."),
        "not-utf8": (b'{"a":"\x80"}', "It is not UTF-8."),
        "byte-order-mark": (b"\xef\xbb\xbf{}", "It begins with a byte order mark."),
        "trailing": (b"{}{}", "Something follows the object."),
    }
    for name, (payload, why) in cases.items():
        yield Broken(f"payload-{name}", "EnvelopeError", why, signing(payload))


def records() -> Iterator[Broken]:
    content = "RecordError"
    cases = {
        "unknown-field": ({"bonus": 1}, "It has an unknown field outside ext."),
        "version": ({"v": 2}, "Its version is not 1."),
        "version-boolean": ({"v": True}, "Its version is a boolean, not 1."),
        "seq-negative": ({"seq": -1}, "Its sequence number is negative."),
        "seq-text": ({"seq": "1"}, "Its sequence number is text."),
        "seq-boolean": ({"seq": True}, "Its sequence number is a boolean."),
        "run-upper-case": ({"run": digest_of("run").upper().replace("SHA", "sha")}, "Its run id is in upper case."),
        "run-newline": ({"run": digest_of("run") + "\n"}, "A newline follows its run id."),
        "unit-leading-zero": ({"unit": "cluster-00"}, "Its unit has a second spelling."),
        "unit-path": ({"unit": "../router"}, "Its unit is no unit."),
        "parent-short": ({"parent": "sha256:00"}, "Its parent is no digest."),
        "signer-name": ({"signer": "me"}, "Its signer is no peer id."),
        "life-zero": ({"exp": NOW_S}, "It expires when it is issued."),
        "life-long": ({"exp": NOW_S + 1801}, "It lives longer than 30 minutes."),
        "expired": ({"iat": NOW_S - 600, "exp": NOW_S}, "It expires at this very second."),
        "future": ({"iat": NOW_S + 121}, "It was issued more than 120 s in the future."),
    }
    for name, (change, why) in cases.items():
        yield Broken(f"claim-{name}", content, why, signing(strict_json.dumps(CLAIM | change)))
    missing = {key: value for key, value in CLAIM.items() if key != "step"}
    yield Broken("claim-missing-field", content, "It does not name its step.", signing(strict_json.dumps(missing)))
    why = "It names one signer and is signed by another."
    yield Broken("claim-other-signer", "SignatureError", why, signed(make_claim(person(1)), person(2)))
    why = "It is signed by its signer and by somebody else."
    yield Broken("claim-two-signers", "SignatureError", why, signed(make_claim(person(1)), person(1), person(2)))
    listed = {"admission": {"policy": "list", "keys": [person(2).peer_id]}}
    yield Broken("claim-not-admitted", "SignatureError", "The run admits other keys.", GOOD, extra=listed)
    others = [
        ("peer", "addresses", PEER | {"addrs": ["/ip4/127.0.0.1/tcp/1"] * 33}, "It has 33 addresses."),
        ("peer", "agent-long", PEER | {"agent": "x" * 1025}, "Its agent has more than 1024 characters."),
        ("peer", "life-long", PEER | {"exp": NOW_S + 7201}, "It lives longer than 2 hours."),
        ("tip", "life-long", TIP | {"exp": NOW_S + 172_801}, "It lives longer than 48 hours."),
        ("tip", "no-checkpoint", TIP | {"checkpoint": None}, "It names no checkpoint."),
        ("tip", "loss-negative", TIP | {"loss_micro": -1}, "Its loss is negative."),
        ("tip", "is-a-claim", CLAIM, "It has the fields of a claim."),
        ("verdict", "life-long", VERDICT | {"exp": NOW_S + 172_801}, "It lives longer than 48 hours."),
        ("verdict", "level-proved", VERDICT | {"level": "proved"}, "It says more than anybody can check."),
        ("verdict", "unmeasured", without(VERDICT, "loss_micro", "tolerance_micro", "samples"), "It measured nothing."),
        ("verdict", "no-tolerance", without(VERDICT, "tolerance_micro"), "It has a loss and no tolerance."),
        ("head", "life-long", HEAD | {"exp": NOW_S + 86_401}, "It lives longer than a day."),
        ("head", "version-none", HEAD | {"version": 0}, "Its version is 0."),
        ("head", "top-none", HEAD | {"top_k": 0}, "It asks for no expert."),
        ("head", "no-genesis", without(HEAD, "genesis"), "It names no genesis."),
    ]
    for kind, name, payload, why in others:
        yield Broken(f"{kind}-{name}", content, why, signing(strict_json.dumps(payload), kind), kind)


def without(payload: dict, *names: str) -> dict:
    return {name: value for name, value in payload.items() if name not in names}


def genesis() -> Iterator[Broken]:
    one = person(1).peer_id
    fields = genesis_fields()
    recipe = fields["training"]["expert"]
    cases = {
        "clusters-unordered": ({"clusters": fields["clusters"][::-1]}, "Its clusters are not numbered 0, 1, 2."),
        "clusters-none": ({"clusters": []}, "It has no cluster."),
        "version-without-prev": ({"version": 2}, "Version 2 does not name version 1."),
        "first-with-prev": ({"prev": digest_of("x")}, "Version 1 names a predecessor."),
        "base-without-recipe": ({"start": {"kind": "base"}}, "It starts from a base that nobody trains."),
        "start-without-manifest": ({"start": {"kind": "checkpoint"}}, "It starts from a checkpoint it does not name."),
        "codec-without-manifest": ({"codec": {"kind": "autoencoder-tiny"}}, "It does not name its autoencoder."),
        "pixels-with-manifest": ({"codec": {"kind": "pixels", "manifest": digest_of("x")}}, "Pixels need no codec."),
        "threshold-high": ({"curators": {"keys": [one], "threshold": 2}}, "Its threshold can never be met."),
        "threshold-zero": ({"curators": {"keys": [one], "threshold": 0}}, "Its threshold is zero."),
        "curator-twice": ({"curators": {"keys": [one, one], "threshold": 1}}, "A curator stands twice."),
        "lease-settles-late": ({"lease": {"life_s": 9, "settle_s": 9, "progress_s": 9}}, "A lease ends unsettled."),
        "lease-long": ({"lease": {"life_s": 1801, "settle_s": 1, "progress_s": 9}}, "A lease outlives a claim."),
        "name-path": ({"name": "../../etc"}, "Its name is a path."),
        "replicas-none": ({"replicas": 0}, "Nobody keeps copies."),
        "protocol": ({"protocol": 2}, "Its protocol is another."),
        "unknown-field": ({"bonus": 1}, "It has an unknown field outside ext."),
        "decimal-exponent": (
            {"training": fields["training"] | {"expert": recipe | {"lr": "3e-4"}}},
            "A fraction is no plain decimal.",
        ),
        "path-of-flow": ({"model": fields["model"] | {"path": "cosine"}}, "Its flow path is not linear."),
    }
    for name, (change, why) in cases.items():
        data = signing(strict_json.dumps(fields | change), "genesis")
        yield Broken(f"genesis-{name}", "RecordError", why, data, "genesis")
    stranger = envelope.sign("genesis", fields, person(1), person(9))
    yield Broken("genesis-stranger", "SignatureError", "Somebody signed who is no curator.", stranger, "genesis")
    two = fields | {"curators": {"keys": [one, person(2).peer_id], "threshold": 2}}
    few = envelope.sign("genesis", two, person(1))
    yield Broken("genesis-too-few", "SignatureError", "One of two needed curators signed.", few, "genesis")


def checkpoints() -> Iterator[Broken]:
    text = strict_json.dumps(
        make_checkpoint(person(1)).model_dump(mode="json", by_alias=True, exclude_none=True)
    ).decode()
    shard = '"name":"shard/cluster-000-train-000.tar"}'
    cases = {
        "statement-type": ("in-toto.io/Statement/v1", "in-toto.io/Statement/v0.1", "It is another statement."),
        "predicate-type": ("slsa.dev/provenance/v1", "slsa.dev/provenance/v0.2", "It is no SLSA provenance v1."),
        "build-type": ("training-segment:v1", "training-segment:v2", "What was done is unknown."),
        "no-training": ('"to_step":10', '"to_step":0', "It ends at the step it starts from."),
        "unknown-parameter": ('"fence":1', '"bonus":2,"fence":1', "It has an unknown parameter."),
        "no-such-day": ("2027-01-15T08:00:00Z", "2027-02-30T08:00:00Z", "It started on a day that is none."),
        "other-digits": ("2027-01-15T08:00:00Z", "٢٠٢٧-01-15T08:00:00Z", "Its time is not in ASCII digits."),
        "not-utc": ("08:00:00Z", "08:00:00+01:00", "Its time is not in UTC."),
        "subject-none": ('"subject":[{', '"subject":[],"x":[{', "It is about nothing."),
        "named-twice": (shard, shard + ',{"name":"parent"},{"name":"parent"}', "It names two parents."),
        "loss-negative": ('"loss_micro":410000', '"loss_micro":-1', "Its hold-out loss is negative."),
        "loss-boolean": ('"loss_micro":410000', '"loss_micro":true', "Its hold-out loss is no number."),
        "credential-name": (
            '"builderDependencies":[]',
            '"builderDependencies":[{"name":"x","content":"e30="}]',
            "A builder depends on something else than credentials.",
        ),
        "credential-base64": (
            '"builderDependencies":[]',
            '"builderDependencies":[{"name":"credential/0","content":"e30"}]',
            "A credential is no base64.",
        ),
        "trace-negative": ("[10,400000]", "[10,-1]", "Its loss trace holds a negative loss."),
        "trace-point": ("[10,400000]", "[10]", "A point of its loss trace has no loss."),
        "algorithm": ('"digest":{"sha256"', '"digest":{"md5"', "A digest is not SHA-256."),
    }
    for name, (old, new, why) in cases.items():
        assert old in text, name
        data = signing(text.replace(old, new).encode(), "checkpoint")
        yield Broken(f"checkpoint-{name}", "RecordError", why, data, "checkpoint")
    made = make_checkpoint(person(1))
    why = "It is signed by somebody who is not its builder."
    yield Broken("checkpoint-other-builder", "SignatureError", why, signed_as(made, person(2)), "checkpoint")
    why = "It is signed by its builder and by somebody else."
    yield Broken("checkpoint-two-signers", "SignatureError", why, signed_as(made, person(1), person(2)), "checkpoint")


def signed_as(checkpoint, *signers) -> bytes:
    return envelope.sign("checkpoint", checkpoint, *signers)


def manifests() -> Iterator[Broken]:
    def files(*names: str, **changes) -> bytes:
        entry = describe("a", [b"x"]).model_dump(mode="json")
        return strict_json.dumps({"files": [entry | {"name": name} | changes for name in names], "v": 1})

    empty = digest_of("")
    cases = {
        "unsorted": (files("b", "a"), "Its files are not sorted."),
        "twice": (files("a", "a"), "A file stands twice."),
        "case": (files("A", "a"), "Two names differ by case only."),
        "file-and-folder": (files("a", "a/b"), "A name is a file and a folder."),
        "parent-folder": (files("../a"), "A name leaves the folder."),
        "absolute": (files("/a"), "A name is absolute."),
        "empty-part": (files("a//b"), "A name has an empty part."),
        "backslash": (files("a\\b"), "A name holds a backslash, which Windows takes for a folder."),
        "drive": (files("C:a"), "A name holds a colon."),
        "device": (files("nul.txt"), "A name is a DOS device."),
        "final-dot": (files("a."), "A name ends in a dot, which Windows drops."),
        "decomposed": (files("e\u0301"), "A name is not NFC, so it has two spellings."),
        "control": (files("a\u202eb"), "A name holds a character that is not printable."),
        "name-empty": (files(""), "A name is empty."),
        "name-long": (files("x" * 256), "A name has more than 255 characters."),
        "size-negative": (files("a", size=-1), "A size is negative."),
        "pieces-missing": (files("a", size=LIMITS.piece_bytes + 1), "4 MiB and a byte need two pieces."),
        "pieces-of-nothing": (files("a", size=0), "An empty file has a piece."),
        "piece-differs": (files("a", pieces=[empty]), "The one piece has another digest than the file."),
        "unknown-field": (files("a", link="/etc/passwd"), "A file has an unknown field."),
        "version": (files("a").replace(b'"v":1', b'"v":2'), "Its version is not 1."),
        "spaces": (json.dumps(json.loads(files("a"))).encode(), "It is not canonical: it has spaces."),
        "no-version": (files("a").replace(b',"v":1', b""), "It is not canonical: its version is left out."),
    }
    for name, (data, why) in cases.items():
        yield Broken(f"manifest-{name}", "RecordError", why, data, "manifest")
    real = files("a").replace(b'"size":1', b'"size":1.0')
    yield Broken("manifest-float", "EnvelopeError", "A size is a float.", real, "manifest")


def keys() -> Iterator[Broken]:
    good = person(1).to_libp2p()
    yield Broken("key-short", "UsageError", "It has 67 bytes.", good[:-1], "key")
    yield Broken("key-rsa", "UsageError", "Its type is RSA.", b"\x08\x00" + good[2:], "key")
    halves = good[:36] + person(2).to_libp2p()[36:]
    yield Broken("key-halves", "UsageError", "Its public half does not belong to its secret half.", halves, "key")


def everything() -> Iterator[Broken]:
    for group in (envelopes, payloads, records, genesis, checkpoints, manifests, keys):
        yield from group()
