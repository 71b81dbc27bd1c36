"""Those who mean harm, each a key of its own with one bad habit. None of them ever trains."""

from __future__ import annotations

import json
from functools import lru_cache

from sim_keys import NOTHING_MICRO, RUN, Checkpoint, Claimant

from paris.protocol import strict_json
from paris.protocol.envelope import sign
from paris.protocol.identity import Identity
from paris.protocol.progress import Chain
from paris.protocol.records import Claim, Verdict, record_key


class Byzantine(Claimant):
    """Does its mischief again and again."""

    every_s = 100.0

    def wake(self) -> None:
        self.mischief()
        self.world.after(self.every_s * self.world.rng.uniform(0.5, 1.5), self.wake)

    def mischief(self) -> None:
        raise NotImplementedError

    def longest(self, unit: str) -> Chain:
        """The longest chain this peer can find, its own doing aside."""
        tips = self.network.read("tip", unit, self)
        chains = [self.library.chain(tip.checkpoint) for tip in tips if tip.signer != self.name]
        return max((chain for chain in chains if chain), key=lambda chain: chain.step, default=Chain())

    def publish(self, unit: str, parent: Chain, to_step: int, claimed: int, true: int, fence: int = 10**9) -> None:
        self.tip(Checkpoint(unit, self.name, fence, to_step, parent.tip, claimed, true))


class Squatter(Byzantine):
    """Claims every unit with a boasted step, renews for ever."""

    def mischief(self) -> None:
        for unit in self.rules.units:
            self.claim(unit, Chain(), step=10**9)


class Forger(Byzantine):
    """Signs other people's records with its own key, and lets a hostile replica hand them out."""

    def mischief(self) -> None:
        for unit in self.rules.units[:3]:
            for claim in self.network.read("claim", unit, self):
                later = {"seq": claim.seq + 10**6, "exp": claim.exp + 60, "released": True}
                forged = json.loads(sign("claim", claim.model_copy(update=later), self.identity))
                forged["signatures"][0]["keyid"] = claim.signer
                self.network.lie(record_key("claim", RUN, unit), strict_json.dumps(forged))


class Replayer(Byzantine):
    """Keeps what it saw, and says it again when something newer has replaced it."""

    def mischief(self) -> None:
        for unit in self.rules.units:
            self.network.read("claim", unit, self)
            for data in sorted(self.offered)[:8]:
                self.network.lie(record_key("claim", RUN, unit), data)
                self.network.put(data, self.number)


class Equivocator(Byzantine):
    """Tells half of the world that it trains a unit, and the other half that it gave it back, in one breath."""

    def mischief(self) -> None:
        now = int(self.clock_s)
        for unit in self.rules.units[:3]:
            for released in (False, True):
                claim = Claim(
                    run=RUN, signer=self.name, seq=now, iat=now, exp=now + 200, unit=unit, step=0, released=released
                )
                data = self.sign(claim)
                self.network.offer(self.network.replicas[released], data, self.world.now_s)


class Liar(Byzantine):
    """Garbage with the last step number and a wonderful loss, for every unit."""

    every_s = 700.0

    def mischief(self) -> None:
        for unit in self.rules.units:
            self.publish(unit, self.longest(unit), self.rules.target_step, 1_000, NOTHING_MICRO)


class HonestFailure(Byzantine):
    """Garbage that says how bad it is, from the start and on top of others' work."""

    every_s = 700.0

    def mischief(self) -> None:
        target = self.rules.target_step
        for unit in self.rules.units:
            for parent in (Chain(), self.longest(unit)):
                if parent.step < target:
                    self.publish(unit, parent, target, 3 * NOTHING_MICRO, 3 * NOTHING_MICRO)


class Sleeper(Byzantine):
    """Wakes from a long sleep and goes on publishing under leases that were replaced: the fence of an earlier life."""

    every_s = 900.0

    def mischief(self) -> None:
        for unit in self.rules.units[:2]:
            first = Checkpoint(unit, self.name, 9, 1, None, 990_000, 990_000)
            parent = self.library.chain(self.library.add(first))
            if parent:
                self.publish(unit, parent, self.rules.target_step, 200_000, 200_000, fence=3)


class FalseWitness(Byzantine):
    """Praises the garbage of its friends and damns everything else. Its friends' keys may be its own."""

    def mischief(self) -> None:
        for unit in self.rules.units:
            for tip in self.network.read("tip", unit, self):
                garbage = tip.loss_micro == 1_000
                self.say(
                    Verdict, unit, 3600, checkpoint=tip.checkpoint, step=tip.step, level="evaluated", holds=garbage,
                    loss_micro=tip.loss_micro, tolerance_micro=0, samples=256,
                )  # fmt: skip


@lru_cache(maxsize=4)
def flood(unit: str, signers: int, now_s: int) -> tuple[bytes, ...]:
    """Claims on one unit by ever new names."""
    people = (Identity.from_seed((10**6 + number).to_bytes(32, "big")) for number in range(signers))
    return tuple(
        sign("claim", Claim(
            run=RUN, signer=who.peer_id, seq=1, iat=now_s, exp=now_s + 1200, unit=unit, step=10**9), who)
        for who in people
    )  # fmt: skip


class Flooder(Byzantine):
    """Claims one unit under a great many names."""

    every_s = 10**9
    signers = 200

    def mischief(self) -> None:
        unit = self.rules.units[-1]
        for data in flood(unit, self.signers, int(self.world.now_s)):
            self.network.put(data, self.number)
            self.network.lie(record_key("claim", RUN, unit), data)


HOSTILE = (Squatter, Forger, Replayer, Equivocator, Liar, HonestFailure, Sleeper, FalseWitness, FalseWitness)
