"""Which checkpoints an ensemble is made of: those the curators' head names, or the newest that are verified.

A revoked expert is one that the head in force does not name. Whoever has seen a head does not fall back on the newest
checkpoints by itself once it has expired: hiding newer heads for a day would bring back what they revoked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from paris.protocol.charter import Charter
from paris.protocol.errors import UnavailableError, UsageError
from paris.protocol.genesis import Genesis
from paris.registry.library import Library
from paris.registry.resolve import ResolvedRun, ResolvedUnit, resolve, resolve_named

HEAD, LATEST = "head", "latest"
POLICIES = (HEAD, LATEST)


@dataclass(frozen=True)
class Wish:
    """What a person asks for; empty: whatever is usual.

    Attributes:
        policy: `head` or `latest`.
        at: A step, or an ISO date or time (UTC where none is named): lineages as they stood then.
        experts: Units separated by commas, clusters by number: `0,2,router`.
        offline: Whether nobody is to be asked: what an expired head names, verified while it was in force, will do.

    Raises:
        UsageError: It makes no sense.
    """

    policy: str = ""
    at: str = ""
    experts: str = ""
    offline: bool = False

    def __post_init__(self) -> None:
        if self.policy and self.policy not in POLICIES:
            raise UsageError(f"there is no policy {self.policy!r}", hint=f"Choose one of {', '.join(POLICIES)}.")
        if self.policy == HEAD and self.at:
            hint = "Leave one of the two out."
            raise UsageError("the curators' head is of now: --at looks at the lineages of then", hint=hint)
        if self.at and not self.at.isdecimal():
            moment_s(self.at)

    def units(self, genesis: Genesis) -> tuple[str, ...]:
        """The units asked for, all where none are named, in the run's order.

        Raises:
            UsageError: the run has no such unit.
        """
        words = [word for word in re.split(r"[,\s]+", self.experts) if word]
        named = {f"cluster-{int(word)}" if word.isdecimal() else word for word in words} or {*genesis.units()}
        if odd := sorted(named - {*genesis.units()}):
            raise UsageError(f"this run has no {odd[0]}", f"it has {', '.join(genesis.units())}")
        return tuple(unit for unit in genesis.units() if unit in named)


@dataclass(frozen=True)
class Selection:
    """What an ensemble is made of.

    Attributes:
        resolved: Its units with their verified lineages.
        policy: `head` or `latest`.
        why: A sentence: by whose choice, and until when.
    """

    resolved: ResolvedRun
    policy: str
    why: str


async def select(
    library: Library, charter: Charter, providers: Sequence[str], now_s: float, wish: Wish | None = None
) -> Selection:
    """Choose and verify the checkpoints of an ensemble.

    Args:
        library: Store and network.
        charter: What the curators say.
        providers: Peers to ask for what no tip names a provider of.
        now_s: UNIX seconds.
        wish: What was asked for.

    Raises:
        UnavailableError: the head has expired, none was promoted, or it names too little; a statement is missing.
        UsageError: the run has no such unit.
        VerificationError: a promoted checkpoint does not verify.
    """
    wish, providers = wish or Wish(), tuple(providers)
    units = wish.units(charter.genesis)
    policy, why = choose_policy(charter, wish, now_s)
    if policy == LATEST:
        resolved = await resolve(library, charter.run, providers, units=units, charter=charter)
        only = {name: as_of(unit, wish.at) for name, unit in resolved.units.items() if name in units}
        return Selection(replace(resolved, units=only), policy, why)
    promoted = charter.ensemble.units if charter.ensemble else {}
    revoked = [unit for unit in units if unit not in promoted]
    if wish.experts and revoked:
        raise UnavailableError(
            f"{', '.join(revoked)} is not in the curators' head",
            "it was revoked, or not ready when they promoted",
            "Leave it out, or take it at your own judgement with --policy latest.",
        )
    named = {unit: promoted[unit] for unit in units if unit in promoted}
    without = f"; without {', '.join(revoked)}" if revoked else ""
    return Selection(await resolve_named(library, charter, named, providers), policy, why + without)


def choose_policy(charter: Charter, wish: Wish, now_s: float) -> tuple[str, str]:
    """Which policy applies, and a sentence that says why.

    Raises:
        UnavailableError: the curators' head is wanted, and has expired or was never there.
    """
    head, live = charter.head, charter.live(now_s)
    newest = f"the newest verified checkpoints{' in this home' if wish.offline else ''}"
    if wish.policy == LATEST or wish.at:
        instead = f", not the curators' head {head.version}" if head and live and charter.ensemble else ""
        then = f" as of {wish.at}" if wish.at else ""
        return LATEST, f"{newest}{then}, as asked{instead}"
    if head and charter.ensemble and live:
        return HEAD, describe_head(charter)
    if head and charter.ensemble and wish.offline:
        unknown = "it has expired, and nobody was asked whether a newer one revokes any of it"
        return HEAD, f"{describe_head(charter)}: {unknown}"
    if head and charter.ensemble:
        raise UnavailableError(
            f"the curators' head {head.version} expired at {moment(head.exp)}",
            "no newer one is to be found: nobody renewed it, or somebody hides it from you",
            "Try again later, through other peers, or take the newest checkpoints at your own judgement with "
            "--policy latest. What was fetched and verified before stays so",
        )
    if wish.policy == HEAD:
        why, hint = "no head of theirs names one", "Leave --policy out for the newest verified checkpoints."
        raise UnavailableError("the curators of this run have promoted no ensemble", why, hint)
    return LATEST, f"{newest}: no head of the curators names an ensemble"


def describe_head(charter: Charter) -> str:
    """The curators' head in words: its version, who signed it, how long it counts."""
    head = charter.head
    if head is None:
        return "no head of the curators is known"
    board = charter.genesis.curators
    by = f"{len(charter.signers)} of {len(board.keys)} curators"
    return f"the curators' head {head.version}, signed by {by}, until {moment(head.exp)}"


def head_of(charter: Charter) -> dict[str, Any] | None:
    """The curators' head for machines; None: none is known. Times are UNIX seconds."""
    head = charter.head
    if head is None:
        return None
    said = {name: getattr(head, name) for name in ("version", "exp", "genesis", "admission", "ensemble", "top_k")}
    return {**said, "genesis_version": charter.genesis.version, "signers": list(charter.signers)}


def as_of(unit: ResolvedUnit, at: str) -> ResolvedUnit:
    """A unit as it stood at a step or a moment; as it stands, where `at` is empty."""
    if not at:
        return unit
    if at.isdecimal():
        count = sum(segment.to_step <= int(at) for segment in unit.lineage)
    else:
        count = sum(segment.finished_s <= moment_s(at) for segment in unit.lineage)
    cut = replace(unit, lineage=unit.lineage[:count], digests=unit.digests[:count], pending=None)
    return cut if count == len(unit.lineage) else replace(cut, evaluated=False)


def moment_s(text: str) -> int:
    """UNIX seconds of an ISO date (its end) or time, in UTC where it names no zone.

    Raises:
        UsageError: It is none.
    """
    try:
        moment = datetime.fromisoformat(text)
        if re.fullmatch(r"[0-9-]+", text):
            moment += timedelta(days=1, seconds=-1)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError) as error:
        hint = "Write --at 4000 for a step, --at 2026-11-25 or --at 2026-11-25T08:30 for a moment."
        raise UsageError(f"{text!r} is neither a step nor a date", hint=hint) from error


def moment(time_s: float) -> str:
    """UNIX seconds as people read them, in UTC."""
    return f"{datetime.fromtimestamp(time_s, UTC):%Y-%m-%d %H:%M} UTC"
