"""What an audit found, as data: checks, levels, and what nobody looked at. It never says more than was checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from paris.protocol.credentials import authority
from paris.protocol.records import Checkpoint

Level = Literal["attested", "consistent", "evaluated", "replayed"]
LEVELS: Final[tuple[Level, ...]] = ("attested", "consistent", "evaluated", "replayed")
NOTHING: Final = "nothing"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: Of the check; the cheats it is there for are named in `paris.registry.checks`.
        ok: Whether it held.
        detail: What was found, a sentence.
        level: What it counts towards; empty: it says how far a unit is, and is no part of any level.
        absent: Whether there was nothing to look at, because nobody serves it: it did not hold, and accuses nobody.
    """

    name: str
    ok: bool
    detail: str
    level: Level | Literal[""] = "consistent"
    absent: bool = False


@dataclass(frozen=True)
class Measured:
    """A hold-out loss that was measured again, in millionths: what a verdict says of it."""

    loss_micro: int
    tolerance_micro: int
    samples: int


@dataclass(frozen=True)
class Opinion:
    """Somebody's signed verdict on a checkpoint of this lineage.

    Attributes:
        signer: Who signed it.
        acts_for: The name it acts under.
        own: Whether that is who trained the checkpoint: nobody's word on its own work counts.
        issued_s: When, by the signer's clock, UNIX seconds.
    """

    signer: str
    acts_for: str
    own: bool
    checkpoint: str
    step: int
    level: str
    holds: bool
    loss_micro: int | None
    tolerance_micro: int | None
    samples: int | None
    note: str
    issued_s: int


@dataclass(frozen=True)
class UnitAudit:
    """What can be said about one unit.

    Attributes:
        level: `nothing` or the highest of `LEVELS` that was looked at and held; an unfinished unit can have any.
        lineage: One row a segment, oldest first: who, which steps, from which parent, claimed loss.
        not_checked: What a reader might take for checked and is not.
        opinions: What others found.
        measured: What was measured of its newest checkpoint.
        replayed: The steps at which the segments ended that were executed again.
    """

    unit: str
    step: int
    target: int
    level: str
    checks: tuple[Check, ...]
    lineage: tuple[dict[str, Any], ...]
    not_checked: tuple[str, ...] = ()
    opinions: tuple[Opinion, ...] = ()
    measured: Measured | None = None
    replayed: tuple[int, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check that was made held."""
        return all(check.ok for check in self.checks)

    def failed(self) -> tuple[Check, ...]:
        """The checks that found something wrong, not those that say how far it is or had nothing to look at."""
        return tuple(check for check in self.checks if not check.ok and check.level and not check.absent)


@dataclass(frozen=True)
class Audit:
    """The report on a run.

    Attributes:
        chosen: Which checkpoints were looked at, and by whose choice, in words.
    """

    run: str
    name: str
    curators: tuple[str, ...]
    start: str
    data: str
    units: tuple[UnitAudit, ...] = field(default_factory=tuple)
    chosen: str = ""

    @property
    def ok(self) -> bool:
        """Whether every check of every unit held."""
        return all(unit.ok for unit in self.units)

    @property
    def absent(self) -> bool:
        """Whether all that did not hold is what nobody serves."""
        missed = [check for unit in self.units for check in unit.checks if not check.ok]
        return bool(missed) and all(check.absent for check in missed)

    def verdict(self) -> str:
        """`ok`, or the first checks that did not hold, in words."""
        failed = [f"{unit.unit}: {c.name}: {c.detail}" for unit in self.units for c in unit.checks if not c.ok]
        return "ok" if not failed else "; ".join(failed[:5])

    def as_json(self) -> dict[str, Any]:
        """The whole report as plain JSON."""
        return {**asdict(self), "audit": self.verdict()}


def reached(checks: Sequence[Check]) -> str:
    """The highest level that was looked at and held, with everything looked at below it."""
    level = NOTHING
    for candidate in LEVELS:
        found = [check.ok for check in checks if check.level == candidate]
        if not all(found):
            break
        level = candidate if found else level
    return level


def acts_for(segment: Checkpoint) -> str:
    """The contributor under whose name a segment of a verified chain was built; its signer, without credentials."""
    return authority(segment.signer, segment.credentials, segment.run, segment.finished_s).name


def row(segment: Checkpoint, digest: str) -> dict[str, Any]:
    """A segment of a verified lineage as one row."""
    metadata = segment.predicate.run_details.metadata
    return {
        "checkpoint": digest,
        "signer": segment.signer,
        "acts_for": acts_for(segment),
        "from_step": segment.from_step,
        "to_step": segment.to_step,
        "parent": segment.parent,
        "fence": segment.fence,
        "begun_from": begun_from(segment),
        "finished": metadata.finished_on,
        "claimed_holdout_loss_micro": segment.holdout_loss_micro,
        "versions": dict(segment.versions),
    }


def begun_from(segment: Checkpoint) -> str:
    """What a segment began with, as its builder says: start, state, memory (its own), weights; empty: nothing said."""
    said = segment.predicate.build_definition.internal_parameters.get("begun_from")
    return said if isinstance(said, str) else ""
