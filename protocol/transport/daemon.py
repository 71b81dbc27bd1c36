"""The libp2p daemon (p2pd) under a node: starting, stopping, meeting others by address."""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paris.protocol.errors import NetworkError, UsageError
from paris.protocol.identity import public_key_of
from paris.protocol.transport.libp2p import P2P, ControlFailure, Multiaddr, P2PDaemonError, PeerID, connect

More = Callable[[], Awaitable[Sequence[str]]]
"""Names further addresses, where it takes a while to find them."""
CONNECT_TIMEOUT_S = 10.0
MOST_DIALS = 32
"""Connections tried at once: home routers and proxies give up on more."""
MOST_PLACES = 4
"""Addresses of one peer that are tried."""
IDLE_TIMEOUT_S = 5.0
"""A daemon whose process was killed ends by itself after this time."""
PATIENCE_S = 30.0
"""Longest time for one operation through the daemon; a daemon that died may leave its callers without any answer."""
_END_GRACE_S = 5.0
_PLACE = re.compile(r"/(?:ip4|ip6|dns|dns4|dns6)/[^/]{1,253}/tcp/\d{1,5}/p2p/(\w{1,64})", re.ASCII)
_IN_OWN_SESSION = (
    *(sys.executable, "-I", "-S", "-c"),
    "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])",
)


def parse_address(address: str) -> Any:
    """The multiaddr of a text.

    Raises:
        UsageError: It is none.
    """
    try:
        return Multiaddr(address)
    except ValueError as error:
        hint = "an address reads like /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW..."
        raise UsageError(f"{address!r} is no network address", str(error), hint) from error


def peer_of(address: str) -> Any:
    """The peer a multiaddr ends at.

    Raises:
        SignatureError: It names no Ed25519 peer.
    """
    peer_id = address.rpartition("/p2p/")[2]
    public_key_of(peer_id)
    return PeerID.from_base58(peer_id)


def dialable(peer_id: str, addresses: Iterable[str]) -> tuple[str, ...]:
    """Those of a stranger's addresses that can be tried: TCP, ending in the stranger's own name, at most `MOST_PLACES`.

    A record is signed by whom it names, so an address in it that ends in another name is a lie or a mistake.
    """
    fitting = (text for text in addresses if (form := _PLACE.fullmatch(text)) and form[1] == peer_id)
    return tuple(itertools.islice((text for text in fitting if _is_address(text)), MOST_PLACES))


def _is_address(text: str) -> bool:
    try:
        parse_address(text)
    except UsageError:
        return False
    return True


async def start_daemon(
    identity_path: Path | None,
    listen: str = "/ip4/127.0.0.1/tcp/0",
    announce: Sequence[str] = (),
    *,
    client_mode: bool = False,
    nat_traversal: bool = False,
) -> P2P:
    """Start a daemon; without a key file it has a passing name.

    Raises:
        NetworkError: It does not start.
    """
    started: list[P2P] = []

    class Daemon(P2P):
        """Remembers itself, because a failed `create` leaves its child process to nobody.

        Its process leads a session of its own: Ctrl-C in a terminal reaches the whole process group, and a node that
        is told to stop still needs its daemon to publish.
        """

        def __init__(self) -> None:
            super().__init__()
            started.append(self)

        @staticmethod
        def _make_process_args(*args: Any, **kwargs: Any) -> list[str]:
            return [*_IN_OWN_SESSION, *P2P._make_process_args(*args, **kwargs)]  # noqa: SLF001 - no other hook

    try:
        return await Daemon.create(
            identity_path=identity_path and str(identity_path),
            host_maddrs=[listen],
            announce_maddrs=list(announce) or None,
            dht_mode="client" if client_mode else "server",
            check_if_identity_free=False,
            idle_timeout=IDLE_TIMEOUT_S,
            tls=False,  # Noise remains: one security protocol, which the light client speaks too
            auto_nat=nat_traversal,
            nat_port_map=nat_traversal,
            use_relay=nat_traversal,
            use_auto_relay=nat_traversal,
        )
    except (P2PDaemonError, OSError) as error:
        for daemon in started:
            await daemon.shutdown()
        hint = "see that the port is free and the address belongs to this machine"
        raise NetworkError(f"the libp2p daemon did not start on {listen}", reason(error), hint) from error


