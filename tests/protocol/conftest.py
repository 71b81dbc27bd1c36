"""Makes `protocol_support` importable and silences one deprecation of hivemind's own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore:path is deprecated:DeprecationWarning"))


@pytest.fixture
def run_async():
    """Run one coroutine in a loop of its own."""
    return asyncio.run
