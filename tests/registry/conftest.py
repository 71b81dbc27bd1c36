"""Makes the support modules importable, and limits file sizes as a full disk would."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from paris.registry.library import Library
from paris.registry.store import Store

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "hub"))
sys.path.append(str(Path(__file__).parent.parent / "protocol"))

from network_simulator import NetworkSimulator


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def network() -> NetworkSimulator:
    """A run of the micro preset that nobody has trained yet."""
    return NetworkSimulator()


@pytest.fixture
def library(store: Store, network: NetworkSimulator) -> Library:
    return Library(store, network)


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    """Where a follower of the curators remembers what it saw."""
    return tmp_path / "charters"


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """A real limit of the kernel: no file may grow beyond so many bytes."""

    @contextmanager
    def limit(room_bytes: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit
