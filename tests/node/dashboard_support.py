"""The dashboard's pages served for tests: by its own application in a thread, and by its command as a process."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from node_support import COMMAND, LOOPBACK

from paris.node.dashboard.board import Board
from paris.node.dashboard.gallery import Gallery
from paris.node.dashboard.serve import names_of, open_socket
from paris.node.dashboard.studio import Studio
from paris.node.dashboard.web import make_app
from paris.node.home import Home

TOKEN = "the token of this start"


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Site:
    """A page that is served."""

    port: int
    board: Board

    def ask(self, path: str, method: str = "GET", body: bytes = b"", host: str | None = "", **headers: str) -> Answer:
        """Send exactly this: the path as it is, and as `Host` what was given, the right one where nothing was."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.putrequest(method, path, skip_host=True)
        if host is not None:
            connection.putheader("Host", host or f"127.0.0.1:{self.port}")
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        if body and "Transfer_Encoding" not in headers:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body or None)
        got = connection.getresponse()
        answer = Answer(got.status, {name.lower(): value for name, value in got.getheaders()}, got.read())
        connection.close()
        return answer

    def wish(self, wish: dict[str, Any], **headers: str) -> Answer:
        """Ask for a drawing as the page does; headers replace the page's."""
        usual = {"Origin": f"http://127.0.0.1:{self.port}", "X_Paris_Token": TOKEN, "Content_Type": "application/json"}
        return self.ask("/api/v1/draw", "POST", json.dumps(wish).encode(), **{**usual, **headers})


def board_of(home: Home, *folders: Path, ensembles: tuple[Path, ...] = ()) -> Board:
    """What is shown of a home without runs, which nobody examines."""
    studio = Studio(home.path, ensembles)
    return Board(home, (), Gallery((studio.folder, *folders)), studio, None)


@contextmanager
def served(board: Board, **options: Any) -> Iterator[Site]:
    """The page on loopback, in a thread."""
    listening = open_socket("127.0.0.1", 0)
    app = make_app(board, names_of(listening, "127.0.0.1"), TOKEN, **options)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", ws="none"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    port = listening.getsockname()[1]
    thread.start()
    try:
        yield Site(port, board)
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def command(home: Path, *arguments: object) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`paris-node dashboard` as a process, with the address it printed; it must end well when it is told to."""
    options = ("--port", 0, "--no-browser", "--json", "--home", home, "--listen", LOOPBACK)
    process = subprocess.Popen(
        [*COMMAND, "dashboard", *map(str, (*arguments, *options))], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"ended with {process.wait(30)} before it served"
        yield json.loads(line)["url"], process
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
