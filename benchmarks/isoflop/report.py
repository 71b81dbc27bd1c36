"""Tables and plots of what was measured: experts beside the one model that was given at least as many FLOPs.

Both arms are stopped alike: of the checkpoints within the budget the one of least validation error counts, and its test
error is told. The one model's budget ends at its first checkpoint that cost as much as base, experts and router. Errors
are those that are trained on, see `Medium.told`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from matplotlib import rcParams
from matplotlib.figure import Figure

from benchmarks.isoflop.media import Medium
from benchmarks.isoflop.plan import Arm, arm_of

MONOLITH = "monolith"
ROUTERLESS = ("oracle", "average", "router-free")
SHARP_AND_SOFT = ("top-1", "full, soft")
PLOTTED = (*SHARP_AND_SOFT, "full, blind")
ERROR = {"velocity": "velocity error", "ddpm-x0": "error of the predicted data"}
COLUMNS = (
    "experts", "mixed", "seeds", "held out: experts", "one model", "difference", "trained on: experts", "one model",
    "difference", "FLOPs of experts / one model",
)  # fmt: skip

Result = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """Experts mixed in one way, beside the one model of the same seed.

    Attributes:
        arm: the experts.
        way: of mixing them.
        experts: test and training error of the experts.
        monolith: the same of the one model.
        flops: what base, experts and, where the way asks one, the router cost.
        monolith_flops: what the one model was given.
        levels: test error at each noise level, experts less monolith.
    """

    arm: Arm
    way: str
    experts: dict[str, float]
    monolith: dict[str, float]
    flops: float
    monolith_flops: float
    levels: list[float]

    @property
    def family(self) -> str:
        """Name of the arm without its seed."""
        return family_of(self.arm.name)


def results_in(folder: Path) -> dict[str, Result]:
    """Return every arm's result by its name; those of the size for trying things out are left alone."""
    found = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json")))
    return {result["arm"]: result for result in found if not result["arm"].startswith("micro")}


def rows_of(results: dict[str, Result]) -> list[Row]:
    """Return experts beside monoliths, for every way of mixing."""
    rows = []
    for name, result in results.items():
        arm = arm_of(name)
        if arm.features and arm.base in results:
            rows += [_row(arm, way, result, results[arm.base]) for way in result["curve"][0]["errors"]["test"]]
    return rows


def table(rows: list[Row]) -> str:
    """Return a Markdown table, one line for every family and way, over its seeds."""
    families: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        families[row.family, row.way].append(row)
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    lines += [f"| {' | '.join(_cells(*family, some))} |" for family, some in families.items()]
    return "\n".join(lines)


def _cells(family: str, way: str, rows: list[Row]) -> list[str]:
    cells = [f"`{family}`", way, str(len(rows))]
    for split in ("test", "train"):
        ours, theirs = ([getattr(row, who)[split] for row in rows] for who in ("experts", MONOLITH))
        gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
        spread = f" ± {stdev(gaps):.4f}" if len(gaps) > 1 else ""
        cells += [f"{mean(ours):.4f}", f"{mean(theirs):.4f}", f"{mean(gaps):+.4f}{spread}"]
    shares = [row.flops / row.monolith_flops for row in rows]
    return [*cells, f"{mean(shares):.2f}"]


def plot_curves(results: dict[str, Result], size: str, out: Path) -> None:
    """Draw error over training FLOPs of one size's arms, on held-out and on training pictures or clips."""
    results = {name: result for name, result in results.items() if arm_of(name).size == size}
    medium = arm_of(next(iter(results))).medium
    figure = Figure(figsize=(12, 4.6))
    axes = figure.subplots(1, 2)
    families = sorted({family_of(name) for name in results})
    colours = dict(zip(families, rcParams["axes.prop_cycle"].by_key()["color"], strict=False))
    for axis, split, title in zip(axes, ("test", "train"), ("held-out", "training"), strict=True):
        for name, result in results.items():
            arm = arm_of(name)
            if not arm.features:
                axis.plot(*_curve(medium, result, MONOLITH, split), "k-o", ms=3, label="one model")
                continue
            for way, style in zip(PLOTTED, ("-o", "--s", ":"), strict=True):
                line = _curve(medium, result, way, split)
                axis.plot(*line, style, ms=3, color=colours[family_of(name)], label=f"{family_of(name)}: {way}")
        axis.set(xlabel="training FLOPs, router included", ylabel=ERROR[medium.objective])
        axis.set(title=f"{title} {medium.name}")
        axis.grid(alpha=0.3)
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels()), strict=True))
    axes[1].legend(handles.values(), handles.keys(), fontsize=7)
    _save(figure, out)


def plot_levels(rows: list[Row], out: Path) -> None:
    """Draw by noise level how much lower or higher the experts' error is than the one model's, on held-out pictures."""
    figure = Figure(figsize=(7, 4.2))
    axis = figure.subplots()
    for way in SHARP_AND_SOFT:
        for family in sorted({row.family for row in rows}):
            some = [row.levels for row in rows if (row.family, row.way) == (family, way)]
            if some:
                times = [(number + 0.5) / len(some[0]) for number in range(len(some[0]))]
                gaps = [mean(levels) for levels in zip(*some, strict=True)]
                axis.plot(times, gaps, "-o", ms=3, label=f"{family}, {way}")
    axis.axhline(0, color="k", lw=0.8)
    axis.set(xlabel="noise level t (0 data, 1 noise)", ylabel="error, experts less one model")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    _save(figure, out)


def family_of(name: str) -> str:
    """Return an arm's name without its seed."""
    return name.rpartition("-s")[0]


def _row(arm: Arm, way: str, result: Result, monolith: Result) -> Row:
    medium = arm.medium
    best = _best(medium, result["curve"], way)
    flops = result["curve"][-1]["flops"] + _router_flops(result, way)
    within = [point for point in monolith["curve"] if point["flops"] < flops]
    budget = monolith["curve"][: len(within) + 1]
    single = _best(medium, budget, MONOLITH)
    ours, theirs = (medium.told(point["errors"]["test"][who]) for point, who in ((best, way), (single, MONOLITH)))
    return Row(
        arm,
        way,
        {split: mean(medium.told(errors[way])) for split, errors in best["errors"].items()},
        {split: mean(medium.told(errors[MONOLITH])) for split, errors in single["errors"].items()},
        flops,
        budget[-1]["flops"],
        [a - b for a, b in zip(ours, theirs, strict=True)],
    )


def best_step(arm: Arm, way: str, result: Result) -> int:
    """Return the step of the units' checkpoint that validation chose; for pairs, the one it chose for the oracle."""
    known = result["curve"][0]["errors"]["validation"]
    way = way if way in known else "oracle" if arm.features else MONOLITH
    return int(_best(arm.medium, result["curve"], way)["step"]) - arm.branch


def _best(medium: Medium, curve: list[Result], way: str) -> Result:
    return min(curve, key=lambda point: mean(medium.told(point["errors"]["validation"][way])))


def _router_flops(result: Result, way: str) -> float:
    if way.startswith(ROUTERLESS) or way == MONOLITH:
        return 0.0
    return float(result["routers"]["blind" if way.endswith("blind") else "text"]["flops"])


def _curve(medium: Medium, result: Result, way: str, split: str) -> tuple[list[float], list[float]]:
    flops = [point["flops"] + _router_flops(result, way) for point in result["curve"]]
    return flops, [mean(medium.told(point["errors"][split][way])) for point in result["curve"]]


def _save(figure: Figure, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110, bbox_inches="tight", metadata={"Software": None})
