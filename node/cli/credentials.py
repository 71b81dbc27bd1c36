"""`paris-node key delegate | rotate | accept`: act under another name, so that a lost machine is not a lost name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from paris.node.cli.options import HomeOption, JsonOption
from paris.node.console import emit, err, errors_to_exit_codes, out

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run key: paris://<64 hex>.")]


def delegate(
    run: RunArgument,
    node: Annotated[str, typer.Argument(metavar="NODE", help="Peer id of the machine: its `key show`.")],
    days: Annotated[int, typer.Option("--days", min=1, max=366, help="How long it may act for you.")] = 30,
    home: HomeOption = None,
) -> None:
    """Let a machine's own key train under your name for a while; your key stays at home.

    Prints the credentials; give them to the machine: `paris-node key accept FILE`. They hold no secret.
    """
    with errors_to_exit_codes():
        from paris.node import credentials
        from paris.node.clock import now_s
        from paris.node.home import Home
        from paris.node.settings import Settings
        from paris.registry.runkey import RunKey

        made = credentials.lend(Home(Settings.load(home=home).home), RunKey.parse(run).run, node, days, now_s())
        sys.stdout.write(made.to_bytes().decode())
        err.print(f"for {days} days; on the machine: paris-node key accept FILE", markup=False)


def rotate(
    run: RunArgument,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Peer id of the key your name moves to.")],
    old: Annotated[
        str | None, typer.Option("--old", help="As a curator: the lost or stolen key whose name moves.")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="Why, for people.")] = "",
    home: HomeOption = None,
) -> None:
    """Move your name in a run to a new key; the old one can act no longer once others see it.

    Prints half of it; the new key adds its own signature: `paris-node key accept FILE`.
    """
    with errors_to_exit_codes():
        from paris.node import credentials
        from paris.node.clock import now_s
        from paris.node.home import Home
        from paris.node.settings import Settings
        from paris.registry.runkey import RunKey

        place = Home(Settings.load(home=home).home)
        made = credentials.move(place, RunKey.parse(run).run, old, new, reason, now_s())
        sys.stdout.write(made.to_bytes().decode())
        err.print("with the new key: paris-node key accept FILE", markup=False)


def accept(
    file: Annotated[Path, typer.Argument(help="What `key delegate` or `key rotate` printed; - for standard input.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Act under the name that credentials give this home's key; `start` uses them from now on."""
    with errors_to_exit_codes(as_json=json):
        from paris.node import credentials
        from paris.node.clock import now_s
        from paris.node.home import Home
        from paris.node.settings import Settings
        from paris.protocol.errors import UsageError

        if str(file) != "-" and not file.is_file():
            raise UsageError(f"there is no file {file}", hint="Give the path the credentials were written to.")
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        place = Home(Settings.load(home=home).home)
        acting = credentials.accept(place, credentials.Credentials.parse(data), now_s())
        found = {"peer_id": place.identity().peer_id, "name": acting.name}
        emit(found) if json else out.print(f"{found['peer_id']} acts for {found['name']}", markup=False)
