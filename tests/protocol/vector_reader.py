"""Reads a golden vector as a peer would read it from a stranger."""

from __future__ import annotations

import json
from pathlib import Path

from paris.protocol import envelope
from paris.protocol.credentials import Rotation, open_delegation, open_rotation
from paris.protocol.curation import Admission, Curators, open_admission
from paris.protocol.ensemble import Ensemble
from paris.protocol.genesis import Genesis, open_genesis
from paris.protocol.identity import Identity
from paris.protocol.manifest import Manifest
from paris.protocol.records import RECORD_KINDS, open_checkpoint
from paris.protocol.succession import follow
from paris.protocol.validation import RunRules, check_record

VECTORS = Path(__file__).parents[2] / "docs" / "protocol" / "vectors"


def load(part: str) -> dict[str, dict]:
    """Every committed vector of a part, by name."""
    return {path.stem: json.loads(path.read_bytes()) for path in sorted((VECTORS / part).glob("*.json"))}


def data_of(vector: dict) -> bytes:
    return vector["text"].encode() if "text" in vector else bytes.fromhex(vector["hex"])


def read_genesis(data: bytes, vector: dict) -> Genesis:
    """A first version by itself, a later one after those before it."""
    versions = [text.encode() for text in vector.get("before", [])]
    return follow(vector["run"], [*versions, data])[0] if versions else open_genesis(data)[0]


def read_rotation(data: bytes, vector: dict) -> Rotation:
    open_rotation(data, vector["run"], Curators.parse(vector["curators"]))
    return Rotation.parse(envelope.verify(data, "rotation").payload)


def read(vector: dict):
    """What the vector's kind of reader makes of its bytes."""
    data, kind = data_of(vector), vector["kind"]
    if kind in RECORD_KINDS:
        payload = envelope.verify(data, kind).payload
        admission = Admission.parse(vector.get("admission", {"policy": "open"}))
        curators = Curators.parse(vector["curators"]) if "curators" in vector else None
        return check_record(
            data, vector["now_s"], {payload["run"]: RunRules(admission, curators, payload.get("genesis", ""))}
        ).record
    readers = {
        "genesis": lambda data: read_genesis(data, vector),
        "admission": lambda data: open_admission(data, vector["run"], Curators.parse(vector["curators"])),
        "delegation": open_delegation,
        "rotation": lambda data: read_rotation(data, vector),
        "ensemble": Ensemble.from_bytes,
        "checkpoint": open_checkpoint,
        "manifest": Manifest.from_bytes,
        "key": Identity.from_libp2p,
    }
    return readers[kind](data)
