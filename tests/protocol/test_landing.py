"""Files put together from pieces: in any order, from several threads, after a crash, and under a hostile manifest."""

from __future__ import annotations

import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from paris.protocol.errors import DigestError
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import FileEntry, describe
from paris.protocol.transport.landing import Landing

CONTENT = random.Random(4).randbytes(4 * LIMITS.piece_bytes + 777)
ENTRY = describe("weights", [CONTENT])


def piece(number: int) -> memoryview:
    offset, length = ENTRY.span(number)
    return memoryview(CONTENT)[offset : offset + length]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "partial"
    path.write_bytes(b"")
    return path


class opened:  # noqa: N801 - reads as a context manager
    def __init__(self, path: Path, entry: FileEntry = ENTRY) -> None:
        self.path, self.entry = path, entry

    def __enter__(self) -> Landing:
        self.descriptor = os.open(self.path, os.O_RDWR)
        return Landing(self.descriptor, self.entry)

    def __exit__(self, *_):
        os.close(self.descriptor)


@pytest.mark.parametrize("seed", range(6))
def test_pieces_in_any_order_make_the_file(file, seed):
    order = list(range(5)) if seed == 0 else random.Random(seed).sample(range(5), 5)
    with opened(file) as landing:
        for number in order:
            landing.keep(number, piece(number), "somebody")
        landing.finish()
    assert file.read_bytes() == CONTENT


def test_pieces_from_several_threads_at_once_make_the_file(file):
    with opened(file) as landing, ThreadPoolExecutor(5) as threads:
        list(threads.map(lambda number: landing.keep(number, piece(number), "somebody"), [4, 0, 2, 1, 3]))
        landing.finish()
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize("kept", [{0, 1}, {1, 3, 4}, {4}, set(range(5))])
def test_what_a_crash_left_counts_and_the_rest_follows(file, kept):
    left = bytearray(CONTENT)
    for number in set(range(5)) - kept:
        left[ENTRY.span(number)[0]] ^= 1
    file.write_bytes(left + b"too much")
    with opened(file) as landing:
        assert landing.resume() == kept
        for number in set(range(5)) - kept:
            landing.keep(number, piece(number), "somebody")
        landing.finish()
    assert file.read_bytes() == CONTENT


def test_a_wrong_piece_is_not_written_and_its_sender_named(file):
    with opened(file) as landing:
        for wrong in (piece(1), piece(0)[:-1], memoryview(b"")):
            with pytest.raises(DigestError, match="piece 0 of weights from somebody does not match"):
                landing.keep(0, wrong, "somebody")
        assert file.read_bytes() == b""
        for number in range(5):
            landing.keep(number, piece(number), "somebody")
        landing.finish()


@pytest.mark.parametrize("resumed", [False, True])
def test_a_manifest_that_lists_the_pieces_of_another_file_is_found_out(file, resumed):
    hostile = ENTRY.model_copy(update={"sha256": describe("other", [b"other"]).sha256})
    if resumed:
        file.write_bytes(CONTENT)
    with opened(file, hostile) as landing:
        for number in set(range(5)) - landing.resume():
            landing.keep(number, piece(number), "somebody")
        with pytest.raises(DigestError, match="every piece is the one its manifest lists"):
            landing.finish()


def test_an_empty_file_is_a_file(file):
    file.write_bytes(b"something")
    with opened(file, describe("empty", [])) as landing:
        assert landing.resume() == frozenset()
        landing.finish()
    assert file.read_bytes() == b""
