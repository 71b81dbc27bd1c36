"""`paris-node key`: show, export, import. A lost key is a lost name."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Annotated

import typer

from paris.node.cli.options import HomeOption, JsonOption
from paris.node.console import emit, err, errors_to_exit_codes, out
from paris.node.home import Home
from paris.node.settings import Settings
from paris.protocol.errors import UsageError
from paris.protocol.identity import Identity
from paris.registry.atomic import write_bytes

app = typer.Typer(help="This node's name: show it, keep it safe, move it.", no_args_is_help=True)
HEADER = "paris-node private key, base64 of the libp2p form. Whoever has it is you.\n"


@app.command()
def show(home: HomeOption = None, json: JsonOption = False) -> None:
    """Print this node's peer id (and make a key, if there is none yet)."""
    with errors_to_exit_codes(as_json=json):
        place = Home(Settings.load(home=home).home)
        peer_id = place.identity().peer_id
        emit({"peer_id": peer_id, "file": str(place.identity_path)}) if json else out.print(peer_id)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="Where to write the key; - for standard output.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Write the private key to a file only you can read."""
    with errors_to_exit_codes(as_json=json):
        identity = Home(Settings.load(home=home).home).identity()
        text = HEADER + base64.b64encode(identity.to_libp2p()).decode() + "\n"
        if str(file) == "-":
            sys.stdout.write(text)
            return
        if file.exists():
            raise UsageError(f"{file} exists", why="a key is never written over a file", hint="Choose another name.")
        write_bytes(file, text.encode(), mode=0o600)
        emit({"peer_id": identity.peer_id, "file": str(file)}) if json else err.print(
            f"{identity.peer_id} is kept in {file}", markup=False
        )


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file written by `key export`; - for standard input.")],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Take over a key written by `key export`."""
    with errors_to_exit_codes(as_json=json):
        if str(file) != "-" and not file.is_file():
            raise UsageError(f"there is no file {file}", hint="Give the path `key export` wrote to.")
        text = sys.stdin.read() if str(file) == "-" else file.read_text(errors="replace")
        try:
            identity = Identity.from_libp2p(base64.b64decode(text.removeprefix(HEADER).strip(), validate=True))
        except ValueError as error:
            raise UsageError(
                f"{file} holds no key", why="its text is not what `key export` writes", hint="Export the key again."
            ) from error
        Home(Settings.load(home=home).home).save_identity(identity)
        emit({"peer_id": identity.peer_id}) if json else out.print(identity.peer_id)
