"""`paris-node audit`: who trained what, on which data, from which parent, and how much of that was checked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import typer

from paris.node.cli.options import HomeOption, JsonOption, LightOption, ListenOption, PeerOption, RunKeyArgument
from paris.node.console import emit, err, errors_to_exit_codes, out, plain, printable, short
from paris.node.settings import Settings
from paris.protocol.errors import VerificationError
from paris.registry.runkey import RunKey

if TYPE_CHECKING:
    from paris.registry.audit import Audit


def audit(
    run: RunKeyArgument,
    home: HomeOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    light: LightOption = False,
    json: JsonOption = False,
) -> None:
    """Check every signature, digest and parent of a run, and say which level each expert reached.

    Exit code 3 if any check fails.
    """
    with errors_to_exit_codes(as_json=json):
        settings = Settings.load(home=home, peers=peer, listen=listen)
        report = asyncio.run(audit_run(RunKey.parse(run), settings, light=light))
        emit(report.as_json()) if json else print_report(report)
        if not report.ok:
            raise typer.Exit(VerificationError.exit_code)


async def audit_run(key: RunKey, settings: Settings, *, light: bool = False) -> Audit:
    """Resolve a run and check all of it."""
    from paris.node.light import open_library
    from paris.registry.audit import audit as audit_resolved
    from paris.registry.resolve import known_peers, load_genesis, resolve

    async with open_library(settings, key, light=light) as library:
        providers = tuple(record.signer for record in await known_peers(library, key.run))
        await load_genesis(library, key.run, providers, hints=(*key.peers, *settings.peers))
        resolved = await resolve(library, key.run, providers)
        return await audit_resolved(library, resolved, providers, lambda unit: err.print(f"checking {unit} …"))


def print_report(report: Audit) -> None:
    """The report for people: every expert, its lineage, its checks, and what was not checked."""
    out.print(f"[bold]{plain(report.name)}[/]  {report.run}")
    out.print(
        f"curated by {', '.join(short(c) for c in report.curators)}; data: {printable(report.data)}", markup=False
    )
    out.print(f"experts start from: {printable(report.start)}", markup=False)
    for unit in report.units:
        out.print(f"\n[bold]{unit.unit}[/]  step {unit.step}/{unit.target}  level: [bold]{unit.level}[/]")
        for row in unit.lineage:
            out.print(f"  {printable(_lineage_line(row))}", markup=False)
        for check in unit.checks:
            verdict = "[green]ok    [/]" if check.ok else "[red]FAILED[/]"
            out.print(f"  {verdict} {check.name}: {plain(check.detail)}")
    if report.units:
        out.print(f"\nnot checked: {'; '.join(report.units[0].not_checked)}")
    out.print(f"audit: {printable(report.verdict())}", style="green" if report.ok else "red", markup=False)


def _lineage_line(row: dict[str, Any]) -> str:
    loss = row["claimed_holdout_loss_micro"]
    claimed = f", claims hold-out loss {loss / 1e6:.4f}" if loss is not None else ""
    parent = short(row["parent"]) if row["parent"] else "the start"
    name = f" for {short(row['acts_for'])}" if row["acts_for"] != row["signer"] else ""
    return (
        f"{short(row['checkpoint'])}  steps {row['from_step']:>5} to {row['to_step']:>5} "
        f"by {short(row['signer'])}{name} "
        f"from {parent}, {row['finished']}{claimed}"
    )
