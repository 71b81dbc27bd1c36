"""A Hub on loopback with one repository, whose answers a test chooses."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import huggingface_hub
import pytest

PATH = "/team/run/resolve/main/peers.json"


class Hub(ThreadingHTTPServer):
    """A Hub with one repository, whose answers a test chooses."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.status, self.body, self.headers = 200, b"", {}
        self.endless = self.silent = False
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.over = threading.Event()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has seen enough hangs up."""


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        hub = self.server
        hub.asked.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
        if hub.silent:
            hub.over.wait()
            return
        self.send_response(hub.status if self.path == PATH else 404)
        for key, value in hub.headers.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(hub.body)
        while hub.endless and not hub.over.is_set():
            self.wfile.write(b" " * 65536)

    def log_message(self, *_: Any) -> None:
        """Tests are quiet."""


def point_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_ENDPOINT does when the Hub's client is imported."""
    form = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", form)
