"""Whatever a stranger sends, a parser answers with what it parsed or an error of ours; nothing else ever gets out."""

from __future__ import annotations

import asyncio
import contextlib
import json
from types import SimpleNamespace

import broken
import broken_curation
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from protocol_support import NOW_S, person
from securesystemslib.dsse import Envelope
from vector_reader import data_of, load

from paris.protocol import envelope, strict_json
from paris.protocol.book import RecordBook
from paris.protocol.credentials import authority, open_delegation, open_rotation
from paris.protocol.curation import Curators, open_admission
from paris.protocol.digests import sha256_of
from paris.protocol.ensemble import Ensemble
from paris.protocol.errors import EnvelopeError, NetworkError, UsageError, VerificationError
from paris.protocol.genesis import open_genesis
from paris.protocol.identity import Identity, peer_id_of, public_key_of
from paris.protocol.manifest import Manifest
from paris.protocol.records import RECORD_KINDS, open_checkpoint, parse_record
from paris.protocol.succession import follow
from paris.protocol.transport.blobs import BlobServer
from paris.protocol.transport.records import RecordServer, RecordStream
from paris.protocol.transport.streams import StreamServer
from paris.protocol.validation import check_record

VALID = load("valid")
SEEDS = sorted(data_of(vector) for vector in VALID.values())
PAYLOADS = sorted({json.dumps(vector["payload"]) for vector in VALID.values() if "payload" in vector})
ENVELOPED = ("genesis", "checkpoint", "admission", "delegation", "rotation", *RECORD_KINDS)
RUN, BOARD = VALID["rotation"]["run"], Curators.parse(VALID["rotation"]["curators"])
TOKENS = [
    b"{", b"}", b"[", b"]", b'"', b'"a"', b'"a":', b":", b",", b"1", b"-0", b"1e9", b"0.5", b"NaN", b"null", b"true",
    b'"\\ud800"', b"\\u", b"\xff", b"\x00", b" ", b"9" * 30, b"[" * 2000, b'{"a":' * 20, b'"payload":', b'"sig":',
]  # fmt: skip


def use_genesis(data: bytes) -> None:
    genesis, run = open_genesis(data)
    assert all(genesis.target_steps(unit) > 0 for unit in genesis.units())
    assert genesis.admission.admits(person(1).peer_id) in {True, False}
    assert envelope.verify(data, "genesis").digest == run


def use_checkpoint(data: bytes) -> None:
    opened = open_checkpoint(data)
    assert public_key_of(opened.signer)
    assert opened.to_step > opened.from_step >= 0
    assert isinstance(opened.loss_trace_micro, tuple)
    assert opened.parent not in opened.shards()
    assert min(opened.fence, opened.seed) >= 0
    assert opened.holdout_loss_micro is None or isinstance(opened.holdout_loss_micro, int)


def use_record(data: bytes) -> None:
    received = check_record(data, NOW_S, {})
    book = RecordBook()
    book.offer(received, NOW_S)
    assert book.newest(received.key, received.record.signer) == received


def use_manifest(data: bytes) -> None:
    manifest = Manifest.from_bytes(data)
    assert manifest.to_bytes() == data
    assert all(".." not in entry.name.split("/") for entry in manifest.files)


def use_rotation(data: bytes) -> None:
    moved = open_rotation(data, RUN, BOARD)
    assert moved.old != moved.new
    assert open_rotation(data, RUN, None) == moved


def use_ensemble(data: bytes) -> None:
    assert Ensemble.from_bytes(data).to_bytes() == data


PARSERS = {
    "strict_json.loads": lambda data: strict_json.loads(data, 2**16),
    "envelope.kind_of": envelope.kind_of,
    **{f"envelope.verify {kind}": lambda data, kind=kind: envelope.verify(data, kind) for kind in ENVELOPED},
    "open_genesis": use_genesis,
    "open_checkpoint": use_checkpoint,
    "open_admission": lambda data: open_admission(data, RUN, BOARD),
    "open_delegation": open_delegation,
    "open_rotation": use_rotation,
    "authority": lambda data: authority(person(5).peer_id, (data,), RUN, NOW_S, BOARD),
    "follow": lambda data: follow(sha256_of(data), [data]),
    "Ensemble.from_bytes": use_ensemble,
    "Manifest.from_bytes": use_manifest,
    "Identity.from_libp2p": Identity.from_libp2p,
    "check_record": use_record,
}


