"""Makes `node_support` importable and offers its pictures."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from hub_support import Hub

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parent.parent / "hub"))
sys.path.append(str(Path(__file__).parent.parent / "registry"))
os.environ.setdefault("PARIS_LAN", "false")  # no test speaks to the local network


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub on loopback that the Hub's own client is pointed at."""
    from hub_support import Hub, point_at

    server = Hub()
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    serving.start()
    point_at(server.endpoint, monkeypatch)
    yield server
    server.over.set()
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of captioned pictures of two kinds."""
    from node_support import draw_pictures

    folder = tmp_path_factory.mktemp("data") / "shapes and animals"
    draw_pictures(folder)
    return folder
