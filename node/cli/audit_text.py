"""An audit as text on a terminal."""

from __future__ import annotations

from typing import Any

from paris.node.console import out, plain, printable, short
from paris.registry.findings import Audit, Opinion


def print_report(report: Audit) -> None:
    """The report for people: every expert, its lineage, its checks, what others found, and what was not checked."""
    out.print(f"[bold]{plain(report.name)}[/]  {report.run}")
    out.print(
        f"curated by {', '.join(short(c) for c in report.curators)}; data: {printable(report.data)}", markup=False
    )
    out.print(f"experts start from: {printable(report.start)}", markup=False)
    out.print(f"checkpoints: {printable(report.chosen)}", markup=False)
    for unit in report.units:
        out.print(f"\n[bold]{unit.unit}[/]  step {unit.step}/{unit.target}  level: [bold]{unit.level}[/]")
        for row in unit.lineage:
            out.print(f"  {printable(_lineage_line(row))}", markup=False)
        for check in unit.checks:
            verdict = "[green]ok    [/]" if check.ok else "[yellow]ABSENT[/]" if check.absent else "[red]FAILED[/]"
            out.print(f"  {verdict} {check.name}: {plain(check.detail)}")
        for opinion in unit.opinions:
            out.print(f"  {printable(_opinion_line(opinion))}", markup=False)
        out.print(f"  not checked: {printable('; '.join(unit.not_checked))}", markup=False)
    out.print(f"\naudit: {printable(report.verdict())}", style="green" if report.ok else "red", markup=False)


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


def _opinion_line(opinion: Opinion) -> str:
    loss = "" if opinion.loss_micro is None else f", measured {opinion.loss_micro / 1e6:.4f}"
    own = ", its own trainer" if opinion.own else ""
    note = f": {opinion.note}" if opinion.note else ""
    outcome = "it holds" if opinion.holds else "it does NOT hold"
    return f"verdict by {short(opinion.acts_for)}{own} on step {opinion.step}: {opinion.level}, {outcome}{loss}{note}"