def feed(data: bytes) -> None:
    """Every parser gets the bytes; an error that is not ours comes through and fails the test."""
    for parser in PARSERS.values():
        with contextlib.suppress(VerificationError, UsageError):
            parser(data)


@st.composite
def mutated(draw) -> bytes:
    """A valid vector after a few cuts, copies, insertions and bit flips, perhaps grafted onto another one."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 40)))
        new = draw(
            st.just(b"")
            | st.binary(max_size=8)
            | st.sampled_from(TOKENS)
            | st.just(bytes(data[start:end] * 2))
            | st.sampled_from(SEEDS).map(lambda other, start=start, end=end: other[start:end])
        )
        data[start:end] = new
    return bytes(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400) | st.lists(st.sampled_from(TOKENS), max_size=30).map(b"".join))
@example(b"")
@example(b"{}")
@example(b"\x08\x01\x12\x40")
def test_noise(data):
    feed(data)


@settings(max_examples=500, deadline=None)
@given(mutated())
def test_damaged_vectors(data):
    feed(data)


@pytest.mark.parametrize("case", [*broken.everything(), *broken_curation.everything()], ids=lambda case: case.name)
def test_the_wrong_parser_gets_the_wrong_vector(case):
    feed(case.data)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
words = st.sampled_from(
    ["", "base", "cluster-1", "sha256:" + "0" * 64, person(1).peer_id, "2027-01-15T08:00:00Z", "1.5"]
)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text | words
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text | words, inner, max_size=3), max_leaves=8
)


def places(value) -> list[tuple[dict | list, str | int]]:
    """Every (container, key) in a JSON value."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [(value, key) for key, _ in pairs] + [place for _, child in pairs for place in places(child)]


