"""`paris-node run promote`: the curators say which checkpoints make up the ensemble."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paris.node.cli.board import (
    USUAL_LIFE,
    USUAL_OUT,
    CosignOption,
    DryRunOption,
    LeaveOption,
    LifeOption,
    OutOption,
    finish,
)
from paris.node.cli.options import HomeOption, JsonOption, ListenOption, PeerOption, RunKeyArgument
from paris.node.console import errors_to_exit_codes, short
from paris.node.settings import Settings
from paris.protocol.errors import UsageError
from paris.registry.runkey import RunKey

if TYPE_CHECKING:
    from paris.node.curator import Desk
    from paris.registry.promotion import Choice
    from paris.registry.proposals import Proposal


def promote(
    run: RunKeyArgument,
    expert: Annotated[
        list[str] | None,
        typer.Option("--expert", metavar="UNIT=STEP|DIGEST", help="This checkpoint of a unit, not the best measured."),
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="UNIT", help="Leave a unit out: that revokes it; repeat.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="Experts a step that serve it best (default: as before).")
    ] = None,
    life: LifeOption = USUAL_LIFE,
    cosign: CosignOption = None,
    file: OutOption = USUAL_OUT,
    dry_run: DryRunOption = False,
    leave: LeaveOption = False,
    home: HomeOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    json: JsonOption = False,
) -> None:
    """As a curator, choose the best measured checkpoint of every unit and sign the head that names them.

    Whoever fetches the run then gets these. What the next head does not name is gone from new fetches within a day.
    """
    with errors_to_exit_codes(as_json=json):
        from paris.node.curator import lasting_s
        from paris.registry.promotion import read_picks

        key, picked = RunKey.parse(run), read_picks(expert or [])
        lasting_s(life)
        if cosign and (picked or without or top_k):
            raise UsageError("--cosign signs what another curator chose", hint="Leave the other options out.")
        settings = Settings.load(home=home, peers=peer, listen=listen)
        options = {"life": life, "cosigned": cosign, "file": file, "dry_run": dry_run, "leave": leave, "json": json}
        asyncio.run(_promote(key, settings, picked, tuple(without or ()), top_k, options))


async def _promote(
    key: RunKey,
    settings: Settings,
    picked: dict[str, str],
    without: tuple[str, ...],
    top_k: int | None,
    options: dict[str, Any],
) -> None:
    from paris.node.curator import open_desk, read_proposal

    async with open_desk(settings, key) as desk:
        cosigned: Path | None = options["cosigned"]
        if cosigned:
            proposal = read_proposal(cosigned)
            said = await _proposed(desk, proposal)
        else:
            proposal, said = await _chosen(desk, picked, without, top_k, options["life"])
        await finish(desk, key, proposal, said, **options)


async def _chosen(
    desk: Desk, picked: dict[str, str], without: tuple[str, ...], top_k: int | None, life: str
) -> tuple[Proposal, dict[str, Any]]:
    from paris.node.curator import lasting_s
    from paris.registry import proposals
    from paris.registry.promotion import choose

    charter, library = desk.charter, desk.peer.library
    choices = await choose(library, charter, desk.providers, desk.me.peer_id, picked=picked, without=without)
    units = {choice.name: str(choice.unit.checkpoint) for choice in choices if choice.unit}
    if not units:
        hint = "See how far the run is with `paris-node status`."
        raise UsageError("there is nothing to promote", "no unit has a verified checkpoint that is not left out", hint)
    experts = sum(unit.startswith("cluster-") for unit in units)
    if top_k and top_k > max(1, experts):
        raise UsageError(f"--top-k {top_k} asks for more experts than there are", f"{experts} would be in it")
    before = charter.head.top_k if charter.head else None
    usual = top_k or (min(before, experts) if before and experts else None)
    kept = await desk.admission_in_force()
    proposal = proposals.promote(charter, units, usual, lasting_s(life), kept)
    said = {"run": charter.run, "version": charter.floor + 1, "top_k": usual}
    return proposal, said | {"units": [c.as_json() for c in choices], "lines": [_line(c) for c in choices]}


async def _proposed(desk: Desk, proposal: Proposal) -> dict[str, Any]:
    """What another curator proposes, every checkpoint of it verified here."""
    from paris.registry.promotion import proposed
    from paris.registry.proposals import check_promotes_only

    check_promotes_only(proposal, desk.charter)
    choices = await proposed(desk.peer.library, desk.charter, desk.providers, proposal.ensemble)
    said = {"run": proposal.run, "version": desk.charter.floor + 1, "top_k": proposal.top_k}
    return said | {"units": [c.as_json() for c in choices], "lines": [_line(c) for c in choices]}


def _line(choice: Choice) -> str:
    unit = choice.unit
    if unit is None:
        gone = "; it was in the head before: REVOKED" if choice.was else ""
        return f"{choice.name}: not in it: {choice.why}{gone}"
    loss = unit.lineage[-1].holdout_loss_micro
    claimed = f", hold-out loss {loss / 1e6:.4f}" if loss is not None else ""
    same = ", as before" if choice.was == unit.checkpoint else ", new in it" if choice.was is None else ""
    by = " then ".join(short(holder) for holder in unit.holders)
    return f"{choice.name}: step {unit.step}/{unit.target_steps}{claimed}, by {by}; {choice.why}{same}"
