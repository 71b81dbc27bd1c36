"""Manifests: canonical, safe names, pieces that add up."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paris.protocol import strict_json
from paris.protocol.digests import sha256_of
from paris.protocol.errors import RecordError, VerificationError
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import FileEntry, Manifest, describe, name_problem

PIECE = LIMITS.piece_bytes


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 2 * PIECE + 7])
def test_pieces_cover_a_file_exactly(size):
    content = bytes(size)
    entry = describe("a", [content])
    assert entry.size == size
    assert entry.sha256 == sha256_of(content)
    spans = [entry.span(piece) for piece in range(len(entry.pieces))]
    assert [sha256_of(content[offset : offset + length]) for offset, length in spans] == list(entry.pieces)
    assert sum(length for _, length in spans) == size


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 3 * PIECE // 2), max_size=5))
def test_how_the_content_is_cut_into_chunks_does_not_matter(sizes):
    content = hashlib.sha256(str(sizes).encode()).digest() * (sum(sizes) // 32 + 1)
    chunks, offset = [], 0
    for size in sizes:
        chunks.append(content[offset : offset + size])
        offset += size
    assert describe("a", chunks) == describe("a", [content[:offset]])


def test_bytes_and_digest_are_stable():
    files = [describe("b/c.json", [b"{}"]), describe("a", [b""]), describe("b.json", [b"x"])]
    manifest = Manifest.of(files)
    assert [entry.name for entry in manifest.files] == ["a", "b.json", "b/c.json"]
    assert Manifest.of(reversed(files)).digest == manifest.digest
    assert Manifest.from_bytes(manifest.to_bytes()) == manifest
    assert manifest.entry("b.json").size == 1
    assert manifest.size_bytes == 3
    assert [entry.name for entry in manifest.select(lambda entry: entry.name.endswith(".json")).files] == [
        "b.json",
        "b/c.json",
    ]
    with pytest.raises(RecordError, match="no file 'x'"):
        manifest.entry("x")


def test_a_renamed_file_is_another_manifest():
    assert Manifest.of([describe("a", [b"x"])]).digest != Manifest.of([describe("b", [b"x"])]).digest


@given(st.binary(max_size=300))
def test_any_bytes_are_a_manifest_or_refused(data):
    with pytest.raises(VerificationError):
        Manifest.from_bytes(data)


@pytest.mark.parametrize(
    "name",
    [
        "", "/etc/passwd", "..", "../x", "a/../b", "a//b", "a/", "./a", "a/.", "a\\b", "C:x", "a\0b", "a\nb", "con",
        "NUL.txt", "a/aux.tar", "a.", "a ", "b ./c", "a?", "x" * 300, "e\u0301", "a\u202eb", "lpt1.bin",
    ],
)  # fmt: skip
def test_names_that_leave_the_folder_or_mean_something_else(name):
    with pytest.raises(RecordError):
        describe(name, [b""])


@pytest.mark.parametrize(
    "name", ["a", "expert_0/config.json", "state.safetensors", ".hidden", "é", "a b", "console.txt"]
)
def test_ordinary_names(name):
    assert name_problem(name) == ""


def entries(*names: str) -> list[dict]:
    return [describe(name, [b"x"]).model_dump(mode="json") for name in names]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (entries("b", "a"), "not sorted"),
        (entries("a", "a"), "case"),
        (entries("A", "a"), "case"),
        (entries("a", "a/b"), "file and a folder"),
        (entries("A/b", "a"), "file and a folder"),
        ([entries("a")[0] | {"size": 2}], "different|pieces|canonical"),
        ([entries("a")[0] | {"size": PIECE + 1}], "pieces"),
        ([entries("a")[0] | {"pieces": []}], "pieces"),
        ([entries("a")[0] | {"pieces": [sha256_of(b"y")]}], "different digests"),
        ([entries("a")[0] | {"link": "/etc"}], "Extra"),
        ([entries("a")[0] | {"size": -1}], "greater"),
    ],
)
def test_manifests_that_contradict_themselves(files, reason):
    data = strict_json.dumps({"files": files, "v": 1})
    if files[0]["size"] == 2:
        assert Manifest.from_bytes(data).files[0].size == 2, "only fetching can tell that the size is a lie"
        return
    with pytest.raises(RecordError, match=reason):
        Manifest.from_bytes(data)


def test_too_many_files():
    one = entries("a")[0]
    files = [one | {"name": f"{number:05}"} for number in range(LIMITS.manifest_files + 1)]
    with pytest.raises(RecordError, match="at most"):
        Manifest.from_bytes(strict_json.dumps({"files": files, "v": 1}))


def test_another_spelling_of_the_same_manifest():
    data = Manifest.of([describe("a", [b"x"])]).to_bytes()
    with pytest.raises(RecordError, match="canonical form"):
        Manifest.from_bytes(json.dumps(json.loads(data)).encode())


def test_an_entry_parses_its_own_json():
    entry = describe("a", [b"x" * (PIECE + 1)])
    assert FileEntry.parse(json.loads(entry.model_dump_json())) == entry
