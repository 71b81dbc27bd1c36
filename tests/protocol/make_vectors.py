"""Golden vectors: what any implementation must accept or refuse, byte for byte. `python make_vectors.py` rewrites them.

Each file says what it is (`kind`), a sentence (`why`), and the bytes (`text`, or `hex` where they are no UTF-8). Seeds
in it are public: they are test keys.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import broken
import broken_curation
from protocol_support import (
    NOW_S,
    admission_list,
    carried,
    curators,
    delegation,
    digest_of,
    genesis_fields,
    make_checkpoint,
    make_claim,
    make_head,
    make_peer,
    make_tip,
    make_verdict,
    person,
    rotation,
)
from rule_vectors import rules

from paris.protocol import envelope
from paris.protocol.digests import sha256_of
from paris.protocol.ensemble import Ensemble
from paris.protocol.genesis import Genesis
from paris.protocol.identity import Identity
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import Manifest, describe
from paris.protocol.records import RECORD_KINDS, record_key

FOLDER = Path(__file__).parents[2] / "docs" / "protocol" / "vectors"


def written(data: bytes) -> dict[str, str]:
    """Bytes as text where they are text."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"hex": data.hex()}


def enveloped(kind: str, why: str, model, *signers: Identity) -> dict:
    data = envelope.sign(kind, model, *signers)
    vector = {
        "kind": kind,
        "why": why,
        "seeds": {who.peer_id: who.seed.hex() for who in signers},
        "payload": envelope.verify(data, kind).payload,
        "digest": sha256_of(data),
        **written(data),
    }
    if kind in RECORD_KINDS:
        vector |= {"now_s": NOW_S, "record_key": record_key(kind, model.run, model.slot)}
    return vector


def big_genesis() -> Genesis:
    """One of everything optional: two of three curators, a list, a base, an autoencoder, letters beyond ASCII, ext."""
    fields = genesis_fields()
    clusters = [fields["clusters"][0] | {"words": ["été", "狐", "🦊"]}, *fields["clusters"][1:]]
    base = fields["training"]["expert"] | {"steps": 40, "lr": "0.000000000000000001"}
    return Genesis.parse(
        fields
        | {
            "name": "Foxes 2.0",
            "curators": {"keys": [person(n).peer_id for n in (1, 2, 3)], "threshold": 2},
            "admission": {"policy": "list", "keys": [person(4).peer_id]},
            "training": fields["training"] | {"base": base},
            "start": {"kind": "base", "note": "shared start"},
            "codec": {"kind": "autoencoder-tiny", "manifest": digest_of("codec")},
            "clusters": clusters,
            "ext": {"x-note": {"readers": ["ignore", None, True, 2**53]}},
        }
    )


def genesis() -> Iterator[tuple[str, dict]]:
    small = Genesis.parse(genesis_fields())
    yield "genesis-small", enveloped("genesis", "The least a run needs.", small, person(1))
    why = "Everything optional, signed by two of three curators."
    yield "genesis-full", enveloped("genesis", why, big_genesis(), person(1), person(3))
    pinned = Genesis.parse(genesis_fields(start={"kind": "checkpoint", "manifest": digest_of("pretrained")}))
    yield "genesis-pretrained", enveloped("genesis", "Experts start from a named checkpoint.", pinned, person(1))
    first, run, second = succession()
    why = "Version 2 moves to other curators: signed by one of the old ones and two of the new ones."
    made = enveloped("genesis", why, second, person(1), person(2), person(3))
    yield "genesis-second", made | {"run": run, "before": [first.decode()]}


def succession() -> tuple[bytes, str, Genesis]:
    """A first version, its digest, and a second one that changes all that may change."""
    first = envelope.sign("genesis", Genesis.parse(genesis_fields()), person(1))
    fields = genesis_fields()
    training = {kind: recipe | {"steps": recipe["steps"] + 50} for kind, recipe in fields["training"].items()}
    changes = {
        "version": 2, "prev": sha256_of(first), "created": NOW_S + 9, "training": training, "replicas": 3,
        "curators": {"keys": [person(n).peer_id for n in (2, 3)], "threshold": 2},
        "admission": {"policy": "list", "keys": [person(4).peer_id]},
        "lease": {"life_s": 90, "settle_s": 3, "progress_s": 200}, "ext": {"x-why": "more to train"},
    }  # fmt: skip
    return first, sha256_of(first), Genesis.parse(fields | changes)


