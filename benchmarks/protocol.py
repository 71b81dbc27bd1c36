"""Signatures, validation, the DHT with 8 to 32 peers and after half of them died, and blobs between processes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.measure import Row, compare
from benchmarks.peer import BARE
from paris.protocol import envelope
from paris.protocol.book import RecordBook
from paris.protocol.digests import sha256_of
from paris.protocol.identity import Identity
from paris.protocol.manifest import FileEntry, describe
from paris.protocol.records import Claim, record_key
from paris.protocol.transport.daemon import meet, start_daemon, stop_daemon
from paris.protocol.transport.dht import REPLICAS, Swarm
from paris.protocol.transport.fetch import fetch_file
from paris.protocol.transport.libp2p import DHTNode, PeerID
from paris.protocol.validation import check_record

RUN = sha256_of(b"a run for the benchmark")
ROOT = Path(__file__).parent.parent
READ_BYTES = 256 * 2**10
PROVIDERS = 4
END_GRACE_S = 2.0
MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps files in memory


def run(*, quick: bool) -> list[Row]:
    """Measure everything of this module."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            *signatures(records=20 if quick else 400, repeats=1 if quick else 7),
            *(
                row
                for peers in ((2,) if quick else (8, 16, 32))
                for row in dht(Path(folder), peers, records=2 if quick else 15, repeats=1 if quick else 5)
            ),
            survival(Path(folder), peers=4 if quick else 16, records=3 if quick else 40),
            *transfer(Path(folder), size_bytes=(5 if quick else 256) * 2**20, repeats=1 if quick else 7),
            *light_transfer(Path(folder), size_bytes=(1 if quick else 32) * 2**20, repeats=1 if quick else 5),
        ]


def signatures(records: int, repeats: int) -> list[Row]:
    """DSSE envelopes and the validator against nothing but Ed25519 over the same number of bytes."""
    people = [_person(number) for number in range(16)]
    now_s = int(time.time())
    claims = [_claim(people[number % 16], now_s, number) for number in range(records)]
    signed = [envelope.sign("claim", claim, people[number % 16]) for number, claim in enumerate(claims)]
    key = Ed25519PrivateKey.from_private_bytes(people[0].seed)
    public, proofs = key.public_key(), [key.sign(data) for data in signed]

    def bare_verify() -> None:
        for data, proof in zip(signed, proofs, strict=True):
            public.verify(proof, data)

    def bare_parse() -> None:
        bare_verify()
        for data in signed:
            json.loads(data)

    def validate() -> None:
        book = RecordBook()
        for data in signed:
            book.offer(check_record(data, now_s, book.rules), now_s)

    shared: dict[str, Any] = {"work": records, "unit": "records", "repeats": repeats}
    return [
        compare(
            "sign a claim",
            lambda: [envelope.sign("claim", claim, people[number % 16]) for number, claim in enumerate(claims)],
            lambda: [key.sign(data) for data in signed],
            against="Ed25519 sign alone",
            **shared,
        ),
        compare(
            "verify a claim's envelope",
            lambda: [envelope.verify(data, "claim") for data in signed],
            bare_verify,
            against="Ed25519 verify alone",
            **shared,
        ),
        compare(
            "validate a claim (form, times, signature, memory)",
            validate,
            bare_parse,
            against="Ed25519 verify and json.loads",
            **shared,
        ),
    ]


def dht(folder: Path, peers: int, records: int, repeats: int) -> list[Row]:
    """Store and get through our validator, beside bare hivemind nodes of the same number, replicas and value size."""
    rows = []
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        swarms = stack.enter_context(_kept(runner, _swarms(folder, peers)))
        nodes = stack.enter_context(_kept(runner, _bare_nodes(peers)))
        writer, reader = _person(0), swarms[-1]
        seqs = iter(range(1, 1_000_000))
        value = envelope.sign("claim", _claim(writer, int(time.time()), 0), writer)

        async def publish() -> None:
            for number in range(records):
                claim = _claim(writer, int(time.time()), next(seqs), f"cluster-{number}")
                await swarms[0].publish(envelope.sign("claim", claim, writer))

        async def bare_store() -> None:
            expires_s = time.time() + 600 + next(seqs)
            for number in range(records):
                assert await nodes[0].store(_slot(number), value, expires_s, subkey=b"writer")
                assert await nodes[0].get(_slot(number), latest=True)

        async def read() -> None:
            for number in range(records):
                assert await reader.records("claim", RUN, f"cluster-{number}")

        async def bare_read() -> None:
            for number in range(records):
                assert await nodes[-1].get(_slot(number), latest=True)

        note = f"{peers} peers, {REPLICAS} replicas, loopback, one process; {records} slots a call"
        shared: dict[str, Any] = {"work": records, "unit": "records", "repeats": repeats, "note": note}
        rows.append(
            compare(
                "publish a record (sign, store, read back)",
                lambda: runner.run(publish()),
                lambda: runner.run(bare_store()),
                against="bare hivemind store, then get(latest)",
                **shared,
            )
        )
        rows.append(
            compare(
                "read a slot's records",
                lambda: runner.run(read()),
                lambda: runner.run(bare_read()),
                against="bare hivemind get(latest)",
                **shared,
            )
        )
    return rows


