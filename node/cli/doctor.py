"""`paris-node doctor`: what is wrong here, line by line, with the cure."""

from __future__ import annotations

from typing import Annotated

import typer

from paris.node.cli.options import HomeOption, JsonOption, PeerOption
from paris.node.console import emit, err, errors_to_exit_codes, out
from paris.node.settings import Settings
from paris.protocol.errors import ResourceError


def doctor(
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Also try to reach this run.")] = None,
    home: HomeOption = None,
    peer: PeerOption = None,
    json: JsonOption = False,
) -> None:
    """Check this machine: key, disk, memory, training device, daemon, text encoder, and whether peers answer.

    Exit code 5 if something must be mended before this node can contribute.
    """
    with errors_to_exit_codes(as_json=json):
        from paris.node.doctor import examine

        findings = examine(Settings.load(home=home, peers=peer), run)
        if json:
            emit([finding.as_json() for finding in findings])
        for finding in findings if not json else ():
            out.print(f"[{finding.colour}]{finding.verdict:<8}[/] {finding.what}: {finding.detail}")
            if finding.cure:
                err.print(f"         next: {finding.cure}", markup=False)
        if any(finding.verdict == "problem" for finding in findings):
            raise typer.Exit(ResourceError.exit_code)
