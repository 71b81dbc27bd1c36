"""`paris-node run amend`: the curators change who may contribute, who decides, and what a run leaves open."""

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
from paris.node.console import errors_to_exit_codes
from paris.node.settings import Settings
from paris.protocol.errors import UsageError
from paris.registry.runkey import RunKey

if TYPE_CHECKING:
    from paris.protocol.charter import Charter
    from paris.protocol.genesis import Genesis
    from paris.registry.proposals import Proposal


def amend(
    run: RunKeyArgument,
    admit: Annotated[list[str] | None, typer.Option("--admit", help="Peer id that may contribute; repeat.")] = None,
    expel: Annotated[
        list[str] | None,
        typer.Option("--expel", help="Peer id that may contribute no longer; what it finished until now still counts."),
    ] = None,
    admission: Annotated[
        str | None, typer.Option("--admission", metavar="open|list", help="Let everybody contribute, or the listed.")
    ] = None,
    curator_add: Annotated[
        list[str] | None, typer.Option("--curator-add", help="Peer id that decides too from now on; repeat.")
    ] = None,
    curator_remove: Annotated[
        list[str] | None, typer.Option("--curator-remove", help="Peer id that decides no longer; repeat.")
    ] = None,
    threshold: Annotated[
        int | None, typer.Option("--threshold", min=1, help="How many curators have to sign from now on.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", min=1, help="Training steps of each expert; more only.")
    ] = None,
    router_steps: Annotated[
        int | None, typer.Option("--router-steps", min=1, help="Training steps of the router; more only.")
    ] = None,
    publish_every: Annotated[
        int | None, typer.Option("--publish-every", min=1, help="Steps from checkpoint to checkpoint.")
    ] = None,
    copies: Annotated[
        int | None, typer.Option("--copies", min=1, help="Copies of each checkpoint beside its trainer's.")
    ] = None,
    lease_s: Annotated[int | None, typer.Option("--lease", min=5, help="Seconds a claim lives unrenewed.")] = None,
    settle_s: Annotated[
        int | None, typer.Option("--settle", min=1, help="Seconds a claimant waits before reading back.")
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
    """As a curator, sign a next admission list or a next version of the genesis; running nodes pick it up.

    What the experts are trained from and towards never changes: that would be another run. The ensemble stays.
    """
    with errors_to_exit_codes(as_json=json):
        from paris.node.curator import lasting_s

        key = RunKey.parse(run)
        lasting_s(life)
        who = {"admit": tuple(admit or ()), "expel": tuple(expel or ()), "policy": admission or ""}
        if who["policy"] not in ("", "open", "list"):
            raise UsageError(f"there is no admission {admission!r}", hint="Choose open or list.")
        board = (tuple(curator_add or ()), tuple(curator_remove or ()), threshold)
        numbers = {
            "steps": steps, "router_steps": router_steps, "publish_every": publish_every, "replicas": copies,
            "life_s": lease_s, "settle_s": settle_s,
        }  # fmt: skip
        if cosign and (any(who.values()) or any(board) or any(numbers.values())):
            raise UsageError("--cosign signs what another curator wrote", hint="Leave the other options out.")
        settings = Settings.load(home=home, peers=peer, listen=listen)
        options = {"life": life, "cosigned": cosign, "file": file, "dry_run": dry_run, "leave": leave, "json": json}
        asyncio.run(_amend(key, settings, who, board, numbers, options))


async def _amend(
    key: RunKey,
    settings: Settings,
    who: dict[str, Any],
    board: tuple[tuple[str, ...], tuple[str, ...], int | None],
    numbers: dict[str, int | None],
    options: dict[str, Any],
) -> None:
    from paris.node.clock import now_s
    from paris.node.curator import lasting_s, open_desk, read_proposal
    from paris.registry.proposals import amend as propose
    from paris.registry.proposals import changed_admission, changed_curators, check_amends_only
    from paris.registry.trainable import require_trainable

    async with open_desk(settings, key) as desk:
        charter, now, cosigned = desk.charter, now_s(), options["cosigned"]
        if isinstance(cosigned, Path):
            proposal = read_proposal(cosigned)
            check_amends_only(proposal, charter)
        else:
            admission = changed_admission(charter.admission, now, **who) if any(who.values()) else None
            changes = _changes(charter.genesis, numbers)
            if any(board):
                changes["curators"] = changed_curators(charter.genesis.curators, *board)
            life_s = lasting_s(options["life"])
            proposal = propose(charter, desk.me, now, admission=admission, changes=changes, life_s=life_s)
        lines, new = _differences(charter, proposal)
        require_trainable(new)
        said = {"run": charter.run, "genesis_version": new.version, "head_version": charter.floor + 1, "lines": lines}
        await finish(desk, key, proposal, said, **options)


def _changes(genesis: Genesis, numbers: dict[str, int | None]) -> dict[str, Any]:
    """Fields of the next genesis by name, of the numbers that were given."""
    given = {name: value for name, value in numbers.items() if value is not None}
    changes: dict[str, Any] = {}
    training = genesis.training.model_dump(mode="json", exclude_none=True)
    for recipe, steps in (("expert", "steps"), ("router", "router_steps")):
        training[recipe] |= {"steps": given[steps]} if steps in given else {}
        training[recipe] |= {"publish_every": given["publish_every"]} if "publish_every" in given else {}
    if {"steps", "router_steps", "publish_every"} & given.keys():
        changes["training"] = training
    if lease := {name: given[name] for name in ("life_s", "settle_s") if name in given}:
        changes["lease"] = genesis.lease.model_dump(mode="json") | lease
    if "replicas" in given:
        changes["replicas"] = given["replicas"]
    return changes


def _differences(charter: Charter, proposal: Proposal) -> tuple[list[str], Genesis]:
    """What a proposal changes, in words, and the genesis it would leave."""
    from paris.protocol import envelope
    from paris.protocol.curation import Admission, AdmissionList
    from paris.protocol.genesis import Genesis

    old, new, lines = charter.genesis, charter.genesis, list[str]()
    admission: Admission = charter.admission
    if proposal.genesis:
        new = Genesis.parse(envelope.verify(proposal.genesis, "genesis").payload)
        admission = new.admission
        before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
        lines.append(f"genesis version {new.version}, after {old.version}")
        for name in ("curators", "lease", "replicas", "training", "ext"):
            if before[name] != after[name]:
                lines += _changed(name, before[name], after[name])
        pairs = ((old.training.expert, new.training.expert), (old.training.router, new.training.router))
        if any(was.steps != now.steps and was.schedule != "constant" for was, now in pairs):
            lines.append("mind: the learning rate follows the steps: where its decay had begun, it rises again")
    elif proposal.listed:
        listed = AdmissionList.parse(envelope.verify(proposal.listed, "admission").payload)
        admission = listed.admission
        lines.append(f"admission list {listed.version}")
    if admission.policy != charter.admission.policy:
        lines.append(f"admission: {charter.admission.policy} becomes {admission.policy}")
    was, now = {*charter.admission.keys}, {*admission.keys}
    gone = {each.key for each in admission.former} - {each.key for each in charter.admission.former}
    back = {each.key for each in charter.admission.former} - {each.key for each in admission.former}
    lines += [f"admitted: {key}" for key in sorted((now - was) | (back - was))]
    lines += [f"expelled: {key}; what it finished until now still counts" for key in sorted((was - now) | gone)]
    return lines, new


def _changed(name: str, before: Any, after: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = dict.fromkeys((*before, *after))
        changed = [key for key in keys if before.get(key) != after.get(key)]
        return [line for key in changed for line in _changed(f"{name} {key}", before.get(key), after.get(key))]
    if isinstance(before, list) and isinstance(after, list):
        come, gone = [each for each in after if each not in before], [each for each in before if each not in after]
        return [f"{name}: with {each}" for each in come] + [f"{name}: without {each}" for each in gone]
    return [f"{name}: {before} becomes {after}"]
