"""What is going on in a run, as the network itself says: the facts of `status`, of its JSON and of the dashboard.

Everything here reads through a library, whatever network stands behind it; nothing of it may import hivemind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from paris.node.clock import now_s
from paris.node.home import Home
from paris.node.hubqueue import HubQueue, queue_folder
from paris.protocol.charter import Charter
from paris.protocol.claims import UnitView, live, winner
from paris.protocol.errors import UnavailableError
from paris.protocol.genesis import Genesis
from paris.protocol.records import Checkpoint, Claim, Verdict
from paris.protocol.records import Peer as PeerRecord
from paris.registry.governance import Governance
from paris.registry.library import Library
from paris.registry.resolve import ResolvedRun, ResolvedUnit, load_genesis, resolve
from paris.registry.runkey import RunKey
from paris.registry.selection import describe_head, head_of

MOST_POINTS: Final = 200
"""Points of a curve and verdicts of a unit that are told: a page shows no more, and lineages grow for weeks."""


async def look(
    library: Library, run: str, charter: Charter
) -> tuple[ResolvedRun, dict[str, tuple[Claim, ...]], dict[str, str]]:
    """Read every record of a run and verify what it points to: lineages, claims, peers' names. Measures nothing."""
    names = await peer_names(library, run)
    return *await _lineages_and_claims(library, run, charter, names), names


async def _lineages_and_claims(
    library: Library, run: str, charter: Charter, names: Mapping[str, str]
) -> tuple[ResolvedRun, dict[str, tuple[Claim, ...]]]:
    resolved = await resolve(library, run, tuple(names), charter=charter)
    return resolved, await claims_of(library, run, charter.genesis.units())


async def peer_names(library: Library, run: str) -> dict[str, str]:
    """What the peers that announced themselves for a run call themselves, by peer id."""
    return _names(await _announced(library, run))


async def _announced(library: Library, run: str) -> list[PeerRecord]:
    return [r for r in await library.records("peer", run) if isinstance(r, PeerRecord)]


def _names(announced: Sequence[PeerRecord]) -> dict[str, str]:
    return {r.signer: r.agent.partition(" ")[2] for r in announced}


async def claims_of(library: Library, run: str, units: Sequence[str]) -> dict[str, tuple[Claim, ...]]:
    """Every valid claim by unit."""
    found = await asyncio.gather(*(library.records("claim", run, unit) for unit in units))
    return {unit: tuple(r for r in records if isinstance(r, Claim)) for unit, records in zip(units, found, strict=True)}


async def overview(library: Library, key: RunKey, home: Home, hints: Sequence[str]) -> dict[str, Any]:
    """One look at a run, as JSON; docs/dashboard.md says what each field means.

    Args:
        library: Where records and blobs come from.
        key: The run.
        home: What was seen of its curators, and waits for the Hub, is kept there.
        hints: Addresses the key and the settings name, for the words of an error.

    Raises:
        NetworkError: the network does not answer, or nobody serves the genesis.
        VerificationError: the genesis does not hold, or this version cannot train what it describes.
    """
    run = key.run
    genesis = await load_genesis(library, run, hints=hints)
    governance = await Governance.recall(library, run, genesis, home.charter(run))
    troubles: list[str] = []
    announced = await _announced(library, run)
    names = _names(announced)
    try:
        await governance.refresh(now_s(), tuple(names))
    except UnavailableError as error:
        troubles.append(f"what the curators say now could not be fetched: {error}")
    charter = governance.charter
    resolved, claims = await _lineages_and_claims(library, run, charter, names)
    units = rows(resolved, claims, names)
    verdicts = await asyncio.gather(*(library.records("verdict", run, unit) for unit in resolved.units))
    for row, found in zip(units, verdicts, strict=True):
        measured = [record for record in found if isinstance(record, Verdict)]
        row.update(_history(resolved.units[row["unit"]], names, measured), **_pace(row, resolved))
    return {
        "run": str(key),
        "name": genesis.name,
        "about": _about(charter.genesis),
        "curators": in_words(charter, now_s()),
        "admission": charter.admission.policy,
        "head": head_of(charter),
        "troubles": [*troubles, *governance.troubles],
        "peers": names,
        "nodes": [_node(record, resolved, claims) for record in announced],
        "complete": resolved.complete,
        "units": units,
        "hub": HubQueue(queue_folder(home.path, run)).as_json(),
    }


def rows(resolved: ResolvedRun, claims: dict[str, tuple[Claim, ...]], names: dict[str, str]) -> list[dict[str, Any]]:
    """One row a unit, for tables and JSON: who holds it, how far it is, how good, how long the lease still runs."""
    table = []
    for name, unit in resolved.units.items():
        held = live(claims.get(name, ()), now_s())
        trainers = frozenset(unit.holders[-1:])
        view = UnitView(
            name, unit.target_steps, unit.step, unit.checkpoint, held, trainers, blocked=False, since_s=now_s()
        )
        claim = None if unit.complete else winner(view, resolved.run)
        cluster = resolved.genesis.cluster(name)
        table.append(
            {
                "unit": name,
                "words": list(cluster.words[:4]) if cluster else [],
                "holder": claim.signer if claim else None,
                "holder_name": names.get(claim.signer, "") if claim else "",
                "step": min(unit.target_steps, max(unit.step, claim.step if claim else 0)),
                "published_step": unit.step,
                "target": unit.target_steps,
                "holdout_loss_micro": unit.lineage[-1].holdout_loss_micro if unit.lineage else None,
                "evaluated": unit.evaluated,
                "lease_s": max(0, claim.exp - now_s()) if claim else None,
                "trained_by": list(unit.holders),
                "copies": len(unit.providers),
            }
        )
    return table


