"""The schemas are the models', and say the same as the code wherever a schema can say it."""

from __future__ import annotations

import base64
import copy
import json
import re
from functools import reduce
from operator import getitem

import pytest
from make_schemas import FOLDER, MODELS, SPEC, schemas, spec_with_limits
from protocol_support import person
from schema_reader import problems
from vector_reader import data_of, load

from paris.protocol.errors import RecordError

SCHEMAS = {kind: json.loads((FOLDER / f"{kind}.json").read_bytes()) for kind in MODELS}
VALID = {name: vector for name, vector in load("valid").items() if vector["kind"] in MODELS}
BEYOND_A_SCHEMA = {
    "checkpoint-loss-boolean", "checkpoint-loss-negative", "checkpoint-named-twice", "checkpoint-no-such-day",
    "checkpoint-credential-base64", "checkpoint-credential-name", "checkpoint-no-training", "delegation-backwards",
    "delegation-for-ever", "delegation-to-itself", "rotation-nowhere", "verdict-no-tolerance", "verdict-unmeasured",
     "checkpoint-trace-negative", "checkpoint-trace-point", "genesis-base-without-recipe",
    "genesis-clusters-unordered", "genesis-codec-without-manifest", "genesis-curator-twice", "genesis-first-with-prev",
    "genesis-lease-settles-late", "genesis-pixels-with-manifest", "genesis-start-without-manifest",
    "genesis-threshold-high", "genesis-version-without-prev",
}  # fmt: skip


BY_ANOTHER_RULE = {
    *(f"claim-{rule}-other-run" for rule in ("delegated", "moved")), "admission-other-run", "claim-delegated-expired",
    "claim-delegated-early", "genesis-second-alone", "genesis-second-other-data", "genesis-second-other-seed",
    "genesis-second-fewer-steps", "genesis-second-new-base",
}  # fmt: skip


def fits(kind: str, payload) -> bool:
    return not problems(payload, SCHEMAS[kind], SCHEMAS[kind])


def test_the_committed_schemas_are_those_of_the_code():
    committed = {path.name: path.read_bytes() for path in FOLDER.iterdir()}
    assert committed == schemas(), "if the change is meant: python tests/protocol/make_schemas.py"


@pytest.mark.parametrize("name", VALID)
def test_a_valid_vector_fits_its_schema(name):
    kind, payload = VALID[name]["kind"], VALID[name]["payload"]
    assert problems(payload, SCHEMAS[kind], SCHEMAS[kind]) == []
    assert MODELS[kind].parse(payload)


def refused_payloads():
    for name, vector in load("invalid").items():
        enveloped = vector["kind"] in MODELS and name.startswith(vector["kind"]) and vector["error"] == "RecordError"
        if enveloped and vector["kind"] not in {"manifest", "ensemble"} and name not in BY_ANOTHER_RULE:
            yield name, vector["kind"], json.loads(base64.b64decode(json.loads(data_of(vector))["payload"]))


@pytest.mark.parametrize(("name", "kind", "payload"), [*refused_payloads()])
def test_an_invalid_payload_breaks_its_schema_or_a_rule_beyond_it(name, kind, payload):
    timely = re.search("life|expired|future", name)
    assert fits(kind, payload) == (name in BEYOND_A_SCHEMA or bool(timely and kind != "genesis"))


def places(value, path=()):
    """Every place in a JSON value, as the keys that lead there."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


ODD = (
    None, True, False, -1, 0, 1, 2, 2**53, "", "x", "0", "1.5", "1.", "base", "cluster-1", "sha256:" + "0" * 64,
    "sha256:" + "0" * 64 + "\n", "0" * 64, "2027-01-15T08:00:00Z", "x" * 1025, [], {}, ["x"], {"x": 1},
    "open", "list", "fp32", "bf16", "pixels", "autoencoder-tiny", "clip", "scratch", "checkpoint", person(3).peer_id,
)  # fmt: skip
RICHEST = {
    "genesis": "genesis-full", "checkpoint": "checkpoint-first", "manifest": "manifest-small", "peer": "peer",
    "claim": "claim-later", "tip": "tip", "verdict": "verdict", "head": "head", "ensemble": "ensemble",
    "admission": "admission", "delegation": "delegation", "rotation": "rotation",
}  # fmt: skip


def changes(kind: str):
    """A valid payload with one place changed, dropped, or given a neighbour, in every way; with words for it."""
    payload = VALID[RICHEST[kind]]["payload"]
    for *path, last in [path for path in places(payload) if path and set(path) & {*range(1, 99)} == set()]:
        for odd in (*ODD, "drop", "neighbour"):
            changed = copy.deepcopy(payload)
            parent = reduce(getitem, path, changed)
            if odd == "drop":
                del parent[last]
            elif odd == "neighbour" and isinstance(parent, dict):
                parent["surprise"] = 1
            else:
                parent[last] = odd
            yield changed, f"{[*path, last]} = {odd!r}"


@pytest.mark.parametrize("kind", RICHEST)
def test_code_and_schema_never_contradict_each_other(kind):
    for payload, change in changes(kind):
        refusal = ""
        try:
            MODELS[kind].parse(payload)
        except RecordError as error:
            refusal = str(error)
        if not refusal:
            assert fits(kind, payload), f"only the schema refuses {change}"
        elif "Value error" not in refusal and "datetime" not in refusal:
            assert not fits(kind, payload), f"only the code refuses {change}: {refusal}"


def test_the_reader_of_schemas_passes_over_nothing():
    with pytest.raises(ValueError, match="does not know"):
        problems({}, {"oneOf": []}, {})
    assert problems(True, {"type": "integer"}, {})
    assert problems(True, {"const": 1}, {})


def test_the_specification_has_the_limits_of_the_code():
    assert spec_with_limits(SPEC.read_text()) == SPEC.read_text(), "python tests/protocol/make_schemas.py"


@pytest.mark.parametrize("kind", MODELS)
def test_the_specification_names_every_field(kind):
    definitions = [SCHEMAS[kind], *SCHEMAS[kind].get("$defs", {}).values()]
    fields = {field for definition in definitions for field in definition.get("properties", {})}
    quoted = {
        word for quote in re.findall(r"`([^`]+)`", SPEC.read_text()) for word in re.findall(r"[A-Za-z_0-9]+", quote)
    }
    in_toto = {"_type", "predicateType", "predicate", "buildDefinition", "runDetails", "internalParameters"}
    assert fields - quoted - in_toto == set()
