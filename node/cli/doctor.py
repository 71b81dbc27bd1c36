"""`paris-node doctor`: what is wrong here, line by line, with the cure."""

from __future__ import annotations

from typing import Annotated

import typer

from paris.node.cli.options import HomeOption, JsonOption, ListenOption, PeerOption
from paris.node.console import emit, err, errors_to_exit_codes, out, plain, printable
from paris.node.settings import Settings


def doctor(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Also try to reach this run.")] = None,
    home: HomeOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    json: JsonOption = False,
) -> None:
    """Check this machine: key, disk, memory, training device, daemon, text encoder, and whether peers answer.

    Exit code 5 if something must be mended before this node can contribute, 4 if only the network is in the way.
    """
    with errors_to_exit_codes(as_json=json):
        from paris.node.doctor import examine, exit_code

        findings = examine(Settings.load(home=home, peers=peer, listen=listen), run)
        if json:
            emit([finding.as_json() for finding in findings])
        for finding in findings if not json else ():
            out.print(f"[{finding.colour}]{finding.verdict:<8}[/] {finding.what}: {plain(finding.detail)}")
            if finding.cure:
                err.print(f"         next: {printable(finding.cure)}", markup=False)
        if code := exit_code(findings):
            raise typer.Exit(code)
