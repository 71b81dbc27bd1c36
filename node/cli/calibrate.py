"""`paris-node calibrate`: how far an ensemble's routing can be believed, and what mends it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from paris.node.cli.corpus import cached
from paris.node.cli.options import HomeOption, JsonOption
from paris.node.console import emit, err, errors_to_exit_codes, out
from paris.node.settings import Settings
from paris.protocol.errors import UsageError

if TYPE_CHECKING:
    from paris.models.calibration import Calibration


def calibrate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="An ensemble, as `fetch` lays it out.")],
    holdout: Annotated[
        list[Path], typer.Argument(metavar="SHARD...", help="Hold-out shards of its run (`data fetch --holdout`).")
    ],
    training: Annotated[
        list[Path] | None,
        typer.Option("--training", help="Training shards to measure the clusters' centres on; may be repeated."),
    ] = None,
    answers: Annotated[int, typer.Option("--answers", min=100, help="Noised samples to ask about.")] = 4096,
    home: HomeOption = None,
    write: Annotated[
        bool, typer.Option("--write", help="Keep the temperature, and the centres, in the ensemble's folder.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Ask a router about noised hold-out samples: accuracy by noise level, calibration error, the best temperature.

    With --training it also measures the clusters' centres, which route without a router (`generate --strategy
    router-free`), and compares.
    """
    with errors_to_exit_codes(as_json=json):
        from paris.models.calibration import ask
        from paris.models.calibration import calibrate as report_on
        from paris.models.centroids import CENTROIDS, Centroids
        from paris.models.pipeline import ParisPipeline, remember
        from paris.node.home import Home

        if not folder.is_dir():
            raise UsageError(f"{folder} is no folder", hint="Name the ensemble's folder first, then its shards.")
        pipeline = ParisPipeline.from_pretrained(folder)
        caches = Home(Settings.load(home=home).home).cache
        seen, router = cached(holdout, pipeline, caches), pipeline.ensemble.router
        reports = {
            "router": report_on(ask(router, seen, answers)),
            "router without text": report_on(ask(router, seen, answers, drop_text=True)),
        }
        if training:
            centres = Centroids.measure(cached(training, pipeline, caches), len(pipeline.ensemble))
            reports["centres, no router"] = report_on(ask(centres, seen, answers))
            if write:
                centres.save(folder / CENTROIDS)
        if write:
            remember(folder, router_temperature=round(reports["router"].temperature, 4))
        if json:
            emit({name: report.as_json() for name, report in reports.items()} | {"written": write})
        else:
            out.print(_table(reports))
            err.print(f"  temperature {'kept' if write else 'not kept (--write keeps it)'} in {folder}", markup=False)


def _table(reports: dict[str, Calibration]) -> Table:
    table = Table(title="noised hold-out samples: share that names the right cluster", title_justify="left")
    first = next(iter(reports.values()))
    levels: list[Any] = [f"t {level.low:.1f}-{level.high:.1f}" for level in first.levels]
    for column in ("", "all", *levels, "loss", "calibration error", "temperature", "error with it"):
        table.add_column(column)
    for name, report in reports.items():
        table.add_row(
            name,
            f"{report.accuracy:.3f}",
            *(f"{level.accuracy:.2f}" for level in report.levels),
            f"{report.loss:.3f}",
            f"{report.error:.3f}",
            f"{report.temperature:.2f}",
            f"{report.error_after:.3f}",
        )
    return table
