"""Verdicts: what an auditor says about a checkpoint under its own name, and what others have said before."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from paris.protocol import envelope, strict_json
from paris.protocol.credentials import authority
from paris.protocol.curation import Curators
from paris.protocol.errors import VerificationError
from paris.protocol.identity import Identity
from paris.protocol.limits import LIMITS
from paris.protocol.records import Verdict
from paris.registry.findings import Check, Opinion, UnitAudit, acts_for
from paris.registry.resolve import ResolvedUnit

NOTE_CHARS = 500
ROOM_S = 60
"""Verdicts live a little less than they may: the next one must be able to expire later."""


def opinions_on(unit: ResolvedUnit, verdicts: Iterable[object], run: str, curators: Curators) -> tuple[Opinion, ...]:
    """Verdicts on checkpoints of a lineage, newest checkpoints first; those on anything else are left out.

    Args:
        unit: The unit with its verified lineage.
        verdicts: Verified records of its slot.
        run: Run id.
        curators: Whose word moves names.
    """
    known = {digest: acts_for(segment) for digest, segment in zip(unit.digests, unit.lineage, strict=True)}
    found = [
        _opinion(verdict, known[verdict.checkpoint], run, curators)
        for verdict in verdicts
        if isinstance(verdict, Verdict) and verdict.checkpoint in known
    ]
    return tuple(sorted(found, key=lambda opinion: (-opinion.step, opinion.signer)))


def sign_verdict(
    unit: UnitAudit, run: str, identity: Identity, now_s: int, before: Verdict | None, credentials: Iterable[bytes] = ()
) -> bytes | None:
    """The envelope of what this audit has to say about a unit's newest checkpoint; None where it measured nothing.

    Args:
        unit: What was found.
        run: Run id.
        identity: Who signs.
        now_s: UNIX seconds.
        before: The signer's verdict in this slot so far, which the new one replaces.
        credentials: By which the signer acts under another name, nearest to it first.
    """
    level = _level(unit)
    if level is None:
        return None
    failed = unit.failed()
    measured: dict[str, Any] = {}
    if unit.measured:
        measured = {
            "loss_micro": unit.measured.loss_micro,
            "tolerance_micro": unit.measured.tolerance_micro,
            "samples": unit.measured.samples,
        }
    exp = now_s + LIMITS.life_s["verdict"] - ROOM_S
    record = Verdict.parse(
        {
            **measured,
            "run": run,
            "signer": identity.peer_id,
            "seq": max(now_s, before.seq + 1 if before else 0),
            "iat": now_s,
            "exp": max(exp, before.exp + 1 if before else 0),
            "credentials": [strict_json.loads(data, LIMITS.record_bytes) for data in credentials],
            "unit": unit.unit,
            "checkpoint": unit.lineage[-1]["checkpoint"],
            "step": unit.step,
            "level": level,
            "holds": not failed,
            "note": "; ".join(f"{check.name}: {check.detail}" for check in failed or _executed(unit))[:NOTE_CHARS],
        }
    )
    return envelope.sign("verdict", record, identity)


def _level(unit: UnitAudit) -> str | None:
    """The level a verdict is about, the highest that was more than reading.

    That some older segment came out equal says nothing of the newest checkpoint: alone, it makes no verdict on it.
    """
    if unit.replayed and (unit.measured or unit.step in unit.replayed or unit.failed()):
        return "replayed"
    return "evaluated" if unit.measured else None


def _executed(unit: UnitAudit) -> list[Check]:
    """A replay is of some steps; the verdict says which."""
    return [check for check in unit.checks if check.level == "replayed"]


def _opinion(verdict: Verdict, trainer: str, run: str, curators: Curators) -> Opinion:
    credentials = [strict_json.dumps(credential) for credential in verdict.credentials]
    try:
        name = authority(verdict.signer, credentials, run, verdict.iat, curators).name
    except VerificationError:
        name = verdict.signer
    return Opinion(
        verdict.signer,
        name,
        name == trainer,
        verdict.checkpoint,
        verdict.step,
        verdict.level,
        verdict.holds,
        verdict.loss_micro,
        verdict.tolerance_micro,
        verdict.samples,
        verdict.note,
        verdict.iat,
    )
