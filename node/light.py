"""Reading a run without being a member of its network: nodes are asked one by one, and every answer is verified here.

For where hivemind has no wheel, and for who wants neither a daemon nor a place in the DHT. Nothing this module imports
when it is used may import hivemind: see `paris.protocol.transport.light`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from paris.node.console import err
from paris.node.home import Home
from paris.node.hubaccess import addresses_on, open_hub, require_alone
from paris.node.settings import Settings
from paris.protocol.book import RecordBook
from paris.protocol.errors import (
    BootstrapError,
    NetworkError,
    ParisError,
    RecordError,
    SignatureError,
    UsageError,
    VerificationError,
)
from paris.protocol.identity import Identity
from paris.protocol.manifest import FileEntry
from paris.protocol.records import Peer, Record, record_key
from paris.protocol.skew import CURE
from paris.protocol.transport import fetch
from paris.protocol.transport.courtesy import Courtesy
from paris.protocol.transport.rate import UNLIMITED, Throttle
from paris.protocol.transport.records import MOST_SLOTS, RecordStream, skew_beside
from paris.protocol.transport.streams import STALL_S, Streams
from paris.protocol.validation import UNKNOWN_RUN, RunRules, check_record
from paris.registry.hubnetwork import HubNetwork, PeerNetwork, WithHub
from paris.registry.library import Library, Network, Progress
from paris.registry.offline import OfflineNetwork
from paris.registry.runkey import RunKey

log = logging.getLogger(__name__)

MOST_ASKED = 4
"""How many nodes one question goes to: one that hides records hides nothing while another shows them."""
_STREAMS_PER_NODE = 4


class Host(Streams, Protocol):
    """Streams to peers whose addresses it is told."""

    def learn(self, addresses: Iterable[str]) -> None:
        """Remember where peers are."""

    def known(self) -> list[str]:
        """Peers whose addresses are known, in the order they were learned."""


class LightNetwork:
    """The network as `paris.registry` asks for it, made of nodes that answer `/paris/record/1.0.0`.

    Contract: what a node sends is verified record by record and remembered in one book, as a member of the DHT would.
    A node that sends what no honest one could hand over is named and not asked again while others are left.

    Args:
        host: Streams to nodes; it knows the addresses of the first.
        down: What every blob has to pass.
        clock: UNIX seconds.
        patience_s: Longest time a node may take over one answer, or over 256 KiB of a blob.
    """

    def __init__(
        self,
        host: Host,
        down: Throttle = UNLIMITED,
        clock: Callable[[], float] = time.time,
        patience_s: float = STALL_S,
    ) -> None:
        self.book = RecordBook()
        self._host, self._down, self._clock, self._patience_s = host, down, clock, patience_s
        self._questions: dict[tuple[str, str], _Question] = {}
        self._room: dict[str, asyncio.Semaphore] = {}
        self._failed: set[str] = set()
        self._courtesy = Courtesy()

    async def records(self, kind: str, run: str, slot: str) -> list[Record]:
        """Return the newest valid record of every signer in one slot; slots asked for together travel together.

        Raises:
            NetworkError: no node answers.
        """
        await self._look(kind, run, slot)
        found = (received.record for received in self.book.slot(record_key(kind, run, slot), self._clock()))
        return sorted(found, key=lambda record: record.signer)

    async def envelopes(self, kind: str, run: str, slot: str) -> list[bytes]:
        """Return the same as signed bytes.

        Raises:
            NetworkError: no node answers.
        """
        await self._look(kind, run, slot)
        return [received.envelope for received in self.book.slot(record_key(kind, run, slot), self._clock())]

    def know(self, run: str, rules: RunRules) -> None:
        """Check records of a run by these rules from now on."""
        self.book.know(run, rules)

    async def _look(self, kind: str, run: str, slot: str) -> None:
        """Ask for a slot, together with whatever else is being asked for now."""
        question = self._questions.get((kind, run))
        if question is None or len(question.slots) >= MOST_SLOTS:
            question = self._questions[kind, run] = _Question(kind, run)
            question.answered = asyncio.create_task(self._ask(question))
        question.slots.append(slot)
        assert question.answered
        await asyncio.shield(question.answered)

    async def fetch_blob(self, digest: str, providers: Sequence[str]) -> bytes:
        """Return a small blob; every node we know is asked after the named providers."""
        everybody = self._everybody(providers)
        return await fetch.fetch_blob(
            self._host, digest, everybody, down=self._down, stall_s=self._patience_s, courtesy=self._courtesy
        )

    async def fetch_file(
        self,
        entry: FileEntry,
        providers: Sequence[str],
        partial: Path,
        progress: Progress,
        mirrors: Sequence[fetch.Source] = (),
    ) -> str:
        """Complete `partial` from several providers at once; return the digest of the whole, hashed on the way."""
        everybody = self._everybody(providers)
        return await fetch.fetch_file(
            self._host,
            entry,
            everybody,
            partial,
            progress,
            down=self._down,
            stall_s=self._patience_s,
            mirrors=mirrors,
        )

    def _everybody(self, first: Sequence[str]) -> list[str]:
        return list(dict.fromkeys((*first, *self._host.known())))

    async def _ask(self, question: _Question) -> None:
        """Put a question to several nodes at once.

        Raises:
            NetworkError: none answers.
        """
        await asyncio.sleep(0)  # whoever asks in the same breath joins
        if self._questions.get((question.kind, question.run)) is question:
            del self._questions[question.kind, question.run]
        troubles = await asyncio.gather(*(self._hear(node, question) for node in self._nodes()))
        if all(troubles):
            why = " ".join(str(trouble) for trouble in troubles) or "no node is known"
            hint = "they may be off, or this machine has no way to them; give another with --peer /ip4/…/tcp/…/p2p/…"
            raise BootstrapError("no node answered the light client", why, hint)

    def _nodes(self) -> list[str]:
        known = self._host.known()
        return [node for node in known if node not in self._failed][:MOST_ASKED] or known[:MOST_ASKED]

    async def _hear(self, node: str, question: _Question) -> ParisError | None:
        """One node's answer goes into the book; what was wrong with it, if it was none."""
        try:
            async with (
                self._room.setdefault(node, asyncio.Semaphore(_STREAMS_PER_NODE)),
                await RecordStream.open(self._host, node) as stream,
            ):
                envelopes = await stream.ask(question.kind, question.run, question.slots, self._patience_s)
            for envelope in envelopes:
                self._consider(envelope, question, node)
        except (NetworkError, VerificationError) as error:
            self._failed.add(node)
            level = logging.WARNING if isinstance(error, VerificationError) else logging.INFO
            log.log(level, "%s is not asked again: %s", node, error)
            return error
        return None

    def _consider(self, envelope: bytes, question: _Question, node: str) -> None:
        """Remember a record that holds; one that expired on its way, or was replaced, is nobody's fault.

        Nor is what only those can refuse who know what the curators say: a node may know less of a run than we do.

        Raises:
            VerificationError: no honest node hands this over.
        """
        now_s = self._clock()
        try:
            question.check_place(check_record(envelope, now_s, {}).record)
        except RecordError as error:
            log.info("left out a record from %s: %s", node, error)
            return
        try:
            received = check_record(envelope, now_s, self.book.rules)
            self.book.offer(received, now_s)
        except (RecordError, SignatureError) as error:
            log.info("left out a record from %s: %s", node, error)
            return
        record = received.record
        if isinstance(record, Peer):
            self._host.learn(where for where in record.addrs if where.endswith(f"/p2p/{record.signer}"))


