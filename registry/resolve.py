"""From a run key to a verified ensemble: the genesis, and of every unit the checkpoint that carries its lineage.

Contract: nothing is returned that is not bound, link by link, to the run's digest. Peers can hide, never forge. What a
checkpoint is worth is another question: `ResolvedUnit.evaluated` says whether the observer's own measurements (its
`judge`), or enough admitted verdicts, stand behind it, or only its trainer's word.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from paris.protocol import strict_json
from paris.protocol.charter import Charter
from paris.protocol.credentials import authority
from paris.protocol.digests import sha256_of
from paris.protocol.errors import LineageError, ParisError, UnavailableError, VerificationError
from paris.protocol.limits import LIMITS
from paris.protocol.lineage import chain
from paris.protocol.progress import Chain, Judge, agreed, nothing_micro, standing
from paris.protocol.records import Checkpoint, Genesis, Record, Tip, Verdict, open_checkpoint, open_genesis
from paris.registry.library import Library
from paris.registry.trainable import require_trainable

TIP_S = 120.0
"""Longest time one tip may take to show its lineage: whoever serves it slowly delays a look by so much, once."""


@dataclass(frozen=True)
class ResolvedUnit:
    """One unit of a run: its verified lineage, oldest first, and who serves the newest checkpoint.

    Attributes:
        unit: Its name.
        target_steps: Steps the genesis asks for.
        lineage: The chain that carries the unit for this observer.
        digests: Digests of its checkpoints.
        providers: Peers whose tips name the newest one; where there are none, one that was built on it.
        refused: Why chains did not verify, as sentences.
        start: Manifest of the weights a first checkpoint starts from; None: from nothing, or it is not known yet.
        evaluated: Whether the newest checkpoint counts because somebody the observer believes measured it (or made it:
            the observer itself); False: it is as its trainer claims.
        pending: The unit as it would stand if what nobody measured held; only for observers that measure.
    """

    unit: str
    target_steps: int
    lineage: tuple[Checkpoint, ...] = ()
    digests: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    start: str | None = None
    evaluated: bool = False
    pending: ResolvedUnit | None = None

    @property
    def newest(self) -> ResolvedUnit:
        """The unit as claimed, where a claim goes beyond what counts: what is worth keeping a copy of."""
        return self.pending or self

    @property
    def step(self) -> int:
        """Steps trained so far."""
        return self.lineage[-1].to_step if self.lineage else 0

    @property
    def complete(self) -> bool:
        """Whether the unit has reached the steps the genesis asks for."""
        return self.step >= self.target_steps

    @property
    def checkpoint(self) -> str | None:
        """Digest of the newest checkpoint's envelope."""
        return self.digests[-1] if self.digests else None

    @property
    def manifest(self) -> str | None:
        """Digest of the newest checkpoint's manifest."""
        return self.lineage[-1].manifest if self.lineage else None

    @property
    def holders(self) -> tuple[str, ...]:
        """Who trained it, in order, each once in a row."""
        signers = [segment.signer for segment in self.lineage]
        return tuple(s for i, s in enumerate(signers) if i == 0 or signers[i - 1] != s)


@dataclass(frozen=True)
class ResolvedRun:
    """A run as one observer sees it now.

    Attributes:
        genesis: The newest version known.
        units: The units looked at.
        charter: What the curators say, where somebody followed them.
    """

    run: str
    genesis: Genesis
    units: dict[str, ResolvedUnit] = field(default_factory=dict)
    charter: Charter | None = None

    @property
    def top_k(self) -> int | None:
        """Experts a sample that serve the promoted ensemble best; None where these units are not that ensemble."""
        charter = self.charter
        promoted = charter and charter.ensemble and charter.ensemble.units
        these = {name: unit.checkpoint for name, unit in self.units.items()}
        return charter.head.top_k if charter and charter.head and promoted == these else None

    @property
    def governing(self) -> dict[str, str]:
        """What curators signed after the first genesis, blobs in the store, by the file name an audit looks for."""
        charter = self.charter
        if charter is None:
            return {}
        versions = {f"genesis-{n}.json": digest for n, digest in enumerate(charter.versions[1:], start=2)}
        if (head := charter.head) is None:
            return versions
        named = {"head.json": sha256_of(charter.envelope), "admission.json": head.admission}
        return versions | {name: digest for name, digest in {**named, "ensemble.json": head.ensemble}.items() if digest}

    @property
    def complete(self) -> bool:
        """Whether every unit is trained to its end."""
        return all(unit.complete for unit in self.units.values())

    @property
    def usable(self) -> bool:
        """Whether every unit an ensemble needs has at least one checkpoint."""
        return all(unit.lineage for unit in self.units.values())


