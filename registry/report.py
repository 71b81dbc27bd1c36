"""An audit as one HTML file: no script, nothing loaded from anywhere, every lineage drawn.

Names, notes and sentences in it come from strangers. Every one is escaped, in markup and in drawings alike, and the
page forbids itself to load or run anything (Content-Security-Policy), should one escape be forgotten.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from typing import Any, Final

from paris.registry.findings import LEVELS, Audit, Check, Opinion, UnitAudit

BOX_PX, GAP_PX, HEIGHT_PX, WIDEST_PX = 150, 26, 44, 2400
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"
_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c;background:#fff}
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .4rem;border-top:1px solid #ddd;padding-top:1rem}
code{font:12.5px ui-monospace,monospace;overflow-wrap:anywhere}table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}th{font-weight:600;color:#555}
.drawn{overflow-x:auto}.ok{color:#17692c}.bad{color:#b3261e;font-weight:600}.quiet{color:#666}
.level{display:inline-block;border-radius:1rem;padding:0 .6rem;margin-right:.3rem;background:#eee;color:#888}
.level.reached{background:#d8eedd;color:#17692c}svg text{font:11px ui-monospace,monospace}
@media(prefers-color-scheme:dark){body{background:#161616;color:#e6e6e6}h2{border-color:#444}.ok{color:#7fd493}
.bad{color:#ff8a80}.quiet,th{color:#aaa}.level{background:#333}.level.reached{background:#1f4a2b;color:#9fe3b0}}
"""


def html_report(audit: Audit, made_s: int) -> str:
    """The whole report as one page.

    Args:
        audit: What was found.
        made_s: When, UNIX seconds.
    """
    made = f"{datetime.fromtimestamp(made_s, UTC):%Y-%m-%d %H:%M} UTC"
    verdict = "every check held" if audit.ok else audit.verdict()
    about = [
        ("run", f"<code>{escape(audit.run)}</code>"),
        ("checkpoints", escape(audit.chosen)),
        ("curators", ", ".join(f"<code>{escape(name)}</code>" for name in audit.curators)),
        ("data", escape(audit.data)),
        ("experts start from", escape(audit.start)),
        ("looked at", escape(made)),
        ("outcome", f'<span class="{"ok" if audit.ok else "bad"}">{escape(verdict)}</span>'),
    ]
    units = "".join(_unit(unit) for unit in audit.units)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>Audit of {escape(audit.name)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>Audit of {escape(audit.name)}</h1>"
        f"{_table(None, about)}{units}</body></html>\n"
    )


def _unit(unit: UnitAudit) -> str:
    reached = LEVELS.index(unit.level) if unit.level in LEVELS else -1
    levels = "".join(
        f'<span class="level{" reached" if number <= reached else ""}">{level}</span>'
        for number, level in enumerate(LEVELS)
    )
    return (
        f"<h2>{escape(unit.unit)} <span class=quiet>step {unit.step:,} of {unit.target:,}</span></h2>"
        f'<p>{levels}</p><div class="drawn">{lineage_svg(unit)}</div>'
        f"{_table(('', 'check', 'found'), map(_check, unit.checks))}"
        f'<p class="quiet">Not checked: {escape("; ".join(unit.not_checked))}.</p>'
        f"{_opinions(unit.opinions)}"
    )


def _check(check: Check) -> tuple[str, ...]:
    kind, word = ("ok", "held") if check.ok else ("bad", "absent" if check.absent else "failed")
    return f'<span class="{kind}">{word}</span>', escape(check.name), escape(check.detail)


def _opinions(opinions: Iterable[Opinion]) -> str:
    rows = [
        (
            f"<code>{escape(opinion.acts_for)}</code>{' (its own trainer)' if opinion.own else ''}",
            f"step {opinion.step:,}",
            escape(opinion.level),
            '<span class="ok">holds</span>' if opinion.holds else '<span class="bad">does not hold</span>',
            "" if opinion.loss_micro is None else f"{opinion.loss_micro / 1e6:.4f}",
            escape(opinion.note),
        )
        for opinion in opinions
    ]
    return _table(("verdict by", "on", "level", "", "loss", "note"), rows) if rows else ""


def _table(head: tuple[str, ...] | None, rows: Iterable[tuple[str, ...]]) -> str:
    """Rows of cells that are markup already."""
    top = "<tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr>" if head else ""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{top}{body}</table>"


def lineage_svg(unit: UnitAudit) -> str:
    """A lineage from its start to its newest checkpoint, a box a segment, coloured by who trained it."""
    count = len(unit.lineage)
    if not count:
        return ""
    box = max(8.0, min(BOX_PX, WIDEST_PX / count - GAP_PX))
    gap = GAP_PX if box > 30 else 4
    width = 50 + count * (box + gap)
    parts = [
        f'<circle cx="20" cy="{HEIGHT_PX / 2 + 8}" r="7" fill="none" stroke="currentColor"/>',
        f'<text x="2" y="{HEIGHT_PX + 18}" fill="currentColor">start</text>',
    ]
    for number, row in enumerate(unit.lineage):
        parts.append(_segment(row, 40 + number * (box + gap), box, gap))
    label = f"lineage of {unit.unit}, {count} segments"
    return (
        f'<svg role="img" aria-label="{escape(label)}" width="{width:.0f}" height="{HEIGHT_PX + 26}" '
        f'viewBox="0 0 {width:.0f} {HEIGHT_PX + 26}">{"".join(parts)}</svg>'
    )


def _segment(row: dict[str, Any], left: float, box: float, gap: float) -> str:
    middle = HEIGHT_PX / 2 + 8
    loss = row["claimed_holdout_loss_micro"]
    claims = "" if loss is None else f", claims {loss / 1e6:.4f}"
    title = f"steps {row['from_step']} to {row['to_step']} by {row['acts_for']}{claims}, {row['checkpoint']}"
    wide = box > 100
    text = (
        f'<text x="{left + 6:.0f}" y="{middle - 4:.0f}" fill="#111">{row["from_step"]} to {row["to_step"]}</text>'
        f'<text x="{left + 6:.0f}" y="{middle + 12:.0f}" fill="#111">{escape(str(row["acts_for"])[-8:])}</text>'
    )
    return (
        f"<g><title>{escape(title)}</title>"
        f'<line x1="{left - gap + 2:.1f}" y1="{middle}" x2="{left:.1f}" y2="{middle}" stroke="currentColor"/>'
        f'<rect x="{left:.1f}" y="8" width="{box:.1f}" height="{HEIGHT_PX}" rx="6" fill="{_colour(row["signer"])}"/>'
        f"{text if wide else ''}</g>"
    )


def _colour(signer: str) -> str:
    """One pastel a signer, the same in every report."""
    return f"hsl({int.from_bytes(hashlib.sha256(signer.encode()).digest()[:2], 'big') % 360} 55% 78%)"
