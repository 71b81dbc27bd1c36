"""Options several commands share, described once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from paris.protocol.errors import UsageError

RunKeyArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run key: paris://<64 hex>[?peer=<multiaddr>].")]
HomeOption = Annotated[Path | None, typer.Option("--home", help="Folder of key, store and work (default ~/.paris).")]
PeerOption = Annotated[
    list[str] | None, typer.Option("--peer", help="A peer to join through, as a multiaddr; may be repeated.")
]
ListenOption = Annotated[
    str | None, typer.Option("--listen", help="Address to listen on (default /ip4/0.0.0.0/tcp/0).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, nothing else.")]
UpOption = Annotated[
    str | None,
    typer.Option("--up", metavar="RATE", help="Most to send, all transfers together, like 2MB/s or 500kB/s."),
]
DownOption = Annotated[
    str | None, typer.Option("--down", metavar="RATE", help="Most to fetch, all transfers together, like 2MB/s.")
]
LightOption = Annotated[
    bool, typer.Option("--light", help="Ask nodes directly, without the libp2p daemon and the DHT (extra: light).")
]
PolicyOption = Annotated[
    str | None,
    typer.Option(
        "--policy",
        metavar="head|latest",
        help="The checkpoints the curators' head names, or the newest verified (default: head where there is one).",
    ),
]
AtOption = Annotated[
    str | None, typer.Option("--at", metavar="STEP|DATE", help="Checkpoints as they stood at a step or a date (UTC).")
]
ExpertsOption = Annotated[
    str | None, typer.Option("--experts", metavar="LIST", help="Only these units, such as 0,2,router.")
]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Ask nobody, connect to nothing: what this home has kept must do.")
]


def refuse_beside(other: str, given: Mapping[str, object], why: str, hint: str) -> None:
    """Let a command go on where none of these options was given: beside another one, or an argument, they say nothing.

    Args:
        other: What they contradict.
        given: Values by name; what is None, false or empty was not given.
        why: Why they do.
        hint: What to do instead.

    Raises:
        UsageError: Some were given.
    """
    if named := [name for name, value in given.items() if value]:
        raise UsageError(f"{' and '.join(named)} cannot be used with {other}", why, hint)


def refuse_network_offline(
    *,
    light: bool = False,
    peer: list[str] | None = None,
    listen: str | None = None,
    up: str | None = None,
    down: str | None = None,
) -> None:
    """Refuse what names a way to others, or how fast to use it, beside --offline.

    Raises:
        UsageError: Some of it was given.
    """
    given = {"--light": light, "--peer": peer, "--listen": listen, "--up": up, "--down": down}
    refuse_beside("--offline", given, "--offline asks nobody", "Leave one of the two out.")


def stay_off_the_hub() -> None:
    """Have the Hub's client take what it kept, text encoders too, and ask nobody: it reads this when it is imported."""
    os.environ["HF_HUB_OFFLINE"] = "1"
