"""Nodes of the same run on the local network, by multicast DNS (RFC 6762, 6763): service `_paris-node._tcp.local.`.

The instance is named by the peer id; its TXT record carries `run` (the first 16 hex digits of the run) and `addr`,
`addr1` ... (multiaddrs). Anybody on the network can say anything there, so what is heard is a hint like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from zeroconf import Error, InterfaceChoice, IPVersion, ServiceInfo
from zeroconf.asyncio import AsyncServiceBrowser, AsyncZeroconf

from paris.protocol.errors import NetworkError
from paris.protocol.transport.daemon import MOST_PLACES, dialable, reason

log = logging.getLogger(__name__)

SERVICE = "_paris-node._tcp.local."
LOOK_S = 2.0
_ANSWER_MS = 1000
_RUN_DIGITS = 16
_LOOPBACK = "/ip4/127."
_NOWHERE = "127.0.0.1"  # the format wants an address; a node that announces names only says where it is in TXT


async def look(run: str, listen: str, own: str = "", limit_s: float = LOOK_S) -> tuple[str, ...]:
    """Addresses of nodes of a run that are heard, as soon as there is one.

    Args:
        run: The run's digest.
        listen: The address this node listens on; it is heard and asked only where it listens.
        own: This node's own name, which is left out.
        limit_s: Longest time.

    Raises:
        NetworkError: There is no multicast here.
    """
    names: asyncio.Queue[str] = asyncio.Queue()

    def heard(name: str, **_: Any) -> None:
        names.put_nowait(name)

    async with _multicast(listen) as zeroconf:
        browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[heard])
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    if found := await _address(zeroconf, await names.get(), run, own):
                        return found
        except TimeoutError:
            return ()
        finally:
            await browser.async_cancel()


@asynccontextmanager
async def beacon(run: str, peer_id: str, addrs: Sequence[str], listen: str) -> AsyncIterator[None]:
    """Be found while the block runs; where there is no multicast, go without."""
    places = sorted(addrs, key=lambda text: text.startswith(_LOOPBACK))[:MOST_PLACES]
    said = {"run": _digits(run)} | {f"addr{number or ''}": place for number, place in enumerate(places)}
    port = int(places[0].partition("/tcp/")[2].partition("/")[0])
    hosts = [place.split("/")[2] for place in places if place.startswith("/ip")]
    info = ServiceInfo(
        SERVICE,
        f"{peer_id}.{SERVICE}",
        port=port,
        properties=said,
        server=f"{peer_id}.local.",
        parsed_addresses=hosts or [_NOWHERE],
    )
    async with contextlib.AsyncExitStack() as stack:
        try:
            zeroconf = await stack.enter_async_context(_multicast(listen))
            await zeroconf.async_register_service(info, cooperating_responders=True)
        except (NetworkError, OSError, Error) as error:
            log.info("not announced on the local network: %s", reason(error))
        yield


async def _address(zeroconf: AsyncZeroconf, name: str, run: str, own: str) -> tuple[str, ...]:
    """The address an instance gives, if it is a node of the run."""
    peer_id = name.removesuffix(f".{SERVICE}")
    info = await zeroconf.async_get_service_info(SERVICE, name, timeout=_ANSWER_MS)
    said = info.decoded_properties if info else {}
    if peer_id == own or said.get("run") != _digits(run):
        return ()
    return dialable(peer_id, [said[key] or "" for key in sorted(said) if key.startswith("addr")])


@asynccontextmanager
async def _multicast(listen: str) -> AsyncIterator[AsyncZeroconf]:
    """Multicast DNS on the interfaces this node listens on."""
    host = listen.partition("/ip4/")[2].partition("/")[0]
    every = host in {"", "0.0.0.0"}  # noqa: S104 - compared, not bound
    try:
        zeroconf = AsyncZeroconf(InterfaceChoice.All if every else [host], ip_version=IPVersion.V4Only)
    except OSError as error:
        raise NetworkError("there is no multicast here", reason(error)) from error
    try:
        yield zeroconf
    finally:
        await zeroconf.async_close()


def _digits(run: str) -> str:
    return run.removeprefix("sha256:")[:_RUN_DIGITS]
