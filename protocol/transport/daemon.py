"""The libp2p daemon (p2pd) under a node: starting, stopping, meeting others by address."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paris.protocol.errors import NetworkError, UsageError
from paris.protocol.identity import public_key_of
from paris.protocol.transport.libp2p import P2P, ControlFailure, Multiaddr, P2PDaemonError, PeerID

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 10.0
IDLE_TIMEOUT_S = 5.0
"""A daemon whose process was killed ends by itself after this time."""


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
        """Remembers itself, because a failed `create` leaves its child process to nobody."""

        def __init__(self) -> None:
            super().__init__()
            started.append(self)

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
    """Stop a daemon and leave no files behind."""
    await p2p.shutdown()
    _remove_sockets(p2p)


def _remove_sockets(p2p: P2P) -> None:
    for address in (p2p._daemon_listen_maddr, p2p._client_listen_maddr):  # noqa: SLF001 - it leaves these files behind
        Path(address.value_for_protocol("unix")).unlink(missing_ok=True)


async def meet(p2p: P2P, addresses: Sequence[str]) -> list[str]:
    """Connect to nodes by address; returns the addresses that answered."""

    async def answers(address: str) -> bool:
        peer = peer_of(address)
        transport = parse_address(address.partition("/p2p/")[0])
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await p2p._client.connect(peer, [transport])  # noqa: SLF001 - P2P offers no connect
        except (ControlFailure, TimeoutError, OSError) as error:
            logger.info("%s did not answer: %s", address, reason(error))
            return False
        return True

    answered = await asyncio.gather(*(answers(address) for address in addresses))
    return [address for address, yes in zip(addresses, answered, strict=True) if yes]


def reason(error: BaseException) -> str:
    """Words for an error that may have none."""
    return str(error) or type(error).__name__
