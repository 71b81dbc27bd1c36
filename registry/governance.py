"""Following a run's curators: fetch what they signed, check it, take it over, and never go back behind it.

What may follow from what is `paris.protocol.charter`'s to say. Here are the ways to it: heads from the network, blobs
from anybody, and a memory on disk, so that whoever hides or repeats things cannot lead a node back after a restart.

Memory: ``charter-<versions of the genesis>-<highest head>.json`` with ``{"versions", "floor", "head"}``. The highest
name counts, so several processes of one home may write there at once. Blobs lie in the store.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from paris.protocol import digests, envelope, strict_json
from paris.protocol.charter import Charter
from paris.protocol.errors import EnvelopeError, LineageError, UnavailableError, VerificationError
from paris.protocol.genesis import Genesis
from paris.protocol.limits import LIMITS
from paris.protocol.records import Head
from paris.protocol.validation import Received, check_record
from paris.registry.atomic import write_bytes
from paris.registry.library import Library
from paris.registry.resolve import load_genesis
from paris.registry.trainable import require_trainable

log = logging.getLogger(__name__)

STRANGERS_FOLLOWED = 4
"""Heads of unknown versions by unknown curators that are followed at one refresh; the others have their turn later."""


class Governance:
    """What one observer knows of a run's curators, kept on disk and brought up to date.

    Contract: `charter` only moves forward, also across restarts. It is written down before anything acts on it.

    Attributes:
        charter: What is in force.
        troubles: Why what curators published last was not taken over, as sentences.
    """

    def __init__(self, library: Library, charter: Charter, memory: Path) -> None:
        self.charter, self.troubles = charter, list[str]()
        self._library, self._memory = library, memory
        self._tried: set[str] = set()
        library.know(charter.run, charter.rules)

    @classmethod
    async def recall(
        cls, library: Library, run: str, genesis: Genesis, memory: Path, providers: Sequence[str] = ()
    ) -> Self:
        """Begin where this home left off.

        Args:
            library: Store and network.
            run: Run id.
            genesis: The first version, which the run id pins.
            memory: Folder for this run.
            providers: Peers to ask for what the store lost.

        Raises:
            UnavailableError: something this home has seen is neither in its store nor to be had.
        """
        charter = Charter.begin(genesis, run)
        library.know(run, charter.rules)
        note = _newest(memory)
        if note is None:
            return cls(library, charter, memory)
        try:
            return cls(library, await _recalled(library, charter, note, providers), memory)
        except UnavailableError as error:
            what = f"this home has seen version {len(note.versions)} of the genesis, and parts of it are lost"
            raise UnavailableError(what, error.what, "Try again when more peers are there") from error

    async def refresh(self, now_s: float, providers: Sequence[str] = ()) -> bool:
        """Take over what is new; return whether anything was.

        Args:
            now_s: UNIX seconds.
            providers: Peers to ask for blobs.

        Raises:
            UnavailableError: a head that is in force names what nobody serves now.
            NetworkError: the network does not answer.
        """
        before, self.troubles = self.charter, list[str]()
        self._library.know(before.run, before.rules)
        heads = await self._heads(now_s)
        if await self._follow_genesis(heads, providers):
            heads = await self._heads(now_s)
        newer = [received for received in heads if isinstance(received.record, Head)]
        newer = [received for received in newer if self.charter.newer(_head(received))]
        for received in sorted(newer, key=lambda received: _order(_head(received)), reverse=True):
            try:
                self._take(await _adopted(self._library, self.charter, received.envelope, providers))
                break
            except UnavailableError as error:
                what = f"the curators' head {_head(received).version} is in force, and nobody serves what it names"
                hint = "Try again when more peers are there; what was in force before may have been revoked"
                raise UnavailableError(what, str(error), hint) from error
            except VerificationError as error:
                self._refuse(f"a head of {received.record.signer} is not followed: {error}")
        return self.charter != before

    async def _heads(self, now_s: float) -> list[Received]:
        """Heads that hold by what is known now; those of versions nobody here knows yet are among them."""
        run, found = self.charter.run, []
        for data in await self._library.envelopes("head", run):
            with suppress(VerificationError):
                found.append(check_record(data, now_s, {run: self.charter.rules}))
        return [received for received in found if isinstance(received.record, Head) and received.record.run == run]

    async def _follow_genesis(self, heads: list[Received], providers: Sequence[str]) -> bool:
        """Whether one of the heads led to a newer version of the genesis."""
        curators, known = set(self.charter.genesis.curators.keys), set(self.charter.versions)
        trusted = [_head(received).genesis for received in heads if received.signers & curators]
        foreign = [_head(received).genesis for received in heads if not received.signers & curators]
        untried = [digest for digest in dict.fromkeys(foreign) if digest not in known | self._tried]
        if not untried:
            self._tried.clear()
        before = self.charter
        for digest in dict.fromkeys((*trusted, *untried[:STRANGERS_FOLLOWED])):
            if digest in self.charter.versions:
                continue
            self._tried.add(digest)
            try:
                self._take(await _later(self._library, self.charter, digest, providers))
            except (VerificationError, UnavailableError) as error:
                self._refuse(f"genesis {digest[:19]}… is not followed: {error}")
        return self.charter != before

    def _take(self, charter: Charter) -> None:
        if charter != self.charter:
            if charter.envelope:
                self._library.store.put_bytes(charter.envelope)
            _remember(self._memory, charter)
        self.charter = charter
        self._library.know(charter.run, charter.rules)

    def _refuse(self, why: str) -> None:
        self.troubles.append(why)
        log.info("%s", why)


async def follow_curators(
    library: Library,
    run: str,
    memory: Path,
    now_s: float,
    providers: Sequence[str] = (),
    hints: Sequence[str] | None = None,
) -> Governance:
    """What is in force in a run, from its key: recalled and brought up to date.

    Args:
        library: Store and network.
        run: Run id.
        memory: Folder in which this home keeps what it has seen of the run's curators.
        now_s: UNIX seconds.
        providers: Peers to ask for blobs.
        hints: Addresses the key and the settings name, for the words of an error.

    Raises:
        UnavailableError: the genesis, or what a head in force names, is nowhere to be had.
        SignatureError: the genesis is not signed by the curators it names.
        RecordError: this version cannot train what it describes.
        NetworkError: the network does not answer.
    """
    genesis = await load_genesis(library, run, providers, hints)
    governance = await Governance.recall(library, run, genesis, memory, providers)
    await governance.refresh(now_s, providers)
    return governance


async def _later(library: Library, charter: Charter, digest: str, providers: Sequence[str]) -> Charter:
    """Walk back from a version of the genesis to the newest known one, then check them forward, one by one.

    Raises:
        VerificationError: it does not follow from the known one; this version of paris-node cannot train it.
        UnavailableError: nobody serves one of them.
    """
    fetched: list[str] = []
    try:
        for data in reversed(await _back_to(library, charter, digest, providers, fetched)):
            charter = charter.succeed(data)
        require_trainable(charter.genesis)
    except VerificationError:
        for useless in fetched:
            library.store.remove(useless)
        raise
    return charter


async def _back_to(
    library: Library, charter: Charter, digest: str, providers: Sequence[str], fetched: list[str]
) -> list[bytes]:
    """Versions from `digest` back to the newest known one; what was not in the store before is noted in `fetched`."""
    newest_first: list[bytes] = []
    cursor: str | None = digest
    expected: int | None = None
    while cursor != charter.digest:
        if not library.store.path(str(cursor)):
            fetched.append(str(cursor))
        data = await library.blob(str(cursor), providers)
        genesis = Genesis.parse(envelope.verify(data, "genesis").payload)
        known, most = charter.genesis.version, LIMITS.genesis_versions
        if genesis.version != (expected or genesis.version) or not known < genesis.version <= most:
            why = f"it leads to version {genesis.version}; version {known} is known, and at most {most} are followed"
            raise LineageError("this genesis does not follow from the one that is known", why)
        newest_first.append(data)
        cursor, expected = genesis.prev, genesis.version - 1
    return newest_first


async def _adopted(library: Library, charter: Charter, data: bytes, providers: Sequence[str]) -> Charter:
    """Take over a head with what it names."""
    head = Head.parse(envelope.verify(data, "head").payload)
    listed = await library.blob(head.admission, providers) if head.admission else None
    ensemble = await library.blob(head.ensemble, providers) if head.ensemble else None
    return charter.adopt(data, listed, ensemble)


async def _recalled(library: Library, charter: Charter, note: _Note, providers: Sequence[str]) -> Charter:
    for digest in note.versions[1:]:
        charter = charter.succeed(await library.blob(digest, providers))
    if note.head is None:
        return replace(charter, floor=note.floor)
    return await _adopted(library, charter, note.head, providers)


@dataclass(frozen=True)
class _Note:
    """What the memory says of one charter."""

    versions: tuple[str, ...]
    floor: int
    head: bytes | None

    @classmethod
    def parse(cls, data: bytes) -> _Note:
        fields = strict_json.loads(data, LIMITS.blob_bytes)
        versions, floor, head = fields.get("versions"), fields.get("floor"), fields.get("head")
        whole = isinstance(versions, list) and versions and all(map(digests.is_digest, versions))
        if not whole or not isinstance(floor, int) or not isinstance(head, dict | None):
            raise EnvelopeError("this holds no charter", "its form is another")
        return cls(tuple(map(str, versions or ())), floor, strict_json.dumps(head) if head else None)


def _newest(memory: Path) -> _Note | None:
    """The newest note that can be read."""
    for path in sorted(memory.glob("charter-*.json"), reverse=True):
        try:
            return _Note.parse(path.read_bytes())
        except (OSError, EnvelopeError) as error:
            log.warning("%s is passed over: %s", path, error)
    return None


def _remember(memory: Path, charter: Charter) -> None:
    """Write a charter down; what is older than it goes."""
    head = json.loads(charter.envelope) if charter.envelope else None
    note = strict_json.dumps({"versions": list(charter.versions), "floor": charter.floor, "head": head})
    path = memory / f"charter-{len(charter.versions):03}-{charter.floor:016}.json"
    write_bytes(path, note)
    for older in memory.glob("charter-*.json"):
        if older.name < path.name:
            older.unlink(missing_ok=True)


def _head(received: Received) -> Head:
    assert isinstance(received.record, Head)
    return received.record


def _order(head: Head) -> tuple[int, int]:
    return head.version, head.exp
