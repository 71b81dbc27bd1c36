"""A client's host on the pure-Python libp2p: no daemon, no DHT, no server. Streams to any node, TCP with Noise only.

py-libp2p runs on trio, in a thread of its own; each stream is pumped to one end of a socket pair whose other end is an
asyncio reader and writer, so that everything above is the code the full node uses too.

Never in one process with hivemind: both register the protobuf package `crypto.pb`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import trio
from libp2p import new_host
from libp2p.crypto import ed25519, x25519
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from paris.protocol.errors import NetworkError, SignatureError
from paris.protocol.identity import Identity, public_key_of

logging.getLogger("libp2p").setLevel(logging.CRITICAL)  # it logs tracebacks of what is raised anyway

CONNECT_TIMEOUT_S = 10.0
MOST_ADDRESSES = 8
"""Most addresses remembered, and tried, of one peer."""
_READ_BYTES = 256 * 2**10
_RESET_S = 1.0
_TRANSPORTS = frozenset({"ip4", "ip6", "dns", "dns4", "dns6", "tcp"})


class LightHost:
    """Streams to peers by name, once their addresses are learned. Made by `open_host`.

    Attributes:
        peer_id: Our own name, a passing one.
    """

    def __init__(self, identity: Identity) -> None:
        self.peer_id = identity.peer_id
        self._identity = identity
        self._addresses: dict[str, dict[str, None]] = {}
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="py-libp2p", daemon=True)
        self._failure: BaseException | None = None
        self._host: Any = None
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._dialling: dict[str, trio.Lock] = {}

    def learn(self, addresses: Iterable[str]) -> None:
        """Remember where peers are. Addresses that are not TCP, or name no Ed25519 peer, are passed over."""
        for address in addresses:
            where, _, peer_id = address.rpartition("/p2p/")
            if _is_tcp(where) and _is_peer_id(peer_id):
                known = self._addresses.setdefault(peer_id, {})
                if len(known) < MOST_ADDRESSES:
                    known[where] = None

    def known(self) -> list[str]:
        """Peers whose addresses are known, in the order they were learned."""
        return list(self._addresses)

    async def stream(self, peer_id: str, protocol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a raw stream to a peer.

        Raises:
            NetworkError: Its address is not known, it cannot be reached by Noise over TCP, is somebody else, or does
                not speak the protocol.
        """
        loop = asyncio.get_running_loop()
        opened: asyncio.Future[str] = loop.create_future()

        def settle(trouble: str) -> None:
            if not opened.done():
                opened.set_result(trouble)

        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self._in_trio(
            self._carry, peer_id, protocol, theirs, lambda trouble: loop.call_soon_threadsafe(settle, trouble)
        )
        try:
            trouble = await opened
        except BaseException:
            ours.close()
            raise
        if trouble:
            ours.close()
            raise NetworkError(f"{peer_id} cannot be reached", trouble)
        return await asyncio.open_connection(sock=ours)

    def _in_trio(self, run: Callable[..., Any], *arguments: Any) -> None:
        assert self._token
        assert self._nursery
        self._token.run_sync_soon(self._nursery.start_soon, run, *arguments)

    async def start(self) -> None:
        """Start the thread.

        Raises:
            NetworkError: py-libp2p does not start.
        """
        self._thread.start()
        await asyncio.to_thread(self._started.wait)
        if self._failure:
            raise NetworkError("the light client did not start", f"{self._failure!r}")

    async def close(self) -> None:
        """End every stream and the thread."""
        if self._nursery and self._token and self._thread.is_alive():
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._nursery.cancel_scope.cancel)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        try:
            trio.run(self._live)
        except BaseException as error:  # noqa: BLE001 - whoever waits for the start is told
            self._failure = error
        finally:
            self._started.set()

    async def _live(self) -> None:
        keys = ed25519.create_new_key_pair(self._identity.seed)
        self._host = new_host(
            key_pair=keys,
            sec_opt={NOISE: Noise(keys, noise_privkey=x25519.create_new_key_pair().private_key)},
            muxer_opt={TProtocol(YAMUX): Yamux},
        )
        async with self._host.run(listen_addrs=[]), trio.open_nursery() as self._nursery:
            self._token = trio.lowlevel.current_trio_token()
            self._started.set()
            await trio.sleep_forever()

    async def _carry(self, peer_id: str, protocol: str, theirs: socket.socket, report: Callable[[str], object]) -> None:
        """Open a stream and pump both ways until either side ends."""
        trouble = "the light client was closed"
        async with trio.SocketStream(trio.socket.from_stdlib_socket(theirs)) as local:
            try:
                stream = await self._open(peer_id, protocol)
                trouble = ""
            except Exception as error:  # noqa: BLE001 - py-libp2p raises whatever its parts raise
                trouble = _words(error)
            finally:
                report(trouble)
            if not trouble:
                await _pump(stream, local)

    async def _open(self, peer_id: str, protocol: str) -> Any:
        peer = ID.from_base58(peer_id)
        with trio.move_on_after(CONNECT_TIMEOUT_S):
            async with self._dialling.setdefault(peer_id, trio.Lock()):
                if not any(not known.is_closed for known in self._host.get_network().get_connections(peer)):
                    await self._dial(peer, peer_id)
            return await self._host.new_stream(peer, [TProtocol(protocol)])
        raise NetworkError(f"no answer in {CONNECT_TIMEOUT_S:g} s")

    async def _dial(self, peer: ID, peer_id: str) -> None:
        """Connect by the first address that answers under the right name; py-libp2p itself would try only one."""
        troubles: list[str] = []

        async def dial(where: str) -> None:
            try:
                await self._host.get_network().dial_addr(Multiaddr(where), peer)
            except Exception as error:  # noqa: BLE001 - as above
                troubles.append(f"{where}: {_words(error)}")
            else:
                dials.cancel_scope.cancel()

        addresses = self._addresses.get(peer_id, {})
        async with trio.open_nursery() as dials:
            for where in addresses:
                dials.start_soon(dial, where)
        if len(troubles) == len(addresses):
            raise NetworkError("; ".join(troubles) or "no address of it is known")


