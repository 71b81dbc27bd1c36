"""One seeded run of a simulated network, its invariants (`sim_watch`) and its numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from sim_byzantine import HOSTILE, Byzantine, Flooder
from sim_keys import RUN, Claimant, Library, Rules
from sim_peers import MEASURING_S, Contributor, Decide
from sim_watch import Watch
from sim_world import (
    LOOKUP_BYTES,
    RECORD_BYTES,
    REPLICAS,
    START_S,
    Partition,
    PlainNetwork,
    RealNetwork,
    World,
)  # fmt: skip

from paris.protocol.book import RecordBook
from paris.protocol.claims import decide as real_decide
from paris.protocol.claims import idle_s
from paris.protocol.curation import Admission
from paris.protocol.genesis import Lease
from paris.protocol.identity import Identity
from paris.protocol.validation import RunRules

SPLIT_S = 240.0
PEER_RECORDS_PER_HOUR = 20  # a peer record lives 600 s and is announced at a third of that, a little early
SMALL_LEASE = Lease(life_s=300, settle_s=5, progress_s=600)
CROWD_LEASE = Lease(life_s=900, settle_s=10, progress_s=3600)


@dataclass(frozen=True)
class Scenario:
    """What is simulated; everything else follows from the seed. A crowd has no enemies, no skew and no split.

    Odd seeds have a base unit. Half of the seeds list who is admitted (first the contributors, then four of the
    hostile); only those are flooded, for in an open run nothing keeps a flood of names out of a slot.
    """

    peers: int = 12
    clusters: int = 6
    hostile: tuple[type[Byzantine], ...] = HOSTILE
    flood: int = 100
    target_step: int = 60
    publish_every: int = 10
    loss: float = 0.05
    crashes: int = 10
    skew_s: float = 30.0
    steps_s: tuple[float, ...] = (3.0, 8.0, 15.0, 25.0, 40.0)
    join_s: float = 120.0
    horizon_s: float = 8 * 3600.0
    lease: Lease = SMALL_LEASE
    crowd: bool = False
    split: bool = True
    listed: bool | None = None

    @classmethod
    def of_crowd(cls, peers: int, clusters: int) -> Scenario:
        """Many peers, few units: one to three hours of training each, published a dozen times."""
        return cls(
            peers, clusters, (), 0, target_step=360, publish_every=30, loss=0.02, crashes=peers // 100, skew_s=0.0,
            steps_s=(9.0, 13.0, 18.0, 27.0), join_s=600.0, horizon_s=24 * 3600.0, lease=CROWD_LEASE, crowd=True,
            split=False,
        )  # fmt: skip


@dataclass
class Report:
    """What one run came to. Times in virtual seconds."""

    seed: int
    all_held_s: float = math.nan
    complete_s: float = math.nan
    wasted: float = 0.0
    publishes_per_peer_hour: float = 0.0
    bytes_per_idle_peer_hour: float = 0.0
    measurements: int = 0
    longest_overlap_s: float = 0.0
    longest_neglect_s: float = 0.0
    broken: list[str] = field(default_factory=list)

    def row(self) -> list[str]:
        return [
            f"{self.seed}", f"{self.all_held_s:.0f}", f"{self.complete_s:.0f}", f"{self.wasted:.1%}",
            f"{self.publishes_per_peer_hour:.1f}", f"{self.bytes_per_idle_peer_hour / 1e6:.2f}",
            f"{self.measurements}", f"{self.longest_overlap_s:.0f}", f"{self.longest_neglect_s:.0f}",
        ]  # fmt: skip


class Simulation:
    """Contributors and their enemies, crashes and a split, built from a seed and watched throughout."""

    def __init__(self, seed: int, scenario: Scenario, decide: Decide = real_decide) -> None:
        self.world, self.scenario, self.report = World(seed), scenario, Report(seed)
        count, lease = scenario.peers, scenario.lease
        base = ("base",) if seed % 2 and not scenario.crowd else ()
        units = (*base, *(f"cluster-{number}" for number in range(scenario.clusters)), "router")
        keys = tuple(Identity.from_seed((n + 1).to_bytes(32, "big")).peer_id for n in range(count + 4))
        listed = seed % 4 >= 2 if scenario.listed is None else scenario.listed
        admission = Admission(policy="list", keys=keys) if listed and not scenario.crowd else Admission(policy="open")
        self.rules = Rules(units, scenario.target_step, scenario.publish_every, lease, admission)
        self.library = Library(admission)
        self.split = self._split() if scenario.split else Partition()
        self.network = self._network()
        self.peers = [self._contributor(number, decide) for number in range(count)]
        enemies = [self._enemy(kind, count + i) for i, kind in enumerate(scenario.hostile)]
        if scenario.flood and listed:
            Flooder.signers = scenario.flood
            enemies.append(self._enemy(Flooder, count + len(enemies)))
        self.watch = self._watch(enemies)
        self._people(enemies)

    def _split(self) -> Partition:
        start_s, rng = START_S + self.world.rng.uniform(200, 1500), self.world.rng
        groups = tuple(rng.randrange(2) for _ in range(self.scenario.peers + len(self.scenario.hostile) + 1))
        return Partition(start_s, start_s + SPLIT_S, groups)

    def _network(self) -> PlainNetwork | RealNetwork:
        if self.scenario.crowd:
            return PlainNetwork(self.world, self.scenario.loss)
        rules = {RUN: RunRules(self.rules.admission)}
        return RealNetwork(self.world, self.scenario.loss, self.split, rules=rules)

    def _place(self, number: int) -> tuple:
        skew_s = self.world.rng.uniform(-self.scenario.skew_s, self.scenario.skew_s)
        return self.world, self.network, self.library, self.rules, number, skew_s

    def _contributor(self, number: int, decide: Decide) -> Contributor:
        step_s = self.world.rng.choice(self.scenario.steps_s)
        peer = Contributor(*self._place(number), step_s=step_s, decide=decide, crowd=self.scenario.peers)
        if not self.scenario.crowd:
            peer.book = RecordBook(rules=self.network.rules, own=peer.name)
        return peer

    def _enemy(self, kind: type[Byzantine], number: int) -> Byzantine:
        enemy = kind(*self._place(number))
        enemy.book, enemy.offered, enemy.bytes_read = RecordBook(rules=self.network.rules), set(), 0
        return enemy

    def _watch(self, enemies: list[Claimant]) -> Watch:
        scenario, rules = self.scenario, self.rules
        turns_s = 4 * (rules.period_s + scenario.lease.settle_s + MEASURING_S) + (SPLIT_S if scenario.split else 0)
        publish_s = max(scenario.steps_s) * rules.publish_every
        most_measured = (len(scenario.hostile) + 4) * MEASURING_S
        neglect_s = 2 * scenario.lease.progress_s + scenario.lease.life_s + idle_s(scenario.lease)
        signers = {claimant.name: claimant for claimant in (*self.peers, *enemies)}
        watch = Watch(
            self.world, rules, self.peers, signers, neglect_s + turns_s + most_measured,
            publish_s + scenario.lease.life_s + turns_s + most_measured,
        )  # fmt: skip
        self.network.accepted = watch.accepted
        for peer in self.peers:
            peer.moved, peer.promoted, peer.published = watch.moved, watch.promoted, watch.published
        return watch

    def _people(self, enemies: list[Byzantine]) -> None:
        world, rng, scenario = self.world, self.world.rng, self.scenario
        for peer in self.peers:
            world.after(rng.uniform(0, scenario.join_s), peer.start)
        for enemy in enemies:
            world.after(rng.uniform(0, scenario.join_s), enemy.wake)
        for _ in range(scenario.crashes):
            victim = rng.choice(self.peers[1:])  # the first never dies for good, so somebody always can finish
            down_s = rng.choice([5.0, 60.0, 600.0, None])
            world.after(rng.uniform(120, 2400), lambda peer=victim, down_s=down_s: peer.crash(down_s))
        if scenario.split:
            healed_s, wait_s = self.split.end_s, self.watch.overlap_bound_s
            world.after(healed_s - START_S + wait_s, lambda: self.watch.check_healed(healed_s))

    def run(self) -> Report:
        """Let the world run until everybody alive knows that everything is complete, or an invariant breaks."""
        broken = self.watch.broken
        for _ in self.world.events(START_S + self.scenario.horizon_s):
            if broken or self._everybody_knows():
                break
        else:
            left = {unit: step for unit, step in self.watch.reached.items() if step < self.rules.target_step}
            broken.append(f"complete: {left or 'somebody'} not after {self.scenario.horizon_s:.0f} s")
        return self._summary()

    def _everybody_knows(self) -> bool:
        if self.watch.left:
            return False
        if math.isnan(self.report.complete_s):
            self.report.complete_s = self.world.now_s - START_S
        return self.scenario.crowd or all(peer.done for peer in self.peers if peer.alive)

    def _summary(self) -> Report:
        report, peers = self.report, self.peers
        for peer in peers:
            peer._end_idle()
        idle_h = max(1e-9, sum(peer.idle_s for peer in peers) / 3600)
        held = self.watch.first_held_s
        trained, useful = sum(peer.steps_trained for peer in peers), sum(self.watch.reached.values())
        hours = (self.world.now_s - START_S) / 3600 * len(peers)
        announcing = PEER_RECORDS_PER_HOUR * (LOOKUP_BYTES + REPLICAS * RECORD_BYTES)
        return replace(
            report,
            all_held_s=max(held.values()) - START_S if len(held) == len(self.rules.units) else math.nan,
            wasted=1 - useful / max(1, trained),
            publishes_per_peer_hour=sum(peer.said for peer in peers) / hours + PEER_RECORDS_PER_HOUR,
            bytes_per_idle_peer_hour=sum(peer.idle_bytes for peer in peers) / idle_h + announcing,
            measurements=sum(peer.measurements for peer in peers),
            longest_overlap_s=self.watch.longest_overlap_s,
            longest_neglect_s=self.watch.longest_neglect_s,
            broken=self.watch.broken,
        )


def simulate(seed: int, scenario: Scenario | None = None, decide: Decide = real_decide) -> Report:
    """Run one seed to its end."""
    return Simulation(seed, scenario or Scenario(), decide).run()
