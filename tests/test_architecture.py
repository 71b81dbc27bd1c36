"""The arrows and purity rules of docs/architecture.md, read off the source itself."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("node", "registry", "models", "protocol")
MAY_IMPORT = {
    "node": {"node", "registry", "models", "protocol"},
    "registry": {"registry", "models", "protocol"},
    "models": {"models"},
    "protocol": {"protocol"},
}
IMPURE = {
    "socket",
    "time",
    "datetime",
    "random",
    "secrets",
    "os",
    "asyncio",
    "torch",
    "hivemind",
    "libp2p",
    "numpy",
    "subprocess",
    "tempfile",
}
UNSAFE = re.compile(r"\bpickle\b|torch\.(load|save)\b|yaml\.load\(|allow_pickle\s*=\s*True")


def sources(room: str) -> list[Path]:
    return sorted(p for p in (ROOT / room).rglob("*.py") if "__pycache__" not in p.parts)


def imported(path: Path) -> set[str]:
    """Every module a file imports, lazily or not, as a dotted name."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the arrows"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def test_the_house_has_files_in_every_room() -> None:
    assert all(len(sources(room)) > 3 for room in ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_down_only(room: str) -> None:
    for path in sources(room):
        rooms = {name.split(".")[1] for name in imported(path) if name.startswith("paris.")}
        assert rooms <= MAY_IMPORT[room], f"{path.relative_to(ROOT)} imports {sorted(rooms - MAY_IMPORT[room])}"


def test_protocol_is_sans_io() -> None:
    for path in sources("protocol"):
        if "transport" in path.parts:
            continue
        tops = {name.split(".")[0] for name in imported(path)}
        assert not tops & IMPURE, f"{path.relative_to(ROOT)} imports {sorted(tops & IMPURE)}"
        assert "paris.protocol.transport" not in {n[:24] for n in imported(path)}, (
            f"{path}: rules must not know the wire"
        )


def test_only_transport_knows_hivemind() -> None:
    for room in ROOMS:
        for path in sources(room):
            if "transport" not in path.parts:
                assert "hivemind" not in {name.split(".")[0] for name in imported(path)}, path


@pytest.mark.parametrize("room", [*ROOMS, "scripts", "benchmarks"])
def test_no_format_that_can_run_code(room: str) -> None:
    for path in sources(room):
        assert not UNSAFE.search(path.read_text()), f"{path.relative_to(ROOT)} uses an unsafe format"


@pytest.mark.parametrize("room", ROOMS)
def test_files_stay_small(room: str) -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in sources(room)}
    assert max(lengths.values()) <= 500
    assert sum(lengths.values()) / len(lengths) < 200
