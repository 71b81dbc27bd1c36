"""`paris-node demo`: first contact."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paris.node.cli.options import JsonOption
from paris.node.console import emit, err, errors_to_exit_codes
from paris.protocol.errors import ParisError, VerificationError


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything the demo makes.")] = Path("demo-out"),
    video: Annotated[bool, typer.Option("--video", help="Train and draw clips instead of pictures.")] = False,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0.5, help="Time for the whole demo (default 10, of clips 12).")
    ] = None,
    clusters: Annotated[
        int | None,
        typer.Option("--clusters", min=2, max=16, help="Clusters, one expert each (default 4, of clips 3)."),
    ] = None,
    peers: Annotated[int, typer.Option("--peers", min=2, max=16, help="Contributors, one process each.")] = 4,
    json: JsonOption = False,
) -> None:
    """A whole network on this machine.

    Contributors as real processes claim and train K experts and the router on the sample pictures, or clips; one is
    killed half-way and another takes over; a fresh peer fetches the ensemble by its key, draws a grid, and audits it.
    Ctrl-C ends every process of the demo. Exit code 3 if the audit fails, 1 if nobody took over.
    """
    with errors_to_exit_codes(as_json=json):
        from paris.node.demo.scenes import CLIPS, PICTURES
        from paris.node.demo.show import run_demo

        scene = CLIPS if video else PICTURES
        summary = run_demo(scene, out.resolve(), minutes or scene.minutes, clusters or scene.clusters, peers)
        if json:
            emit(summary)
        else:
            drawn = [summary["grid"], *([summary["sheet"]] if video else [])]
            err.print(f"\nsummary: {out / 'summary.json'}\ndrawn: {', '.join(drawn)}", markup=False)
        if summary["audit"] != "ok":
            err.print(f"the audit did not pass: {summary['audit']}", markup=False)
            raise typer.Exit(VerificationError.exit_code)
        if not summary["takeovers"]:
            err.print("nobody took over from anybody, which is what a demo shows: give it more --minutes")
            raise typer.Exit(ParisError.exit_code)