async def stop_daemon(p2p: P2P) -> None:
    """Stop a daemon, by force if it does not listen, and leave no files behind."""
    try:
        async with asyncio.timeout(_END_GRACE_S):
            await p2p.shutdown()
    except TimeoutError:
        p2p._child.kill()  # noqa: SLF001 - P2P only asks
        await p2p._child.wait()  # noqa: SLF001 - as above
    control = p2p._client.control  # noqa: SLF001 - where the daemon died, its tasks did too, and nobody asks how
    await asyncio.gather(control._read_task, control._write_task, return_exceptions=True)  # noqa: SLF001
    _remove_sockets(p2p)


@asynccontextmanager
async def bounded(p2p: P2P, what: str, limit_s: float) -> AsyncIterator[None]:
    """Let what is done through a daemon fail in words and in time.

    Args:
        p2p: The daemon.
        what: What fails if it fails, one sentence without its final stop.
        limit_s: Longest time.

    Raises:
        NetworkError: The daemon has ended, refuses, or does not answer in time.
    """
    code = p2p._child.returncode  # noqa: SLF001 - P2P tells nobody that its child ended
    if code is not None:
        raise NetworkError(what, f"this node's libp2p daemon ended with code {code}", "start the node again")
    try:
        async with asyncio.timeout(limit_s):
            yield
    except TimeoutError as error:
        raise NetworkError(what, f"no answer came through the libp2p daemon in {limit_s:g} s") from error
    except (P2PDaemonError, OSError, EOFError) as error:  # P2PDaemonError includes ControlFailure
        raise NetworkError(what, reason(error)) from error


def _remove_sockets(p2p: P2P) -> None:
    for address in (p2p._daemon_listen_maddr, p2p._client_listen_maddr):  # noqa: SLF001 - it leaves these files behind
        Path(address.value_for_protocol("unix")).unlink(missing_ok=True)


@dataclass(frozen=True)
class Dial:
    """What came of one attempt to meet a node.

    Attributes:
        address: Its multiaddr.
        trouble: Why it failed, in words; empty where the node answered under the name the address gives.
    """

    address: str
    trouble: str = ""

    @property
    def answered(self) -> bool:
        """Whether we are connected now."""
        return not self.trouble


async def meet(p2p: P2P, addresses: Sequence[str]) -> list[Dial]:
    """Connect to nodes by address, `MOST_DIALS` at a time.

    Returns:
        One attempt for each address, in their order.
    """
    room = asyncio.Semaphore(MOST_DIALS)

    async def attempt(address: str) -> Dial:
        peer = peer_of(address)
        transport = parse_address(address.partition("/p2p/")[0])
        try:
            async with room, asyncio.timeout(CONNECT_TIMEOUT_S):
                await connect(p2p, peer, transport)
        except TimeoutError:
            return Dial(address, f"no answer in {CONNECT_TIMEOUT_S:g} s")
        except (ControlFailure, OSError) as error:
            return Dial(address, _in_words(reason(error), str(transport)))
        return Dial(address)

    return list(await asyncio.gather(*map(attempt, dict.fromkeys(addresses))))


async def first_contact(p2p: P2P, addresses: Sequence[str], more: More | None = None) -> list[Dial]:
    """Meet nodes by address; where none of them answers, also those that `more` names."""
    dials = await meet(p2p, addresses)
    if more and not any(dial.answered for dial in dials):
        tried = {dial.address for dial in dials}
        dials += await meet(p2p, [address for address in await more() if address not in tried])
    return dials


_DIAL_WORDS = (
    ("connection refused", "refused: the machine is there, and no node listens at this port"),
    ("deadline exceeded", "timed out: something listens there and says nothing"),
    ("i/o timeout", "timed out: nothing answers at this address"),
    ("no route to host", "no way there: the machine is off, or a firewall is between"),
    ("network is unreachable", "no way there: this machine has no network"),
    ("no good addresses", "its name is not known to the name service, or this is no TCP address"),
    ("dial to self", "this is our own address"),
    ("dial backoff", "did not answer a moment ago"),
)
_OTHER_PEER = re.compile(r"remote key matches (\w+)")


def _in_words(refusal: str, transport: str) -> str:
    """The daemon's refusal of one dial as a person would say it; it lists every address it knows of the peer."""
    own = next((line for line in refusal.splitlines() if f"[{transport}]" in line), refusal)
    if other := _OTHER_PEER.search(own):
        return f"wrong peer: {other[1]} answers there"
    return next((words for sign, words in _DIAL_WORDS if sign in own), own.rpartition("] ")[2].strip())


def reason(error: BaseException) -> str:
    """Words for an error that may have none."""
    return str(error) or type(error).__name__
