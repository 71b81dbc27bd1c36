"""People, runs and records for the protocol tests. Everything is seeded; keys are test keys."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from paris.protocol import envelope
from paris.protocol.checkpoint import statement
from paris.protocol.credentials import Delegation, Rotation
from paris.protocol.curation import AdmissionList, Curators
from paris.protocol.digests import sha256_of
from paris.protocol.genesis import Genesis
from paris.protocol.identity import Identity
from paris.protocol.records import Claim, Head, Peer, Tip, Verdict

NOW_S = 1_800_000_000


def person(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


def digest_of(text: str) -> str:
    return sha256_of(text.encode())


def genesis_fields(**changes):
    recipe = {
        "steps": 100, "batch": 8, "lr": "0.0003", "warmup_steps": 10, "ema": "0.999", "weight_decay": "0",
        "text_dropout": "0.1", "grad_clip": "1.0", "precision": "bf16", "publish_every": 10, "seed": 7,
    }  # fmt: skip
    clusters = [
        {
            "id": number, "samples": 10, "holdout_samples": 2, "shards": [f"cluster-{number:03}-train-000.tar"],
            "holdout": [f"cluster-{number:03}-holdout-000.tar"], "words": ["red", "fox"],
        }
        for number in range(3)
    ]  # fmt: skip
    fields = {
        "v": 1, "protocol": 1, "name": "foxes", "version": 1, "created": NOW_S,
        "curators": {"keys": [person(1).peer_id], "threshold": 1},
        "admission": {"policy": "open", "keys": []},
        "model": {"preset": "micro", "expert": {"depth": 2, "norm": None}, "router": {}},
        "training": {"expert": recipe, "router": recipe | {"steps": 50}},
        "codec": {"kind": "pixels"},
        "text": {"kind": "minilm", "name": "all-minilm", "sha256": digest_of("text"), "tokens": 16},
        "start": {"kind": "scratch"},
        "data": {
            "name": "foxes", "license": "CC0", "manifest": digest_of("data"), "split_key": "group",
            "features": "text+pixels", "samples": 30, "holdout_samples": 6,
        },
        "clusters": clusters,
        "lease": {"life_s": 60, "settle_s": 2, "progress_s": 120},
        "replicas": 2,
    }  # fmt: skip
    return fields | changes


def make_genesis(**changes) -> Genesis:
    return Genesis.parse(genesis_fields(**changes))


def make_claim(who: Identity, **changes) -> Claim:
    fields = {"run": digest_of("run"), "seq": 1, "iat": NOW_S, "exp": NOW_S + 600, "unit": "cluster-0", "step": 0}
    return Claim(signer=who.peer_id, **(fields | changes))


def make_peer(who: Identity, **changes) -> Peer:
    fields = {
        "run": digest_of("run"), "seq": 1, "iat": NOW_S, "exp": NOW_S + 600, "addrs": (), "agent": "paris-node/0",
        "abilities": (),
    }  # fmt: skip
    return Peer(signer=who.peer_id, **(fields | changes))


def make_tip(who: Identity, **changes) -> Tip:
    fields = {
        "run": digest_of("run"), "seq": 1, "iat": NOW_S, "exp": NOW_S + 600, "unit": "cluster-0", "step": 10,
        "checkpoint": digest_of("checkpoint"), "manifest": digest_of("manifest"), "loss_micro": 250_000,
    }  # fmt: skip
    return Tip(signer=who.peer_id, **(fields | changes))


def make_verdict(who: Identity, **changes) -> Verdict:
    fields = {
        "run": digest_of("run"), "seq": 1, "iat": NOW_S, "exp": NOW_S + 600, "unit": "cluster-0", "step": 10,
        "checkpoint": digest_of("checkpoint"), "level": "evaluated", "holds": True, "loss_micro": 251_000,
        "tolerance_micro": 5_000, "samples": 256,
    }  # fmt: skip
    return Verdict(signer=who.peer_id, **(fields | changes))


def make_head(who: Identity, **changes) -> Head:
    fields = {
        "run": digest_of("run"), "seq": 1, "iat": NOW_S, "exp": NOW_S + 600, "version": 1, "genesis": digest_of("run"),
        "ensemble": digest_of("ensemble"), "top_k": 2,
    }  # fmt: skip
    return Head(signer=who.peer_id, **(fields | changes))


def delegation(who: Identity, node: Identity, *signers: Identity, **changes) -> bytes:
    fields = {"run": digest_of("run"), "iat": NOW_S - 60, "exp": NOW_S + 86_400}
    made = Delegation(contributor=who.peer_id, node=node.peer_id, **(fields | changes))
    return envelope.sign("delegation", made, *(signers or (who,)))


def rotation(old: Identity, new: Identity, *signers: Identity, **changes) -> bytes:
    fields = {"run": digest_of("run"), "iat": NOW_S - 60, "reason": "a new machine"}
    made = Rotation(old=old.peer_id, new=new.peer_id, **(fields | changes))
    return envelope.sign("rotation", made, *(signers or (old, new)))


def admission_list(*signers: Identity, **changes) -> bytes:
    admission = {"policy": "list", "keys": [person(4).peer_id], "former": [{"key": person(6).peer_id, "until": NOW_S}]}
    fields = {"run": digest_of("run"), "version": 1, "created": NOW_S, "admission": admission}
    return envelope.sign("admission", AdmissionList.parse(fields | changes), *signers)


def carried(*credentials: bytes) -> tuple[dict, ...]:
    """Credentials as a record carries them."""
    return tuple(json.loads(data) for data in credentials)


def curators(*numbers: int, threshold: int = 1) -> Curators:
    return Curators(keys=tuple(person(number).peer_id for number in numbers), threshold=threshold)


def signed(record, *signers: Identity) -> bytes:
    return envelope.sign(record.kind, record, *signers)


def make_checkpoint(who: Identity, **changes):
    unit = changes.get("unit", "cluster-0")
    shards = {f"cluster-{number:03}-train-000.tar": digest_of(f"shard {number}") for number in range(3)}
    if unit.startswith("cluster-"):
        shards = {name: digest for name, digest in shards.items() if name.startswith(f"cluster-{int(unit[8:]):03}")}
    fields = {
        "run": digest_of("run"), "unit": unit, "from_step": 0, "to_step": 10, "fence": 1, "seed": 7,
        "manifest": digest_of("weights"), "parent": None, "start": None, "shards": shards, "signer": who.peer_id,
        "versions": {"torch": "2.13.0"}, "invocation": "first", "started_s": NOW_S, "finished_s": NOW_S + 60,
        "loss_trace_micro": [(1, 900_000), (10, 400_000)], "holdout_loss_micro": 410_000,
    }  # fmt: skip
    return statement(**(fields | changes))


class FileSource:
    """A blob source with nothing but a dictionary in it."""

    def __init__(self, files: dict[str, Path] | None = None) -> None:
        self.files = files or {}

    def path(self, digest: str) -> Path | None:
        return self.files.get(digest)


@contextlib.asynccontextmanager
async def swarm_of(folder: Path, *numbers: int, **options) -> AsyncIterator[list]:
    """Live nodes on loopback, one per number; each meets the first."""
    from paris.protocol.transport.dht import Swarm

    async with contextlib.AsyncExitStack() as stack:
        swarms = []
        for number in numbers:
            key = folder / f"{number}.key"
            key.write_bytes(person(number).to_libp2p())
            bootstrap = swarms[0].addrs if swarms else []
            swarms.append(await stack.enter_async_context(await Swarm.join(key, bootstrap, **options)))
        yield swarms


def fresh(make: Callable, who: Identity, **changes):
    """A record that is valid by the real clock."""
    now_s = int(time.time())
    return make(who, iat=now_s, exp=now_s + changes.pop("life_s", 600), **changes)
