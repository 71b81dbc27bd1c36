"""Choosing the checkpoints of an ensemble: the best that somebody measured, or those a curator names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from paris.protocol.charter import Charter
from paris.protocol.digests import is_digest
from paris.protocol.ensemble import Ensemble
from paris.protocol.errors import UnavailableError, UsageError
from paris.protocol.records import Checkpoint, Verdict
from paris.registry.library import Library
from paris.registry.resolve import ResolvedUnit, resolve, resolve_named


@dataclass(frozen=True)
class Choice:
    """One unit of an ensemble to be.

    Attributes:
        unit: The unit with the lineage up to the chosen checkpoint; None: it is left out.
        newest: Steps of the newest verified checkpoint.
        was: Digest of the checkpoint in the head before, if it was in it.
        why: Why this one, or why none.
    """

    name: str
    unit: ResolvedUnit | None
    newest: int
    was: str | None
    why: str

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        unit = self.unit
        newest = unit.lineage[-1] if unit else None
        return {
            "unit": self.name,
            "checkpoint": unit.checkpoint if unit else None,
            "step": unit.step if unit else None,
            "target": unit.target_steps if unit else None,
            "newest_step": self.newest,
            "evaluated": unit.evaluated if unit else False,
            "holdout_loss_micro": newest.holdout_loss_micro if newest else None,
            "trained_by": list(unit.holders) if unit else [],
            "before": self.was,
            "why": self.why,
        }


async def choose(
    library: Library,
    charter: Charter,
    providers: Sequence[str],
    own: str,
    *,
    picked: Mapping[str, str],
    without: Collection[str],
) -> tuple[Choice, ...]:
    """Choose a checkpoint of every unit that has one.

    Counts as measured what this key's own node found good, or, in a run that lists who may contribute, enough admitted
    others. Of those the unit's carrying lineage decides (`paris.protocol.progress`); where nothing was measured, the
    newest checkpoint that is claimed.

    Args:
        library: Store and network.
        charter: What is in force.
        providers: Peers to ask for what no tip names a provider of.
        own: Peer id whose verdicts are this curator's own.
        picked: Step or digest of a checkpoint by unit.
        without: Units to leave out.

    Raises:
        UsageError: the run has no such unit, or no such step.
        VerificationError: a named checkpoint does not verify.
        UnavailableError: a named checkpoint is nowhere to be had.
    """
    units = charter.genesis.units()
    if odd := sorted({*picked, *without} - {*units}):
        raise UsageError(f"this run has no {odd[0]}", f"it has {', '.join(units)}")
    if both := sorted({*picked} & {*without}):
        raise UsageError(f"{both[0]} cannot be named and left out at once")
    measured = await _own_verdicts(library, charter, own)

    def judge(digest: str, _checkpoint: Checkpoint) -> bool | None:
        return measured.get(digest)

    resolved = await resolve(library, charter.run, tuple(providers), judge, charter=charter)
    before = charter.ensemble.units if charter.ensemble else {}
    choices = []
    for name, unit in resolved.units.items():
        best = unit if unit.lineage else unit.newest
        chosen: ResolvedUnit | None = best
        why = "measured" if best.evaluated else "as its trainer claims: nobody here measured it"
        if name in without:
            chosen, why = None, "left out, as asked"
        elif name in picked:
            chosen, why = await _named(library, charter, providers, unit, picked[name]), "named"
        elif not best.lineage:
            chosen, why = None, "it has no checkpoint yet"
        elif best.step < unit.newest.step:
            why = f"measured; step {unit.newest.step} was not"
        choices.append(Choice(name, chosen, unit.newest.step, before.get(name), why))
    return tuple(choices)


async def proposed(
    library: Library, charter: Charter, providers: Sequence[str], ensemble: bytes | None
) -> tuple[Choice, ...]:
    """What another curator proposes, verified here as anything from the network.

    Raises:
        UsageError: it proposes no ensemble.
        VerificationError: a checkpoint of it does not verify.
        UnavailableError: one is nowhere to be had.
    """
    if ensemble is None:
        raise UsageError("this proposal names no ensemble", hint="Sign it with `paris-node run amend --cosign`.")
    units = Ensemble.from_bytes(ensemble).units
    resolved = await resolve_named(library, charter, units, tuple(providers))
    before = charter.ensemble.units if charter.ensemble else {}
    choices = []
    for name in charter.genesis.units():
        unit = resolved.units.get(name)
        choices.append(
            Choice(name, unit, unit.step if unit else 0, before.get(name), "proposed" if unit else "left out")
        )
    return tuple(choices)


def read_picks(texts: Sequence[str]) -> dict[str, str]:
    """Units and what was named of them, from `cluster-0=4000` or `router=sha256:…`.

    Raises:
        UsageError: One reads otherwise.
    """
    picks: dict[str, str] = {}
    for text in texts:
        unit, _, what = text.partition("=")
        digest = f"sha256:{what}" if re.fullmatch(r"[0-9a-f]{64}", what) else what
        if not unit or not (what.isdecimal() or is_digest(digest)):
            hint = "Write --expert cluster-0=4000 for a step, --expert cluster-0=sha256:… for a checkpoint."
            raise UsageError(f"{text!r} names no checkpoint", hint=hint)
        picks[unit] = digest
    return picks


async def _own_verdicts(library: Library, charter: Charter, own: str) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for unit in charter.genesis.units():
        for record in await library.records("verdict", charter.run, unit):
            if isinstance(record, Verdict) and record.signer == own and record.level in ("evaluated", "replayed"):
                found[record.checkpoint] = record.holds
    return found


async def _named(
    library: Library, charter: Charter, providers: Sequence[str], unit: ResolvedUnit, what: str
) -> ResolvedUnit:
    """The unit as one checkpoint left it, by its digest or its steps."""
    digest = what
    if what.isdecimal():
        steps = {
            segment.to_step: digest
            for known in (unit.newest, unit)
            for segment, digest in zip(known.lineage, known.digests, strict=True)
        }
        if int(what) not in steps:
            had = ", ".join(map(str, sorted(steps))) or "none"
            raise UsageError(f"{unit.unit} has no checkpoint at step {what}", f"its lineage has {had}")
        digest = steps[int(what)]
    try:
        resolved = await resolve_named(library, charter, {unit.unit: digest}, tuple(providers))
    except UnavailableError as error:
        what = f"checkpoint {what} of {unit.unit} is nowhere to be had"
        raise UnavailableError(what, error.what, error.hint) from error
    found = resolved.units[unit.unit]
    return replace(found, evaluated=found.evaluated or digest in unit.digests)
