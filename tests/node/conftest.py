"""Makes `node_support` importable and offers its pictures."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("PARIS_LAN", "false")  # no test speaks to the local network


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of captioned pictures of two kinds."""
    from node_support import draw_pictures

    folder = tmp_path_factory.mktemp("data") / "shapes and animals"
    draw_pictures(folder)
    return folder
