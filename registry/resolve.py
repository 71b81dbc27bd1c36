"""From a run key to a verified ensemble: the genesis, and of every unit the newest checkpoint whose whole chain holds.

Contract: nothing is returned that is not bound, link by link, to the run's digest. Peers can hide, never forge.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from paris.protocol.errors import LineageError, ParisError, UnavailableError, VerificationError
from paris.protocol.limits import LIMITS
from paris.protocol.lineage import chain
from paris.protocol.records import Checkpoint, Genesis, Record, Tip, open_checkpoint, open_genesis
from paris.registry.library import Library
from paris.registry.trainable import require_trainable


@dataclass(frozen=True)
class ResolvedUnit:
    """One unit of a run: its verified lineage, oldest first, and who serves the newest checkpoint."""

    unit: str
    target_steps: int
    lineage: tuple[Checkpoint, ...] = ()
    digests: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

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
    """A run as one observer sees it now."""

    run: str
    genesis: Genesis
    units: dict[str, ResolvedUnit] = field(default_factory=dict)

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
    library: Library, run: str, providers: tuple[str, ...] = (), distrusted: frozenset[str] = frozenset()
) -> ResolvedRun:
    """Return the run with every unit's best verified lineage.

    Args:
        library: Where records and blobs come from.
        run: The run's digest.
        providers: Peers to ask for what no tip names a provider of.
        distrusted: Checkpoints this observer measured and found worse than they claim.
    """
    genesis = await load_genesis(library, run, providers)
    units = await asyncio.gather(
        *(resolve_unit(library, run, genesis, unit, providers, distrusted) for unit in genesis.units())
    )
    return ResolvedRun(run, genesis, {unit.unit: unit for unit in units})


async def resolve_unit(
    library: Library,
    run: str,
    genesis: Genesis,
    unit: str,
    providers: tuple[str, ...] = (),
    distrusted: frozenset[str] = frozenset(),
) -> ResolvedUnit:
    """Return the unit's best lineage: most steps among the chains that verify; equal steps go to the lowest digest.

    A chain that ends in distrusted checkpoints is cut back to the newest one that is not.
    """
    tips = [record for record in await library.records("tip", run, unit) if isinstance(record, Tip)]
    refused: list[str] = []
    candidates = []
    for digest, step in sorted({(tip.checkpoint, tip.step) for tip in tips}):
        serving = tuple(tip.signer for tip in tips if tip.checkpoint == digest)
        try:
            chained = await _verified_chain(library, run, genesis, unit, digest, (*serving, *providers))
            if chained[0][-1].to_step != step:
                raise LineageError(f"the tip says step {step}, the checkpoint {chained[0][-1].to_step}")
        except (VerificationError, UnavailableError) as error:
            refused.append(f"{digest[:19]}… at step {step}: {error}")
            continue
        lineage, digests = _cut_back(*chained, distrusted)
        candidates.append(ResolvedUnit(unit, genesis.target_steps(unit), lineage, digests, serving))
    best = min(
        candidates, key=lambda c: (-c.step, c.digests[-1:]), default=ResolvedUnit(unit, genesis.target_steps(unit))
    )
    return replace(best, refused=tuple(refused))


def _cut_back(
    lineage: tuple[Checkpoint, ...], digests: tuple[str, ...], distrusted: frozenset[str]
) -> tuple[tuple[Checkpoint, ...], tuple[str, ...]]:
    kept = next((i for i, digest in enumerate(digests) if digest in distrusted), len(digests))
    return lineage[:kept], digests[:kept]


async def _verified_chain(
    library: Library, run: str, genesis: Genesis, unit: str, tip: str, providers: tuple[str, ...]
) -> tuple[tuple[Checkpoint, ...], tuple[str, ...]]:
    """Fetch a checkpoint and its ancestors, then let the rules of `paris.protocol.lineage` judge the whole chain."""
    found: dict[str, bytes] = {}
    digests: list[str] = []
    cursor: str | None = tip
    while cursor is not None:
        if len(found) >= LIMITS.lineage_checkpoints or cursor in found:
            raise LineageError(f"the lineage of {tip[:19]}… is circular, or too long to follow")
        found[cursor] = await library.blob(cursor, providers)
        digests.append(cursor)
        cursor = open_checkpoint(found[cursor]).parent
    lineage = chain(tip, found.get, genesis, run)
    if lineage[-1].unit != unit:
        raise LineageError(
            f"a tip of {unit} names a checkpoint of {lineage[-1].unit}", "its signer is mistaken or lies"
        )
    return lineage, tuple(reversed(digests))


async def known_peers(library: Library, run: str) -> tuple[Record, ...]:
    """The peers that announce themselves for a run, newest record each; an unreachable network means none."""
    try:
        return tuple(await library.records("peer", run))
    except ParisError:
        return ()