@dataclass
class _Question:
    """Slots of one kind and run that are asked for together."""

    kind: str
    run: str
    slots: list[str] = field(default_factory=list)
    answered: asyncio.Task[None] | None = None

    def check_place(self, record: Record) -> None:
        """Let a record pass that was asked for.

        Raises:
            VerificationError: it lies in another slot.
        """
        if (record.kind, record.run) != (self.kind, self.run) or record.slot not in self.slots:
            asked = f"asked for were {self.kind} records of {', '.join(filter(None, self.slots)) or 'the run'}"
            raise VerificationError(f"a foreign {record.kind} came as an answer", asked)


@asynccontextmanager
async def open_library(
    settings: Settings, key: RunKey, *, light: bool = False, offline: bool = False
) -> AsyncIterator[Library]:
    """The home's library with a network behind it for somebody who only reads: a client of the DHT, or the light one.

    The Hub is asked beside peers, and alone where no peer answers.

    Args:
        settings: Home, extra peers, limits.
        key: The run, with the addresses that came with it.
        light: Take the light one; it is taken anyway where hivemind is not installed.
        offline: Ask nobody, connect to nothing: what lies in the home must do.

    Raises:
        BootstrapError: nobody answers, and the Hub has nothing of the run.
        UsageError: the light client is not installed.
    """
    if offline:
        store = Home(settings.home).store
        yield Library(store, OfflineNetwork(store, key.run))
        return
    async with open_hub(settings, key) as hub, AsyncExitStack() as stack:
        network: Network = hub
        try:
            network = WithHub(await stack.enter_async_context(_peers(settings, key, hub, light=light)), hub)
        except BootstrapError as error:
            err.print(await require_alone(hub, error), markup=False)
        yield Library(Home(settings.home).store, network)


@asynccontextmanager
async def _peers(settings: Settings, key: RunKey, hub: HubNetwork, *, light: bool) -> AsyncIterator[PeerNetwork]:
    if light or _is_all_there_is():
        async with _open_light(settings, key, hub) as network:
            yield network
        return
    from paris.node.peer import open_peer  # noqa: PLC0415 - imports hivemind

    async with open_peer(settings, key, serve=False) as peer:
        yield peer.network


def _is_all_there_is() -> bool:
    if find_spec("hivemind"):
        return False
    err.print("hivemind is not installed here: nodes are asked directly, as with --light", markup=False)
    return True


@asynccontextmanager
async def _open_light(settings: Settings, key: RunKey, hub: HubNetwork) -> AsyncIterator[LightNetwork]:
    known = dict.fromkeys((*settings.asked_peers, *key.peers, *settings.peers))
    known = known or dict.fromkeys(await addresses_on(hub))
    if not known:
        hint = "this key names no peers: give one with --peer /ip4/…/tcp/…/p2p/…"
        raise BootstrapError("nobody is known who could be asked for this run", hint=hint)
    if not find_spec("libp2p"):
        hint = "Install it: pip install 'paris-node[light]'"
        raise UsageError("the light client is not installed", "the package libp2p is missing", hint)
    from paris.protocol.transport.light import open_host  # noqa: PLC0415 - only where it is used, see above

    async with open_host(Identity.from_seed(secrets.token_bytes(32)), known) as host:
        network = LightNetwork(host, Throttle(settings.down))
        network.book.know(key.run, UNKNOWN_RUN)  # as far as room for records goes, this is the one run that counts
        nodes = host.known()[:MOST_ASKED]
        _, skew = await asyncio.gather(network.records(Peer.kind, key.run, ""), skew_beside(host, nodes))
        if skew and skew.verdict != "ok":
            err.print(f"this machine's clock is {skew}. {CURE}", markup=False)
        yield network
