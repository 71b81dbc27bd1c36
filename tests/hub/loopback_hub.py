"""A Hugging Face Hub on loopback, as far as the real `huggingface_hub` client uses it here.

Regular files and LFS (one part or several), commits with `parent_commit` as compare-and-swap, revisions, trees, resolve
with ETag, redirect to another host name and ranges, tokens, private repositories, a storage quota, faults on request.
Uploads come by Xet too, through its local mode (`hub_xet.py`); downloads by HTTP alone, as where there is no `hf_xet`.

In a test: `with LoopbackHub(folder) as hub`. As a process of its own: `python tests/hub/run_hub.py FOLDER`, which
prints {"endpoint": ...}; it takes faults at PUT /-/faults and tells what it was asked at GET /-/requests.
"""

from __future__ import annotations

import re
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from hub_disk import Commit, Disk
from hub_faults import Faults
from hub_requests import Answer


class LoopbackHub(ThreadingHTTPServer):
    """The server. `users` maps tokens to names; a name owns the repositories that begin with it.

    Args:
        root: Folder of the state; an earlier one is taken up.
        users: Name by token.
        part_bytes: LFS uploads larger than this come in several parts; 0: never.
        quota_bytes: Most bytes an owner may store in LFS.
        port: To listen on; 0: any.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self,
        root: Path,
        users: dict[str, str] | None = None,
        part_bytes: int = 0,
        quota_bytes: int | None = None,
        port: int = 0,
    ) -> None:
        super().__init__(("127.0.0.1", port), Answer)
        self.disk, self.faults = Disk(root), Faults()
        self.users = {"hf_ann": "ann", "hf_ben": "ben", "hf_curator": "curator"} if users is None else users
        self.part_bytes, self.quota_bytes = part_bytes, quota_bytes
        self.requests: list[str] = []
        self.tokens_seen: list[tuple[str, str]] = []
        self.over = threading.Event()
        self.xet = root / "xet"
        self._noted = threading.Condition()
        self._serving = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def storage(self) -> str:
        """Where LFS contents come from: another host name, as on the Hub, so that no token follows there."""
        return f"http://localhost:{self.server_port}"

    def commits(self, name: str, kind: str = "models") -> list[Commit]:
        """The commits of a repository, oldest first, without the Hub's own first one."""
        return self.disk.commits(kind, name)[1:]

    def read(self, name: str, path: str) -> bytes:
        """A file as it stands now."""
        return self.disk.object(self.disk.commits("models", name)[-1].files[path].sha256).read_bytes()

    def note(self, request: str) -> None:
        """Remember a request, or that it is held."""
        with self._noted:
            self.requests.append(request)
            self._noted.notify_all()

    def noted(self, match: str, limit_s: float = 200) -> bool:
        """Wait until a request matches; whether one did."""
        with self._noted:
            return self._noted.wait_for(lambda: any(re.search(match, asked) for asked in self.requests), limit_s)

    def asked(self, part: str) -> list[str]:
        """The requests that hold a text."""
        return [request for request in self.requests if part in request]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has seen enough hangs up."""

    def start(self) -> Self:
        self._serving.start()
        return self

    def stop(self) -> None:
        self.over.set()
        self.shutdown()
        self._serving.join()
        self.server_close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
