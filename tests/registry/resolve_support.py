"""What an observer makes of a simulated run."""

from __future__ import annotations

import asyncio

from paris.registry.library import Library
from paris.registry.resolve import ResolvedRun, ResolvedUnit, resolve

UNIT = "cluster-0"


def resolved_run(library: Library, **options) -> ResolvedRun:
    return asyncio.run(resolve(library, library.network.run, library.network.providers, **options))


def resolved(library: Library, unit: str = UNIT, **options) -> ResolvedUnit:
    return resolved_run(library, units=[unit], **options).units[unit]


def measured(*bad: str, good: tuple[str, ...] = ()):
    """An observer that found some checkpoints bad and others good, and measured no more."""
    return lambda digest, _checkpoint: False if digest in bad else True if digest in good else None


def refusal(library: Library, unit: str = UNIT) -> str:
    """Why the one tip of a unit was refused; nothing else of the unit may be left."""
    found = resolved(library, unit)
    assert (found.lineage, found.digests, found.step, found.providers) == ((), (), 0, ())
    assert len(found.refused) == 1
    return found.refused[0]
