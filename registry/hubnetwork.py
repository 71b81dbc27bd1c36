"""The network as the registry asks for it, with the Hub in it: beside peers, or where no peer is left, alone."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from paris.protocol import strict_json
from paris.protocol.errors import DigestError, NetworkError, UnavailableError, VerificationError
from paris.protocol.manifest import FileEntry
from paris.protocol.records import RECORD_KINDS, Checkpoint, Record, Tip, open_checkpoint
from paris.protocol.transport.fetch import Source, fetch_from
from paris.protocol.transport.rate import UNLIMITED, Throttle
from paris.protocol.validation import Received, RunRules, check_record
from paris.registry.hubindex import HUB, REPOSITORY
from paris.registry.hubreader import HubReader, Shelf
from paris.registry.library import Network, Progress, nobodys_tip

log = logging.getLogger(__name__)

RECORD_FILES = {"peer": "peers.json", "head": "heads.json"}
"""Files of signed records in a repository, by kind; each is {"v": 1, <name of the file>: [<envelope>, ...]}."""
RECORD_FILE_BYTES = 512 * 2**10
MOST_RECORDS = 64


class PeerNetwork(Network, Protocol):
    """A network of peers that can take pieces from elsewhere too."""

    async def fetch_file(
        self,
        entry: FileEntry,
        providers: Sequence[str],
        partial: Path,
        progress: Progress,
        mirrors: Sequence[Source] = (),
    ) -> str | None:
        """Complete `partial` from providers and mirrors at once."""


class HubNetwork:
    """The Hub alone. Records it has are those in its files, and a tip for every checkpoint in its repositories.

    Such a tip is nobody's word that the checkpoint is the newest: it says what the Hub holds, and whoever follows it
    verifies the signed statement behind it, and its lineage.

    Args:
        hub: The repositories.
        down: What everything fetched has to pass.
        clock: UNIX seconds.
    """

    def __init__(self, hub: HubReader, down: Throttle = UNLIMITED, clock: Callable[[], float] = time.time) -> None:
        self.hub = hub
        self._down, self._clock = down, clock
        self._rules: dict[str, RunRules] = {}

    async def records(self, kind: str, run: str, slot: str) -> list[Record]:
        """Records of one slot; none where the Hub cannot be asked."""
        if run != self.hub.run:
            return []
        if kind == Tip.kind:
            return list(await self._tips(slot))
        return [received.record for received in await self._filed(kind, slot)]

    async def envelopes(self, kind: str, run: str, slot: str) -> list[bytes]:
        """The same as signed bytes, where they are: nobody signed that the Hub holds a checkpoint."""
        return [received.envelope for received in await self._filed(kind, slot)] if run == self.hub.run else []

    def know(self, run: str, rules: RunRules) -> None:
        """Check records of a run by these rules from now on."""
        self._rules[run] = rules

    async def fetch_blob(self, digest: str, _providers: Sequence[str]) -> bytes:
        """A small blob from any repository."""
        return await self.hub.blob(digest)

    async def fetch_file(self, entry: FileEntry, _providers: Sequence[str], partial: Path, progress: Progress) -> str:
        """Complete `partial` from every repository that has the file, at once."""
        sources = await self.hub.sources(entry.sha256)
        return await fetch_from(sources, entry, partial, progress, down=self._down)

    async def _tips(self, unit: str) -> list[Tip]:
        shelves = await self.hub.shelves()
        found = [(shelf, shelf.index.units[unit]) for shelf in shelves if shelf.index and unit in shelf.index.units]
        digests = dict.fromkeys(newest.checkpoint for _, newest in found)
        checkpoints = dict(zip(digests, await asyncio.gather(*map(self._checkpoint, digests)), strict=True))
        tips: dict[str, Tip] = {}
        for shelf, newest in found:
            checkpoint = checkpoints[newest.checkpoint]
            if checkpoint and checkpoint.unit == unit and checkpoint.run == self.hub.run:
                now_s, ext = int(self._clock()), {HUB: shelf.repository}
                tips.setdefault(newest.checkpoint, nobodys_tip(newest.checkpoint, checkpoint, now_s, **ext))
        return list(tips.values())

    async def _checkpoint(self, digest: str) -> Checkpoint | None:
        try:
            return open_checkpoint(await self.hub.blob(digest))
        except (NetworkError, VerificationError) as error:
            log.info("a checkpoint on the Hub is left out: %s", error)
            return None

    async def _filed(self, kind: str, slot: str) -> list[Received]:
        """Records that lie in files and hold now, the newest of every signer."""
        newest: dict[str, Received] = {}
        for shelf in await self.hub.shelves() if kind in RECORD_FILES and not slot else ():
            for envelope in await self._envelopes(shelf, kind):
                try:
                    received = check_record(envelope, self._clock(), self._rules)
                except VerificationError:
                    continue
                record, known = received.record, newest.get(received.record.signer)
                if (record.kind, record.run) == (kind, self.hub.run) and (not known or record.seq > known.record.seq):
                    newest[record.signer] = received
        return [newest[signer] for signer in sorted(newest)]

    async def _envelopes(self, shelf: Shelf, kind: str) -> list[bytes]:
        name = RECORD_FILES[kind]
        if not shelf.index or name not in shelf.index.files:
            return []
        try:
            return envelopes_in(await self.hub.file(shelf, name, RECORD_FILE_BYTES), kind)
        except (NetworkError, VerificationError) as error:
            log.info("%s of %s is left out: %s", name, shelf.name, error)
            return []


class WithHub:
    """Peers first, and the Hub beside them.

    Records of both count; of a file, peers and repositories send pieces at once; a small blob comes from the Hub where
    no peer gives it.

    Args:
        peers: The network of peers.
        hub: The Hub.
    """

    def __init__(self, peers: PeerNetwork, hub: HubNetwork) -> None:
        self._peers, self._hub = peers, hub

    async def records(self, kind: str, run: str, slot: str) -> list[Record]:
        """Records of peers, and what only the Hub knows; peers that cannot be reached are missed only if both are."""
        asked = asyncio.create_task(self._hub.records(kind, run, slot))
        trouble: NetworkError | None = None
        try:
            found = await self._peers.records(kind, run, slot)
        except NetworkError as error:
            found, trouble = [], error
        more = await asked
        if self._hub.hub.learn(repositories_in(found)):
            more = await self._hub.records(kind, run, slot)
        if trouble and not more:
            raise trouble
        known = {record.checkpoint for record in found if isinstance(record, Tip)} | {record.signer for record in found}
        tips = [record for record in more if isinstance(record, Tip) and record.checkpoint not in known]
        others = [record for record in more if not isinstance(record, Tip) and record.signer not in known]
        return [*found, *tips, *others]

    async def envelopes(self, kind: str, run: str, slot: str) -> list[bytes]:
        """Signed records of both."""
        asked = asyncio.create_task(self._hub.envelopes(kind, run, slot))
        try:
            found = await self._peers.envelopes(kind, run, slot)
        except NetworkError:
            if more := await asked:
                return more
            raise
        return list(dict.fromkeys((*found, *await asked)))

    def know(self, run: str, rules: RunRules) -> None:
        """Check records of a run by these rules from now on."""
        self._peers.know(run, rules)
        self._hub.know(run, rules)

    async def fetch_blob(self, digest: str, providers: Sequence[str]) -> bytes:
        """A small blob, from a peer or else from the Hub."""
        try:
            return await self._peers.fetch_blob(digest, providers)
        except (NetworkError, DigestError) as error:
            try:
                return await self._hub.fetch_blob(digest, providers)
            except NetworkError as also:
                kind = DigestError if isinstance(error, DigestError) else UnavailableError
                raise kind(error.what, f"{error.why} {also}".strip(), error.hint) from error

    async def fetch_file(
        self, entry: FileEntry, providers: Sequence[str], partial: Path, progress: Progress
    ) -> str | None:
        """Complete `partial` from peers and repositories at once; a busy Hub is waited for only where peers fail."""
        mirrors = await self._hub.hub.sources(entry.sha256, patient=not providers)
        try:
            return await self._peers.fetch_file(entry, providers, partial, progress, mirrors)
        except UnavailableError:
            later = [] if mirrors else await self._hub.hub.later_sources(entry.sha256)
            if not later:
                raise
            return await self._peers.fetch_file(entry, (), partial, progress, later)


def repositories_in(records: Iterable[Record]) -> list[str]:
    """Repositories that tips name, each once."""
    named = [record.ext.get(HUB) for record in records if isinstance(record, Tip)]
    return list(dict.fromkeys(name for name in named if isinstance(name, str) and REPOSITORY.fullmatch(name)))


def record_file(kind: str, envelopes: Sequence[bytes]) -> bytes:
    """The bytes of a file of signed records."""
    items = [strict_json.loads(envelope, RECORD_FILE_BYTES) for envelope in envelopes][:MOST_RECORDS]
    return strict_json.dumps({"v": 1, RECORD_FILES[kind].removesuffix(".json"): items})


def envelopes_in(data: bytes, kind: str) -> list[bytes]:
    """The envelopes in a file of records, each still to be verified.

    Raises:
        EnvelopeError: It is no such file.
    """
    assert kind in RECORD_KINDS
    listed = strict_json.loads(data, RECORD_FILE_BYTES).get(RECORD_FILES[kind].removesuffix(".json"))
    items = listed[:MOST_RECORDS] if isinstance(listed, list) else []
    return [strict_json.dumps(item) for item in items if isinstance(item, dict)]
