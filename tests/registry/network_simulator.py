"""A whole run in memory behind `paris.registry.library.Network`: real keys, real signatures, real small weights.

Nothing here verifies anything, so whatever is refused was refused by the code under test. Faults are made by publishing
other things than an honest peer would, by `replace` (a provider that sends other bytes) and by `leave`.
"""

from __future__ import annotations

import asyncio
import functools
import json
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from registry_support import member_pair, tar_bytes
from safetensors.torch import load, save

from paris.models.checkpoints import export
from paris.models.dit import DiT
from paris.models.filenames import CONFIG, WEIGHTS
from paris.models.presets import PRESETS
from paris.models.router import Router
from paris.models.text import open_text_encoder
from paris.protocol import envelope
from paris.protocol.checkpoint import open_checkpoint, statement
from paris.protocol.digests import sha256_of
from paris.protocol.errors import UnavailableError
from paris.protocol.genesis import Genesis
from paris.protocol.identity import Identity
from paris.protocol.manifest import FileEntry, Manifest, describe
from paris.protocol.records import Peer, Record, Tip, Verdict
from paris.protocol.validation import RunRules
from paris.registry.recipes import PLANS

NOW_S = 1_800_000_000
CLUSTERS = 2
COLOURS = ("red", "blue", "green", "white", "black", "pink", "brown", "grey")
PRESET = PRESETS["micro"]
ROUTER = {**PRESET.router, "clusters": CLUSTERS}
TARGET = PLANS["micro"].expert.steps


