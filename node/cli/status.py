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
        for trouble in found["troubles"]:
            err.print(printable(trouble), markup=False)
        if json:
            emit(found)
        else:
            out.print(units_table(found["name"], found["units"]))
            out.print(f"\n{found['curators']}", markup=False)
            if found["hub"]["waiting"] or found["hub"]["published"]:
                show(found["hub"])


async def _survey(key: RunKey, settings: Settings, peers_file: Path | None) -> dict[str, Any]:
    from paris.node.hubpeers import peers_file as written
    from paris.node.overview import overview
    from paris.node.peer import open_peer
    from paris.registry.atomic import write_bytes

    async with open_peer(settings, key, serve=False) as peer:
        if peers_file:
            write_bytes(peers_file, written(await peer.swarm.envelopes("peer", key.run)))
        return await overview(peer.library, key, peer.home, (*key.peers, *settings.peers))


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
