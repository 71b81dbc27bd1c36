"""Settings of a node: defaults <- `config.toml` in its home <- environment (PARIS_*) <- flags."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pydantic import ByteSize, TypeAdapter

from paris.node.jobs import Means
from paris.protocol.errors import UsageError
from paris.protocol.transport.rate import LEAST_BYTES_PER_S
from paris.registry.runkey import hub_repository, peer_address

_SIZE = TypeAdapter(ByteSize)
_RATE = re.compile(r"\s*(?P<size>[0-9]{1,15}(\.[0-9]{1,6})?\s*([kKMGT]i?)?(B|bit)?)\s*(/s)?\s*")
LONGEST_PREFIX_CHARS = 64
_NOT_SETTINGS = frozenset({"home", "asked_peers"})
_SWITCH = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


@dataclass(frozen=True)
class Settings:
    """What a person may set. Every field may stand in `config.toml` and in the environment as PARIS_<NAME>.

    Attributes:
        peers: Peers to join through. Those of the command line come first and add to those set for good.
        asked_peers: The ones of the command line among them.
        hub: Repository on the Hugging Face Hub with a peers file, `owner/name`.
        publish: Where on the Hub this node publishes its checkpoints: `auto`, `name` or `owner/name`, to which run and
            node are added; empty: nowhere.
        publish_state: Whether full training states go there too.
        lan: Whether to find, and be found by, nodes of the same run on the local network (mDNS).
        threads: CPU threads to train with, of each process; 0: one a core.
        processes: That train one unit together on this machine; 0: one a GPU.
        sharded: Whether they cut the network among them instead of copying it.
        compiled: Backend of `torch.compile` to train through; empty: none.
        up: Most bytes a second to send to others, all transfers together; 0: no limit.
        down: Most bytes a second to fetch from others, all transfers together; 0: no limit.
    """

    home: Path = field(default_factory=lambda: Path.home() / ".paris")
    name: str = ""
    listen: str = "/ip4/0.0.0.0/tcp/0"
    announce: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    asked_peers: tuple[str, ...] = ()
    hub: str = ""
    publish: str = ""
    publish_state: bool = False
    lan: bool = True
    threads: int = 0
    processes: int = 0
    sharded: bool = False
    compiled: str = ""
    up: int = 0
    down: int = 0

    @classmethod
    def load(cls, environ: Mapping[str, str] = os.environ, **flags: Any) -> Settings:
        """Merge all sources; a flag that is None was not given.

        Raises:
            UsageError: a value has the wrong type, or config.toml names a setting that does not exist.
        """
        given = {name: value for name, value in flags.items() if value is not None}
        home = Path(given.get("home") or environ.get("PARIS_HOME") or cls().home).expanduser()
        standing = {**_from_file(home / "config.toml"), **_from_environment(environ)}
        typed = {name: _typed(name, value) for name, value in {**standing, **given, "home": home}.items()}
        typed["asked_peers"] = typed.get("peers", ()) if "peers" in given else ()
        if typed["asked_peers"] and "peers" in standing:
            typed["peers"] = tuple(dict.fromkeys((*typed["asked_peers"], *_typed("peers", standing["peers"]))))
        return replace(cls(), **typed)

    @property
    def means(self) -> Means:
        """What of this machine trains a unit."""
        threads = self.threads or len(os.sched_getaffinity(0))
        return Means(threads, self.processes, self.sharded, self.compiled or None)


def _from_file(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(
            f"{path} is not valid TOML", why=str(error), hint="Correct the line, or move the file away."
        ) from error
    known = {f.name for f in fields(Settings)} - _NOT_SETTINGS
    if unknown := sorted(set(values) - known):
        raise UsageError(
            f"{path} sets {unknown[0]!r}, which is no setting", hint=f"Settings are: {', '.join(sorted(known))}."
        )
    return values


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    names = {f.name for f in fields(Settings)} - _NOT_SETTINGS
    return {name: environ[key] for name in names if (key := f"PARIS_{name.upper()}") in environ}


def _typed(name: str, value: Any) -> Any:
    """Bring a value from a file, the environment or a flag to the type of its field."""
    read: Callable[[str, Any], Any] = _READERS.get(name, _text)
    return read(name, value)


def _folder(_name: str, value: Any) -> Path:
    return Path(value).expanduser()


def _repository(_name: str, value: Any) -> str:
    return hub_repository(value if isinstance(value, str) else repr(value))


def _number(name: str, value: Any) -> int:
    if not str(value).isdecimal():
        raise UsageError(f"{name} = {value!r} is not a number of {name}", hint="Give 0 for all there are, or 1, 2, …")
    return int(value)


def _publishing(name: str, value: Any) -> str:
    """How a repository's name begins: letters, digits and `.-_`, with an owner before a slash or without."""
    text = _text(name, value)
    owner, slash, rest = text.partition("/")
    hub_repository(f"{owner}/{rest}" if slash else f"owner/{owner}" if owner else "")
    if len(rest or owner) > LONGEST_PREFIX_CHARS:
        hint = f"Give {LONGEST_PREFIX_CHARS} characters at most: run and node are added to it"
        raise UsageError(f"{name} = {text!r} is too long", hint=hint)
    return text


def _switch(name: str, value: Any) -> bool:
    text = str(value).lower()
    if text not in _SWITCH:
        raise UsageError(f"{name} = {value!r} is neither true nor false", hint=f"Write {name} = false to turn it off")
    return _SWITCH[text]


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{name} = {value!r} is not a text", hint=f'Put it in quotes: {name} = "…"')
    return value


def _rate(name: str, value: Any) -> int:
    """Bytes a second from `2MB/s`, `500kB`, `2MiB/s`, `16Mbit/s` or a number of bytes."""
    said = f"{name} = {value!r}"
    example = f"Write {name} = 2MB/s, 500kB/s or 2MiB/s; 0 is no limit"
    rate = _RATE.fullmatch(str(value))
    if rate is None:
        raise UsageError(f"{said} is not a number of bytes a second", hint=example)
    bytes_per_s = int(_SIZE.validate_python(rate["size"]))
    if 0 < bytes_per_s < LEAST_BYTES_PER_S:
        why = f"others take a node for stalled that moves less than {LEAST_BYTES_PER_S // 1000} kB/s"
        raise UsageError(f"{said} is too little", why, example)
    return bytes_per_s


def _addresses(name: str, value: Any) -> tuple[str, ...]:
    """Addresses from a list, or from one text with commas; peers must name who answers there."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise UsageError(f"{name} = {value!r} is not a list of addresses", hint=f'Write {name} = ["/ip4/…"]')
    given = (part.strip() for part in parts if part.strip())
    return tuple(peer_address(part) if name == "peers" else part for part in given)


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "home": _folder,
    "threads": _number,
    "processes": _number,
    "sharded": _switch,
    "peers": _addresses,
    "announce": _addresses,
    "lan": _switch,
    "hub": _repository,
    "publish": _publishing,
    "publish_state": _switch,
    "up": _rate,
    "down": _rate,
}
