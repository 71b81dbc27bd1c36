"""`python -m benchmarks [NAME ...]`: measure, show a table on stderr, keep the raw result in benchmarks/results/."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Row, machine

NAMES = ("protocol", "registry", "models")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run all benchmarks or the named ones."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all without one")
    parser.add_argument("--quick", action="store_true", help="smallest sizes: numbers without meaning, not kept")
    parser.add_argument("--json", action="store_true", help="the results on stdout, too")
    options = parser.parse_args()
    if unknown := set(options.names) - set(NAMES):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    console, results = Console(stderr=True, width=None if sys.stderr.isatty() else 160), []
    for name in options.names or NAMES:
        result, rows = measured(name, quick=options.quick)
        console.print(_table(name, rows))
        results.append(result)
        if not options.quick:
            _keep(RESULTS / f"{name}.json", result)
    if options.json:
        print(json.dumps(results, indent=2))


def measured(name: str, *, quick: bool) -> tuple[dict[str, Any], list[Row]]:
    """Run one benchmark; return the raw result and its rows."""
    start_s, before = time.monotonic(), machine()
    rows: list[Row] = importlib.import_module(f"benchmarks.{name}").run(quick=quick)
    result = {
        "benchmark": name,
        "command": f"python -m benchmarks {name}",
        "quick": quick,
        "took_s": round(time.monotonic() - start_s, 1),
        "machine": {**before, "load_average_1m_after": round(os.getloadavg()[0], 2)},
        "rows": [row.as_json() for row in rows],
    }
    return result, rows


def _table(name: str, rows: list[Row]) -> Table:
    table = Table(title=f"{name}: speed beside the reference (above 1 we are faster)", title_justify="left")
    for column in ("what", "ours", "against", "reference", "ratio", "spread", "target", "also (ours, reference)"):
        table.add_column(column)
    for row in rows:
        target = "" if row.target is None else f"{'ok' if row.held else 'MISSED'} {row.target:g}"
        spread = f"{row.ratios[0]:.2f}-{row.ratios[-1]:.2f}"
        speeds = row.speed(row.ours_s), row.speed(row.reference_s)
        also = "; ".join(f"{name} {ours:.3g}, {theirs:.3g}" for name, (ours, theirs) in row.also.items())
        table.add_row(row.name, speeds[0], row.against, speeds[1], f"{row.ratio:.2f}", spread, target, also)
    return table


def _keep(path: Path, result: dict[str, Any]) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


if __name__ == "__main__":
    main()
