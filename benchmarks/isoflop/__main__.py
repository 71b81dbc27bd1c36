"""`python -m benchmarks.isoflop run|draw|report`: experts beside one model at equal FLOPs, see docs/results.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.isoflop.clusterings import labels_of
from benchmarks.isoflop.data import Pictures, ingest
from benchmarks.isoflop.drawing import clean_floor, draw, ensemble_of, judged, sheet, test_pictures
from benchmarks.isoflop.measure import ROUTINGS, measure
from benchmarks.isoflop.media import CLIPS, PICTURES, Medium
from benchmarks.isoflop.plan import Arm, PlanError, arm_of
from benchmarks.isoflop.report import best_step, plot_curves, plot_levels, results_in, rows_of, table
from benchmarks.isoflop.shown import shown_of
from benchmarks.isoflop.switching import pairs
from benchmarks.isoflop.tables import drawings_in, drawn_table, specialists
from benchmarks.isoflop.train import train_arm, train_routers
from benchmarks.measure import machine
from paris.models.checkpoints import CheckpointError
from paris.models.files import write_json
from paris.node.grid import save_png
from paris.protocol.errors import ParisError
from paris.registry.features import Vectors

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
DRAWINGS = {"pictures": "isoflop-drawings", "clips": "isoflop-clips-drawings"}
CLEAN = "clean"
PAIRS = "pairs"


def main() -> None:
    """Run, draw or report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.isoflop", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and measure arms, one after the other; what is done stays done")
    run.add_argument("arms", nargs="+", metavar="ARM", help="such as small-s0 or small-style5-b1000-s0")
    run.set_defaults(do=_run)
    draws = commands.add_parser("draw", help="draw all test captions with arms that were run, and judge the pictures")
    draws.add_argument(
        "arms", nargs="+", metavar="ARM", help="as for run; of experts with a way to mix, ARM:top-1 or ARM:pairs"
    )
    draws.add_argument("--step", type=int, help="step of the units' checkpoints; else the one validation chose")
    draws.set_defaults(do=_draw)
    report = commands.add_parser("report", help="keep the results in benchmarks/results/, plot them, print the table")
    report.set_defaults(do=_report)
    for command in (run, draws, report):
        command.add_argument("--out", type=Path, required=True, help="folder for weights and results")
    for command in (run, draws):
        command.add_argument(
            "--data", help="captioned pictures, or clips, with a codepoint each; else the packaged ones"
        )
        command.add_argument("--mobilenet", metavar="FILE", help="MobileNetV2's weights; else those of their package")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        options.do(options)
    except (PlanError, ParisError, CheckpointError) as error:
        parser.error(str(error))


def _run(options: argparse.Namespace) -> None:
    for arm in [arm_of(name) for name in options.arms]:
        result = _result(options.out, arm)
        if not result.exists():
            pictures = _pictures(arm.medium, options)
            labels_P = _labels(arm, pictures, options)
            train_arm(arm, pictures, labels_P, options.out, _say)
            if labels_P is not None:
                train_routers(arm, pictures, labels_P, options.out, _say)
            write_json(measure(arm, pictures, labels_P, options.out), result)
        _say(f"{arm.name}: measured, see {result}")


def _draw(options: argparse.Namespace) -> None:
    wanted = [(arm, way) for arm, ways in map(_wanted, options.arms) for way in ways]
    results = results_in(options.out / "results")
    if missing := [arm.name for arm, _ in wanted if arm.name not in results]:
        raise PlanError(f"{missing[0]} cannot draw: it was not trained and measured yet. Run it first.")
    folder = options.out / "drawings"
    for medium in {arm.medium.name: arm.medium for arm, _ in wanted}.values():
        pictures = _pictures(medium, options)
        shown_PF, test = _shown(medium, pictures, options), test_pictures(pictures)
        captions = [pictures.captions[number] for number in test.tolist()]
        write_json(clean_floor(pictures, shown_PF, medium.drawings), folder / f"{medium.name}-{CLEAN}.json")
        save_png(sheet(pictures.pixels_P3HW[test], captions), folder / f"{medium.name}-{CLEAN}.png")
        for arm, way in (pair for pair in wanted if pair[0].medium is medium):
            file = folder / f"{'-'.join([arm.name, *way.replace(',', '').split()])}.json"
            step = options.step or best_step(arm, way, results[arm.name])
            about = {"arm": arm.name, "way": way, "step": step}
            if not (file.exists() and about.items() <= json.loads(file.read_text(encoding="utf-8")).items()):
                ensemble = ensemble_of(arm, step, way, options.out)
                drawn = [draw(ensemble, pictures, test, turn) for turn in range(medium.drawings)]
                save_png(sheet(drawn[0], captions), file.with_suffix(".png"))
                write_json({**about, **judged(drawn, pictures, shown_PF, options.mobilenet)}, file)
            _say(f"{arm.name} {way}: drawn and judged, see {file}")


def _wanted(name: str) -> tuple[Arm, list[str]]:
    """Return an arm, and the ways of mixing its experts that its name asks for."""
    arm_name, _, way = name.partition(":")
    arm = arm_of(arm_name)
    if not arm.features:
        return arm, [""]
    if way == PAIRS:
        return arm, pairs(arm.count)
    known = [*(name for name, routing in ROUTINGS.items() if routing.k <= arm.count), *pairs(arm.count)]
    if way and way not in known:
        raise PlanError(f"Experts cannot be mixed by {way!r}. There are {PAIRS!r} and {', '.join(map(repr, known))}.")
    return arm, [way or "full"]


def _report(options: argparse.Namespace) -> None:
    results = results_in(options.out / "results")
    if not results:
        raise PlanError(f"There are no results in {options.out}: run arms first.")
    rows = rows_of(results)
    for name, result in results.items():
        write_json({**result, "command": f"python -m benchmarks.isoflop run {name}"}, RESULTS / f"isoflop-{name}.json")
    for size in sorted({arm_of(name).size for name in results}):
        plot_curves(results, size, IMAGES / f"isoflop-curves-{size}.png")
        if some := [row for row in rows if row.arm.size == size]:
            plot_levels(some, IMAGES / f"isoflop-levels-{size}.png")
            print(table(some), specialists(results, size), sep="\n\n", end="\n\n")
    for medium in (PICTURES, CLIPS):
        if drawings := drawings_in(options.out / "drawings", medium):
            write_json({"machine": machine(), "drawings": drawings}, RESULTS / f"{DRAWINGS[medium.name]}.json")
            print(drawn_table(drawings), end="\n\n")


def _pictures(medium: Medium, options: argparse.Namespace) -> Pictures:
    return ingest(options.data or medium.data, medium.frames, options.out / f"{medium.name}.safetensors")


def _shown(medium: Medium, pictures: Pictures, options: argparse.Namespace) -> Vectors:
    return shown_of(pictures, options.out / f"{medium.name}-shown.safetensors", options.mobilenet)


def _labels(arm: Arm, pictures: Pictures, options: argparse.Namespace) -> Tensor | None:
    if not arm.features:
        return None
    shown_PF = _shown(arm.medium, pictures, options) if arm.features in {"visual", "both"} else None
    return labels_of(arm.features, arm.count, pictures, shown_PF)


def _result(out: Path, arm: Arm) -> Path:
    return out / "results" / f"{arm.name}.json"


def _file(folder: Path, name: str, way: str) -> Path:
    return folder / f"{'-'.join([name, *way.replace(',', '').split()])}.json"


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
