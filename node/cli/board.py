"""What `run promote` and `run amend` have in common: a proposal is signed, carried on or published, and told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paris.node.console import emit, err, out, printable, short
from paris.registry.runkey import RunKey

if TYPE_CHECKING:
    from paris.node.curator import Desk
    from paris.registry.proposals import Proposal

LifeOption = Annotated[
    str,
    typer.Option("--life", help="How long it stands, such as 7d: heads live a day at most and are renewed from here."),
]
CosignOption = Annotated[
    Path | None, typer.Option("--cosign", metavar="FILE", help="Sign what another curator proposed, and go on with it.")
]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", help="Where a proposal goes that other curators have yet to sign.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what it would be; sign and publish nothing.")]
LeaveOption = Annotated[
    bool, typer.Option("--leave", help="Exit as soon as another peer has it, instead of serving it until Ctrl-C.")
]
USUAL_LIFE = "7d"
USUAL_OUT = Path("paris-proposal.json")


async def finish(
    desk: Desk,
    key: RunKey,
    proposal: Proposal,
    said: dict[str, Any],
    *,
    life: str,
    cosigned: Path | None,
    file: Path,
    dry_run: bool,
    leave: bool,
    json: bool,
) -> None:
    """Sign, then publish what is whole and stay with it, or write the rest down for the next curator.

    Args:
        desk: Where the curator works.
        key: The run.
        proposal: What is to be signed.
        said: What it would change, as JSON; the outcome is added.
        life: How long it is to stand.
        cosigned: The file it came from.
        file: Where it goes if others have yet to sign.
        dry_run: Sign nothing.
        leave: Do not stay longer than needed.
        json: Print JSON.
    """
    from paris.node.clock import now_s
    from paris.node.curator import lasting_s, stay, write_proposal
    from paris.registry.proposals import complete, sign, wanting
    from paris.registry.selection import describe_head, head_of, moment

    charter = desk.charter
    if dry_run:
        _tell(said | {"published": False}, "nothing was signed: this was a dry run", json=json)
        return
    signed = sign(proposal, charter, desk.me, now_s(), await desk.own_heads())
    lacks = wanting(signed, charter)
    if lacks.what:
        write_proposal(cosigned or file, signed, over=cosigned)
        names = ", ".join(short(name) for name in lacks.signed) or "nobody"
        told = f"the {lacks.what} is signed by {names}; {lacks.missing} more must sign: --cosign {cosigned or file}"
        waiting = {"waiting_for": lacks.what, "signed_by": list(lacks.signed), "missing": lacks.missing}
        _tell(said | {"published": False, **waiting, "file": str(cosigned or file)}, told, json=json)
        return
    alone = complete(signed, charter).genesis.curators.threshold == 1
    until = now_s() + lasting_s(life) if alone else 0
    after = await desk.publish(signed, until)
    assert after.head
    renewing = f"; renewed from this home until {moment(until)}" if until > after.head.exp else ""
    renewing = renewing or ("" if alone else "; curators have to sign the next one before")
    _tell(said | {"published": True, "head": head_of(after), "until": until or after.head.exp}, "", json=json)
    err.print(f"published {describe_head(after)}{renewing}", markup=False)
    await stay(desk, key, leave=leave, told=lambda text: err.print(f"  {printable(text)}", markup=False))


def _tell(result: dict[str, Any], told: str, *, json: bool) -> None:
    if json:
        emit(result)
    else:
        for line in result["lines"]:
            out.print(f"  {printable(line)}", markup=False)
    if told:
        err.print(printable(told), markup=False)
