"""What stands before every request: other sites, other names and other methods do not get through.

The page is served on this machine, where every page of every site can send requests to it. So: the `Host` must be a
name it is served under (DNS rebinding); what other sites embed or send is refused (Fetch Metadata, `Origin`); whoever
changes anything must show a token that only the page itself was told; and nothing but the page's own files runs in it
(CSP).
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BODY_BYTES: Final = 16 * 2**10
HEADERS: Final = {
    "content-security-policy": (
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """An application behind these rules.

    Args:
        app: What is served.
        names: Values of `Host` it is served under, with the port.
        token: What whoever changes something must show in `X-Paris-Token`.
        any_address: Let every address by number pass as `Host`: for a page served at all addresses of a machine. A name
            that an attacker's DNS could point here is still refused.
    """

    def __init__(self, app: ASGIApp, names: Collection[str], token: str, *, any_address: bool = False) -> None:
        self._app, self._names, self._token = app, frozenset(names), token
        self._port = next(iter(self._names)).rpartition(":")[2] if any_address else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refused = self._refusal(scope["method"], scope["path"], Headers(scope=scope))
        answer: ASGIApp = PlainTextResponse(refused[1], refused[0]) if refused else self._app
        await answer(scope, receive, send_with_headers)

    def _refusal(self, method: str, path: str, headers: Headers) -> tuple[int, str] | None:
        """Status and sentence for what is refused."""
        host = headers.get("host", "").lower()
        if not self._serves(host):
            return 421, "This page is not served under that name."
        if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"} and path != "/":
            return 403, "Other sites may link to this page, and nothing else."
        return None if method in {"GET", "HEAD"} else self._refused_change(host, headers)

    def _refused_change(self, host: str, headers: Headers) -> tuple[int, str] | None:
        if headers.get("origin") != f"http://{host}":
            return 403, "Only the page itself may ask for this."
        if not hmac.compare_digest(headers.get("x-paris-token", "").encode(), self._token.encode()):
            return 403, "The page is from an earlier start: load it again."
        length = headers.get("content-length", "")
        if not length.isdecimal() or int(length) > MOST_BODY_BYTES:
            return 413, "That is too much to ask for."
        return None

    def _serves(self, host: str) -> bool:
        if host in self._names:
            return True
        name, _, port = host.rpartition(":")
        if self._port is None or port != self._port:
            return False
        try:
            ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
        except ValueError:
            return False
        return True