async def load_genesis(
    library: Library, run: str, providers: Sequence[str] = (), hints: Sequence[str] | None = None
) -> Genesis:
    """Return the genesis a run key pins, from the store, the providers, or peers that announced themselves for the run.

    Args:
        library: Where records and blobs come from.
        run: The run's digest.
        providers: Peers to ask first.
        hints: Addresses the key and the settings name, where the caller knows them; none at all explains a failure.

    Raises:
        SignatureError: it is not signed by the curators it names.
        RecordError: this version cannot train what it describes.
        UnavailableError: nobody who was asked has it.
    """
    if not library.store.path(run):
        announced = (record.signer for record in await known_peers(library, run))
        providers = tuple(dict.fromkeys((*providers, *announced)))
    try:
        genesis, _ = open_genesis(await library.blob(run, providers))
    except UnavailableError as error:
        nobody = hints is not None and not hints and not providers
        raise UnavailableError(
            f"the genesis of run paris://{run.removeprefix('sha256:')[:16]}… could not be fetched",
            error.why,
            "this key names no peers: give one with --peer" if nobody else error.hint,
        ) from error
    require_trainable(genesis)
    return genesis


async def resolve(
    library: Library,
    run: str,
    providers: tuple[str, ...] = (),
    judge: Judge | None = None,
    *,
    units: Sequence[str] | None = None,
    proven: Collection[str] = (),
    charter: Charter | None = None,
) -> ResolvedRun:
    """Return the run with every unit's lineage as this observer sees it.

    Args:
        library: Where records and blobs come from.
        run: The run's digest.
        providers: Peers to ask for what no tip names a provider of.
        judge: What the observer measured itself; None: it measures nothing and takes checkpoints as they are claimed,
            where admitted verdicts do not say otherwise.
        units: The units to look at; None: all.
        proven: Signers whose work counted before: theirs is measured first.
        charter: What the curators say (`paris.registry.governance`); None: the first version of the genesis alone.
    """
    charter = charter or Charter.begin(await load_genesis(library, run, providers), run)
    look, genesis = _Look(library, charter, providers, judge, frozenset(proven)), charter.genesis
    wanted = genesis.units() if units is None else tuple(units)
    found: dict[str, ResolvedUnit] = {}
    if "base" in genesis.units():
        found["base"] = await look.unit("base")
    others = [unit for unit in wanted if unit != "base"]
    found |= {unit.unit: unit for unit in await asyncio.gather(*map(look.unit, others))}
    return ResolvedRun(run, genesis, {unit: found[unit] for unit in genesis.units() if unit in found}, charter)


async def resolve_named(
    library: Library, charter: Charter, named: Mapping[str, str], providers: tuple[str, ...] = ()
) -> ResolvedRun:
    """Return units with the lineages of exactly these checkpoints, whatever tips say.

    Args:
        library: Where records and blobs come from.
        charter: What is in force; its ensemble is the usual thing to resolve.
        named: Digest of a checkpoint by unit.
        providers: Peers to ask for what no tip names a provider of.

    Raises:
        VerificationError: a chain does not hold; the error names the unit.
        UnavailableError: a statement is nowhere to be had.
    """
    look, genesis = _Look(library, charter, providers, None, frozenset()), charter.genesis
    found: dict[str, ResolvedUnit] = {}
    if "base" in genesis.units() and "base" not in named:
        await look.unit("base")
    for unit in (unit for unit in genesis.units() if unit in named):
        found[unit] = await look.named(unit, named[unit])
    return ResolvedRun(charter.run, genesis, found, charter)


