"""JSON schemas of every payload, generated from the models. `python make_schemas.py` rewrites them.

A schema says less than the code: rules across fields, times and signatures are in docs/protocol.md and in the vectors.
"""

from __future__ import annotations

import json
from pathlib import Path

from make_vectors import replace_files

from paris.protocol.checkpoint import Checkpoint
from paris.protocol.credentials import Delegation, Rotation
from paris.protocol.curation import AdmissionList
from paris.protocol.ensemble import Ensemble
from paris.protocol.genesis import Genesis
from paris.protocol.manifest import _Wire as Manifest
from paris.protocol.records import RECORD_KINDS

FOLDER = Path(__file__).parents[2] / "docs" / "protocol" / "schemas"
MODELS = {
    "genesis": Genesis, "checkpoint": Checkpoint, "manifest": Manifest, "ensemble": Ensemble,
    "admission": AdmissionList, "delegation": Delegation, "rotation": Rotation, **RECORD_KINDS,
}  # fmt: skip
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, bytes]:
    """Content of every schema file by its name."""
    files = {}
    for kind, model in MODELS.items():
        head = {"$schema": DIALECT, "$id": f"urn:paris-node:schema:{kind}:v1"}
        content = head | model.model_json_schema(by_alias=True)
        files[f"{kind}.json"] = (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
    return files


if __name__ == "__main__":
    replace_files(FOLDER, schemas())