def survival(folder: Path, peers: int, records: int) -> Row:
    """Records nobody had read before half of the peers died, their owners announcing again as owners do."""
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        swarms = stack.enter_context(_kept(runner, _swarms(folder, peers)))
        nodes = stack.enter_context(_kept(runner, _bare_nodes(peers)))
        owner, now_s = _person(0), int(time.time())
        dead = range(peers // 2, peers)

        async def announce(seq: int) -> None:
            for number in range(records):
                claim = _claim(owner, now_s, seq, f"cluster-{number}")
                await swarms[0].publish(envelope.sign("claim", claim, owner))

        async def bare_announce() -> None:
            for number in range(records):
                await nodes[0].store(_slot(number), b"value", now_s + 900.0, subkey=b"writer")

        async def die() -> None:
            for number in dead:
                for each in (swarms[number], nodes[number]):
                    daemon = each.p2p._child  # noqa: SLF001 - P2P has no hard way to end
                    daemon.kill()
                    await daemon.wait()

        async def found() -> int:
            return sum([bool(await swarms[1].records("claim", RUN, f"cluster-{n}")) for n in range(records)])

        async def bare_found() -> int:
            return sum([bool(await nodes[1].get(_slot(n), latest=True)) for n in range(records)])

        runner.run(announce(1))
        runner.run(bare_announce())
        runner.run(die())
        runner.run(announce(2))
        ours, ours_s = _timed(lambda: runner.run(found()))
        bare, bare_s = _timed(lambda: runner.run(bare_found()))
    note = f"{len(dead)} of {peers} peers killed; found {ours} of {records}, bare hivemind {bare} of {records}"
    against = "bare hivemind, whose owners do not announce again"
    return Row(
        "read records after half of the peers died", against, records, "records", (ours_s,), (bare_s,), note=note
    )


def _timed(work: Callable[[], int]) -> tuple[int, float]:
    start_s = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start_s


def transfer(folder: Path, size_bytes: int, repeats: int) -> list[Row]:
    """A file through `fetch_file`, verified and on disk, beside a bare stream of the same bytes."""
    content = os.urandom(size_bytes)
    served, fetched = folder / "served", folder / "fetched"
    served.write_bytes(content)
    entry = describe("weights.safetensors", [content])
    del content
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        memory = stack.enter_context(tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None))
        in_memory = Path(memory) / "fetched"
        addrs = [stack.enter_context(_blob_server(served, number)) for number in range(PROVIDERS)]
        (client,) = stack.enter_context(_kept(runner, _swarms(folder, 1, addrs)))
        providers = [address.rpartition("/")[2] for address in addrs]
        provider = providers[0]

        def ours() -> None:
            runner.run(fetch_file(client, entry, [provider], fetched))

        def ours_of_all() -> None:
            runner.run(fetch_file(client, entry, providers, fetched))

        def bare() -> None:
            assert runner.run(_bare_fetch(client, provider, None))[0] == size_bytes

        def bare_in_memory() -> None:
            assert runner.run(_bare_fetch(client, provider, in_memory, check=False))[0] == size_bytes

        def bare_kept() -> None:
            assert runner.run(_bare_fetch(client, provider, fetched))[1] == entry.sha256

        def forget() -> None:
            fetched.unlink(missing_ok=True)
            in_memory.unlink(missing_ok=True)

        def ours_in_memory() -> None:
            runner.run(fetch_file(client, entry, [provider], in_memory))

        def ours_of_all_in_memory() -> None:
            runner.run(fetch_file(client, entry, providers, in_memory))

        shared: dict[str, Any] = {"work": size_bytes / 1e6, "unit": "MB", "repeats": repeats, "before": forget}
        verified = "fetch a file: every piece and the whole verified, into memory"
        where = "two processes on loopback, one p2pd each; a file system in memory, where there is one"
        return [
            compare(
                verified,
                ours_in_memory,
                bare_in_memory,
                against="bare hivemind stream, kept in the same place unverified",
                target=0.8,
                note=where,
                **shared,
            ),
            compare(
                verified,
                ours_in_memory,
                bare,
                against="bare hivemind stream, bytes thrown away",
                note=where,
                **shared,
            ),
            compare(
                "fetch a file: every piece verified, on disk, fsync",
                ours,
                bare,
                against="bare hivemind stream, bytes thrown away",
                note="bounded by the disk",
                **shared,
            ),
            compare(
                "fetch a file: every piece verified, on disk, fsync",
                ours,
                bare_kept,
                against="bare hivemind stream, hashed and written as it comes, fsync",
                **shared,
            ),
            compare(
                f"fetch a file from {PROVIDERS} providers at once, verified, into memory",
                ours_of_all_in_memory,
                bare_in_memory,
                against="bare hivemind stream from one, kept in the same place unverified",
                target=0.8,
                note=f"{2 * PROVIDERS + 2} processes on loopback share the cores",
                **shared,
            ),
            compare(
                f"fetch a file from {PROVIDERS} providers at once, verified, on disk, fsync",
                ours_of_all,
                bare,
                against="bare hivemind stream from one, bytes thrown away",
                note=f"{2 * PROVIDERS + 2} processes on loopback share the cores",
                **shared,
            ),
        ]


