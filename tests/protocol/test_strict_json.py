"""Strict JSON: one meaning a text, one text a meaning."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris.protocol import strict_json
from paris.protocol.errors import EnvelopeError
from paris.protocol.limits import LIMITS

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4), max_leaves=12
)
objects = st.dictionaries(text, values, max_size=5)


@given(objects)
def test_what_is_written_reads_back_the_same(value):
    assert strict_json.loads(strict_json.dumps(value), 2**20) == value


@given(objects)
def test_canonical_bytes_do_not_depend_on_key_order(value):
    backwards = dict(reversed(value.items()))
    assert strict_json.dumps(backwards) == strict_json.dumps(value)


@given(st.binary(max_size=200) | objects.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_parse_to_an_object_or_are_refused_by_name(data):
    with contextlib.suppress(EnvelopeError):
        assert isinstance(strict_json.loads(data, 2**20), dict)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b'{"a":1,"a":2}', "twice"),
        (b'{"a":{"b":1,"b":1}}', "twice"),
        (b'{"a":1.0}', "float 1.0"),
        (b'{"a":1e3}', "float 1e3"),
        (b'{"a":NaN}', "float NaN"),
        (b'{"a":-Infinity}', "float -Infinity"),
        (b'{"a":9007199254740993}', "beyond"),
        (b'{"a":-9007199254740993}', "beyond"),
        (b'{"a":' + b"9" * 5000 + b"}", "beyond"),
        (b"[1]", "not an object"),
        (b'"text"', "not an object"),
        (b"", "not JSON"),
        (b'{"a":1} ,', "not JSON"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"\\udfff":1}', "surrogate"),
        (b'{"a":' * 17 + b"1" + b"}" * 17, "nested too deeply"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
        (b'{"a":"' + b"x" * 2**20 + b'"}', "too big"),
    ],
)
def test_ambiguous_or_hostile_text_is_refused(data, reason):
    with pytest.raises(EnvelopeError, match=reason):
        strict_json.loads(data, 2**20)


def test_the_bounds_themselves_are_allowed():
    deep = {"a": 1}
    for _ in range(LIMITS.json_depth - 1):
        deep = {"a": deep}
    assert strict_json.loads(strict_json.dumps(deep), 2**10) == deep
    assert strict_json.loads(b'{"a":9007199254740992}', 2**10) == {"a": 2**53}


@pytest.mark.parametrize("value", [{"a": 0.5}, {"a": 2**53 + 1}, {1: 2}, {"a": b"x"}, {"a": {1, 2}}, {"a": "\ud800"}])
def test_what_may_not_be_signed_is_not_written(value):
    with pytest.raises(EnvelopeError):
        strict_json.dumps(value)


def test_a_big_object_with_its_last_key_repeated_is_refused_without_comparing_every_pair_of_keys():
    """Found late in 4 MiB; comparing all pairs took an hour, which would stop a node with one blob."""
    data = b"{" + b"".join(b'"%d":1,' % number for number in range(350_000)) + b'"x":1,"x":2}'
    with pytest.raises(EnvelopeError, match="'x' stands twice"):
        strict_json.loads(data, LIMITS.blob_bytes)