def records() -> Iterator[tuple[str, dict]]:
    who = person(5)
    longest = LIMITS.life_s
    peer = make_peer(who, addrs=("/ip4/127.0.0.1/tcp/4001",), abilities=("train", "store"), agent="paris-node/0 π")
    yield "peer", enveloped("peer", "A node with an address.", peer, who)
    silent = make_peer(who, exp=NOW_S + longest["peer"])
    yield "peer-silent", enveloped("peer", "No address, the longest life.", silent, who)
    yield "claim-first", enveloped("claim", "A unit nobody has trained yet.", make_claim(who), who)
    later = make_claim(who, seq=2**53, step=30, parent=digest_of("checkpoint"), unit="cluster-9999")
    yield "claim-later", enveloped("claim", "The largest sequence number, from a parent.", later, who)
    released = make_claim(who, seq=3, released=True, unit="router")
    yield "claim-released", enveloped("claim", "The router is given back.", released, who)
    edge = make_claim(who, iat=NOW_S + LIMITS.skew_s, exp=NOW_S + LIMITS.skew_s + longest["claim"], unit="base")
    yield "claim-edge", enveloped("claim", "As far ahead and as long as clocks and lives may be.", edge, who)
    dying = make_claim(who, iat=NOW_S - 9, exp=NOW_S + 1, ext={"later": {"versions": ["may", "add"]}})
    yield "claim-dying", enveloped("claim", "One second left; an extension readers ignore.", dying, who)
    yield "tip", enveloped("tip", "The newest checkpoint of a unit.", make_tip(who, loss_micro=0), who)
    yield "verdict", enveloped("verdict", "Somebody measured a checkpoint.", make_verdict(who), who)
    unmeasured = {"loss_micro": None, "tolerance_micro": None, "samples": None}
    replayed = make_verdict(who, level="replayed", holds=False, note="other weights came out", **unmeasured)
    yield "verdict-replayed", enveloped("verdict", "Somebody trained again, to another end.", replayed, who)
    head = make_head(who, admission=digest_of("admission"), version=7)
    signers = {"curators": curators(5, 6, 7, threshold=2).model_dump(mode="json")}
    why = "Two of three curators, one of whom publishes it."
    yield "head", enveloped("head", why, head, who, person(7)) | signers
    bare = make_head(who, ensemble=None, top_k=None, exp=NOW_S + longest["head"])
    yield "head-bare", enveloped("head", "Nothing was promoted yet; the longest life.", bare, who)
    lent = make_claim(who, credentials=carried(delegation(person(4), who)))
    admission = {"admission": {"policy": "list", "keys": [person(4).peer_id]}}
    yield "claim-delegated", enveloped("claim", "A node acts for an admitted contributor.", lent, who) | admission
    moved = make_claim(who, credentials=carried(delegation(person(6), who), rotation(person(4), person(6))))
    why = "The contributor who delegates has moved its admitted name to a new key."
    yield "claim-moved", enveloped("claim", why, moved, who) | admission


def checkpoints() -> Iterator[tuple[str, dict]]:
    who = person(5)
    yield "checkpoint-first", enveloped("checkpoint", "The first of a unit.", make_checkpoint(who), who)
    child = make_checkpoint(
        who, parent=digest_of("parent"), from_step=10, to_step=20, fence=4, holdout_loss_micro=None, loss_trace_micro=[]
    )
    yield "checkpoint-child", enveloped("checkpoint", "It has a parent and measured nothing.", child, who)
    branch = make_checkpoint(who, start=digest_of("base"), internal={"resumed": "weights"})
    yield "checkpoint-from-base", enveloped("checkpoint", "It starts from published weights.", branch, who)
    router = make_checkpoint(who, unit="router")
    yield "checkpoint-router", enveloped("checkpoint", "The router trains on every shard.", router, who)
    lent = make_checkpoint(who, credentials=(delegation(person(4), who),))
    yield "checkpoint-delegated", enveloped("checkpoint", "A node built it for a contributor.", lent, who)