@st.composite
def payloads(draw) -> dict:
    """Any JSON object, or a valid payload with a few of its places filled otherwise, dropped or exchanged."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.dictionaries(text, values, max_size=4))
    payload = json.loads(draw(st.sampled_from(PAYLOADS)))
    for _ in range(draw(st.integers(1, 3))):
        found = places(payload)
        if not found:
            break
        container, key = draw(st.sampled_from(found))
        if draw(st.integers(0, 4)) == 0:
            del container[key]
        else:
            container[key] = draw(values)
    return payload


@settings(max_examples=400, deadline=None)
@given(payloads(), st.sampled_from(ENVELOPED), st.integers(1, 5))
def test_a_hostile_signer_signs_anything(payload, kind, number):
    """Fuzz behind the signature, where bit flips never come: the signer himself is the attacker."""
    feed(envelope.sign(kind, payload, person(number)))


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=120) | st.lists(st.sampled_from(TOKENS), max_size=10).map(b"".join), st.sampled_from(ENVELOPED)
)
def test_a_hostile_signer_signs_what_is_no_json(payload, kind):
    made = Envelope(payload, envelope.payload_type(kind), {})
    made.sign(person(1).signer)
    feed(strict_json.dumps(made.to_dict()))


@settings(max_examples=300, deadline=None)
@given(payloads(), st.sampled_from([*ENVELOPED, "", "verdict"]))
def test_any_payload_is_a_record_or_refused(payload, kind):
    with contextlib.suppress(VerificationError):
        record = parse_record(kind, payload)
        assert envelope.verify(envelope.sign(kind, record, person(1)), kind).payload["run"] == record.run


@settings(max_examples=300, deadline=None)
@given(payloads(), st.data())
def test_an_envelope_of_anything(outer, data):
    """Envelopes whose outer fields hold any JSON at all."""
    fields = {"payload": values, "payloadType": values, "signatures": st.lists(values, max_size=2) | values}
    drawn = {name: data.draw(value) for name, value in fields.items() if data.draw(st.booleans())}
    feed(strict_json.dumps(drawn if data.draw(st.booleans()) else outer | drawn))


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=60)
    | st.text("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz", min_size=52, max_size=52)
)
def test_any_text_is_a_peer_id_in_its_one_spelling_or_refused(name):
    with contextlib.suppress(VerificationError):
        assert peer_id_of(public_key_of(name)) == name


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=32, max_size=32))
def test_a_key_that_is_no_point_of_the_curve_signs_nothing(public_key):
    """Any 32 bytes make a well-formed name; what was not signed with its key is still refused by name."""
    fields = json.loads(data_of(VALID["claim-first"]))
    fields["signatures"][0]["keyid"] = peer_id_of(public_key)
    with pytest.raises(VerificationError):
        envelope.verify(strict_json.dumps(fields), "claim")


@settings(max_examples=200, deadline=None)
@given(values)
def test_whatever_can_be_written_can_be_read(value):
    written = strict_json.dumps({"x": value}) if depth(value) < 15 else b"{}"
    assert strict_json.dumps(strict_json.loads(written, 2**20)) == written


def depth(value) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(depth, children), default=0)


def test_the_fuzzers_seeds_are_worth_mutating():
    """Each parser accepts at least one seed, so that mutations start from deep inside it."""
    for name, parser in PARSERS.items():
        accepted = 0
        for data in SEEDS:
            with contextlib.suppress(VerificationError, UsageError):
                parser(data)
                accepted += 1
        assert accepted, name
    with pytest.raises(EnvelopeError):
        strict_json.loads(b"", 0)


class Sink:
    """The end of a stream that somebody writes to and nobody reads."""

    def __init__(self) -> None:
        self.data, self.closed = b"", False
        self.transport = None

    def write(self, data: bytes) -> None:
        self.data += data

    async def drain(self) -> None:
        """Have sent it."""

    def close(self) -> None:
        self.closed = True


class Shelf:
    """A source of records and blobs that has one record, whatever it is asked for, and no blob."""

    async def envelopes(self, _kind: str, _run: str, _slot: str) -> list[bytes]:
        return [b"an envelope"]

    def path(self, _digest: str) -> None:
        """Find nothing."""


def framed(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


async def stream_of(data: bytes) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    return reader


fields_of_requests = st.fixed_dictionaries(
    {},
    optional={
        "digest": values | st.just(RUN), "offset": values, "length": values, "x": values,
        "kind": values | st.sampled_from([*RECORD_KINDS]), "run": values | st.just(RUN),
        "slots": values | st.lists(words, max_size=20),
    },
)  # fmt: skip
requests = (
    st.binary(max_size=60) | st.binary(max_size=60).map(framed) | fields_of_requests.map(strict_json.dumps).map(framed)
)


@settings(max_examples=400, deadline=None)
@given(st.lists(requests, max_size=4).map(b"".join), st.sampled_from([BlobServer, RecordServer]))
@example(b"\xff" * 8, BlobServer)
def test_whatever_a_client_sends_a_server_answers_or_ends_the_stream(data, kind):
    """Nothing gets out of a server but answers, and it is ready for the next stream."""

    async def serve() -> tuple[Sink, StreamServer]:
        sink, server = Sink(), kind(Shelf())
        await server.handle(SimpleNamespace(peer_id="somebody"), await stream_of(data), sink)
        return sink, server

    sink, server = asyncio.run(serve())
    assert sink.closed
    assert not server._open
    assert len(sink.data) <= 2000 + 40 * len(data)


class Answering:
    """A host whose every stream brings the same answer."""

    peer_id = person(1).peer_id

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    async def stream(self, _peer: str, _protocol: str):
        sink = Sink()
        sink.transport = SimpleNamespace(pause_reading=lambda: None, resume_reading=lambda: None)
        return await stream_of(self.answer), sink


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=80)
    | st.tuples(
        st.sampled_from([0, 0, 0, 1, 2, 3, 9]), st.binary(min_size=12, max_size=12), st.binary(max_size=99)
    ).map(lambda parts: bytes([parts[0]]) + parts[1] + parts[2])
    | st.lists(st.binary(max_size=20).map(framed), max_size=3).map(
        lambda records: b"\0" + bytes(8) + len(records).to_bytes(4, "big") + b"".join(records)
    )
)
def test_whatever_a_server_answers_a_client_of_records_gets_them_or_blames_it(data):
    async def ask() -> None:
        for slots in ([""], ["cluster-0"] * 16):
            async with await RecordStream.open(Answering(data), "somebody") as stream:
                with contextlib.suppress(NetworkError):
                    for envelope_bytes in await stream.ask("peer", RUN, slots, patience_s=1.0):
                        assert envelope_bytes in data
                with contextlib.suppress(NetworkError):
                    assert await stream.time_s(patience_s=1.0) >= 0

    asyncio.run(ask())
