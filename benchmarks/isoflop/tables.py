"""Tables of what experts know alone and in pairs, and of what was drawn; over the seeds of a family.

Experts are read where validation chose the oracle's checkpoint. Errors are those that are trained on, `Medium.told`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.isoflop.media import Medium
from benchmarks.isoflop.plan import arm_of
from benchmarks.isoflop.report import Result, best_step, family_of
from benchmarks.isoflop.switching import switched

JUDGEMENTS = ("frechet", "kernel", "retrieval", "motion")


def specialists(results: dict[str, Result], size: str) -> str:
    """Return tables, one a family: held-out errors of every expert on its own cluster and elsewhere, and of pairs."""
    families: dict[str, list[Result]] = defaultdict(list)
    for name, result in results.items():
        if (arm := arm_of(name)).size == size and arm.features:
            families[family_of(name)].append(result)
    return "\n\n".join(_specialists(family, some) for family, some in families.items())


def drawings_in(folder: Path, medium: Medium) -> dict[str, dict[str, Any]]:
    """Return what was told of a medium's drawings, by file name; of real ones first."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))}
    told = {name: about for name, about in found.items() if "arm" not in about and name.startswith(medium.name)}
    return told | {name: about for name, about in found.items() if _is_of(about, medium)}


def drawn_table(drawings: dict[str, dict[str, Any]]) -> str:
    """Return a Markdown table of drawings, one line for every family, way of mixing and step."""
    families: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for name, about in drawings.items():
        families[family_of(about["arm"]) if "arm" in about else name, about.get("way", "")].append(about)
    rows = [["drawn by", "mixed", "seeds", "Fréchet", "kernel x 1000", "retrieval", "motion"]]
    for (family, way), some in families.items():
        cells = [_over([about[name] for about in some]) if name in some[0] else "" for name in JUDGEMENTS]
        rows.append([f"`{family}`", way, str(len(some)), *cells])
    return _markdown(rows)


def _specialists(family: str, some: list[Result]) -> str:
    arms = [arm_of(result["arm"]) for result in some]
    steps = [arm.branch + best_step(arm, "oracle", result) for arm, result in zip(arms, some, strict=True)]
    alone = [
        next(point["alone"]["test"] for point in result["curve"] if point["step"] == step)
        for result, step in zip(some, steps, strict=True)
    ]
    told, numbers = arms[0].medium.told, range(arms[0].count)
    rows = [[f"`{family}`", *(f"cluster {number}" for number in numbers), "all"]]
    for number in numbers:
        own = [[mean(told(cluster)) for cluster in experts[number]["clusters"]] for experts in alone]
        every = [mean(told(experts[number]["all"])) for experts in alone]
        rows.append([f"expert {number}", *(_over(list(cells)) for cells in zip(*own, strict=True)), _over(every)])
    turns = [[f"`{family}`", *(f"then {second}" for second in numbers)]]
    for first in numbers:
        pairs = [[mean(told(switched(experts, first, second))) for second in numbers] for experts in alone]
        turns.append([str(first), *(_over(list(cells)) for cells in zip(*pairs, strict=True))])
    return f"{_markdown(rows)}\n\n{_markdown(turns)}"


def _markdown(rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]])


def _is_of(about: dict[str, Any], medium: Medium) -> bool:
    return "arm" in about and arm_of(about["arm"]).medium.name == medium.name


def _over(values: list[float]) -> str:
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")