def in_words(charter: Charter, at_s: float) -> str:
    """What is in force, for people: who may contribute, what the curators promoted, until when."""
    admission, head = charter.admission, charter.head
    said = f"{len(admission.keys)} keys may contribute"
    if admission.policy == "open":
        said = "everybody may contribute" + (f" but {len(admission.former)}" if admission.former else "")
    if charter.genesis.version > 1:
        said = f"genesis version {charter.genesis.version}; {said}"
    if head is None:
        return f"{said}; the curators have promoted nothing"
    promoted = f"{len(charter.ensemble.units)} units promoted" if charter.ensemble else "no ensemble promoted"
    ended = "" if charter.live(at_s) else " (EXPIRED: new fetches by it are refused; what was verified stays so)"
    return f"{said}; {promoted}; {describe_head(charter)}{ended}"


def _about(genesis: Genesis) -> dict[str, Any]:
    return {
        "model": genesis.model.preset,
        "data": genesis.data.name,
        "license": genesis.data.license,
        "samples": genesis.data.samples,
        "start": genesis.start.kind,
        "created_s": genesis.created,
    }


def _node(record: PeerRecord, resolved: ResolvedRun, claims: Mapping[str, Sequence[Claim]]) -> dict[str, Any]:
    """One peer: what it calls itself, when it last said so, and what it has to do with which unit."""
    version, _, name = record.agent.partition(" ")
    peer = record.signer
    claimed = [unit for unit, found in claims.items() if any(c.signer == peer for c in live(found, now_s()))]
    return {
        "peer": peer,
        "name": name,
        "version": version,
        "abilities": list(record.abilities),
        "seen_s": record.iat,
        "claims": claimed,
        "serves": [name for name, unit in resolved.units.items() if peer in unit.providers],
    }


def _history(unit: ResolvedUnit, names: Mapping[str, str], verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """How a unit came to be: who trained which steps, the hold-out loss as claimed and as others found it."""
    claimed = [[s.to_step, s.holdout_loss_micro] for s in unit.lineage if s.holdout_loss_micro is not None]
    newest = sorted(verdicts, key=lambda verdict: (verdict.step, verdict.iat))[-MOST_POINTS:]
    return {
        "checkpoint": unit.checkpoint,
        "start": unit.start,
        "lineage": _stretches(unit, names),
        "claimed": thinned(claimed),
        "verdicts": [
            {
                "step": verdict.step,
                "by": verdict.signer,
                "name": names.get(verdict.signer, ""),
                "level": verdict.level,
                "holds": verdict.holds,
                "loss_micro": verdict.loss_micro,
                "note": verdict.note,
                "carries": verdict.checkpoint in unit.digests,
            }
            for verdict in newest
        ],
        "refused": list(unit.refused),
    }


def _stretches(unit: ResolvedUnit, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """The lineage with what one node trained in a row as one piece."""
    stretches: list[dict[str, Any]] = []
    for digest, segment in zip(unit.digests, unit.lineage, strict=True):
        if not stretches or stretches[-1]["by"] != segment.signer:
            first = {"by": segment.signer, "name": names.get(segment.signer, ""), "from_step": segment.from_step}
            stretches.append({**first, "parent": segment.parent, "checkpoints": 0})
        ends = {"to_step": segment.to_step, "checkpoint": digest, "finished_s": segment.finished_s}
        stretches[-1] |= {**ends, "checkpoints": stretches[-1]["checkpoints"] + 1}
    return stretches


def _pace(row: Mapping[str, Any], resolved: ResolvedRun) -> dict[str, Any]:
    """What a unit is doing, and by its newest segment, as its trainer tells it, how fast and until when."""
    unit, genesis = resolved.units[row["unit"]], resolved.genesis
    held, waits = row["holder"] is not None, _waits_for(unit.unit, resolved)
    late_s = now_s() - unit.lineage[-1].finished_s if unit.lineage else 0
    if unit.complete:
        state = "complete"
    elif held:
        state = "stalled" if late_s > genesis.lease.progress_s else "training"
    else:
        state = "stalled" if unit.lineage else "unclaimed"
    per_s = _steps_per_s(unit.lineage[-1]) if unit.lineage else None
    left_s = round((row["target"] - row["step"]) / per_s) if per_s and state == "training" else None
    samples_per_s = round(per_s * genesis.recipe(unit.unit).batch, 1) if per_s else None
    return {"state": state, "waits_for": waits, "samples_per_s": samples_per_s, "left_s": left_s}


def _waits_for(unit: str, resolved: ResolvedRun) -> str | None:
    genesis = resolved.genesis
    begins = genesis.start.kind == "base" and genesis.cluster(unit) is not None
    return "base" if begins and not resolved.units["base"].complete else None


def _steps_per_s(segment: Checkpoint) -> float | None:
    started_s = datetime.fromisoformat(segment.predicate.run_details.metadata.started_on).timestamp()
    took_s = segment.finished_s - started_s
    return (segment.to_step - segment.from_step) / took_s if took_s > 0 else None


def thinned(points: Sequence[Any], most: int = MOST_POINTS) -> list[Any]:
    """At most so many points of a curve, equally far apart, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]
