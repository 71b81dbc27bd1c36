"""What a reader must refuse of heads, credentials, admission lists, ensembles and later versions of a genesis."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

from broken import Broken, without
from protocol_support import (
    NOW_S,
    admission_list,
    carried,
    curators,
    delegation,
    digest_of,
    genesis_fields,
    make_claim,
    make_head,
    make_tip,
    person,
    rotation,
    signed,
)

from paris.protocol import envelope, strict_json
from paris.protocol.digests import sha256_of
from paris.protocol.limits import LIMITS

BOARD = {"run": digest_of("run"), "curators": curators(1, 2, 3, threshold=2).model_dump(mode="json")}


def heads() -> Iterator[Broken]:
    """Heads that their curators did not sign as they must."""
    head, extra = make_head(person(1)), {"curators": BOARD["curators"]}
    few, stranger, apart = (
        signed(head, person(1)),
        signed(head, person(1), person(9)),
        signed(head, person(2), person(3)),
    )
    cases = {
        "too-few": (few, "One of two needed curators signed."),
        "stranger": (stranger, "Somebody signed who is no curator."),
        "apart": (apart, "The curator it names did not sign."),
    }
    for name, (data, why) in cases.items():
        yield Broken(f"head-{name}", "SignatureError", why, data, "head", extra)


def credentials() -> Iterator[Broken]:
    """Names lent and moved by those who cannot, and claims that rely on them."""
    who, node, thief = person(4), person(5), person(6)
    lent, late = delegation(who, node), delegation(who, node, iat=NOW_S - 100, exp=NOW_S)
    chains = {
        "delegated-expired": ("RecordError", [late], "The delegation it relies on has expired."),
        "delegated-early": ("RecordError", [delegation(who, node, iat=NOW_S + 999)], "The delegation begins later."),
        "delegated-other-run": ("RecordError", [delegation(who, node, run=digest_of("o"))], "It is of another run."),
        "delegated-other-node": ("SignatureError", [delegation(who, thief)], "The delegation is to another node."),
        "delegated-by-other": ("SignatureError", [delegation(who, node, thief)], "A thief lent the name."),
        "delegated-by-unlisted": ("SignatureError", [delegation(thief, node)], "The lender is not admitted."),
        "delegated-too-far": ("RecordError", None, "It carries five credentials."),
        "moved-to-other": ("SignatureError", [rotation(who, thief)], "The name moved to another key."),
        "moved-alone": ("SignatureError", [rotation(who, node, node)], "Only the new key signed the move."),
        "moved-by-other": ("SignatureError", [rotation(who, node, node, thief)], "A thief moved the name."),
        "moved-other-run": ("RecordError", [rotation(who, node, run=digest_of("o"))], "The move is of another run."),
        "credential-kind": ("EnvelopeError", [signed(make_tip(node), node)], "A tip is no credential."),
        "credential-junk": ("EnvelopeError", [b'{"x":1}'], "A credential is no envelope."),
    }  # fmt: skip
    listed = {"admission": {"policy": "list", "keys": [who.peer_id]}, "curators": BOARD["curators"]}
    for name, (error, chain, why) in chains.items():
        if chain is None:
            payload = make_claim(node).model_dump(mode="json", exclude_none=True) | {
                "credentials": carried(*[lent] * 5)
            }
            data = envelope.sign("claim", payload, node)
        else:
            data = signed(make_claim(node, credentials=carried(*chain)), node)
        yield Broken(f"claim-{name}", error, why, data, extra=listed)
    lends = {"run": digest_of("run"), "contributor": who.peer_id, "node": node.peer_id, "iat": NOW_S, "exp": NOW_S + 9}
    cases = {
        "delegation-to-itself": (lends | {"node": who.peer_id}, "A key lends its name to itself."),
        "delegation-backwards": (lends | {"exp": NOW_S}, "It ends when it begins."),
        "delegation-for-ever": (lends | {"exp": NOW_S + LIMITS.delegation_s + 1}, "It lasts longer than 366 days."),
        "delegation-no-run": (without(lends, "run"), "It names no run."),
    }
    for name, (payload, why) in cases.items():
        yield Broken(name, "RecordError", why, envelope.sign("delegation", {"v": 1, **payload}, who), "delegation")
    why = "Somebody else than the contributor signed it."
    yield Broken("delegation-stolen", "SignatureError", why, delegation(who, node, node), "delegation")
    still = {"v": 1, "run": digest_of("run"), "old": who.peer_id, "new": who.peer_id, "iat": NOW_S}
    data = envelope.sign("rotation", still, who)
    yield Broken("rotation-nowhere", "RecordError", "A key follows itself.", data, "rotation", BOARD)
    boards = {
        "old-only": ([who], "Only the old key signed it."),
        "new-only": ([node], "Only the new key signed it."),
        "one-curator": ([node, person(1)], "One of two needed curators signed it beside the new key."),
        "no-new": ([who, person(1), person(2)], "The old key and the curators signed it, the new key did not."),
    }
    for name, (signers, why) in boards.items():
        data = rotation(who, node, *signers)
        yield Broken(f"rotation-{name}", "SignatureError", why, data, "rotation", BOARD)


def admissions() -> Iterator[Broken]:
    two = (person(1), person(2))
    cases = {
        "too-few": ("SignatureError", admission_list(person(1)), "One of two needed curators signed."),
        "stranger": ("SignatureError", admission_list(*two, person(9)), "Somebody signed who is no curator."),
        "other-run": ("RecordError", admission_list(*two, run=digest_of("other")), "It is of another run."),
    }
    for name, (error, data, why) in cases.items():
        yield Broken(f"admission-{name}", error, why, data, "admission", BOARD)
    fields = json.loads(base64.b64decode(json.loads(admission_list(*two))["payload"]))
    for name, change, why in (
        ("version-none", {"version": 0}, "Its version is 0."),
        ("policy", {"admission": {"policy": "friends"}}, "Its policy is unknown."),
    ):
        data = envelope.sign("admission", fields | change, *two)
        yield Broken(f"admission-{name}", "RecordError", why, data, "admission", BOARD)


def ensembles() -> Iterator[Broken]:
    def spelled_out(**changes) -> bytes:
        return strict_json.dumps({"v": 1, "run": digest_of("run"), "units": {"router": digest_of("r")}} | changes)

    cases = {
        "unit": (spelled_out(units={"cluster-01": digest_of("x")}), "A unit has a second spelling."),
        "empty": (spelled_out(units={}), "It has no unit."),
        "digest": (spelled_out(units={"router": "sha256:00"}), "A checkpoint is no digest."),
        "unknown-field": (spelled_out(bonus=1), "It has an unknown field."),
        "spaces": (json.dumps(json.loads(spelled_out())).encode(), "It is not canonical: it has spaces."),
    }
    for name, (data, why) in cases.items():
        yield Broken(f"ensemble-{name}", "RecordError", why, data, "ensemble")


def successors() -> Iterator[Broken]:
    """Second versions of a genesis that do not follow the first."""
    first_fields = genesis_fields()
    first = envelope.sign("genesis", first_fields, person(1))
    run = sha256_of(first)
    moved = {"keys": [person(2).peer_id, person(3).peer_id], "threshold": 2}
    second = first_fields | {"version": 2, "prev": run, "created": NOW_S + 9, "curators": moved}
    everybody = (person(1), person(2), person(3))
    training = first_fields["training"]
    longer, router = training["expert"] | {"lr": "0.1"}, training["router"] | {"steps": 1}
    cases = {
        "old-only": ("SignatureError", {}, everybody[:1], "Only the curators before signed."),
        "new-only": ("SignatureError", {}, everybody[1:], "Only its own curators signed."),
        "one-new": ("SignatureError", {}, everybody[:2], "One of its two curators signed."),
        "stranger": ("SignatureError", {}, (*everybody, person(9)), "Somebody signed who is no curator of either."),
        "gap": ("LineageError", {"version": 3}, everybody, "Version 3 follows version 1."),
        "other-parent": ("LineageError", {"prev": digest_of("x")}, everybody, "It follows another genesis."),
        "other-data": ("RecordError", {"data": first_fields["data"] | {"samples": 31}}, everybody, "The data changed."),
        "other-seed": ("RecordError", {"training": training | {"expert": longer}}, everybody, "The recipe changed."),
        "fewer-steps": ("RecordError", {"training": training | {"router": router}}, everybody, "It asks for less."),
        "new-base": (
            "RecordError", {"training": training | {"base": longer}, "start": {"kind": "base"}}, everybody,
            "A base was added.",
        ),
    }  # fmt: skip
    before = {"run": run, "before": [first.decode()]}
    for name, (error, change, signers, why) in cases.items():
        data = envelope.sign("genesis", second | change, *signers)
        yield Broken(f"genesis-second-{name}", error, why, data, "genesis", before)
    good = envelope.sign("genesis", second, *everybody)
    yield Broken("genesis-second-alone", "RecordError", "A later version by itself pins no run.", good, "genesis")
    other = {"run": digest_of("other"), "before": [first.decode()]}
    yield Broken("genesis-second-unpinned", "DigestError", "The first is not the one pinned.", good, "genesis", other)


def everything() -> Iterator[Broken]:
    for group in (heads, credentials, admissions, ensembles, successors):
        yield from group()
