"""Who trained what, on which data, from which parent: and how much of that was checked.

Four levels, weakest first, and never more said than was checked. *attested*: the genesis and every statement are signed
by who they name and chain without a gap from the start to the newest checkpoint. *consistent*: the files are those the
statements name, fit the architecture the genesis asks for, hold finite numbers, are nobody else's, and were trained on
the run's shards, as their builders say. *evaluated*: the auditor measured the hold-out loss again on draws nobody could
know. *replayed*: the auditor executed a segment's steps again and came out where its builder did.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError

from paris.models.filenames import CONFIG, WEIGHTS
from paris.models.likeness import likeness
from paris.protocol.errors import NetworkError, ParisError, UnavailableError
from paris.protocol.manifest import Manifest
from paris.protocol.progress import nothing_micro
from paris.registry.checks import believable_claims, distinct_files, no_copy
from paris.registry.evaluation import Examiner
from paris.registry.evidence import Evidence, in_words
from paris.registry.findings import NOTHING, Audit, Check, Level, Measured, UnitAudit, reached, row
from paris.registry.library import Library
from paris.registry.replay import replay_segment
from paris.registry.resolve import ResolvedRun, ResolvedUnit
from paris.registry.verdicts import opinions_on
from paris.registry.weights import model_files, weight_faults

SAMPLED_RIVALS = 3
Told = Callable[[str], None]


@dataclass(frozen=True)
class Depth:
    """How deep an audit goes.

    Attributes:
        evaluate: Whether hold-out losses are measured again.
        replay: How many segments are executed again.
        share: Look at this share of the checkpoints only, drawn by the secret; None: at all units' newest.
        secret: What nobody else may know before the audit is over: all draws follow from it.
        folder: Where files are laid out for measuring.
        threads: CPU threads to measure with.
        alone: Whether there is no network, only a folder that was fetched: then the list of the run's shards may be
            missing, and it is said; a file that is missing failed.
    """

    evaluate: bool = False
    replay: int = 0
    share: float | None = None
    secret: str = ""
    folder: Path = Path()
    threads: int = 1
    alone: bool = False


@dataclass
class _Notes:
    """What is known of one unit so far."""

    unit: ResolvedUnit
    checks: list[Check] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    weights: Path | None = None
    measured: Measured | None = None
    replayed: list[int] = field(default_factory=list)


async def audit(
    library: Library,
    resolved: ResolvedRun,
    providers: tuple[str, ...] = (),
    progress: Told | None = None,
    depth: Depth | None = None,
    chosen: str = "",
) -> Audit:
    """Check the units of a resolved run, fetching the weights that are not here yet.

    Args:
        library: Store and network.
        resolved: The run; its chains are verified already, this says so and goes on to the files.
        providers: Peers to ask besides those the tips name.
        progress: Told what is being looked at.
        depth: What to measure besides; None: nothing.
        chosen: By whose choice these checkpoints are looked at, for the report.
    """
    auditor = _Auditor(library, resolved, providers, progress or (lambda _: None), depth or Depth())
    notes = await auditor.look()
    genesis = resolved.genesis
    return Audit(
        resolved.run,
        genesis.name,
        genesis.curators.keys,
        f"{genesis.start.kind} {genesis.start.manifest or ''} {genesis.start.note}".strip(),
        f"{genesis.data.name} ({genesis.data.license}), {genesis.data.samples} + {genesis.data.holdout_samples}",
        tuple([await auditor.unit_audit(found) for found in notes.values()]),
        chosen,
    )


class _Auditor:
    """One audit under way."""

    def __init__(
        self, library: Library, resolved: ResolvedRun, providers: tuple[str, ...], told: Told, depth: Depth
    ) -> None:
        self._library, self._resolved, self._providers = library, resolved, providers
        self._told, self._depth = told, depth
        self._evidence = Evidence(library, resolved, providers, depth.folder, depth.threads)

    async def look(self) -> dict[str, _Notes]:
        """All checks of all units, weakest level first."""
        notes = {unit.unit: _Notes(unit, _attested(unit)) for unit in self._resolved.units.values()}
        drawn = self._drawn()
        data = await self._data_manifest(notes)
        for name, found in notes.items():
            if found.unit.lineage and (self._depth.share is None or any(unit == name for unit, _ in drawn)):
                self._told(f"checking {name}")
                await self._consistent(found, data)
            elif found.unit.lineage:
                found.unseen.append("its files were not looked at: no checkpoint of it was drawn this time")
        await self._compare(notes)
        await self._evaluate(notes, drawn)
        await self._replay(notes, drawn)
        return notes

    async def unit_audit(self, found: _Notes) -> UnitAudit:
        """What is said about a unit in the end."""
        unit, genesis = found.unit, self._resolved.genesis
        verdicts = await self._library.records("verdict", self._resolved.run, unit.unit)
        checks = tuple(found.checks)
        return UnitAudit(
            unit.unit,
            unit.step,
            unit.target_steps,
            reached(checks) if unit.lineage else NOTHING,
            checks,
            tuple(row(segment, digest) for segment, digest in zip(unit.lineage, unit.digests, strict=True)),
            (*_not_checked(checks), *found.unseen),
            opinions_on(unit, verdicts, self._resolved.run, genesis.curators),
            found.measured,
            tuple(found.replayed),
        )

    # attested, consistent

    async def _data_manifest(self, notes: dict[str, _Notes]) -> Manifest | None:
        """Digests of all shards; lineages are verified with their names alone."""
        try:
            return await self._library.manifest(self._resolved.genesis.data.manifest, self._providers)
        except UnavailableError:
            if not self._depth.alone:
                raise
            for found in notes.values():
                found.unseen.append("shards were compared by name, not by digest: their list is not here")
            return None

    async def _consistent(self, found: _Notes, data: Manifest | None) -> None:
        genesis, unit = self._resolved.genesis, found.unit
        if data:
            found.checks.append(self._data_check(unit, data))
        found.checks.append(self._start_check(unit))
        found.checks.append(believable_claims(unit.lineage, nothing_micro(unit.unit, len(genesis.clusters))))
        serving = (*unit.providers, *self._providers)
        try:
            manifest = await self._library.manifest(str(unit.manifest), serving)
            wanted = await asyncio.to_thread(model_files, manifest, genesis, unit.unit)
            await self._library.files(wanted.files, serving)
            paths = {entry.name: await asyncio.to_thread(self._library.store.verify, entry) for entry in wanted.files}
            size = f"{len(wanted.files)} files, {wanted.size_bytes:,} bytes, every digest as signed"
            found.checks.append(Check("files", ok=True, detail=size))
            faults = await asyncio.to_thread(weight_faults, paths[CONFIG], paths[WEIGHTS], genesis, unit.unit)
            detail = faults[0] if faults else "names, shapes and types as the genesis asks; every number finite"
            found.checks.append(Check("weights", ok=not faults, detail=detail))
            found.weights = None if faults else paths[WEIGHTS]
        except ParisError as error:
            absent = isinstance(error, NetworkError) and not self._depth.alone
            found.checks.append(Check("files", ok=False, detail=str(error), absent=absent))

    def _data_check(self, unit: ResolvedUnit, data: Manifest) -> Check:
        """Every segment names exactly the shards the genesis gives this unit."""
        genesis, cluster = self._resolved.genesis, self._resolved.genesis.cluster(unit.unit)
        names = {name for c in ([cluster] if cluster else genesis.clusters) for name in c.shards}
        expected = {entry.name: entry.sha256 for entry in data.files if entry.name in names}
        wrong = [segment.to_step for segment in unit.lineage if segment.shards() != expected]
        other = f"segments up to steps {wrong} name other shards"
        return Check("data", ok=not wrong, detail=other if wrong else f"the run's {len(expected)} shards, by digest")

    def _start_check(self, unit: ResolvedUnit) -> Check:
        """The first segment starts where the genesis says."""
        genesis = self._resolved.genesis
        expected = genesis.start.manifest if genesis.cluster(unit.unit) else None
        found = unit.lineage[0].start
        detail = f"starts from {found or 'random weights of its own seed'}"
        return Check("start", ok=found == expected, detail=detail if found == expected else f"{detail}, not {expected}")

    async def _compare(self, notes: dict[str, _Notes]) -> None:
        """Whether anybody's weights are anybody else's."""
        whole = {name: found for name, found in notes.items() if found.weights}
        digests = {name: await self._digests(found) for name, found in whole.items()}
        for name, found in whole.items():
            others = {mine[-1]: other for other, mine in digests.items() if other != name}
            found.checks.append(distinct_files(name, digests[name], others))
        experts = [name for name in whole if self._resolved.genesis.cluster(name)]
        if not experts:
            return
        try:
            start = await self._evidence.start()
            files = [path for name in experts if (path := whole[name].weights)]
            alike = await asyncio.to_thread(likeness, files, start / WEIGHTS if start else None)
        except (ParisError, SafetensorError) as error:
            said = in_words(error) if isinstance(error, ParisError) else str(error)
            for name in experts:
                whole[name].unseen.append(f"whether it is a copy of another expert: {said}")
            return
        for a, name in enumerate(experts):
            cosines = {other: float(alike[a, b]) for b, other in enumerate(experts) if b != a}
            whole[name].checks.append(no_copy(name, cosines))

    async def _digests(self, found: _Notes) -> list[str]:
        """Digests of the weights of every checkpoint whose manifest is still to be had, oldest first."""
        digests = []
        for index in range(len(found.unit.lineage)):
            try:
                manifest = await self._evidence.manifest(found.unit, index)
                digests.append(manifest.entry(WEIGHTS).sha256)
            except ParisError:
                continue
        return digests

    # evaluated, replayed

    def _drawn(self) -> list[tuple[str, int]]:
        """The checkpoints to measure, as unit and place in its lineage; in an order nobody could know."""
        units, depth = self._resolved.units, self._depth
        rng = random.Random(f"drawn {depth.secret}")
        if depth.share is None:
            return [(name, len(unit.lineage) - 1) for name, unit in units.items() if unit.lineage]
        everything = [(name, index) for name, unit in units.items() for index in range(len(unit.lineage))]
        return rng.sample(everything, min(len(everything), max(1, math.ceil(depth.share * len(everything)))))

    async def _evaluate(self, notes: dict[str, _Notes], drawn: list[tuple[str, int]]) -> None:
        if not self._depth.evaluate:
            return
        most = None if self._depth.share is None else SAMPLED_RIVALS
        examiner = Examiner(self._evidence, self._depth.secret, most_rivals=most)
        for name, index in drawn:
            found = notes[name]
            if found.weights is None:
                continue
            newest = index == len(found.unit.lineage) - 1
            self._told(f"measuring {name} at step {found.unit.lineage[index].to_step}")
            examined = await examiner.examine(found.unit, index)
            found.checks += [check if newest else _older(check, found.unit, index) for check in examined.checks]
            found.unseen += examined.not_checked
            found.measured = examined.measured if newest else found.measured

    async def _replay(self, notes: dict[str, _Notes], drawn: list[tuple[str, int]]) -> None:
        """Execute segments drawn by the secret until so many were; one that cannot be is named, and another drawn."""
        depth = self._depth
        among = drawn if depth.share is not None else [
            (name, index) for name, found in notes.items() for index in range(len(found.unit.lineage))
        ]  # fmt: skip
        done = 0
        for name, index in random.Random(f"replay {depth.secret}").sample(among, len(among)):
            if done >= depth.replay:
                break
            found = notes[name]
            if found.weights is None:
                continue
            segment = found.unit.lineage[index]
            self._told(f"executing steps {segment.from_step} to {segment.to_step} of {name} again")
            replayed = await replay_segment(self._evidence, found.unit, index)
            if replayed.check:
                found.checks.append(replayed.check)
                found.replayed.append(segment.to_step)
                done += 1
            else:
                found.unseen.append(f"not executed again: {replayed.why_not}")


def _attested(unit: ResolvedUnit) -> list[Check]:
    """What resolving has established about the chain, said aloud."""
    if not unit.lineage:
        refused = f"; refused: {unit.refused[0]}" if unit.refused else ""
        detail = f"no checkpoint with a verified chain is to be found{refused}"
        return [Check("lineage", ok=False, detail=detail, level="attested")]
    signers = len({segment.signer for segment in unit.lineage})
    chain = f"{len(unit.lineage)} signed segments by {signers} contributor(s), without a gap from step 0 to {unit.step}"
    done = f"{unit.step} of {unit.target_steps} steps"
    return [
        Check("lineage", ok=True, detail=chain, level="attested"),
        Check("complete", ok=unit.complete, detail=done, level=""),
    ]


def _older(check: Check, unit: ResolvedUnit, index: int) -> Check:
    return replace(check, detail=f"at step {unit.lineage[index].to_step}: {check.detail}")


def _not_checked(checks: tuple[Check, ...]) -> list[str]:
    """What nobody looked at, by level; a replay is of some segments only, and says which."""
    made: set[Level | str] = {check.level for check in checks}
    missing = []
    if "replayed" not in made:
        missing.append("training itself was not re-executed")
    else:
        missing.append("training was re-executed for the named steps only")
    if "evaluated" not in made:
        missing.append("hold-out loss was not measured again")
    return missing
