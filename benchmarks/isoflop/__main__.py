"""`python -m benchmarks.isoflop run|draw|report`: experts beside one model at equal FLOPs, see docs/results.md."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from benchmarks.isoflop.clusterings import labels_of
from benchmarks.isoflop.data import Pictures, ingest
from benchmarks.isoflop.drawing import clean_floor, draw, ensemble_of, judged, test_pictures
from benchmarks.isoflop.measure import ROUTINGS, measure
from benchmarks.isoflop.plan import Arm, PlanError, arm_of
from benchmarks.isoflop.report import plot_curves, plot_levels, results_in, rows_of, table
from benchmarks.isoflop.shown import shown_of
from benchmarks.isoflop.train import train_arm, train_routers
from benchmarks.measure import machine
from paris.models.checkpoints import CheckpointError
from paris.models.files import write_json
from paris.node.grid import captioned_grid, save_png
from paris.protocol.errors import ParisError
from paris.registry.features import Vectors

ROOT = Path(__file__).parent.parent.parent
RESULTS = ROOT / "benchmarks" / "results"
IMAGES = ROOT / "docs" / "images"
SHEET = 14
CLEAN = "clean"


def main() -> None:
    """Run, draw or report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.isoflop", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train and measure arms, one after the other; what is done stays done")
    run.add_argument("arms", nargs="+", metavar="ARM", help="such as small-s0 or small-style5-b1000-s0")
    run.set_defaults(do=_run)
    draws = commands.add_parser("draw", help="draw all test captions with arms that were run, and judge the pictures")
    draws.add_argument("arms", nargs="+", metavar="ARM", help="as for run; of experts with a way to mix, ARM:top-1")
    draws.add_argument("--step", type=int, required=True, help="step of the units' checkpoints")
    draws.set_defaults(do=_draw)
    report = commands.add_parser("report", help="keep the results in benchmarks/results/, plot them, print the table")
    report.set_defaults(do=_report)
    for command in (run, draws, report):
        command.add_argument("--out", type=Path, required=True, help="folder for weights and results")
    for command in (run, draws):
        command.add_argument("--data", default="sample:emoji", help="captioned pictures with a codepoint each")
        command.add_argument("--mobilenet", metavar="FILE", help="MobileNetV2's weights; else those of their package")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        options.do(options)
    except (PlanError, ParisError, CheckpointError) as error:
        parser.error(str(error))


def _run(options: argparse.Namespace) -> None:
    arms = [arm_of(name) for name in options.arms]
    pictures = _pictures(options)
    for arm in arms:
        result = _result(options.out, arm)
        if not result.exists():
            labels_P = _labels(arm, pictures, options)
            train_arm(arm, pictures, labels_P, options.out, _say)
            if labels_P is not None:
                train_routers(arm.clustering, arm.count, pictures, labels_P, options.out, _say)
            write_json(measure(arm, pictures, labels_P, options.out), result)
        _say(f"{arm.name}: measured, see {result}")


def _draw(options: argparse.Namespace) -> None:
    wanted = [name.partition(":") for name in options.arms]
    if unknown := {way for _, _, way in wanted} - {"", *ROUTINGS}:
        raise PlanError(f"Experts cannot be mixed by {', '.join(sorted(unknown))}. There are {', '.join(ROUTINGS)}.")
    if missing := [name for name, *_ in wanted if not _result(options.out, arm_of(name)).exists()]:
        raise PlanError(f"{missing[0]} cannot draw: it was not trained and measured yet. Run it first.")
    pictures = _pictures(options)
    shown_PF = _shown(pictures, options)
    test, folder = test_pictures(pictures), options.out / "drawings"
    write_json(clean_floor(pictures, shown_PF), folder / f"{CLEAN}.json")
    for name, _, way in wanted:
        ensemble = ensemble_of(arm_of(name), options.step, ROUTINGS[way or "full"], options.out)
        drawn_N3HW = draw(ensemble, pictures, test)
        about = {"arm": name, "way": way, "step": options.step}
        write_json({**about, **judged(drawn_N3HW, pictures, shown_PF, options.mobilenet)}, _file(folder, name, way))
        chosen = torch.arange(0, len(test), len(test) // SHEET)[:SHEET]
        captions = [pictures.captions[int(test[number])] for number in chosen]
        images = [Image.fromarray(drawn_N3HW[number].permute(1, 2, 0).numpy()) for number in chosen]
        save_png(captioned_grid(images, captions, SHEET // 2), _file(folder, name, way).with_suffix(".png"))
        _say(f"{name} {way}: drawn and judged, see {_file(folder, name, way)}")


def _report(options: argparse.Namespace) -> None:
    results = results_in(options.out / "results")
    if not results:
        raise PlanError(f"There are no results in {options.out}: run arms first.")
    rows = rows_of(results)
    for name, result in results.items():
        write_json({**result, "command": f"python -m benchmarks.isoflop run {name}"}, RESULTS / f"isoflop-{name}.json")
    drawn = sorted((options.out / "drawings").glob("*.json"))
    drawings = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in drawn}
    write_json({"machine": machine(), "drawings": drawings}, RESULTS / "isoflop-drawings.json")
    for size in sorted({row.arm.size for row in rows}):
        plot_curves(results, size, IMAGES / f"isoflop-curves-{size}.png")
    plot_levels(rows, IMAGES / "isoflop-levels.png")
    print(table(rows))


def _pictures(options: argparse.Namespace) -> Pictures:
    return ingest(options.data, options.out / "pictures.safetensors")


def _shown(pictures: Pictures, options: argparse.Namespace) -> Vectors:
    return shown_of(pictures, options.out / "shown.safetensors", options.mobilenet)


def _labels(arm: Arm, pictures: Pictures, options: argparse.Namespace) -> Tensor | None:
    if not arm.features:
        return None
    shown_PF = _shown(pictures, options) if arm.features in {"visual", "both"} else None
    return labels_of(arm.features, arm.count, pictures, shown_PF)


def _result(out: Path, arm: Arm) -> Path:
    return out / "results" / f"{arm.name}.json"


def _file(folder: Path, name: str, way: str) -> Path:
    return folder / f"{'-'.join([name, *way.replace(',', '').split()])}.json"


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