@dataclass
class _Look:
    """One observer's look at a run; the base comes first, because clusters may start from it."""

    library: Library
    charter: Charter
    providers: tuple[str, ...]
    judge: Judge | None
    proven: frozenset[str]
    bases: frozenset[str] = frozenset()
    base: str | None = None
    _coming: defaultdict[str, asyncio.Lock] = field(default_factory=lambda: defaultdict(asyncio.Lock))

    @property
    def run(self) -> str:
        return self.charter.run

    @property
    def genesis(self) -> Genesis:
        return self.charter.genesis

    async def unit(self, unit: str) -> ResolvedUnit:
        """Weigh every chain of a unit that verifies."""
        tips = [record for record in await self.library.records("tip", self.run, unit) if isinstance(record, Tip)]
        chains, refused = await self._chains(unit, tips)
        judge = await self._with_verdicts(unit, self.judge or _nothing_measured)
        nothing = nothing_micro(unit, len(self.genesis.clusters))
        weighed = standing(chains, judge, nothing, self.proven.__contains__)
        counted = self._resolved(unit, weighed.counted, chains, tips, judge, refused)
        pending = None
        if weighed.pending:
            pending = self._resolved(unit, weighed.pending, chains, tips, judge, refused)
        if unit == "base":
            self._begin(chains, pending if pending and self.judge is None else counted)
        if self.judge is None:
            return pending or counted
        return replace(counted, pending=pending)

    async def named(self, unit: str, digest: str) -> ResolvedUnit:
        """The unit as one checkpoint leaves it."""
        tips = [record for record in await self.library.records("tip", self.run, unit) if isinstance(record, Tip)]
        serving = tuple(tip.signer for tip in tips)
        try:
            chained = await self._verified(unit, digest, (*serving, *self.providers))
        except VerificationError as error:
            raise LineageError(f"checkpoint {digest[:19]}… of {unit} does not hold", str(error), error.hint) from error
        judge = await self._with_verdicts(unit, _nothing_measured)
        resolved = self._resolved(unit, chained, [chained], tips, judge, ())
        if unit == "base":
            self._begin([chained], resolved)
        return resolved if resolved.providers else replace(resolved, providers=serving)

    def _resolved(
        self,
        unit: str,
        chosen: Chain,
        chains: list[Chain],
        tips: list[Tip],
        judge: Judge,
        refused: tuple[str, ...],
    ) -> ResolvedUnit:
        exact = [tip.signer for tip in tips if tip.checkpoint == chosen.tip]
        later = {chain.tip for chain in chains if chosen.tip in chain.digests}
        serving = exact or [tip.signer for tip in tips if tip.checkpoint in later]
        counts = bool(chosen.lineage) and judge(chosen.digests[-1], chosen.lineage[-1]) is True
        return ResolvedUnit(
            unit,
            self.genesis.target_steps(unit),
            chosen.lineage,
            chosen.digests,
            tuple(serving) if chosen.lineage else (),
            refused,
            self._start(unit),
            counts,
        )

    def _start(self, unit: str) -> str | None:
        if self.genesis.cluster(unit) is None:
            return None
        return self.base if self.genesis.start.kind == "base" else self.genesis.start.manifest

    def _begin(self, chains: list[Chain], base: ResolvedUnit) -> None:
        """Let clusters start from the base: from the one that carries, or as others did, from any that is complete."""
        target = base.target_steps
        self.bases = frozenset(chain.lineage[-1].manifest for chain in chains if chain.step >= target)
        self.base = base.manifest if base.complete else None

    async def _chains(self, unit: str, tips: list[Tip]) -> tuple[list[Chain], tuple[str, ...]]:
        named = sorted({(tip.checkpoint, tip.step) for tip in tips})
        followed = await asyncio.gather(*(self._follow(unit, digest, step, tips) for digest, step in named))
        chains = [found for found in followed if isinstance(found, Chain)]
        return chains, tuple(found for found in followed if isinstance(found, str))

    async def _follow(self, unit: str, digest: str, step: int, tips: list[Tip]) -> Chain | str:
        """Return the chain behind a tip, or why there is none; a tip that leads nowhere holds up no other."""
        serving = tuple(tip.signer for tip in tips if tip.checkpoint == digest)
        others = tuple(tip.signer for tip in tips if tip.signer not in serving)
        try:
            async with asyncio.timeout(TIP_S):
                chained = await self._verified(unit, digest, (*serving, *self.providers, *others))
            if chained.step != step:
                raise LineageError(f"the tip says step {step}, the checkpoint {chained.step}")
        except TimeoutError:
            why = f"its lineage did not come in {TIP_S:.0f} s; what came is kept: look again"
            return f"{digest[:19]}… at step {step}: {why}"
        except (VerificationError, UnavailableError) as error:
            return f"{digest[:19]}… at step {step}: {error}"
        return chained

    async def _verified(self, unit: str, tip: str, providers: tuple[str, ...]) -> Chain:
        """Fetch a checkpoint and its ancestors, then let the rules of `paris.protocol.lineage` judge the chain."""
        found: dict[str, bytes] = {}
        digests: list[str] = []
        cursor: str | None = tip
        while cursor is not None:
            if len(found) >= LIMITS.lineage_checkpoints or cursor in found:
                raise LineageError(f"the lineage of {tip[:19]}… is circular, or too long to follow")
            async with self._coming[cursor]:  # chains share ancestors: each is fetched once
                found[cursor] = await self.library.blob(cursor, providers)
            digests.append(cursor)
            cursor = open_checkpoint(found[cursor]).parent
        admission = self.charter.admission
        lineage = chain(tip, found.get, self.genesis, self.run, bases=self.bases, admission=admission)
        if lineage[-1].unit != unit:
            raise LineageError(
                f"a tip of {unit} names a checkpoint of {lineage[-1].unit}", "its signer is mistaken or lies"
            )
        return Chain(lineage, tuple(reversed(digests)))

    async def _with_verdicts(self, unit: str, judge: Judge) -> Judge:
        """The observer's own judgement; where it has none and the run lists who is admitted, theirs."""
        genesis, admission = self.genesis, self.charter.admission
        if admission.policy != "list":
            return judge
        found = await self.library.records("verdict", self.run, unit)
        voices = []
        for verdict in (record for record in found if isinstance(record, Verdict)):
            with suppress(VerificationError):  # in force when it came, not when it was issued: nobody's voice
                voices.append((self._name(verdict), verdict))

        def with_verdicts(digest: str, checkpoint: Checkpoint) -> bool | None:
            own = judge(digest, checkpoint)
            if own is not None:
                return own
            credentials, at_s = checkpoint.credentials, checkpoint.finished_s
            trainer = authority(checkpoint.signer, credentials, self.run, at_s, genesis.curators).name
            return agreed(voices, digest, trainer, admission)

        return with_verdicts

    def _name(self, verdict: Verdict) -> str:
        """Under which name a verdict's signer acts: two keys of one contributor are one voice."""
        credentials = [strict_json.dumps(credential) for credential in verdict.credentials]
        return authority(verdict.signer, credentials, self.run, verdict.iat, self.genesis.curators).name


def _nothing_measured(_digest: str, _checkpoint: Checkpoint) -> bool | None:
    return None


async def known_peers(library: Library, run: str) -> tuple[Record, ...]:
    """The peers that announce themselves for a run, newest record each; an unreachable network means none."""
    try:
        return tuple(await library.records("peer", run))
    except ParisError:
        return ()
