"""What counts as progress: a checkpoint moves an observer only once it was measured, and only where it is good.

Signatures say who made a checkpoint, not what it is worth. Three rules decide, all pure, so equal views lead to equal
choices:

*Believable* - from the signed statements alone. A checkpoint claims a hold-out loss; it is no worse than knowing
nothing (for the router ln K), and not much worse than its parent claims. So garbage that honestly declares a bad loss
is refused by everybody, without a measurement.

*Measured* - what a stranger made counts for an observer once that observer measured it on hold-out data and found it as
good as claimed, or, where the run lists who is admitted, once enough admitted others did and none disagreed. In an open
run verdicts never count: they cost nothing. Nobody's verdict on its own work counts. What once counted goes on
counting. Own work always counts for oneself: whoever trains on is never stopped by its own judgement, and since leases
exclude nobody, the worst that follows is that it trains a unit that others train again. Nothing can deadlock: what does
not count holds a unit no longer than a claim does.

*Carrying* - where children share a parent, the branch with the better loss carries the lineage. A branch's loss is the
lowest one claimed along it by a checkpoint that counts (a claim that counts is true within the tolerance, and is the
same number for everybody, which a measurement is not quite). The lowest, not the newest: what a branch has achieved
stays achieved, so a branch that lost stays behind until it has grown, and nobody swings back and forth. Within the
tolerance, the branch with more steps carries; then the child with the lower digest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from paris.protocol.checkpoint import Checkpoint
from paris.protocol.curation import Admission
from paris.protocol.limits import LIMITS
from paris.protocol.records import Verdict

TOLERANCE_PERCENT = 2
"""How much worse than claimed a measurement may be: above what bf16 weights and another machine's rounding make."""
DECLINE_PERCENT = 25
DECLINE_SLACK_MICRO = 50_000
"""How much worse than its parent a checkpoint may claim to be: a share of the parent's loss, and a little more where
losses are so small that noise alone could double them."""
ENOUGH_VERDICTS = 2

Judge = Callable[[str, Checkpoint], bool | None]
"""What an observer knows of a checkpoint by digest: it counts, it does not, or (None) nobody has measured it."""


@dataclass(frozen=True)
class Chain:
    """A verified chain of checkpoints with their digests, oldest first; empty: the start."""

    lineage: tuple[Checkpoint, ...] = ()
    digests: tuple[str, ...] = ()

    def first(self, count: int) -> Chain:
        """Only the oldest checkpoints."""
        return Chain(self.lineage[:count], self.digests[:count])

    @property
    def step(self) -> int:
        """Steps of the newest checkpoint."""
        return self.lineage[-1].to_step if self.lineage else 0

    @property
    def tip(self) -> str | None:
        """Digest of the newest checkpoint."""
        return self.digests[-1] if self.digests else None


def nothing_micro(unit: str, clusters: int) -> int | None:
    """Loss in millionths of a model that knows nothing, where it follows from the run alone: the router's is ln K."""
    return round(1e6 * math.log(clusters)) if unit == "router" and clusters > 1 else None


def unbelievable(child: Checkpoint, parent: Checkpoint | None, nothing: int | None) -> str | None:
    """Why no claim like this counts, from signed statements alone; None where it may.

    Args:
        child: The checkpoint.
        parent: The one it continues, None at the start.
        nothing: Loss of knowing nothing in millionths, where it is known.
    """
    claimed = child.holdout_loss_micro
    if claimed is None:
        return "it claims no hold-out loss"
    if nothing is not None and _exceeds(claimed, nothing):
        return f"it claims a loss of {claimed / 1e6:.4f}, worse than knowing nothing ({nothing / 1e6:.4f})"
    if parent is not None and parent.holdout_loss_micro is not None:
        before = parent.holdout_loss_micro
        if claimed * 100 > before * (100 + DECLINE_PERCENT) + 100 * DECLINE_SLACK_MICRO:
            return f"it claims a loss of {claimed / 1e6:.4f}, its parent one of {before / 1e6:.4f}"
    return None


def failing(claimed: int | None, measured: int, nothing: int | None, *, last: bool) -> str | None:
    """Why a measured checkpoint does not count; None where it does. Losses in millionths.

    Args:
        claimed: Hold-out loss its statement claims.
        measured: What the observer measured.
        nothing: Loss of knowing nothing on the same data, where it is known.
        last: Whether the checkpoint completes its unit; it must then be better than nothing, not only as good.
    """
    if claimed is None:
        return "it claims no hold-out loss"
    if _exceeds(measured, claimed):
        return f"its hold-out loss was measured as {measured / 1e6:.4f}, it claims {claimed / 1e6:.4f}"
    if nothing is not None and (_exceeds(measured, nothing) or (last and measured >= nothing)):
        return f"its hold-out loss of {measured / 1e6:.4f} is what one gets knowing nothing ({nothing / 1e6:.4f})"
    return None


def agreed(verdicts: Iterable[tuple[str, Verdict]], checkpoint: str, trainer: str, admission: Admission) -> bool | None:
    """True where enough admitted others found a checkpoint good and none found it bad; else None: measure it yourself.

    Others can only ever spare a measurement, never refute: what somebody hides or damns cannot undo honest work.

    Args:
        verdicts: Verified verdicts with the name each signer acts under.
        checkpoint: Digest of the checkpoint.
        trainer: The name it was trained under, whose own verdict says nothing.
        admission: Who is admitted to the run.
    """
    if admission.policy != "list":
        return None
    voices = [
        (name, verdict.holds)
        for name, verdict in verdicts
        if verdict.checkpoint == checkpoint
        and verdict.level in ("evaluated", "replayed")
        and name != trainer
        and admission.admits(name)
    ]
    good = {name for name, holds in voices if holds}
    return True if len(good) >= ENOUGH_VERDICTS and all(holds for _, holds in voices) else None


