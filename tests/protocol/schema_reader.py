"""As much of JSON Schema 2020-12 as our schemas use; anything else in one is an error, never passed over."""

from __future__ import annotations

import re

IGNORED = {"$schema", "$id", "$defs", "title", "description", "default"}
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool, "null": type(None)}


def problems(value, schema: dict, root: dict, where: str = "$") -> list[str]:
    """Why a JSON value does not fit a schema; empty if it does."""
    found = []
    for keyword, rule in schema.items():
        if keyword not in IGNORED:
            if keyword not in RULES:
                raise ValueError(f"{where}: this reader does not know the keyword {keyword}")
            found += RULES[keyword](value, rule, schema, root, where)
    return found


def no(condition: bool, why: str) -> list[str]:
    return [why] if condition else []


def _type(value, rule, schema, root, where):
    fits = isinstance(value, TYPES[rule]) and not (rule == "integer" and isinstance(value, bool))
    return no(not fits, f"{where} is no {rule}")


def _properties(value, rule, schema, root, where):
    children = value.items() if isinstance(value, dict) else ()
    return [p for key, item in children if key in rule for p in problems(item, rule[key], root, f"{where}.{key}")]


def _additional(value, rule, schema, root, where):
    known, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    named = value.items() if isinstance(value, dict) else ()
    extra = {k: item for k, item in named if k not in known and not any(re.search(each, k) for each in patterns)}
    if isinstance(rule, bool):
        return no(bool(extra) and not rule, f"{where} has unknown fields {sorted(extra)}")
    return [p for key, item in extra.items() for p in problems(item, rule, root, f"{where}.{key}")]


def _patterns(value, rule, schema, root, where):
    named = value.items() if isinstance(value, dict) else ()
    pairs = [(key, item, each) for key, item in named for pattern, each in rule.items() if re.search(pattern, key)]
    return [p for key, item, each in pairs for p in problems(item, each, root, f"{where}.{key}")]


def _few_properties(value, rule, schema, root, where):
    return no(isinstance(value, dict) and len(value) < rule, f"{where} has too few fields")


def _many_properties(value, rule, schema, root, where):
    return no(isinstance(value, dict) and len(value) > rule, f"{where} has too many fields")


def _required(value, rule, schema, root, where):
    return no(isinstance(value, dict) and not set(rule) <= set(value), f"{where} lacks one of {rule}")


def _items(value, rule, schema, root, where):
    done = len(schema.get("prefixItems", ()))
    rest = value[done:] if isinstance(value, list) else ()
    return [p for index, item in enumerate(rest) for p in problems(item, rule, root, f"{where}[{index}]")]


def _prefix(value, rule, schema, root, where):
    pairs = zip(value, rule, strict=False) if isinstance(value, list) else ()
    return [p for item, each in pairs for p in problems(item, each, root, f"{where}[]")]


def _reference(value, rule, schema, root, where):
    name = rule.removeprefix("#/$defs/")
    return problems(value, root["$defs"][name], root, where) if root["$defs"][name] else []


def _any(value, rule, schema, root, where):
    return no(all(problems(value, each, root, where) for each in rule), f"{where} fits none of its forms")


def _pattern(value, rule, schema, root, where):
    python = rule.removesuffix("$") + r"\Z"  # in Python alone, $ also matches before a final newline
    return no(isinstance(value, str) and not re.search(python, value, re.ASCII), f"{where} does not match {rule}")


def _bound(breaks):
    return lambda value, rule, schema, root, where: no(breaks(value, rule), f"{where} is out of bounds: {rule}")


RULES = {
    "type": _type,
    "properties": _properties,
    "additionalProperties": _additional,
    "patternProperties": _patterns,
    "minProperties": _few_properties,
    "maxProperties": _many_properties,
    "required": _required,
    "items": _items,
    "prefixItems": _prefix,
    "$ref": _reference,
    "anyOf": _any,
    "pattern": _pattern,
    "const": _bound(lambda value, rule: value != rule or isinstance(value, bool) != isinstance(rule, bool)),
    "enum": _bound(lambda value, rule: value not in rule),
    "minimum": _bound(lambda value, rule: isinstance(value, int) and value < rule),
    "maximum": _bound(lambda value, rule: isinstance(value, int) and value > rule),
    "minLength": _bound(lambda value, rule: isinstance(value, str) and len(value) < rule),
    "maxLength": _bound(lambda value, rule: isinstance(value, str) and len(value) > rule),
    "minItems": _bound(lambda value, rule: isinstance(value, list) and len(value) < rule),
    "maxItems": _bound(lambda value, rule: isinstance(value, list) and len(value) > rule),
}
