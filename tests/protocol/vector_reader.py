"""Reads a golden vector as a peer would read it from a stranger."""

from __future__ import annotations

import json
from pathlib import Path

from paris.protocol import envelope
from paris.protocol.genesis import Admission, open_genesis
from paris.protocol.identity import Identity
from paris.protocol.manifest import Manifest
from paris.protocol.records import RECORD_KINDS, open_checkpoint
from paris.protocol.validation import check_record

VECTORS = Path(__file__).parents[2] / "docs" / "protocol" / "vectors"


def load(part: str) -> dict[str, dict]:
    """Every committed vector of a part, by name."""
    return {path.stem: json.loads(path.read_bytes()) for path in sorted((VECTORS / part).glob("*.json"))}


def data_of(vector: dict) -> bytes:
    return vector["text"].encode() if "text" in vector else bytes.fromhex(vector["hex"])


def read(vector: dict):
    """What the vector's kind of reader makes of its bytes."""
    data, kind = data_of(vector), vector["kind"]
    if kind in RECORD_KINDS:
        payload = envelope.verify(data, kind).payload
        admission = {payload["run"]: Admission.parse(vector["admission"])} if "admission" in vector else {}
        return check_record(data, vector["now_s"], admission).record
    readers = {
        "genesis": lambda data: open_genesis(data)[0],
        "checkpoint": open_checkpoint,
        "manifest": Manifest.from_bytes,
        "key": Identity.from_libp2p,
    }
    return readers[kind](data)
