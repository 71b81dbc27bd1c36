"""Serving the page until Ctrl-C: a socket, a server, the looks behind it, and all of it ended together."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import uvicorn

from paris.node.dashboard.board import Board
from paris.node.dashboard.watch import Watch
from paris.node.dashboard.web import make_app
from paris.protocol.errors import ResourceError, UsageError

LOOPBACK_NAMES: Final = ("127.0.0.1", "localhost", "[::1]")
GRACE_S: Final = 2


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        UsageError: there is no such host.
        ResourceError: the port is taken, or not ours to take.
    """
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except socket.gaierror as error:
        hint = "Leave --host out: the page is then for this machine alone."
        raise UsageError(f"{host!r} is no address of this machine", str(error.strerror or error), hint) from error
    try:
        return socket.create_server((str(where[0]), port), family=family)
    except OSError as error:
        hint = "Choose another with --port; --port 0 takes any that is free."
        raise ResourceError(f"port {port} of {host} cannot be used", error.strerror or str(error), hint) from error


def is_private(listening: socket.socket) -> bool:
    """Whether only this machine reaches a socket."""
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def names_of(listening: socket.socket, host: str) -> list[str]:
    """What a browser may call a page served there, best first, each with the port."""
    bound, port = listening.getsockname()[:2]
    named = f"[{host}]" if ":" in host else host.lower()
    other = [] if ipaddress.ip_address(bound).is_unspecified else [named]
    return [f"{name}:{port}" for name in dict.fromkeys((*other, *LOOPBACK_NAMES))]


async def serve(board: Board, watches: Sequence[Watch], listening: socket.socket, names: list[str]) -> None:
    """Serve until SIGINT or SIGTERM; a second one does not wait for open connections."""
    anywhere = ipaddress.ip_address(listening.getsockname()[0]).is_unspecified
    app = make_app(board, names, secrets.token_urlsafe(24), any_address=anywhere, draws=is_private(listening))
    server = _Server(
        uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="off", ws="none", server_header=False,
            proxy_headers=False, limit_concurrency=128, timeout_graceful_shutdown=GRACE_S,
        )
    )  # fmt: skip
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    looks = [asyncio.create_task(watch.run()) for watch in watches]
    try:
        await server.serve(sockets=[listening])
    finally:
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, board.close(), return_exceptions=True)


class _Server(uvicorn.Server):
    """A server that leaves signals to whoever runs it, and so does not die of them once it has ended."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave them alone."""
        yield

    def stop(self) -> None:
        """End soon; called again, at once."""
        self.force_exit = self.should_exit
        self.should_exit = True
