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
    minutes: Annotated[float, typer.Option("--minutes", min=0.5, help="Time for the whole demo.")] = 10.0,
    clusters: Annotated[int, typer.Option("--clusters", min=2, max=16, help="Clusters, one expert each.")] = 4,
    peers: Annotated[int, typer.Option("--peers", min=2, max=16, help="Contributors, one process each.")] = 4,
    json: JsonOption = False,
) -> None:
    """A whole network on this machine.

    Contributors as real processes claim and train K experts and the router on the sample pictures; one is killed
    half-way and another takes over; a fresh peer fetches the ensemble by its key, draws a picture grid, and audits it.
    Ctrl-C ends every process of the demo. Exit code 3 if the audit fails, 1 if nobody took over.
    """
    with errors_to_exit_codes(as_json=json):
        from paris.node.demo.show import run_demo

        summary = run_demo(out.resolve(), minutes, clusters, peers)
        if json:
            emit(summary)
        else:
            err.print(f"\nsummary: {out / 'summary.json'}\npictures: {summary['grid']}", markup=False)
        if summary["audit"] != "ok":
            err.print(f"the audit did not pass: {summary['audit']}", markup=False)
            raise typer.Exit(VerificationError.exit_code)
        if not summary["takeovers"]:
            err.print("nobody took over from anybody, which is what a demo shows: give it more --minutes")
            raise typer.Exit(ParisError.exit_code)