def carrying(chains: Iterable[Chain], counts: Callable[[str, Checkpoint], bool]) -> Chain:
    """The chain that carries a unit's lineage, up to the newest checkpoint that counts. See the module's docstring.

    A checkpoint that counts makes its ancestors count.

    Args:
        chains: Verified chains of one unit, cut where anything is known to be bad (see `sound`).
        counts: Whether this very checkpoint counts for the observer.
    """
    grown = [chain.first(_reach(chain, counts)) for chain in chains]
    depth, left = 0, [chain for chain in grown if chain.digests]
    best = Chain()
    while branches := _branches(left, depth):
        left = min(
            _close(branches, depth, counts), key=lambda chains: (-max(c.step for c in chains), chains[0].digests[depth])
        )
        depth += 1
        best = left[0].first(depth)
    return best


def sound(chain: Chain, judge: Judge, nothing: int | None) -> Chain:
    """A chain up to the first checkpoint that is refuted or unbelievable: nothing built on it counts either.

    Args:
        chain: A verified chain.
        judge: What the observer knows. A checkpoint that counts is never unbelievable: own work counts for oneself.
        nothing: Loss of knowing nothing in millionths, where it is known.
    """
    for i, (digest, checkpoint) in enumerate(zip(chain.digests, chain.lineage, strict=True)):
        known = judge(digest, checkpoint)
        parent = chain.lineage[i - 1] if i else None
        if known is False or (known is None and unbelievable(checkpoint, parent, nothing)):
            return chain.first(i)
    return chain


def stale(lineage: Iterable[Checkpoint]) -> Checkpoint | None:
    """The first checkpoint whose fence is lower than an earlier one's by the same signer; None in a sound lineage.

    The fence is the sequence number of the claim a segment was trained under, and a signer's claims only count up: what
    comes later in a lineage under a lower number was made by a process that had been replaced (a machine that slept
    through its lease, a copied key). Between branches fences decide nothing: else a signer could undo what others have
    built on its work, by signing it again under a higher number.
    """
    highest: dict[str, int] = {}
    for checkpoint in lineage:
        if checkpoint.fence < highest.get(checkpoint.signer, 0):
            return checkpoint
        highest[checkpoint.signer] = checkpoint.fence
    return None


@dataclass(frozen=True)
class Standing:
    """What one observer makes of a unit's chains.

    Attributes:
        counted: The chain that carries, up to the newest checkpoint that counts.
        pending: The chain that would carry if every unmeasured claim held; None where measuring would change nothing.
    """

    counted: Chain
    pending: Chain | None = None


def standing(chains: Iterable[Chain], judge: Judge, nothing: int | None, proven: Callable[[str], bool]) -> Standing:
    """Weigh a unit's chains: what carries now, and what is worth measuring next.

    Args:
        chains: Verified chains of one unit.
        judge: What the observer knows of each checkpoint.
        nothing: Loss of knowing nothing in millionths, where it is known.
        proven: Whether a signer's work counted before; their checkpoints are measured before strangers', so that a
            flood of new names does not stand in their way.
    """
    whole = [sound(chain, judge, nothing) for chain in chains]

    def counts(digest: str, checkpoint: Checkpoint) -> bool:
        return judge(digest, checkpoint) is True

    def may(digest: str, checkpoint: Checkpoint) -> bool:
        return counts(digest, checkpoint) or proven(checkpoint.signer)

    counted = carrying(whole, counts)
    for hopeful in (may, lambda _digest, _checkpoint: True):
        best = carrying(whole, hopeful)
        if best.tip != counted.tip and judge(best.digests[-1], best.lineage[-1]) is None:
            return Standing(counted, best)
    return Standing(counted)


def _exceeds(loss: int, bound: int) -> bool:
    return loss * 100 > bound * (100 + TOLERANCE_PERCENT)


def _reach(chain: Chain, counts: Callable[[str, Checkpoint], bool]) -> int:
    pairs = zip(chain.digests, chain.lineage, strict=True)
    return max((i + 1 for i, (digest, checkpoint) in enumerate(pairs) if counts(digest, checkpoint)), default=0)


def _branches(chains: list[Chain], depth: int) -> list[list[Chain]]:
    """Chains that go on from one checkpoint, by their next one."""
    found: dict[str, list[Chain]] = {}
    for chain in chains:
        if len(chain.digests) > depth:
            found.setdefault(chain.digests[depth], []).append(chain)
    return list(found.values())


def _close(branches: list[list[Chain]], depth: int, counts: Callable[[str, Checkpoint], bool]) -> list[list[Chain]]:
    """The branches whose loss is within the tolerance of the best one's."""
    if len(branches) == 1:
        return branches
    losses = [_loss(branch, depth, counts) for branch in branches]
    return [branch for branch, loss in zip(branches, losses, strict=True) if not _exceeds(loss, min(losses))]


def _loss(branch: list[Chain], depth: int, counts: Callable[[str, Checkpoint], bool]) -> int:
    """The lowest loss claimed along a branch by what counts: from the child on, what all share tells nothing."""
    return min(
        LIMITS.integer if checkpoint.holdout_loss_micro is None else checkpoint.holdout_loss_micro
        for chain in branch
        for digest, checkpoint in list(zip(chain.digests, chain.lineage, strict=True))[depth:]
        if counts(digest, checkpoint)
    )
