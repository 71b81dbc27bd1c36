"""What tests of the Hub share: the client pointed at a loopback Hub, and the Hub as a process that can be killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import huggingface_hub
import pytest

RUN_HUB = Path(__file__).parent / "run_hub.py"


def point_client_at(endpoint: str, monkeypatch: pytest.MonkeyPatch, token: str | None = None) -> None:
    """What HF_ENDPOINT, HF_TOKEN and HF_HUB_DISABLE_XET do when the Hub's client is imported."""
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    form = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", form)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)


def environment(endpoint: str, token: str | None = None) -> dict[str, str]:
    """The environment of a process that speaks to a loopback Hub."""
    plain = {key: value for key, value in os.environ.items() if key != "HF_TOKEN"}
    asked = {"HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"}
    return {**plain, **asked, **({"HF_TOKEN": token} if token else {})}


@dataclass
class HubProcess:
    """A loopback Hub in a process of its own."""

    process: subprocess.Popen[str]
    endpoint: str

    def faults(self, *faults: dict[str, Any]) -> None:
        """Put these faults in force, instead of those before."""
        self._ask("PUT", "/-/faults", json.dumps(faults).encode())

    def requests(self) -> list[str]:
        """What it was asked so far, as "METHOD /path"."""
        return list(json.loads(self._ask("GET", "/-/requests")))

    def noted(self, match: str) -> bool:
        """Wait until a request matches; "held METHOD /path" is one that gets no answer."""
        return bool(json.loads(self._ask("GET", f"/-/await?match={quote(match)}")))

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        asked = urllib.request.Request(self.endpoint + path, body, method=method)
        with urllib.request.urlopen(asked, timeout=240) as answer:
            return bytes(answer.read())


@contextmanager
def hub_process(folder: Path, port: int = 0) -> Iterator[HubProcess]:
    """A loopback Hub in a process of its own, for the length of a block."""
    command = [sys.executable, str(RUN_HUB), str(folder), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        yield HubProcess(process, json.loads(process.stdout.readline())["endpoint"])
        process.stdin.close()
