"""The peers a node remembers: what poisons the file, who falls out, and that the way back in stays open."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris.node.peercache import FILE_BYTES, KEEP_S, MOST_FAILURES, MOST_PEERS, PeerCache
from paris.protocol.identity import Identity
from paris.protocol.records import Peer as PeerRecord
from paris.protocol.transport.daemon import MOST_PLACES, Dial

NOW_S = 1_800_000_000
RUN = "sha256:" + "ab" * 32


def name(number: int) -> str:
    return Identity.from_seed(number.to_bytes(32, "big")).peer_id


def place(number: int, port: int = 4001) -> str:
    return f"/ip4/192.0.2.7/tcp/{port}/p2p/{name(number)}"


def record(number: int, addrs: tuple[str, ...] | None = None, exp: int = NOW_S + 600) -> PeerRecord:
    addrs = (place(number),) if addrs is None else addrs
    return PeerRecord(
        run=RUN, signer=name(number), seq=1, iat=NOW_S, exp=exp, addrs=addrs, agent="paris-node/0", abilities=()
    )


def written(path: Path, *peers: dict) -> Path:
    path.write_text(json.dumps({"v": 1, "peers": list(peers)}))
    return path


def entry(number: int, **changes) -> dict:
    fields = {"peer": name(number), "addrs": [place(number)], "answered": NOW_S, "ends": NOW_S + 600, "failures": 0}
    return fields | changes


@pytest.fixture
def cache(tmp_path: Path) -> PeerCache:
    return PeerCache(tmp_path / "peers" / "run.json")


def test_those_that_answered_last_come_first_and_survive_a_restart(cache: PeerCache, tmp_path: Path) -> None:
    cache.remember([record(1), record(2), record(3)], {name(1), name(2)}, NOW_S)
    cache.remember([record(1)], {name(1)}, NOW_S + 60)
    again = PeerCache(tmp_path / "peers" / "run.json")
    assert again.addresses(NOW_S + 60) == (place(1), place(2)), "3 was only heard of"


def test_peers_are_kept_long_after_their_record_ended_and_not_for_ever(cache: PeerCache) -> None:
    cache.remember([record(1, exp=NOW_S + 600)], {name(1)}, NOW_S)
    assert cache.addresses(NOW_S + 600 + KEEP_S - 1) == (place(1),)
    assert cache.addresses(NOW_S + 600 + KEEP_S) == ()


def test_silence_counts_only_while_others_answer(cache: PeerCache) -> None:
    cache.remember([record(1), record(2)], {name(1), name(2)}, NOW_S)
    silent, answering = Dial(place(1), "refused"), Dial(place(2))
    for _ in range(2 * MOST_FAILURES):
        cache.note([silent, Dial(place(2), "refused")], NOW_S)
    assert len(cache.addresses(NOW_S)) == 2, "a night without a network forgot everybody"
    for failures in range(1, MOST_FAILURES):
        cache.note([silent, answering], NOW_S)
        assert {known.peer: known.failures for known in cache.peers(NOW_S)}[name(1)] == failures
    cache.note([silent, answering], NOW_S)
    assert cache.addresses(NOW_S) == (place(2),)


def test_one_address_of_several_that_answers_is_enough(cache: PeerCache) -> None:
    cache.remember([record(1)], {name(1)}, NOW_S)
    cache.note([Dial(place(1), "refused"), Dial(place(1, 5))], NOW_S + 9)
    (known,) = cache.peers(NOW_S)
    assert (known.failures, known.answered) == (0, NOW_S + 9)
    assert known.addrs == (place(1, 5), place(1))


def test_who_answered_by_address_alone_is_kept_too(cache: PeerCache) -> None:
    cache.note([Dial(place(4))], NOW_S)
    assert cache.addresses(NOW_S + KEEP_S - 1) == (place(4),)


def test_eclipse_a_flood_of_new_peers_that_answered_does_not_grow_the_file(cache: PeerCache) -> None:
    crowd = range(1, 3 * MOST_PEERS)
    cache.remember([record(number) for number in crowd], {name(number) for number in crowd}, NOW_S)
    assert len(cache.peers(NOW_S)) == MOST_PEERS


def test_eclipse_foreign_addresses_in_a_signed_record_are_left_out(cache: PeerCache) -> None:
    """A peer that announces somebody else's address, a path through others, no TCP, a file socket, a name alone."""
    lies = (
        place(2), f"/p2p/{name(1)}", f"/ip4/192.0.2.7/udp/1/quic-v1/p2p/{name(1)}", f"/unix/tmp/x/p2p/{name(1)}",
        f"{place(2)}/p2p-circuit/p2p/{name(1)}", f"/ip4/999.0.2.7/tcp/1/p2p/{name(1)}", f"/ip4/1.2.3.4/tcp/1{place(1)}",
        f"/ip4/192.0.2.7/tcp/99999/p2p/{name(1)}", f"/ip4/192.0.2.7/tcp/1/p2p/{name(1)}\n",
    )  # fmt: skip
    cache.remember([record(1, lies)], {name(1)}, NOW_S)
    assert cache.addresses(NOW_S) == ()
    cache.remember([record(1, (*lies, *(place(1, port) for port in range(1, 20))))], {name(1)}, NOW_S)
    assert cache.addresses(NOW_S) == tuple(place(1, port) for port in range(1, 1 + MOST_PLACES))


@pytest.mark.parametrize(
    "garbage",
    [
        b"", b"\xff\x00", b"[]", b"{}", b"null", b"{" * 5000, b'{"v": 2, "peers": []}', b'{"v": 1, "peers": {}}',
        b'{"v": 1, "peers": [{}]}', b'{"v": 1, "peers": [1.5]}', b'{"v": 1, "v": 1, "peers": []}',
        b'{"v": 1, "peers": []}' + b" " * FILE_BYTES,
    ],
)  # fmt: skip
def test_cache_poisoned_with_garbage_or_a_huge_file_counts_as_none_and_is_replaced(
    tmp_path: Path, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(garbage)
    cache = PeerCache(path)
    with caplog.at_level(logging.WARNING):
        assert cache.addresses(NOW_S) == ()
    assert str(path) in caplog.text
    cache.remember([record(1)], {name(1)}, NOW_S)
    assert cache.addresses(NOW_S) == (place(1),)


@pytest.mark.parametrize(
    "changes",
    [
        {"addrs": [place(2)]}, {"addrs": ["nonsense"]}, {"addrs": []}, {"failures": MOST_FAILURES},
        {"ends": NOW_S - KEEP_S}, {"answered": NOW_S + 10 * KEEP_S},
    ],
)  # fmt: skip
def test_cache_poisoned_with_foreign_entries_leaves_them_out(tmp_path: Path, changes: dict) -> None:
    path = written(tmp_path / "run.json", entry(1, **changes), entry(3))
    assert PeerCache(path).addresses(NOW_S) == (place(3),)


def test_a_home_that_cannot_be_written_is_told_and_nothing_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "peers").write_text("a file where a folder should be")
    with caplog.at_level(logging.WARNING):
        PeerCache(tmp_path / "peers" / "run.json").note([Dial(place(1))], NOW_S)
    assert "could not be remembered" in caplog.text


@given(st.binary(max_size=300) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_no_file_crashes_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes | str) -> None:
    path = tmp_path_factory.mktemp("cache") / "run.json"
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    assert PeerCache(path).addresses(NOW_S) == ()
