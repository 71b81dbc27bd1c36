"""`paris-node status`: what is going on in a run, as the network itself says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from paris.node.cli.hub import show
from paris.node.cli.options import HomeOption, JsonOption, ListenOption, PeerOption, RunKeyArgument
from paris.node.console import emit, err, errors_to_exit_codes, out, plain, printable, short
from paris.node.settings import Settings
from paris.protocol.errors import UnavailableError
from paris.registry.runkey import RunKey


def status(
    run: RunKeyArgument,
    home: HomeOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    peers_file: Annotated[
        Path | None,
        typer.Option("--peers-file", help="Also write its peers' signed records here, for a peers.json on the Hub."),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show every unit of a run: who holds it, how far it is, how good, how long the lease still runs."""
    with errors_to_exit_codes(as_json=json):
        key = RunKey.parse(run)
        found = asyncio.run(_survey(key, Settings.load(home=home, peers=peer, listen=listen), peers_file))
        if json:
            emit({"run": str(key), **found})
        else:
            out.print(units_table(found["name"], found["units"]))
            out.print(f"\n{found['curators']}", markup=False)
            if found["hub"]["waiting"] or found["hub"]["published"]:
                show(found["hub"])


async def _survey(key: RunKey, settings: Settings, peers_file: Path | None) -> dict[str, Any]:
    from paris.node.clock import now_s
    from paris.node.follower import in_words
    from paris.node.hubpeers import peers_file as written
    from paris.node.hubqueue import HubQueue, queue_folder
    from paris.node.peer import open_peer
    from paris.node.survey import look, peer_names, rows
    from paris.registry.atomic import write_bytes
    from paris.registry.governance import Governance
    from paris.registry.resolve import load_genesis
    from paris.registry.selection import head_of

    async with open_peer(settings, key, serve=False) as peer:
        if peers_file:
            write_bytes(peers_file, written(await peer.swarm.envelopes("peer", key.run)))
        genesis = await load_genesis(peer.library, key.run, hints=(*key.peers, *settings.peers))
        governance = await Governance.recall(peer.library, key.run, genesis, peer.home.charter(key.run))
        try:
            await governance.refresh(now_s(), tuple(await peer_names(peer.library, key.run)))
        except UnavailableError as error:
            err.print(f"what the curators say now could not be fetched: {printable(str(error))}", markup=False)
        charter = governance.charter
        resolved, claims, names = await look(peer.library, key.run, charter)
        return {
            "name": genesis.name,
            "curators": in_words(charter, now_s()),
            "head": head_of(charter),
            "troubles": governance.troubles,
            "peers": names,
            "complete": resolved.complete,
            "units": rows(resolved, claims, names),
            "hub": HubQueue(queue_folder(settings.home, key.run)).as_json(),
        }


def units_table(title: str, units: list[dict[str, Any]]) -> Table:
    """The units of a run as a table: cluster, holder, steps, loss, lease, copies."""
    table = Table(title=plain(title), title_justify="left", box=None, pad_edge=False)
    for column in ("unit", "about", "holder", "steps", "published", "hold-out", "lease", "copies"):
        table.add_column(
            column, justify="right" if column in {"steps", "published", "hold-out", "lease", "copies"} else "left"
        )
    for unit in units:
        done = unit["published_step"] >= unit["target"]
        holder = plain(unit["holder_name"]) or (short(unit["holder"]) if unit["holder"] else "")
        table.add_row(
            unit["unit"],
            plain(", ".join(unit["words"])),
            "[green]done[/]" if done else holder or "[dim]unclaimed[/]",
            f"{unit['step']}/{unit['target']}",
            str(unit["published_step"]),
            f"{unit['holdout_loss_micro'] / 1e6:.4f}" if unit["holdout_loss_micro"] else "",
            f"{unit['lease_s']} s" if unit["lease_s"] is not None else "",
            str(unit["copies"]),
        )
    return table