def credentials() -> Iterator[tuple[str, dict]]:
    who, node = person(4), person(5)
    board = {"run": digest_of("run"), "curators": curators(1, 2, 3, threshold=2).model_dump(mode="json")}
    cases = {
        "delegation": ("A node may act for a contributor for a day.", delegation(who, node), (who,)),
        "rotation": ("A name moves, by its own leave.", rotation(who, node), (who, node)),
        "rotation-by-curators": (
            "The old key is lost: two of three curators move its name.",
            rotation(who, node, node, person(1), person(3)),
            (node, person(1), person(3)),
        ),
        "admission": (
            "One key is admitted, one no longer.",
            admission_list(person(1), person(2)),
            (person(1), person(2)),
        ),
        "admission-open": (
            "The run is opened to everybody.",
            admission_list(person(2), person(3), version=2, admission={"policy": "open", "keys": []}),
            (person(2), person(3)),
        ),
    }  # fmt: skip
    for name, (why, data, signers) in cases.items():
        kind = name.partition("-")[0]
        yield name, {
            "kind": kind, "why": why, **({} if kind == "delegation" else board),
            "seeds": {who.peer_id: who.seed.hex() for who in sorted(signers, key=lambda who: who.peer_id)},
            "payload": envelope.verify(data, kind).payload, "digest": sha256_of(data), **written(data),
        }  # fmt: skip


def ensembles() -> Iterator[tuple[str, dict]]:
    units = {
        "router": digest_of("r"),
        "cluster-0": digest_of("0"),
        "cluster-10": digest_of("10"),
        "base": digest_of("b"),
    }
    data = Ensemble(run=digest_of("run"), units=units).to_bytes()
    yield (
        "ensemble",
        {
            "kind": "ensemble", "why": "One checkpoint a unit; units sorted as text.", "payload": json.loads(data),
            "digest": sha256_of(data), **written(data),
        },
    )  # fmt: skip


def manifests() -> Iterator[tuple[str, dict]]:
    cut = describe("expert_0/weights.safetensors", [bytes(LIMITS.piece_bytes), b"\x01"])
    small = [describe("b", [b""]), describe("C/é", [b"x"])]
    trees = {
        "manifest-empty": ("No file at all.", []),
        "manifest-small": ("Sorted by code point; an empty file has no piece.", small),
        "manifest-pieces": ("4 MiB of zeros and one byte 01 are two pieces.", [cut]),
    }  # fmt: skip
    for name, (why, files) in trees.items():
        data = Manifest.of(files).to_bytes()
        parsed = json.loads(data)
        yield name, {"kind": "manifest", "why": why, "payload": parsed, "digest": sha256_of(data), **written(data)}


def keys() -> Iterator[tuple[str, dict]]:
    for number in (1, 2**255):
        who = person(number)
        yield (
            f"key-{who.public_key.hex()[:8]}",
            {
                "kind": "key",
                "why": "The key file of a seed, its public key and its peer id.",
                "seed": who.seed.hex(),
                "public_key": who.public_key.hex(),
                "peer_id": who.peer_id,
                "hex": who.to_libp2p().hex(),
            },
        )


def vectors() -> dict[str, bytes]:
    """Content of every vector file by its name relative to the folder."""
    files: dict[str, dict] = {f"rules/{name}.json": vector for name, vector in rules().items()}
    for group in (genesis, records, checkpoints, credentials, ensembles, manifests, keys):
        files |= {f"valid/{name}.json": vector for name, vector in group()}
    for case in (*broken.everything(), *broken_curation.everything()):
        times = {"now_s": NOW_S} if case.kind in RECORD_KINDS else {}
        files[f"invalid/{case.name}.json"] = {
            "kind": case.kind, "why": case.why, "error": case.error, **times, **case.extra, **written(case.data),
        }  # fmt: skip
    return {
        name: (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode() for name, content in files.items()
    }


def replace_files(folder: Path, files: dict[str, bytes]) -> None:
    """Make the JSON files below a folder exactly these."""
    for path in folder.rglob("*.json"):
        path.unlink()
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    replace_files(FOLDER, vectors())
