"""Sequence numbers, evidence, heads and moved names survive restarts, kill -9 and damaged files."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from protocol_support import (
    NOW_S,
    carried,
    curators,
    digest_of,
    make_claim,
    make_head,
    make_tip,
    person,
    rotation,
    signed,
)

from paris.protocol.book import RecordBook
from paris.protocol.curation import Admission
from paris.protocol.errors import RecordError, ResourceError, SignatureError
from paris.protocol.limits import LIMITS
from paris.protocol.transport.ledger import Ledger
from paris.protocol.validation import RunRules, check_record

RUN = digest_of("run")
RULES = {RUN: RunRules(Admission(policy="open"), curators(1, 2), RUN)}
SCRIBE = Path(__file__).parent / "peers" / "scribe.py"


class Node:
    """A book with its ledger, as a node has them; leaving is a restart."""

    def __init__(self, path: Path, now_s: float = NOW_S) -> None:
        self.ledger, self.book = Ledger.open(path), RecordBook(dict(RULES))
        self.ledger.load(self.book, now_s)

    def __enter__(self) -> RecordBook:
        return self.book

    def __exit__(self, *_: object) -> None:
        self.ledger.close()


def received(who, make=make_claim, now_s=NOW_S, **changes):
    return check_record(signed(make(who, **changes), who), now_s, RULES)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


def test_rollback_after_a_restart(path):
    with Node(path) as book:
        book.offer(received(person(1), seq=9), NOW_S)
    with Node(path) as book, pytest.raises(RecordError, match="we know seq 9"):
        book.offer(received(person(1), seq=8), NOW_S)


def test_evidence_of_a_double_tongue_survives_the_restart_and_what_came_after(path):
    one, two = received(person(1), step=0), received(person(1), step=9)
    with Node(path) as book:
        book.offer(one, NOW_S)
        with pytest.raises(RecordError, match="two different"):
            book.offer(two, NOW_S)
    with Node(path) as book:
        proof = book.equivocation(one)
        assert {proof.first, proof.second} == {one.envelope, two.envelope}
        assert book.slot(one.key, NOW_S) == ()
        book.offer(received(person(1), seq=2, exp=NOW_S + 601), NOW_S)
    with Node(path) as book:
        assert len(book.slot(one.key, NOW_S)) == 1


def rows(ledger, table):
    return ledger._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


@pytest.mark.parametrize(("run", "left"), [(RUN, 1), (digest_of("nobody's run"), 0)], ids=["known", "unknown"])
def test_a_double_tongue_that_goes_on_and_on_does_not_fill_the_disk(path, run, left):
    node = Node(path)
    with node as book:
        for seq in range(1, 9):
            times = {"run": run, "seq": seq, "exp": NOW_S + 600 + seq}
            book.offer(received(person(1), make_tip, step=1, **times), NOW_S)
            with pytest.raises(RecordError, match="two different"):
                book.offer(received(person(1), make_tip, step=2, **times), NOW_S)
        assert rows(node.ledger, "evidence") == left
        assert len(book._evidence) == 1


def test_evidence_goes_with_the_record_it_is_about(path):
    one = received(person(1), make_tip, exp=NOW_S + 10)
    with Node(path) as book:
        book.offer(one, NOW_S)
        with pytest.raises(RecordError, match="two different"):
            book.offer(received(person(1), make_tip, step=9, exp=NOW_S + 10), NOW_S)
    node = Node(path, NOW_S + 10)
    with node as book:
        assert book.equivocation(one) is None
        assert rows(node.ledger, "evidence") == 0


def test_freeze_and_rollback_of_heads_after_a_restart(path):
    with Node(path) as book:
        book.offer(received(person(1), make_head, version=7, exp=NOW_S + 5), NOW_S)
    late_s = NOW_S + 60
    with Node(path, late_s) as book, pytest.raises(RecordError, match="version 6"):
        book.offer(received(person(2), make_head, late_s, version=6), late_s)


def test_a_moved_name_stays_moved_after_a_restart(path):
    old, new = person(4), person(5)
    with Node(path) as book:
        book.offer(received(new, credentials=carried(rotation(old, new))), NOW_S)
    with Node(path, NOW_S + 700) as book, pytest.raises(SignatureError, match="may act no longer"):
        book.offer(received(old, now_s=NOW_S + 100), NOW_S + 100)


def test_kill_9_loses_nothing_that_was_written(path):
    lines = [signed(make_claim(person(1), seq=seq, exp=NOW_S + 600 + seq), person(1)).hex() for seq in range(1, 40)]
    scribe = subprocess.Popen(
        [sys.executable, str(SCRIBE), str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        for line in lines:
            scribe.stdin.write(line + "\n")
            scribe.stdin.flush()
            assert scribe.stdout.readline() == "written\n"
    finally:
        scribe.send_signal(signal.SIGKILL)
        scribe.communicate()
    with Node(path) as book:
        assert book.newest(received(person(1)).key, person(1).peer_id).record.seq == len(lines)


def test_what_expired_or_made_room_is_gone_from_the_file(path):
    with Node(path) as book:
        for number in range(LIMITS.signers_per_slot):
            book.offer(received(person(number), make_tip, exp=NOW_S + 10), NOW_S)
        book.offer(received(person(900), make_tip, NOW_S + 10), NOW_S + 10)
    node = Node(path, NOW_S + 10)
    with node as book:
        assert len(book.slot(received(person(900), make_tip).key, NOW_S + 10)) == 1
        assert node.ledger._connection.execute("SELECT count(*) FROM records").fetchone() == (1,)


def test_a_row_somebody_changed_adds_no_record(path):
    node = Node(path)
    with node as book:
        book.offer(received(person(1)), NOW_S)
        node.ledger._connection.execute("UPDATE records SET envelope = ?", (signed(make_claim(person(2)), person(3)),))
    with Node(path) as book:
        assert book.newest(received(person(1)).key, person(1).peer_id) is None


def test_a_file_that_is_no_ledger_is_set_aside(path, caplog):
    path.write_bytes(b"not a database, but long enough to be looked at" * 9)
    with Node(path) as book:
        book.offer(received(person(1)), NOW_S)
    assert path.with_suffix(".damaged").exists()
    assert "set aside" in caplog.text


def test_a_ledger_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ResourceError, match="cannot be used"):
        Ledger.open(tmp_path / "nowhere" / "ledger.sqlite")


def test_damage_behind_the_header_is_set_aside_too(path, caplog):
    with Node(path) as book:
        for number in range(1, 40):
            book.offer(received(person(number), make_tip), NOW_S)
    data = bytearray(path.read_bytes())
    data[4096:] = b"\xff" * len(data[4096:])
    path.write_bytes(data)
    for _ in range(2):
        with Node(path) as book:
            book.offer(received(person(1)), NOW_S)
    assert path.with_suffix(".damaged").exists()
    assert caplog.text.count("set aside") == 1


def test_a_remembered_head_that_cannot_be_read_is_passed_over(path):
    node = Node(path)
    with node as book:
        book.offer(received(person(1), make_head, version=7), NOW_S)
        node.ledger._connection.execute("UPDATE heads SET head = '{'")
    with Node(path) as book:
        book.offer(received(person(2), make_head, version=6), NOW_S)


def test_a_full_disk_is_named_and_the_record_does_not_count(path):
    node = Node(path)
    with node as book:
        node.ledger._connection.execute("PRAGMA max_page_count = 1")
        tips = [received(person(number), make_tip, ext={"filler": "x" * 4000}) for number in (1, 2)]
        for tip in tips:
            with pytest.raises(ResourceError, match="full"):
                book.offer(tip, NOW_S)
        assert book.slot(tips[0].key, NOW_S) == ()
