"""`paris-node dashboard`: what is going on, what is wrong, and what was drawn, as a page."""

from __future__ import annotations

import asyncio
import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from paris.node.cli.options import HomeOption, JsonOption, LightOption, ListenOption, PeerOption
from paris.node.console import emit, err, errors_to_exit_codes, out
from paris.node.settings import Settings
from paris.protocol.errors import ResourceError, UsageError
from paris.registry.runkey import RunKey

USUAL_PORT = 7337


def dashboard(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Runs to show (default: those this home knows).")
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0: any that is free.")] = USUAL_PORT,
    host: Annotated[
        str, typer.Option("--host", help="Address to serve at. Others than this machine can then look, and not draw.")
    ] = "127.0.0.1",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    show: Annotated[
        list[Path] | None, typer.Option("--show", metavar="FOLDER", help="Also show its pictures and clips; repeat.")
    ] = None,
    ensemble: Annotated[
        list[Path] | None, typer.Option("--ensemble", metavar="FOLDER", help="Also draw with it; repeat.")
    ] = None,
    home: HomeOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    light: LightOption = False,
    json: JsonOption = False,
) -> None:
    """Show runs, this node and what was drawn on a web page of this machine, until Ctrl-C.

    It may run beside a node of the same home, or without one. The network is looked at while the page is open.
    """
    with errors_to_exit_codes(as_json=json):
        settings = Settings.load(home=home, peers=peer, listen=listen)
        keys = [RunKey.parse(run) for run in runs or ()]
        for folder in (*(show or ()), *(ensemble or ())):
            if not folder.is_dir():
                raise UsageError(
                    f"{folder} is no folder", hint="--show takes a folder of pictures, --ensemble a fetch's."
                )
        try:
            from paris.node.dashboard.serve import is_private, names_of, open_socket, serve
        except ImportError as error:
            why = f"the package {error.name} is missing"
            raise ResourceError("the page cannot be served here", why, "pip install 'paris-node[web]'") from error
        from paris.node.dashboard.board import Board
        from paris.node.dashboard.gallery import Gallery
        from paris.node.dashboard.studio import Studio
        from paris.node.dashboard.watch import Watch, known_runs
        from paris.node.home import Home

        opened = Home(settings.home)
        keys = list(dict.fromkeys(keys)) or known_runs(opened)

        async def go() -> None:
            studio = Studio(opened.path, ensemble or ())
            watches = [Watch(key, settings, light=light) for key in keys]
            board = Board(opened, watches, Gallery((studio.folder, *(show or ()))), studio, examined)
            await serve(board, watches, listening, names)

        peers = [part for address in settings.asked_peers for part in ("--peer", address)]
        examined = ["--home", str(settings.home), "--listen", settings.listen, *peers]
        listening = open_socket(host, port)
        names = names_of(listening, host)
        url = f"http://{names[0]}/"
        emit({"url": url, "runs": [str(key) for key in keys]}) if json else out.print(url, markup=False)
        if not is_private(listening):
            err.print(
                f"whoever can reach this machine at {host} sees this page too, without a password; drawing is off",
                style="yellow",
                markup=False,
            )
        err.print("Ctrl-C ends it; a node that runs beside it goes on")
        if browser and err.is_terminal and (sys.platform == "darwin" or {"DISPLAY", "WAYLAND_DISPLAY"} & {*os.environ}):
            webbrowser.open(url)
        asyncio.run(go())
