"""`make cheats`: every way to cheat that an audit names, tried on real trainings; what was caught, and at which level.

A run of the packaged pictures with three experts is trained honestly, several times with other randomness. Then one
contributor cheats in one way at a time, signs that as any contributor would, and the run is audited as it is. False
alarms are checks that fail on the honest runs, or on honest experts beside a cheat. Replays are also made of honest
segments that were trained otherwise than they are replayed (batch splits, threads, precision): that is what the
tolerance has to forgive.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.cheating import CHEATS, EVERY, STEPS, VICTIM, World, make_run, make_world
from benchmarks.measure import machine
from paris.models.replay import compare_state, retrace
from paris.registry.audit import Depth, audit
from paris.registry.evidence import Evidence
from paris.registry.findings import Audit
from paris.registry.replay import TOLERANCE, replay_segment
from paris.registry.resolve import ResolvedRun

RESULT = Path(__file__).parent / "results" / "cheats.json"

OTHERWISE: dict[str, dict[str, Any]] = {
    "2 threads": {"threads": 2},
    "batches in two": {"accumulate": 2},
    "batches in four": {"accumulate": 4},
    "bf16 instead of fp32": {"precision_here": "bf16"},
}
"""Honest trainings on what stands for another stack."""


@dataclass
class Tally:
    """One row of the table."""

    cheat: str
    level: str
    tries: int = 0
    caught: int = 0
    by: dict[str, int] = field(default_factory=dict)
    false_alarms: list[str] = field(default_factory=list)

    def count(self, caught: Sequence[str], false_alarms: Sequence[str]) -> None:
        self.tries += 1
        self.caught += bool(caught)
        self.false_alarms += false_alarms
        for name in caught:
            self.by[name] = self.by.get(name, 0) + 1


def examined(world: World, resolved: ResolvedRun, secret: str, *, evaluate: bool) -> Audit:
    depth = Depth(evaluate=evaluate, secret=secret, folder=world.folder)
    return asyncio.run(audit(world.library, resolved, (), None, depth))


def tried(world: World, tally: Tally, cheat: Callable[[World], str], secret: str) -> None:
    """Cheat once, audit once; an accusation of both ends of a copy is none of the honest one."""
    resolved = asyncio.run(world.resolved(cluster_0=cheat(world)))
    if tally.level == "replayed":
        found = asyncio.run(
            replay_segment(Evidence(world.library, resolved, (), world.folder), resolved.units[VICTIM], 1)
        )
        tally.count(["replay"] if found.check and not found.check.ok else [], [])
        return
    report = examined(world, resolved, secret, evaluate=tally.level == "evaluated")
    failed = [(unit.unit, check) for unit in report.units for check in unit.failed()]
    by = [check.name for unit, check in failed if unit == VICTIM and check.level == tally.level]
    innocent = [f"{unit}: {c.name}" for unit, c in failed if unit != VICTIM and VICTIM not in c.detail]
    tally.count(by, innocent)


def honest_alarms(world: World, secrets: Sequence[str]) -> tuple[int, list[str]]:
    """Checks made on an honest run, and those that failed."""
    resolved = asyncio.run(world.resolved())
    made, failed = 0, []
    for secret in secrets:
        for unit in examined(world, resolved, secret, evaluate=True).units:
            made += sum(bool(check.level) for check in unit.checks)
            failed += [f"{unit.unit}: {check.name}: {check.detail}" for check in unit.failed()]
    evidence = Evidence(world.library, resolved, (), world.folder)
    for unit in resolved.units.values():
        for index in range(len(unit.lineage)):
            found = asyncio.run(replay_segment(evidence, unit, index))
            made += 1
            if found.check is None or not found.equal:
                failed.append(f"{unit.unit}: replay: {found.why_not or found.deviation}")
    return made, failed


def deviations(world: World) -> dict[str, float]:
    """How far honest trainings end from one another where only the stack differs."""
    steps, begin = world.steps, world.states[f"{VICTIM}-1"]
    first = world.trainer(VICTIM)
    first.load(begin)
    before = first.snapshot().groups["weights"]
    found = {}
    for name, changes in OTHERWISE.items():
        trainer = world.trainer(VICTIM, **changes)
        split = trainer.passes.micro_batch
        trainer.load(begin)
        ended = retrace(trainer, until=steps, micro_batch=split)
        found[name] = compare_state(ended, before, world.states[f"{VICTIM}-2"]).deviation
    torch.set_num_threads(1)
    return found


def run(*, runs: int, secrets: int, every: int = EVERY, steps: int = STEPS) -> dict[str, Any]:
    """Make the worlds and try everything in each."""
    tallies = [Tally(name, level) for name, (level, _) in CHEATS.items()]
    made, alarms, apart = 0, list[str](), dict[str, list[float]]()
    with tempfile.TemporaryDirectory(prefix="paris-cheats-") as base:
        shared = Path(base) / "shared"
        genesis = make_run(shared, every, steps)
        for number in range(runs):
            world = make_world(genesis, number, Path(base), shared)
            counted, failed = honest_alarms(world, [f"honest {n}" for n in range(secrets)])
            made, alarms = made + counted, alarms + failed
            for name, deviation in deviations(world).items():
                apart.setdefault(name, []).append(round(deviation, 6))
            for tally in tallies:
                tried(world, tally, CHEATS[tally.cheat][1], f"secret {number}")
    return {
        "cheats": [vars(tally) for tally in tallies],
        "honest": {"runs": runs, "checks": made, "false_alarms": alarms},
        "replay": {"tolerance": TOLERANCE, "deviation_of_honest_other_stacks": apart},
    }


def table(result: dict[str, Any]) -> Table:
    """The result for people."""
    shown = Table(title="cheats: what an audit catches", title_justify="left")
    for column in ("cheat", "tries", "caught", "level", "by", "false alarms"):
        shown.add_column(column)
    for row in result["cheats"]:
        by = ", ".join(f"{name} {count}" for name, count in row["by"].items())
        caught = f"{'' if row['caught'] == row['tries'] else 'MISSED '}{row['caught']}"
        shown.add_row(row["cheat"], str(row["tries"]), caught, row["level"], by, str(len(row["false_alarms"])))
    honest = result["honest"]
    shown.add_section()
    runs = f"{honest['runs']} honest runs, {honest['checks']} checks"
    shown.add_row(runs, "", "", "", "", str(len(honest["false_alarms"])))
    return shown


def main() -> None:
    """Try everything, show the table, keep the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cheats", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="worlds with randomness of their own")
    parser.add_argument("--secrets", type=int, default=3, help="audits of each honest run")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    begun_s, before = time.monotonic(), machine()
    result = run(runs=options.runs, secrets=options.secrets)
    took = {"command": "make cheats", "took_s": round(time.monotonic() - begun_s), "machine": before}
    Console(width=None if os.isatty(1) else 140).print(table(result))
    temporary = options.out.with_suffix(".new")
    temporary.write_text(json.dumps({**took, **result}, indent=1) + "\n", encoding="utf-8")
    temporary.replace(options.out)


if __name__ == "__main__":
    main()
