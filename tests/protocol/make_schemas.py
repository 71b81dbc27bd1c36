"""JSON schemas of every payload and the specification's table of limits, generated from the code.

`python make_schemas.py` rewrites them. A schema says less than the code: rules across fields, times and signatures are
in docs/protocol.md and in the vectors.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path

from make_vectors import replace_files

from paris.protocol.checkpoint import Checkpoint
from paris.protocol.credentials import Delegation, Rotation
from paris.protocol.curation import AdmissionList
from paris.protocol.ensemble import Ensemble
from paris.protocol.genesis import Genesis
from paris.protocol.limits import LIMITS, Limits
from paris.protocol.manifest import _Wire as Manifest
from paris.protocol.records import RECORD_KINDS

SPEC = Path(__file__).parents[2] / "docs" / "protocol.md"
FOLDER = Path(__file__).parents[2] / "docs" / "protocol" / "schemas"
MODELS = {
    "genesis": Genesis, "checkpoint": Checkpoint, "manifest": Manifest, "ensemble": Ensemble,
    "admission": AdmissionList, "delegation": Delegation, "rotation": Rotation, **RECORD_KINDS,
}  # fmt: skip
BEGIN, END = "<!-- generated from protocol/limits.py -->", "<!-- end -->"
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, bytes]:
    """Content of every schema file by its name."""
    files = {}
    for kind, model in MODELS.items():
        head = {"$schema": DIALECT, "$id": f"urn:paris-node:schema:{kind}:v1"}
        content = head | model.model_json_schema(by_alias=True)
        files[f"{kind}.json"] = (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()
    return files


def limits_table() -> str:
    """The specification's table of every bound, from the code and its docstring."""
    attributes = re.split(r"\n {8}(?=\w+: )", inspect.cleandoc(Limits.__doc__ or "").partition("Attributes:\n")[2])
    meanings = dict(re.findall(r"^\s*(\w+): (.*)$", "\n".join(attributes), re.MULTILINE))
    rows = [f"| `{name}` | {_shown(value)} | {meanings[name]} |" for name, value in vars(LIMITS).items()]
    return "\n".join(["| limit | value | meaning |", "|---|---|---|", *rows])


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"`{kind}` {life_s}" for kind, life_s in value.items())
    return str(value)


def spec_with_limits(spec: str) -> str:
    """The specification with its table of limits as the code has it."""
    head, _, rest = spec.partition(BEGIN)
    return head + BEGIN + "\n" + limits_table() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    replace_files(FOLDER, schemas())
    SPEC.write_text(spec_with_limits(SPEC.read_text()))