def light_transfer(folder: Path, size_bytes: int, repeats: int) -> list[Row]:
    """A file through the light client, beside a bare stream of py-libp2p; nothing where that is not installed."""
    if not importlib.util.find_spec("libp2p"):
        return []
    served, content = folder / "served to the light client", os.urandom(size_bytes)
    served.write_bytes(content)
    entry = describe("weights.safetensors", [content])
    with _blob_server(served, PROVIDERS) as address, _light_client(address, entry, folder) as light:
        row = compare(
            "fetch a file with the light client: verified, on disk, fsync",
            lambda: light("fetch"),
            lambda: light("bare"),
            against="bare py-libp2p stream, bytes thrown away",
            work=size_bytes / 1e6,
            unit="MB",
            repeats=repeats,
            note="two processes on loopback; Noise and the multiplexer are pure Python",
        )
    return [row]


@contextlib.contextmanager
def _light_client(address: str, entry: FileEntry, folder: Path) -> Iterator[Callable[[str], None]]:
    """Give orders to a `benchmarks.light` process."""
    command = [sys.executable, "-m", "benchmarks.light", address, entry.model_dump_json(), str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        told, answers = process.stdin, process.stdout

        def order(word: str) -> None:
            told.write(f"{word}\n")
            told.flush()
            assert int(answers.readline()) == entry.size

        yield order
        process.communicate()


async def _bare_fetch(client: Swarm, provider: str, keep: Path | None, *, check: bool = True) -> tuple[int, str]:
    """Read a bare stream to its end: bytes and, where they are kept and checked, their digest."""
    _, reader, writer = await client.p2p.call_binary_stream_handler(PeerID.from_base58(provider), BARE)
    count, digest = 0, hashlib.sha256()
    with keep.open("wb") if keep else contextlib.nullcontext() as file:
        while block := await reader.read(READ_BYTES):
            count += len(block)
            if file:
                file.write(block)
                if check:
                    digest.update(block)
        if file and check:
            file.flush()
            os.fsync(file.fileno())
    writer.close()
    return count, f"sha256:{digest.hexdigest()}"


@contextlib.contextmanager
def _blob_server(file: Path, number: int) -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.peer", str(file), str(number)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        yield json.loads(process.stdout.readline())[0]
        process.communicate()


@contextlib.contextmanager
def _kept(runner: asyncio.Runner, made: contextlib.AbstractAsyncContextManager[list[Any]]) -> Iterator[list[Any]]:
    """Hold an asynchronous context open between the runs of a runner."""
    value = runner.run(made.__aenter__())
    try:
        yield value
    finally:
        runner.run(made.__aexit__(None, None, None))


@contextlib.asynccontextmanager
async def _swarms(folder: Path, count: int, bootstrap: list[str] | None = None) -> AsyncIterator[list[Swarm]]:
    async with contextlib.AsyncExitStack() as stack:
        swarms: list[Swarm] = []
        for number in range(count):
            key = folder / f"{number}.key"
            key.write_bytes(_person(number).to_libp2p())
            known = bootstrap or (swarms[0].addrs if swarms else [])
            swarms.append(await stack.enter_async_context(await Swarm.join(key, known)))
        yield swarms


@contextlib.asynccontextmanager
async def _bare_nodes(count: int) -> AsyncIterator[list[DHTNode]]:
    """hivemind as it comes, on daemons with the same settings as ours."""
    nodes: list[DHTNode] = []
    first: list[str] = []
    try:
        for _ in range(count):
            p2p = await start_daemon(None)
            known = [dial.address for dial in await meet(p2p, first) if dial.answered]
            nodes.append(await DHTNode.create(p2p=p2p, initial_peers=known or None, num_replicas=REPLICAS))
            first = first or [str(address) for address in await p2p.get_visible_maddrs()]
        yield nodes
    finally:
        for node in nodes:
            with contextlib.suppress(TimeoutError):  # a node whose daemon was killed waits for ever
                await asyncio.wait_for(node.shutdown(), END_GRACE_S)
            await stop_daemon(node.p2p)


def _person(number: int) -> Identity:
    return Identity.from_seed(f"benchmark {number}".encode().ljust(32))


def _claim(who: Identity, now_s: int, seq: int, unit: str = "") -> Claim:
    life_s = 600 + seq
    return Claim(
        run=RUN, unit=unit or f"cluster-{seq}", signer=who.peer_id, seq=seq, iat=now_s, exp=now_s + life_s, step=0
    )


def _slot(number: int) -> str:
    return record_key("claim", RUN, f"bare-{number}")
