"""A node's place in the network: one libp2p daemon and one hivemind DHT node, inside this process.

The DHT is a hint service: a missing or false record may cost time, never integrity.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from paris.protocol.book import RecordBook
from paris.protocol.errors import NetworkError, UsageError
from paris.protocol.identity import Identity, public_key_of
from paris.protocol.records import Record, record_key
from paris.protocol.skew import Skew
from paris.protocol.transport.clock import measure_skew
from paris.protocol.transport.daemon import (
    CONNECT_TIMEOUT_S,
    PATIENCE_S,
    Dial,
    More,
    bounded,
    first_contact,
    meet,
    parse_address,
    peer_of,
    start_daemon,
    stop_daemon,
)
from paris.protocol.transport.guard import Guard
from paris.protocol.transport.ledger import Ledger
from paris.protocol.transport.libp2p import (
    DHTID,
    P2P,
    DHTNode,
    DHTRecord,
    MSGPackSerializer,
    Multiaddr,
    PeerID,
    connected_peers,
    open_stream,
)
from paris.protocol.transport.places import bind_places, place_of
from paris.protocol.transport.twin import refuse_twin
from paris.protocol.validation import Received, RunRules, check_record

logger = logging.getLogger(__name__)

REPLICAS = 10
SEARCH_S = 8.0
"""Longest search for records; what this node knows already must do then."""
_ASKED_AT_ONCE = 20  # as many as one search asks: peers who never answer cost one wait, not one after the other
_MEETING_S = 60.0  # further addresses may have to be found first


class Swarm:
    """A live node. Make one with `await Swarm.join(...)`, end it with `await swarm.close()` or `async with`.

    Attributes:
        peer_id: This node's name.
        book: Its memory of records; let it `know` a run when its genesis is known.
        dials: What came of meeting the first addresses.
        patience_s: Longest time for one operation; after it, NetworkError.
    """

    def __init__(self, p2p: P2P, node: DHTNode, guard: Guard, *, client_mode: bool) -> None:
        self.p2p = p2p
        self.peer_id: str = p2p.peer_id.to_base58()
        self.book = guard.book
        self.dials: list[Dial] = []
        self.patience_s = PATIENCE_S
        self._node, self._guard, self._client_mode = node, guard, client_mode
        self._journal: Ledger | None = None

    @classmethod
    async def join(
        cls,
        identity_path: Path,
        bootstrap: Sequence[str] = (),
        listen: str = "/ip4/127.0.0.1/tcp/0",
        announce: Sequence[str] = (),
        rules: Mapping[str, RunRules] | None = None,
        *,
        client_mode: bool = False,
        nat_traversal: bool = False,
        alone_with_key: bool = False,
        more: More | None = None,
        ledger: Path | None = None,
    ) -> Self:
        """Start a node and meet the network.

        Args:
            identity_path: Ed25519 key file (see `Identity.to_libp2p`).
            bootstrap: Multiaddrs with `/p2p/<peer id>` of nodes to meet first. If none answers, the node starts alone,
                `dials` says why, and `connect` may be tried again later.
            listen: TCP multiaddr to listen on; port 0 takes a free one. QUIC is never used: it was seen to truncate.
            announce: Addresses others should use, where they differ from the listening ones.
            rules: What is known of runs, by run id.
            ledger: File in which sequence numbers and evidence survive restarts; None: they do not.
            client_mode: Take part without storing or answering.
            nat_traversal: Port mapping, relays and AutoNAT.
            alone_with_key: Ask the network first and refuse to start where a live node answers to the same key.
            more: Further addresses to meet where none of `bootstrap` answers.

        Raises:
            UsageError: The key file cannot be read or used, an address is none, or the key is in use.
            NetworkError: The daemon does not start.
        """
        identity = _read_identity(identity_path)
        for address in (listen, *announce, *bootstrap):
            parse_address(address)
        dials: list[Dial] = []
        if alone_with_key and (bootstrap or more):
            dials = await refuse_twin(identity.peer_id, bootstrap, more)
            bootstrap, more = [dial.address for dial in dials if dial.answered], None
        p2p = await start_daemon(identity_path, listen, announce, client_mode=client_mode, nat_traversal=nat_traversal)
        guard = Guard(RecordBook(dict(rules or {}), own=identity.peer_id))
        journal = Ledger.open(ledger) if ledger else None
        try:
            if journal:
                journal.load(guard.book, time.time())
            node = await _start_node(p2p, guard, client_mode=client_mode)
        except BaseException:
            await stop_daemon(p2p)
            if journal:
                journal.close()
            raise
        guard.attach(node.protocol)
        bind_places(node.protocol)
        swarm = cls(p2p, node, guard, client_mode=client_mode)
        swarm._journal = journal
        try:
            met = await swarm._meet(partial(first_contact, p2p, bootstrap, more))
        except BaseException:
            await swarm.close()
            raise
        swarm.dials = list({dial.address: dial for dial in (*dials, *met)}.values())
        return swarm

    @property
    def addrs(self) -> list[str]:
        """Multiaddrs others can reach this node at, with its peer id; bootstrap hints for others."""
        return [str(address) for address in self._visible]

    @property
    def _visible(self) -> Iterable[Any]:
        suffix = Multiaddr(f"/p2p/{self.peer_id}")
        return [address.encapsulate(suffix) for address in self.p2p._visible_maddrs]  # noqa: SLF001 - its getter is async

    @property
    def refusals(self) -> list[str]:
        """The last records this node refused, as sentences, newest last."""
        return list(self._guard.refusals)

    async def connect(self, addresses: Sequence[str]) -> list[Dial]:
        """Meet nodes by address.

        Returns:
            What came of each.

        Raises:
            NetworkError: Our own daemon does not answer.
        """
        return await self._meet(partial(meet, self.p2p, addresses))

    async def _meet(self, meeting: Callable[[], Awaitable[list[Dial]]]) -> list[Dial]:
        """Take those that answer for neighbours in the DHT, whatever their clocks say."""
        what = "the network could not be joined"
        async with bounded(self.p2p, what, _MEETING_S):
            dials = await meeting()
        async with self._bounded(what):
            greeted = await asyncio.gather(*map(self._greet, dials))
            if any(dial.answered for dial in greeted):
                await self._node.find_nearest_nodes([self._node.node_id])
        return greeted

    async def _greet(self, dial: Dial) -> Dial:
        ping, peer = self._node.protocol.call_ping, peer_of(dial.address)
        if not dial.answered or await ping(peer) or await ping(peer):
            return dial
        return Dial(dial.address, "it is reached, and does not speak as a node of this network does")

    async def neighbours(self) -> list[str]:
        """Peer ids this node is connected to now, in the DHT or not.

        Raises:
            NetworkError: Our own daemon does not answer.
        """
        async with self._bounded("the connected peers could not be listed"):
            return [peer.to_base58() for peer in await connected_peers(self.p2p)]

    async def company(self) -> list[str]:
        """Peer ids of the DHT nodes this node is connected to now; none means it is alone.

        Raises:
            NetworkError: Our own daemon does not answer.
        """
        nodes = {peer.to_base58() for peer in self._node.protocol.routing_table.uid_to_peer_id.values()}
        return sorted(nodes & set(await self.neighbours()))

    async def skew(self) -> Skew | None:
        """How far our clock is from those of some connected nodes; None if there are none.

        Raises:
            NetworkError: Our own daemon does not answer.
        """
        company = await self.company()
        return await measure_skew(self._node.protocol, random.sample(company, len(company)))

    async def publish(self, envelope: bytes) -> Record:
        """Store a signed record in the DHT and see that it is there.

        For one signer and slot, every newer record (larger `seq`) must expire later than the one before it: the DHT
        keeps the record that expires last. Anybody may publish anybody's record; the signature travels with it.

        Raises:
            EnvelopeError: Not an envelope of a record kind.
            SignatureError: Not signed by its signer, or the signer is not admitted to claim.
            RecordError: Not valid now, or it could never replace the signer's record before it.
            NetworkError: The network did not keep it, or our own daemon does not answer.
        """
        now_s = time.time()
        received = check_record(envelope, now_s, self.book.rules)
        self._guard.book.offer(received, now_s)
        record = received.record
        async with self._bounded(f"our {record.kind} could not be published"):
            await self._node.store(
                received.key,
                envelope,
                float(record.exp),
                subkey=public_key_of(record.signer),
                exclude_self=self._client_mode,
            )
        kept = await self._find(received.key)
        if not any(other.digest == received.digest for other in kept):
            raise NetworkError(
                f"the network did not keep our {record.kind}",
                f"{self.reachable_peers()} peers are known and none returned it",
                "check the connection; it is worth trying again",
            )
        return record

    async def records(self, kind: str, run: str, slot: str = "") -> list[Record]:
        """The newest valid record of every signer in a slot, by signer: what the network has, and what this node knows.

        Records of signers who signed two under one sequence number are left out. What this node has seen and is still
        in force counts although nobody returns it now: peers can hide a record only from those who never saw it.

        Args:
            kind: Record kind.
            run: Run id.
            slot: A unit; empty for `peer`.

        Raises:
            NetworkError: Our own daemon does not answer.
        """
        found = await self._read(record_key(kind, run, slot))
        honest = [received for received in found if not self._guard.book.equivocation(received)]
        return sorted((received.record for received in honest), key=lambda record: record.signer)

    async def envelopes(self, kind: str, run: str, slot: str = "") -> list[bytes]:
        """What this node can show others of a slot: signed envelopes from the DHT and from its own memory.

        Args:
            kind: Record kind.
            run: Run id.
            slot: A unit; empty for `peer` and `head`.

        Raises:
            NetworkError: Our own daemon does not answer.
        """
        key = record_key(kind, run, slot)
        await self._read(key)
        return [received.envelope for received in self.book.slot(key, time.time())]

    def reachable_peers(self) -> int:
        """How many other DHT nodes this node knows and believes alive."""
        return len(self._node.protocol.routing_table.uid_to_peer_id)

    async def stream(self, peer_id: str, protocol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a raw stream to a peer.

        Raises:
            NetworkError: The peer cannot be reached or does not speak the protocol.
        """
        limit_s = min(CONNECT_TIMEOUT_S, self.patience_s)
        async with bounded(self.p2p, f"{peer_id} cannot be reached", limit_s):
            return await open_stream(self.p2p, PeerID.from_base58(peer_id), protocol)

    async def close(self) -> None:
        """Leave the network and stop the daemon, whatever state it is in."""
        refresh = self._node.cache_refresh_task
        if refresh is not None:
            refresh.cancel()
        try:
            async with self._bounded("this node left without a good-bye"):
                await self._node.shutdown()
        except NetworkError as error:
            logger.info("%s", error)
        finally:
            await stop_daemon(self.p2p)
            if self._journal:
                self._journal.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _bounded(self, what: str) -> AbstractAsyncContextManager[None]:
        return bounded(self.p2p, what, self.patience_s)

    async def _read(self, key: str) -> list[Received]:
        known = {received.record.signer: received for received in self.book.slot(key, time.time())}
        found = {received.record.signer: received for received in await self._find(key)}
        return list({**known, **found}.values())

    async def _find(self, key: str) -> list[Received]:
        """What the network returns; nothing, where peers who do not answer draw the search out."""
        async with self._bounded("the network could not be asked for records"):
            try:
                async with asyncio.timeout(SEARCH_S):
                    found = await self._node.get(key, latest=True)
            except TimeoutError:
                logger.info("a search was given up after %g s", SEARCH_S)
                return []
        if found is None or not isinstance(found.value, dict):
            return []
        place = DHTID.generate(key).to_bytes()
        entries = (
            DHTRecord(place, MSGPackSerializer.dumps(subkey), MSGPackSerializer.dumps(value), expiration)
            for subkey, (value, expiration) in found.value.items()
        )
        return [received for entry in entries if (received := self._guard.receive(entry))]


async def _start_node(p2p: P2P, guard: Guard, *, client_mode: bool) -> DHTNode:
    """A node that knows nobody: hivemind's own way to join would refuse clocks that are 3 s apart."""
    return await DHTNode.create(
        p2p=p2p,
        node_id=place_of(p2p.peer_id),
        num_replicas=REPLICAS,
        record_validator=guard,
        client_mode=client_mode,
        num_workers=_ASKED_AT_ONCE,
    )


def _read_identity(path: Path) -> Identity:
    try:
        return Identity.from_libp2p(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"the key file {path} cannot be read", str(error), "`paris-node key show` makes a key where there is none"
        ) from error
