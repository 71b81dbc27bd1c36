"""One seeded run, its invariants and its numbers. `python tests/sim/sim_run.py 7 8` runs seeds 7 and 8 and prints them.

Invariants, checked after every event: no unit that could be trained lies idle beside an idle peer beyond the progress
deadline (and a few turns of the loop), whatever squatters claim; two peers train one unit at once for a bounded time
only; in the end every unit is complete and every living peer knows.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from itertools import combinations

from sim_peers import Contributor, Decide, Rules, Squatter
from sim_world import START_S, Network, Partition, World

from paris.protocol.claims import decide as real_decide
from paris.protocol.genesis import Lease

HORIZON_S = 6 * 3600.0
SLOWEST_STEP_S, FASTEST_STEP_S = 40.0, 3.0
SPLIT_S = 240.0


@dataclass(frozen=True)
class Scenario:
    """What is simulated; everything else follows from the seed."""

    contributors: int = 12
    squatters: int = 3
    clusters: int = 6
    target_step: int = 60
    loss: float = 0.05
    crashes: int = 10
    skew_s: float = 30.0


@dataclass
class Report:
    """What one run came to. Times in virtual seconds."""

    seed: int
    finished_s: float = HORIZON_S
    longest_overlap_s: float = 0.0
    longest_neglect_s: float = 0.0
    steps_useful: int = 0
    steps_trained: float = 0.0
    publishes_per_peer_hour: float = 0.0
    broken: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        wasted = 1 - self.steps_useful / max(1, self.steps_trained)
        line = (
            f"seed {self.seed:4}  complete after {self.finished_s:6.0f} s  overlap <= {self.longest_overlap_s:4.0f} s  "
            f"neglect <= {self.longest_neglect_s:4.0f} s  wasted {wasted:4.0%}  "
            f"{self.publishes_per_peer_hour:4.0f} publishes/peer-hour"
        )
        return "\n".join([line, *(f"  BROKEN {reason}" for reason in self.broken)])


class Simulation:
    """Contributors, squatters, crashes and a split, built from a seed and watched after every event."""

    def __init__(self, seed: int, scenario: Scenario, decide: Decide) -> None:
        self.world, self.report = World(seed), Report(seed)
        rng = self.world.rng
        base = ("base",) if seed % 2 else ()
        units = (*base, *(f"cluster-{number}" for number in range(scenario.clusters)), "router")
        self.rules = Rules(units, scenario.target_step, 10, Lease(life_s=300, settle_s=5, progress_s=300))
        count = scenario.contributors + scenario.squatters
        split_s = START_S + rng.uniform(200, 1500)
        groups = tuple(rng.randrange(2) for _ in range(count))
        self.network = Network(self.world, scenario.loss, (Partition(split_s, split_s + SPLIT_S, groups),))
        skews = [rng.uniform(-scenario.skew_s, scenario.skew_s) for _ in range(count)]
        self.peers = [
            Contributor(
                self.world, self.network, number, self.rules, skews[number], decide=decide,
                step_s=rng.choice([FASTEST_STEP_S, 8.0, 15.0, 25.0, SLOWEST_STEP_S]),
            )
            for number in range(scenario.contributors)
        ]  # fmt: skip
        self._people_the_world(scenario, skews)
        publish_s = SLOWEST_STEP_S * self.rules.publish_every
        lease, turns_s = self.rules.lease, 4 * (self.rules.period_s + self.rules.lease.settle_s) + SPLIT_S
        self.overlap_bound_s = publish_s + turns_s
        self.neglect_bound_s = lease.progress_s + turns_s
        self._neglected_since_s = dict.fromkeys(units, START_S)
        self._idle_since_s: dict[int, float] = {}
        self._together_since_s: dict[tuple[str, int, int], float] = {}

    def _people_the_world(self, scenario: Scenario, skews: list[float]) -> None:
        rng = self.world.rng
        for peer in self.peers:
            self.world.after(rng.uniform(0, 120), peer.start)
            peer.alive = False
        for number in range(scenario.contributors, len(skews)):
            squatter = Squatter(self.world, self.network, number, self.rules, skews[number])
            self.world.after(rng.uniform(0, 60), squatter.wake)
        for _ in range(scenario.crashes):
            victim = rng.choice(self.peers[1:])  # the first never dies for good, so somebody always can finish
            down_s = rng.choice([5.0, 60.0, 600.0, None])
            self.world.after(rng.uniform(120, 2400), lambda peer=victim, down_s=down_s: peer.crash(down_s))

    def run(self) -> Report:
        """Let the world run until everybody alive knows that everything is complete, or an invariant breaks."""
        for _ in self.world.events(START_S + HORIZON_S):
            self._watch()
            if self.report.broken or self._everybody_knows():
                break
        else:
            steps = {unit: self._reached(unit) for unit in self.rules.units}
            self.report.broken.append(f"not complete after {HORIZON_S:.0f} s: {steps}")
        return self._summary()

    def _everybody_knows(self) -> bool:
        return all(peer.done for peer in self.peers if peer.alive) and any(peer.done for peer in self.peers)

    def _reached(self, unit: str) -> int:
        return max((tip.step for tip in self.network.newest("tip", unit)), default=0)

    def _watch(self) -> None:
        now_s, report = self.world.now_s, self.report
        trainers: dict[str, list[int]] = {unit: [] for unit in self.rules.units}
        for peer in self.peers:
            if peer.training:
                trainers[peer.training].append(peer.number)
        self._watch_overlap(trainers, now_s)
        self._watch_neglect(trainers, now_s)
        if report.longest_overlap_s > self.overlap_bound_s:
            report.broken.append(f"two peers trained one unit for more than {self.overlap_bound_s:.0f} s")
        if report.longest_neglect_s > self.neglect_bound_s:
            report.broken.append(f"a unit lay idle beside an idle peer for more than {self.neglect_bound_s:.0f} s")

    def _watch_overlap(self, trainers: dict[str, list[int]], now_s: float) -> None:
        pairs = {(unit, *pair) for unit, numbers in trainers.items() for pair in combinations(numbers, 2)}
        self._together_since_s = {pair: self._together_since_s.get(pair, now_s) for pair in pairs}
        longest_s = max((now_s - since_s for since_s in self._together_since_s.values()), default=0.0)
        self.report.longest_overlap_s = max(self.report.longest_overlap_s, longest_s)

    def _watch_neglect(self, trainers: dict[str, list[int]], now_s: float) -> None:
        """A unit that could be trained, that nobody trains, while some peer lives and trains nothing."""
        waiting = self.rules.units[0] == "base" and self._reached("base") < self.rules.target_step
        for unit, numbers in trainers.items():
            blocked = waiting and unit != "base"
            if numbers or blocked or self._reached(unit) == self.rules.target_step:
                self._neglected_since_s[unit] = now_s
        idle = [peer.number for peer in self.peers if peer.alive and not peer.training]
        self._idle_since_s = {number: self._idle_since_s.get(number, now_s) for number in idle}
        if self._idle_since_s:
            since_s = max(min(self._neglected_since_s.values()), min(self._idle_since_s.values()))
            self.report.longest_neglect_s = max(self.report.longest_neglect_s, now_s - since_s)

    def _summary(self) -> Report:
        report, elapsed_s = self.report, self.world.now_s - START_S
        report.finished_s = elapsed_s
        report.steps_useful = sum(self._reached(unit) for unit in self.rules.units)
        report.steps_trained = sum(peer.steps_trained for peer in self.peers)
        report.publishes_per_peer_hour = self.network.published / (len(self.peers) * elapsed_s / 3600)
        return report


def simulate(seed: int, scenario: Scenario | None = None, decide: Decide = real_decide) -> Report:
    """Run one seed to its end."""
    return Simulation(seed, scenario or Scenario(), decide).run()


if __name__ == "__main__":
    reports = [simulate(int(seed)) for seed in sys.argv[1:] or ["0"]]
    sys.stdout.writelines(f"{report}\n" for report in reports)
    sys.exit(any(report.broken for report in reports))
