"""Who trained what, on which data, from which parent: and how much of that was checked.

Two levels here, weakest first, and never more said than was checked. *attested*: the genesis and every statement are
signed by who they name and chain without a gap from the start to the newest checkpoint. *consistent*: the files are
those the statements name, fit the architecture the genesis asks for, hold finite numbers, and were trained on the run's
shards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from paris.models.checkpoints import CONFIG, WEIGHTS
from paris.protocol.credentials import authority
from paris.protocol.errors import ParisError
from paris.protocol.manifest import Manifest
from paris.protocol.records import Checkpoint, Genesis
from paris.registry.library import Library
from paris.registry.resolve import ResolvedRun, ResolvedUnit
from paris.registry.weights import model_files, weight_faults


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True)
class UnitAudit:
    """What can be said about one unit.

    Attributes:
        level: `nothing`, `attested` or `consistent`: the highest whose checks held; an unfinished unit can have any.
        lineage: One row a segment, oldest first: who, which steps, from which parent, claimed loss.
        not_checked: What a reader might take for checked and is not.
    """

    unit: str
    step: int
    target: int
    level: str
    checks: tuple[Check, ...]
    lineage: tuple[dict[str, Any], ...]
    not_checked: tuple[str, ...] = ("training itself was not re-executed", "hold-out loss was not measured again")

    @property
    def ok(self) -> bool:
        """Whether every check that was made held."""
        return all(check.ok for check in self.checks)


@dataclass(frozen=True)
class Audit:
    """The report on a run."""

    run: str
    name: str
    curators: tuple[str, ...]
    start: str
    data: str
    units: tuple[UnitAudit, ...] = field(default_factory=tuple)

    @property
    def ok(self) -> bool:
        """Whether every check of every unit held."""
        return all(unit.ok for unit in self.units)

    def verdict(self) -> str:
        """`ok`, or the first checks that did not hold, in words."""
        failed = [f"{unit.unit}: {c.name}: {c.detail}" for unit in self.units for c in unit.checks if not c.ok]
        return "ok" if not failed else "; ".join(failed[:5])

    def as_json(self) -> dict[str, Any]:
        """The whole report as plain JSON."""
        return {**asdict(self), "audit": self.verdict()}


async def audit(
    library: Library,
    resolved: ResolvedRun,
    providers: tuple[str, ...] = (),
    progress: Callable[[str], None] | None = None,
) -> Audit:
    """Check every unit of a resolved run, fetching the weights that are not here yet.

    Args:
        library: Store and network.
        resolved: The run; its chains are verified already, this says so and goes on to the files.
        providers: Peers to ask besides those the tips name.
        progress: Told the unit that is being looked at.
    """
    data_manifest = await library.manifest(resolved.genesis.data.manifest, providers)
    units = []
    for unit in resolved.units.values():
        if progress:
            progress(unit.unit)
        units.append(await _audit_unit(library, resolved.genesis, unit, data_manifest, providers))
    genesis = resolved.genesis
    return Audit(
        resolved.run,
        genesis.name,
        genesis.curators.keys,
        f"{genesis.start.kind} {genesis.start.manifest or ''} {genesis.start.note}".strip(),
        f"{genesis.data.name} ({genesis.data.license}), {genesis.data.samples} + {genesis.data.holdout_samples}",
        tuple(units),
    )


async def _audit_unit(
    library: Library, genesis: Genesis, unit: ResolvedUnit, data: Manifest, providers: tuple[str, ...]
) -> UnitAudit:
    attested = _attested(unit)
    consistent = await _consistent(library, genesis, unit, data, providers) if unit.lineage else ()
    level = "nothing"
    if unit.lineage:
        level = "consistent" if all(check.ok for check in consistent) else "attested"
    lineage = tuple(_row(segment, digest) for segment, digest in zip(unit.lineage, unit.digests, strict=True))
    return UnitAudit(unit.unit, unit.step, unit.target_steps, level, (*attested, *consistent), lineage)


def _attested(unit: ResolvedUnit) -> tuple[Check, ...]:
    """What resolving has established about the chain, said aloud."""
    if not unit.lineage:
        refused = f"; refused: {unit.refused[0]}" if unit.refused else ""
        return (Check("lineage", ok=False, detail=f"no checkpoint with a verified chain is to be found{refused}"),)
    signers = len({segment.signer for segment in unit.lineage})
    chain = f"{len(unit.lineage)} signed segments by {signers} contributor(s), without a gap from step 0 to {unit.step}"
    done = f"{unit.step} of {unit.target_steps} steps"
    return (Check("lineage", ok=True, detail=chain), Check("complete", ok=unit.complete, detail=done))


async def _consistent(
    library: Library, genesis: Genesis, unit: ResolvedUnit, data: Manifest, providers: tuple[str, ...]
) -> tuple[Check, ...]:
    newest = unit.lineage[-1]
    checks = [_data_check(genesis, unit, data), _start_check(genesis, unit)]
    try:
        manifest = await library.manifest(newest.manifest, (*unit.providers, *providers))
        wanted = model_files(manifest, genesis, unit.unit)
        await library.files(wanted.files, (*unit.providers, *providers))
        paths = {entry.name: await asyncio.to_thread(library.store.verify, entry) for entry in wanted.files}
        size = f"{len(wanted.files)} files, {wanted.size_bytes:,} bytes, every digest as signed"
        checks.append(Check("files", ok=True, detail=size))
        checks.append(await asyncio.to_thread(_weights_check, paths, genesis, unit))
    except ParisError as error:
        checks.append(Check("files", ok=False, detail=str(error)))
    return tuple(checks)


def _data_check(genesis: Genesis, unit: ResolvedUnit, data: Manifest) -> Check:
    """Every segment names exactly the shards the genesis gives this unit."""
    cluster = genesis.cluster(unit.unit)
    names = {name for c in ([cluster] if cluster else genesis.clusters) for name in c.shards}
    expected = {entry.name: entry.sha256 for entry in data.files if entry.name in names}
    wrong = [segment.to_step for segment in unit.lineage if segment.shards() != expected]
    detail = (
        f"segments up to steps {wrong} name other shards" if wrong else f"the run's {len(expected)} shards, by digest"
    )
    return Check("data", ok=not wrong, detail=detail)


def _start_check(genesis: Genesis, unit: ResolvedUnit) -> Check:
    """The first segment starts where the genesis says."""
    expected = None if unit.unit == "router" else genesis.start.manifest
    found = unit.lineage[0].start
    detail = f"starts from {found or 'random weights of its own seed'}"
    return Check("start", ok=found == expected, detail=detail if found == expected else f"{detail}, not {expected}")


def _weights_check(paths: Mapping[str, Path], genesis: Genesis, unit: ResolvedUnit) -> Check:
    """The weights, whose digests were just checked, fit the signed architecture and are finite."""
    problems = weight_faults(paths[CONFIG], paths[WEIGHTS], genesis, unit.unit)
    detail = problems[0] if problems else "names, shapes and types as the genesis asks; every number finite"
    return Check("weights", ok=not problems, detail=detail)


def acts_for(segment: Checkpoint) -> str:
    """The contributor under whose name a segment of a verified chain was built; its signer, without credentials."""
    return authority(segment.signer, segment.credentials, segment.run, segment.finished_s).name


def _row(segment: Checkpoint, digest: str) -> dict[str, Any]:
    metadata = segment.predicate.run_details.metadata
    return {
        "checkpoint": digest,
        "signer": segment.signer,
        "acts_for": acts_for(segment),
        "from_step": segment.from_step,
        "to_step": segment.to_step,
        "parent": segment.parent,
        "fence": segment.fence,
        "finished": metadata.finished_on,
        "claimed_holdout_loss_micro": segment.holdout_loss_micro,
        "versions": dict(segment.versions),
    }
