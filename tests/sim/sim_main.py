"""`python tests/sim/sim_main.py --seeds 1000` or `--seed 7`, `--peers 10000 --clusters 256`: run, print a table, judge.

Exits 1 when an invariant broke, with one line that repeats the seed. Times are virtual: a slow machine changes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from sim_run import Report, Scenario, simulate

CROWD = 100
HEAD = [
    "seed", "all held s", "complete s", "wasted", "publishes/peer-h", "MB/idle peer-h", "measured", "overlap s",
    "neglect s",
]  # fmt: skip


def scenario(peers: int | None, clusters: int | None) -> Scenario:
    """The hostile small world, or from a hundred peers on a crowd."""
    if peers and peers >= CROWD:
        return Scenario.of_crowd(peers, clusters or 256)
    usual = Scenario()
    return Scenario(peers=peers or usual.peers, clusters=clusters or usual.clusters)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0 to N-1")
    parser.add_argument("--seed", type=int, help="this one seed")
    parser.add_argument("--peers", type=int)
    parser.add_argument("--clusters", type=int)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, help="also write the table as JSON")
    asked = parser.parse_args()
    seeds = range(asked.seeds) if asked.seed is None else [asked.seed]
    world = scenario(asked.peers, asked.clusters)
    say("  ".join(f"{name:>16}" for name in HEAD))
    reports = []
    with ProcessPoolExecutor(asked.jobs) as pool:
        for report in pool.map(partial(simulate, scenario=world), seeds):
            reports.append(report)
            say("  ".join(f"{value:>16}" for value in report.row()))
            for reason in report.broken:
                say(f"BROKEN {reason}\nrepeat with: {again(report.seed, asked)}")
    if asked.out:
        asked.out.write_text(json.dumps(table(reports, world, repeated(asked)), indent=1) + "\n")
    return int(any(report.broken for report in reports))


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def again(seed: int, asked: argparse.Namespace) -> str:
    return repeated(argparse.Namespace(**vars(asked) | {"seed": seed}))


def repeated(asked: argparse.Namespace) -> str:
    """The command that does the same again."""
    which = f"--seeds {asked.seeds}" if asked.seed is None else f"--seed {asked.seed}"
    size = "".join(f" --{name} {value}" for name in ("peers", "clusters") if (value := getattr(asked, name)))
    return f"python tests/sim/sim_main.py {which}{size}"


def table(reports: list[Report], world: Scenario, command: str) -> dict:
    lease = {"life_s": world.lease.life_s, "settle_s": world.lease.settle_s, "progress_s": world.lease.progress_s}
    size = {"peers": world.peers, "clusters": world.clusters, "hostile": [kind.__name__ for kind in world.hostile]}
    return {"command": command, **size, "lease": lease, "runs": [asdict(report) for report in reports]}


if __name__ == "__main__":
    sys.exit(main())
