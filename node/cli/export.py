"""`paris-node export`: a whole ensemble for others, on the Hub or in the layout of the Paris release."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from paris.node.cli.generate import ensemble_folder
from paris.node.cli.options import HomeOption, JsonOption, ListenOption, PeerOption, refuse_beside
from paris.node.console import emit, err, errors_to_exit_codes, out, tell_doing
from paris.node.settings import Settings
from paris.protocol.errors import UsageError

ON_HUB = "hub:"
PATIENCE_S = 600.0
"""Longest pause that a busy Hub may ask for and gets."""


def export(
    source: Annotated[str, typer.Argument(metavar="RUN|FOLDER", help="A run key, or a folder `fetch` made.")],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="hub:OWNER/NAME|FOLDER",
            help="One repository on the Hub, or a folder in the layout of the Paris release.",
        ),
    ],
    router: Annotated[
        Path | None,
        typer.Option("--router", help="To a folder: that of a router that sees no text, as the layout wants."),
    ] = None,
    half: Annotated[bool, typer.Option("--bf16", help="To a folder: write bf16 instead of fp32.")] = False,
    home: HomeOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    json: JsonOption = False,
) -> None:
    """Give a whole ensemble to others.

    To hub:OWNER/NAME it goes as it lies, with a model card, after an audit of every byte; what fails it stays here. It
    goes under your token (`hf auth login`, or HF_TOKEN). Killing it is safe: what the Hub has is not sent again, and
    nobody sees half of it. To a FOLDER it goes in the layout of the Paris release, for programs that read that one.
    """
    with errors_to_exit_codes(as_json=json):
        from paris.registry.runkey import hub_repository

        settings = Settings.load(home=home, peers=peer, listen=listen)
        repository = hub_repository(to.removeprefix(ON_HUB)) if to.startswith(ON_HUB) else ""
        if to.startswith(ON_HUB):
            if not repository:
                raise UsageError("no repository is named", hint=f"Write --to {ON_HUB}OWNER/NAME")
            given = {"--router": router, "--bf16": half}
            hint = "Leave it out, or export to a folder."
            refuse_beside("a repository", given, "the ensemble goes there as it is", hint)
        folder = ensemble_folder(source, settings)
        if repository:
            shown = export_to_hub(folder, repository, settings)
            state = "is exported" if shown["changed"] else "is up to date"
            err.print(f"  {repository} {state}; check it with `paris-node audit {repository}`", markup=False)
        else:
            shown = _released(folder, Path(to), router, half=half)
        emit(shown) if json else out.print(shown.get("repository", to), markup=False)


def export_to_hub(folder: Path, repository: str, settings: Settings) -> dict[str, Any]:
    """Audit a fetched ensemble and send what was audited.

    Raises:
        UsageError: it is none.
        VerificationError: its audit failed.
        HubError: the Hub does not take it.
    """
    from paris.node.home import Home
    from paris.registry.folder import Fetched
    from paris.registry.hubensemble import ensemble_change, require_verified
    from paris.registry.huberrors import HubError
    from paris.registry.hubwriter import HubWriter

    with tempfile.TemporaryDirectory(prefix="paris-export-") as scratch:
        fetched = Fetched.open(folder, Path(scratch))
        resolved, report = asyncio.run(fetched.audited(tell_doing))
        require_verified(report)
        change = ensemble_change(fetched, resolved, repository, Home(settings.home).identity())
        tell_doing("sending, Ctrl-C is safe")
        try:
            committed = HubWriter(patience_s=PATIENCE_S).update(repository, fetched.run, change)
        except HubError as error:
            again = "Give the same command again: what the Hub has by now is not sent again"
            raise HubError(error.what, error.why, error.hint if error.lasting else again) from error
    return {
        "run": fetched.run,
        "repository": repository,
        "commit": committed.commit,
        "changed": committed.made,
        "units": {unit.unit: unit.step for unit in resolved.units.values()},
        "levels": {unit.unit: unit.level for unit in report.units},
    }


def _released(source: Path, folder: Path, router: Path | None, *, half: bool) -> dict[str, Any]:
    """Write an ensemble in the layout of the Paris release."""
    import torch

    from paris.models.networks import load_network
    from paris.models.paris_layout import save_released
    from paris.models.pipeline import ParisPipeline
    from paris.models.router import Router

    dtype = torch.bfloat16 if half else torch.float32
    pipeline = ParisPipeline.from_pretrained(source, torch_dtype=dtype)
    save_released(pipeline, folder, router=load_network(Router, router, dtype) if router else None)
    return {"folder": str(folder), "experts": len(pipeline.ensemble)}