def person(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


CURATOR, ANN, BEN, EVE = (person(number) for number in range(1, 5))


@functools.cache
def text_identity() -> dict[str, str]:
    return open_text_encoder("minilm", "all-MiniLM-L6-v2", PRESET.text_tokens).identity()


def exported_network(network: torch.nn.Module, unit: str, seed: int = 0) -> dict[str, bytes]:
    """config.json and weights of a network whose every parameter is random, as a contributor exports them."""
    generator = torch.Generator().manual_seed(zlib.crc32(unit.encode()) + seed)
    weights = {name: torch.randn(p.shape, generator=generator) * 0.05 for name, p in network.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        export(Path(folder), network, weights)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


@functools.cache
def _exported(unit: str, seed: int) -> dict[str, bytes]:
    network = Router(**ROUTER) if unit == "router" else DiT(**PRESET.expert)
    return exported_network(network, unit, seed)


def exported(unit: str, seed: int = 0) -> dict[str, bytes]:
    """Files of a checkpoint by name, fresh for every caller to spoil."""
    return {**_exported(unit, seed), "state.safetensors": b"full training state, which audits leave alone"}


def spoiled(files: dict[str, bytes], tensor: str, value: float) -> dict[str, bytes]:
    """The same weights with one number of one tensor replaced."""
    weights = load(files[WEIGHTS])
    weights[tensor].view(-1)[0] = value
    return {**files, WEIGHTS: save(weights)}


def configured(files: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    """The same files with another config.json."""
    return {**files, CONFIG: json.dumps({**json.loads(files[CONFIG]), **changes}).encode()}


def shards_of(cluster: int) -> dict[str, bytes]:
    colour = COLOURS[cluster]
    return {
        f"cluster-{cluster:03d}-{side}-000.tar": tar_bytes(
            member_pair(f"{colour}-{side}", f"a {colour} square", cluster=cluster, group=colour)
        )
        for side in ("train", "holdout")
    }


def genesis_fields(clusters: int = CLUSTERS, **changes: object) -> dict[str, object]:
    """A run of the micro preset over clusters of coloured squares, on the packaged plan."""
    plan = PLANS["micro"]
    cut = [
        {
            "id": k, "samples": 1, "holdout_samples": 1, "shards": [f"cluster-{k:03d}-train-000.tar"],
            "holdout": [f"cluster-{k:03d}-holdout-000.tar"], "words": [word],
        }
        for k, word in enumerate(COLOURS[:clusters])
    ]  # fmt: skip
    fields = {
        "name": "squares", "version": 1, "prev": None, "created": NOW_S,
        "curators": {"keys": [CURATOR.peer_id], "threshold": 1},
        "admission": {"policy": "open", "keys": []},
        "model": {"preset": "micro", "expert": PRESET.expert, "router": {**ROUTER, "clusters": clusters}},
        "training": {
            "expert": plan.expert.model_dump(mode="json"), "router": plan.router.model_dump(mode="json"),
        },
        "codec": {"kind": "pixels"},
        "text": {**text_identity(), "tokens": PRESET.text_tokens},
        "start": {"kind": "scratch"},
        "data": {
            "name": "squares", "license": "CC0-1.0", "manifest": "", "split_key": "group", "features": "text",
            "samples": clusters, "holdout_samples": clusters,
        },
        "clusters": cut,
        "lease": {"life_s": 60, "settle_s": 2, "progress_s": 120},
        "replicas": 2,
    }  # fmt: skip
    return {**fields, **changes}


class NetworkSimulator:
    """One run and the peers around it. Blobs have holders; records lie in slots, the newest of every signer.

    Attributes:
        run: Digest of the signed genesis.
        genesis: The genesis.
        transfers: Digests in the order they were asked for and served.
        heads: Signed heads as peers hand them on, true or not.
        rules: What the observer said it knows of runs.
    """

    def __init__(self, clusters: int = CLUSTERS, **changes: object) -> None:
        self._served: dict[str, dict[str, bytes]] = {}
        self._slots: dict[tuple[str, str], dict[str, Record]] = {}
        self._gone: set[str] = set()
        self._steps: dict[str, int] = {}
        self.heads: list[bytes] = []
        self.rules: dict[str, RunRules] = {}
        self.transfers: list[str] = []
        data = {name: shard for k in range(clusters) for name, shard in shards_of(k).items()}
        self.shard_digests = {name: sha256_of(shard) for name, shard in data.items()}
        fields = genesis_fields(clusters, **changes)
        fields["data"] = {**fields["data"], "manifest": self.serve_tree(CURATOR, data)}
        self.genesis = Genesis.parse(fields)
        self.run = self.serve(CURATOR, envelope.sign("genesis", self.genesis, CURATOR))

    @property
    def providers(self) -> tuple[str, ...]:
        """Whom an observer asks besides the tips' signers: the curator."""
        return (CURATOR.peer_id,)

    # What peers do.

    def serve(self, who: Identity, data: bytes) -> str:
        """Let a peer hold a blob."""
        digest = sha256_of(data)
        self._served.setdefault(digest, {})[who.peer_id] = data
        return digest

    def serve_tree(self, who: Identity, files: dict[str, bytes]) -> str:
        """Let a peer hold files and their manifest; the manifest's digest comes back."""
        manifest = Manifest.of(describe(name, [data]) for name, data in files.items())
        for data in files.values():
            self.serve(who, data)
        return self.serve(who, manifest.to_bytes())

    def publish(
        self,
        who: Identity,
        slot: str,
        to_step: int,
        parent: str | None = None,
        *,
        files: dict[str, bytes] | None = None,
        signed_by: Identity | None = None,
        tip: bool = True,
        **changes: object,
    ) -> str:
        """Let a peer publish a checkpoint as the publisher does, other than honestly where `changes` say so."""
        manifest = self.serve_tree(who, files or exported(slot, to_step))
        fields = {
            "run": self.run, "unit": slot, "from_step": self._steps.get(parent, 0), "to_step": to_step, "fence": 1,
            "seed": self.genesis.recipe(slot).seed, "manifest": manifest, "parent": parent,
            "start": None if parent or slot == "router" else self.genesis.start.manifest,
            "shards": self.training_shards(slot), "signer": who.peer_id, "versions": {"torch": torch.__version__},
            "invocation": f"{slot}-{to_step}", "started_s": NOW_S, "finished_s": NOW_S + to_step,
            "loss_trace_micro": [(to_step, 900_000)], "holdout_loss_micro": 500_000 - to_step,
        }  # fmt: skip
        made = statement(**{**fields, **changes})
        checkpoint = self.serve(who, envelope.sign("checkpoint", made, signed_by or who))
        self._steps[checkpoint] = to_step
        if tip:
            self.tip(who, slot, checkpoint, manifest=manifest, step=to_step)
        return checkpoint

    def tip(self, who: Identity, unit: str, checkpoint: str, **changes: object) -> None:
        """Let a peer say that it serves a checkpoint."""
        fields = {"manifest": sha256_of(b"any"), "step": self._steps.get(checkpoint, 0), "loss_micro": 0, **changes}
        self._announce(Tip(unit=unit, checkpoint=checkpoint, **self._standard(who), **fields))

    def greet(self, who: Identity) -> None:
        """Let a peer announce itself."""
        self._announce(Peer(addrs=(), agent="paris-node/0 test", abilities=(), **self._standard(who)))

    def verdict(self, who: Identity, unit: str, checkpoint: str, *, holds: bool = True, **changes: object) -> None:
        """Let a peer say what it found when it measured a checkpoint."""
        fields = {"step": self._steps[checkpoint], "level": "evaluated", "holds": holds, "note": "measured"}
        numbers = {"loss_micro": 1, "tolerance_micro": 1, "samples": 1}
        said = {**self._standard(who), **fields, **numbers, **changes}
        self._announce(Verdict(unit=unit, checkpoint=checkpoint, **said))

    def rule(self, *signed: bytes, who: Identity = CURATOR) -> None:
        """Let a curator publish a head, last, and serve what it names."""
        *blobs, head = signed
        for blob in blobs:
            self.serve(who, blob)
        self.heads.append(head)

    def mirror(self, who: Identity, unit: str, checkpoint: str) -> None:
        """Let a peer copy a checkpoint with all its ancestors and files, and say so."""
        cursor: str | None = checkpoint
        while cursor:
            segment = open_checkpoint(self.bytes_of(cursor))
            manifest = Manifest.from_bytes(self.bytes_of(segment.manifest))
            for digest in (cursor, segment.manifest, *(entry.sha256 for entry in manifest.files)):
                self.serve(who, self.bytes_of(digest))
            cursor = segment.parent
        self.tip(who, unit, checkpoint)

    def train(self, units: Sequence[str] | None = None, who: Identity = ANN, rounds: int = 2) -> dict[str, list[str]]:
        """Let one peer train units honestly to their end; the chains of checkpoints come back by unit."""
        chains: dict[str, list[str]] = {}
        for unit in units or self.genesis.units():
            chain: list[str] = []
            for number in range(1, rounds + 1):
                to_step = self.genesis.target_steps(unit) * number // rounds
                chain.append(self.publish(who, unit, to_step, chain[-1] if chain else None))
            chains[unit] = chain
        return chains

    # What goes wrong.

    def leave(self, who: Identity) -> None:
        """Make a peer unreachable; its records stay, as they do in a DHT."""
        self._gone.add(who.peer_id)

    def replace(self, digest: str, data: bytes) -> None:
        """Make every holder send other bytes, and the transport believe them."""
        for holder in self._served[digest]:
            self._served[digest][holder] = data

    def forget(self, digest: str) -> None:
        """Make everybody lose a blob."""
        self._served.pop(digest)

    # What can be read off.

    def bytes_of(self, digest: str) -> bytes:
        """Any holder's bytes."""
        return next(iter(self._served[digest].values()))

    def entry(self, checkpoint: str, name: str) -> FileEntry:
        """A file of a checkpoint."""
        manifest = open_checkpoint(self.bytes_of(checkpoint)).manifest
        return Manifest.from_bytes(self.bytes_of(manifest)).entry(name)

    def training_shards(self, unit: str) -> dict[str, str]:
        """The shards an honest trainer of a unit names."""
        cluster = self.genesis.cluster(unit)
        names = [name for c in ([cluster] if cluster else self.genesis.clusters) for name in c.shards]
        return {name: self.shard_digests[name] for name in names}

    # The Network protocol.

    async def records(self, kind: str, run: str, slot: str) -> list[Record]:
        return list(self._slots.get((kind, slot), {}).values()) if run == self.run else []

    async def envelopes(self, kind: str, run: str, slot: str) -> list[bytes]:
        return list(self.heads) if kind == "head" and run == self.run else []

    def know(self, run: str, rules: RunRules) -> None:
        self.rules[run] = rules

    async def fetch_blob(self, digest: str, providers: Sequence[str]) -> bytes:
        for provider in providers:
            if provider not in self._gone and provider in self._served.get(digest, {}):
                self.transfers.append(digest)
                return self._served[digest][provider]
        raise UnavailableError(f"nobody serves {digest}", f"asked {len(providers)} peers")

    async def fetch_file(self, entry: FileEntry, providers: Sequence[str], partial: Path, progress) -> None:
        data = await self.fetch_blob(entry.sha256, providers)
        await asyncio.to_thread(partial.write_bytes, data)
        progress(len(data))

    def _standard(self, who: Identity) -> dict[str, object]:
        return {"run": self.run, "signer": who.peer_id, "seq": 1, "iat": NOW_S, "exp": NOW_S + 600}

    def _announce(self, record: Record) -> None:
        self._slots.setdefault((record.kind, record.slot), {})[record.signer] = record
