"""JSON without its ambiguities: no floats, no duplicate keys, bounded integers, depth and size.

Two parsers must never read two meanings from one signed text. Canonical output: keys sorted by code point, no spaces,
UTF-8 unescaped.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, NoReturn

from paris.protocol.errors import EnvelopeError
from paris.protocol.limits import LIMITS

_INTEGER_DIGITS = len(str(LIMITS.integer))


def dumps(value: object) -> bytes:
    """Canonical bytes of a JSON object.

    Raises:
        EnvelopeError: `value` holds something signed payloads may not: a float, a key that is no string, an integer
            beyond 2**53, deep nesting, another type.
    """
    _check(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def loads(data: bytes, limit_bytes: int) -> dict[str, Any]:
    """Parse the bytes of one JSON object.

    Raises:
        EnvelopeError: The bytes are too many, not UTF-8, not JSON, not an object, or ambiguous in the ways named above.
    """
    if len(data) > limit_bytes:
        raise EnvelopeError(f"the JSON text is too big: {len(data)} bytes", f"the limit here is {limit_bytes} bytes")
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_refuse_float,
            parse_constant=_refuse_float,
        )
    except UnicodeDecodeError as error:
        raise EnvelopeError("the JSON text is not UTF-8", str(error)) from error
    except RecursionError as error:
        raise EnvelopeError("the JSON text is nested too deeply", f"the limit is {LIMITS.json_depth}") from error
    except ValueError as error:
        raise EnvelopeError("the text is not JSON", str(error)) from error
    if not isinstance(value, dict):
        raise EnvelopeError("the JSON text is not an object", f"it is a {type(value).__name__}")
    _check(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise EnvelopeError(f"the JSON key {twice[:80]!r} stands twice in one object", "two readers could disagree")
    return result


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > _INTEGER_DIGITS:
        raise EnvelopeError("a JSON integer is beyond 2**53", f"it has {len(text)} digits")
    return int(text)


def _refuse_float(text: str) -> NoReturn:
    raise EnvelopeError(
        f"the JSON text holds the float {text[:40]}", "floats are not exact", "write a decimal string or micro-units"
    )


def _check(value: object) -> None:
    waiting: list[tuple[object, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, dict | list | tuple) and depth > LIMITS.json_depth:
            raise EnvelopeError("the JSON text is nested too deeply", f"the limit is {LIMITS.json_depth}")
        if isinstance(item, dict):
            for key in item:
                _check_key(key)
            waiting.extend((child, depth + 1) for child in item.values())
        elif isinstance(item, list | tuple):
            waiting.extend((child, depth + 1) for child in item)
        else:
            _check_scalar(item)


def _check_key(key: object) -> None:
    if not isinstance(key, str):
        raise EnvelopeError(f"the JSON key {key!r} is not a string")
    _check_scalar(key)


def _check_scalar(item: object) -> None:
    if isinstance(item, float):
        _refuse_float(repr(item))
    if isinstance(item, str):
        if not item.isascii() and any("\ud800" <= char <= "\udfff" for char in item):
            raise EnvelopeError("a JSON string holds half a surrogate pair", "it has no UTF-8 form")
    elif isinstance(item, int):
        if abs(item) > LIMITS.integer:
            raise EnvelopeError("a JSON integer is beyond 2**53", "JSON libraries round it")
    elif item is not None:
        raise EnvelopeError(f"a signed payload cannot hold a {type(item).__name__}")
