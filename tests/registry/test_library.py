"""Blobs by digest from store and network: what comes out is what was asked for, or a sentence that says why not."""

from __future__ import annotations

import asyncio

import pytest
from network_simulator import ANN, BEN, CURATOR, NetworkSimulator
from test_store import flip_a_byte

from paris.protocol.digests import sha256_of
from paris.protocol.errors import DigestError, ResourceError, UnavailableError, VerificationError
from paris.protocol.manifest import describe
from paris.registry.library import Library
from paris.registry.store import Store

HELLO = b"hello"


def test_a_blob_is_transferred_once(library, network):
    digest = network.serve(ANN, HELLO)
    assert asyncio.run(library.blob(digest, [ANN.peer_id])) == HELLO
    assert asyncio.run(library.blob(digest)) == HELLO
    assert network.transfers == [digest]


def test_a_provider_that_sends_other_bytes_is_not_believed(library, network, store):
    digest = network.serve(ANN, HELLO)
    network.replace(digest, b"HELLO")
    with pytest.raises(DigestError) as caught:
        asyncio.run(library.blob(digest, [ANN.peer_id]))
    assert caught.value.exit_code == 3
    assert store.path(digest) is None
    assert store.path(sha256_of(b"HELLO")) is None


def test_a_damaged_blob_is_named_then_fetched_anew(library, network, store):
    digest = network.serve(ANN, HELLO)
    asyncio.run(library.blob(digest, [ANN.peer_id]))
    flip_a_byte(store.path(digest))
    with pytest.raises(DigestError, match="damaged"):
        asyncio.run(library.blob(digest, [ANN.peer_id]))
    assert asyncio.run(library.blob(digest, [ANN.peer_id])) == HELLO
    assert network.transfers == [digest, digest]


def test_the_next_provider_answers_for_one_that_left(library, network):
    digest = network.serve(ANN, HELLO)
    network.serve(BEN, HELLO)
    network.leave(ANN)
    assert asyncio.run(library.blob(digest, [ANN.peer_id, BEN.peer_id])) == HELLO


def test_nobody_has_it(library):
    with pytest.raises(UnavailableError) as caught:
        asyncio.run(library.blob(sha256_of(b"nowhere"), [ANN.peer_id]))
    assert caught.value.exit_code == 4


def test_offline_the_store_still_answers(store):
    digest = store.put_bytes(HELLO)
    assert asyncio.run(Library(store).blob(digest)) == HELLO


def test_offline_it_says_what_to_do(store):
    for wanted in (
        Library(store).blob(sha256_of(HELLO)),
        Library(store).manifest(sha256_of(HELLO)),
        Library(store).files([describe("weights", [HELLO])]),
    ):
        with pytest.raises(UnavailableError, match="works offline") as caught:
            asyncio.run(wanted)
        assert "paris-node fetch" in caught.value.hint
    with pytest.raises(UnavailableError, match="weights is not in the local store"):
        asyncio.run(Library(store).files([describe("weights", [HELLO])]))


def test_offline_there_are_no_records(store, network):
    network.greet(ANN)
    assert asyncio.run(Library(store).records("peer", network.run)) == []
    assert len(asyncio.run(Library(store, network).records("peer", network.run))) == 1


def test_records_of_another_run_are_another_slot(library, network):
    network.greet(ANN)
    assert asyncio.run(library.records("peer", sha256_of(b"other run"))) == []
    assert asyncio.run(library.records("tip", network.run, "router")) == []


def test_a_manifest_that_is_something_else(library, network):
    digest = network.serve(ANN, b'{"files": "many"}')
    with pytest.raises(VerificationError):
        asyncio.run(library.manifest(digest, [ANN.peer_id]))
    assert asyncio.run(library.manifest(network.genesis.data.manifest, network.providers)).size_bytes > 0


def files_of(network: NetworkSimulator, *contents: bytes):
    for content in contents:
        network.serve(ANN, content)
    return [describe(f"file-{number}", [content]) for number, content in enumerate(contents)]


def test_files_come_with_their_bytes_counted(library, network, store):
    entries = files_of(network, b"one", b"three", b"")
    arrived: list[int] = []
    assert asyncio.run(library.files(entries, [ANN.peer_id], arrived.append)) == 8
    assert sum(arrived) == 8
    assert [store.verify(entry).read_bytes() for entry in entries] == [b"one", b"three", b""]


def test_files_that_are_here_cost_nothing(library, network):
    entries = files_of(network, b"one", b"three")
    asyncio.run(library.files(entries, [ANN.peer_id]))
    assert asyncio.run(library.files(entries, [ANN.peer_id])) == 0
    assert len(network.transfers) == 2


def test_equal_files_are_fetched_once(library, network):
    assert asyncio.run(library.files(files_of(network, b"same", b"same"), [ANN.peer_id])) == 4


def test_an_interrupted_fetch_keeps_what_it_has(library, network, store):
    entries = files_of(network, b"one", b"three")
    network.forget(entries[1].sha256)
    with pytest.raises(UnavailableError):
        asyncio.run(library.files(entries, [ANN.peer_id]))
    assert store.path(entries[0].sha256)
    network.serve(ANN, b"three")
    assert asyncio.run(library.files(entries, [ANN.peer_id])) == 5


def test_a_file_of_other_bytes_never_becomes_a_blob(library, network, store):
    entry = files_of(network, b"one")[0]
    network.replace(entry.sha256, b"two")
    with pytest.raises(DigestError):
        asyncio.run(library.files([entry], [ANN.peer_id]))
    assert store.path(entry.sha256) is None
    network.serve(ANN, b"one")
    assert asyncio.run(library.files([entry], [ANN.peer_id])) == 3


def test_a_full_disk_is_said_in_words(network, store, full_disk):
    digest = network.serve(CURATOR, b"x" * 100_000)
    with full_disk(10_000), pytest.raises(ResourceError, match="no room") as caught:
        asyncio.run(Library(store, network).blob(digest, network.providers))
    assert caught.value.exit_code == 5
    assert asyncio.run(Library(Store(store.root), network).blob(digest, network.providers)) == b"x" * 100_000
