"""Settings of a node: defaults <- `config.toml` in its home <- environment (PARIS_*) <- flags."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from paris.protocol.errors import UsageError
from paris.registry.runkey import peer_address


@dataclass(frozen=True)
class Settings:
    """What a person may set. Every field may stand in `config.toml` and in the environment as PARIS_<NAME>."""

    home: Path = field(default_factory=lambda: Path.home() / ".paris")
    name: str = ""
    listen: str = "/ip4/0.0.0.0/tcp/0"
    announce: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    threads: int = 0

    @classmethod
    def load(cls, environ: Mapping[str, str] = os.environ, **flags: Any) -> Settings:
        """Merge all sources; a flag that is None was not given.

        Raises:
            UsageError: a value has the wrong type, or config.toml names a setting that does not exist.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        home = Path(given.get("home") or environ.get("PARIS_HOME") or cls().home).expanduser()
        merged = {**_from_file(home / "config.toml"), **_from_environment(environ), **given, "home": home}
        return replace(cls(), **{name: _typed(name, value) for name, value in merged.items()})

    @property
    def training_threads(self) -> int:
        """CPU threads of a training child; 0 in the settings means one per core."""
        return self.threads or len(os.sched_getaffinity(0))


def _from_file(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is not valid TOML", why=str(error), hint="Correct the line, or move the file away."
        ) from error
    known = {f.name for f in fields(Settings)} - {"home"}
    if unknown := sorted(set(values) - known):
        raise UsageError(
            f"{path} sets {unknown[0]!r}, which is no setting", hint=f"Settings are: {', '.join(sorted(known))}."
        )
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    return {f.name: environ[key] for f in fields(Settings) if (key := f"PARIS_{f.name.upper()}") in environ}


def _typed(name: str, value: Any) -> Any:
    """Bring a value from a file, the environment or a flag to the type of its field."""
    match name:
        case "home":
            return Path(value).expanduser()
        case "threads":
            if not str(value).isdecimal():
                raise UsageError(
                    f"threads = {value!r} is not a number of CPU threads", hint="Give 0 for all cores, or 1, 2, …"
                )
            return int(value)
        case "peers" | "announce":
            return _addresses(name, value)
        case _:
            if not isinstance(value, str):
                raise UsageError(f"{name} = {value!r} is not a text", hint=f'Put it in quotes: {name} = "…"')
            return value


def _addresses(name: str, value: Any) -> tuple[str, ...]:
    """Addresses from a list, or from one text with commas; peers must name who answers there."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise UsageError(f"{name} = {value!r} is not a list of addresses", hint=f'Write {name} = ["/ip4/…"]')
    given = (part.strip() for part in parts if part.strip())
    return tuple(peer_address(part) if name == "peers" else part for part in given)