@contextlib.asynccontextmanager
async def open_host(identity: Identity, addresses: Iterable[str] = ()) -> AsyncIterator[LightHost]:
    """A host that lives as long as the block.

    Args:
        identity: A passing name; nobody else may have it.
        addresses: Multiaddrs with `/p2p/<peer id>` of nodes to begin with.

    Raises:
        NetworkError: py-libp2p does not start.
    """
    host = LightHost(identity)
    host.learn(addresses)
    await host.start()
    try:
        yield host
    finally:
        await host.close()


async def _pump(stream: Any, local: trio.SocketStream) -> None:
    """Carry bytes both ways. Our side ends it: then nothing more is wanted, and the other side is told to stop."""
    try:
        async with trio.open_nursery() as both:
            both.start_soon(_pump_in, stream, local)
            with contextlib.suppress(Exception):
                async for data in local:
                    await stream.write(data)
            both.cancel_scope.cancel()
    finally:
        with trio.CancelScope(deadline=trio.current_time() + _RESET_S, shield=True), contextlib.suppress(Exception):
            await stream.reset()


async def _pump_in(stream: Any, local: trio.SocketStream) -> None:
    with contextlib.suppress(Exception):  # its end has many names in py-libp2p; what is missing, the reader counts
        while data := await stream.read(_READ_BYTES):
            await local.send_all(data)
    with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await local.send_eof()


def _is_tcp(where: str) -> bool:
    try:
        return {part.name for part in Multiaddr(where).protocols()} <= _TRANSPORTS
    except ValueError:
        return False


def _is_peer_id(text: str) -> bool:
    try:
        public_key_of(text)
    except SignatureError:
        return False
    return True


def _words(error: BaseException) -> str:
    """Words for an error of py-libp2p, whose reason often lies in what caused it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
