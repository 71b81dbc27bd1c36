"""`paris-node start`: contribute to a run."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Callable
from typing import Annotated, Any

import typer

from paris.node.cli.hub import tell
from paris.node.cli.options import (
    DownOption,
    HomeOption,
    JsonOption,
    ListenOption,
    PeerOption,
    RunKeyArgument,
    UpOption,
)
from paris.node.console import emit, err, errors_to_exit_codes, plain, printable, short
from paris.node.settings import Settings
from paris.registry.runkey import RunKey


def start(
    run: RunKeyArgument,
    home: HomeOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    name: Annotated[str | None, typer.Option("--name", help="What others see this node called.")] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="CPU threads to train with; 0 for all.")] = None,
    processes: Annotated[
        int | None, typer.Option("--processes", help="Processes that train one unit together; 0 for one a GPU.")
    ] = None,
    sharded: Annotated[
        bool | None, typer.Option("--sharded", help="Cut the network among them (FSDP2): it does not fit one.")
    ] = None,
    compiled: Annotated[
        str | None, typer.Option("--compiled", metavar="BACKEND", help="Train through torch.compile, like inductor.")
    ] = None,
    no_train: Annotated[bool, typer.Option("--no-train", help="Only keep and serve data and checkpoints.")] = False,
    leave: Annotated[
        bool, typer.Option("--leave", help="Exit when the run is complete instead of serving on.")
    ] = False,
    hub: Annotated[
        str | None,
        typer.Option(
            "--hub",
            metavar="NAME",
            help="Publish checkpoints on the Hugging Face Hub too: auto, name or owner/name; run and node are added.",
        ),
    ] = None,
    hub_state: Annotated[
        bool | None, typer.Option("--hub-state/--no-hub-state", help="Publish full training states there too.")
    ] = None,
    up: UpOption = None,
    down: DownOption = None,
    json: JsonOption = False,
) -> None:
    """Join a run: claim an unclaimed cluster, train it, publish signed checkpoints, take over from peers who vanish.

    Ctrl-C (or SIGTERM) checkpoints, publishes and leaves; starting again goes on where it stopped.
    """
    with errors_to_exit_codes(as_json=json):
        means: dict[str, Any] = {"threads": threads, "processes": processes, "sharded": sharded, "compiled": compiled}
        means |= {"publish": hub, "publish_state": hub_state}
        settings = Settings.load(home=home, peers=peer, listen=listen, name=name, up=up, down=down, **means)
        report = _json_report if json else _text_report
        asyncio.run(contribute(RunKey.parse(run), settings, report, trains=not no_train, leave=leave))


async def contribute(key: RunKey, settings: Settings, report: Any, *, trains: bool, leave: bool) -> None:
    """Open a peer and contribute until complete or told to stop."""
    from paris.node.activity import Activity, activity_file
    from paris.node.company import Company
    from paris.node.contributor import Contributor
    from paris.node.follower import follow
    from paris.node.home import Home
    from paris.node.hubaccess import open_hub, require_alone
    from paris.node.hubpublishing import publishing
    from paris.node.peer import open_peer
    from paris.registry.hubnetwork import WithHub

    with Home(settings.home).locked():
        async with open_hub(settings, key) as hub, open_peer(settings, key) as peer:
            peer.library.network = WithHub(peer.network, hub)
            if not peer.tried.answered and not peer.home.store.path(key.run):
                err.print(await require_alone(hub, peer.tried.error()), markup=False)
            governance = await follow(peer, key.run, (*key.peers, *settings.peers))
            genesis = governance.charter.genesis
            activity = Activity(activity_file(peer.home, key.run), key.run)

            def told(event: str, **fields: Any) -> None:
                report(event, **fields)
                activity.hear(event, **fields)
                on_hub.hear(event, **fields)
                if event == "hub":
                    contributor.announce_soon()

            async with publishing(settings, peer.home, key.run, genesis, peer.peer_id, told) as on_hub:
                contributor = Contributor(peer, key.run, governance, settings.means, settings.name, told, trains=trains)
                await contributor.introduce()
                addresses = tuple(peer.swarm.addrs)
                shared = str(key.with_peers(addresses))
                told("ready", run=shared, peer_id=peer.peer_id, addrs=addresses, name=genesis.name)
                _on_signals(contributor.stop)
                company = Company(peer, key.run, contributor.announce_again, report, random.Random(peer.peer_id))
                await company.during(contributor.run(leave_when_complete=leave))
                _on_signals(on_hub.hurry)
                if waiting := await on_hub.leave():
                    report("hub-left", waiting=waiting)
            told("left")


def _on_signals(act: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, act)


def _json_report(event: str, **fields: Any) -> None:
    emit({"event": event, **fields})


def _text_report(event: str, **fields: Any) -> None:
    match event:
        case "ready":
            err.print(f"[bold]{plain(fields['name'])}[/]: joined as {fields['peer_id']}")
            err.print(f"  others can join through {fields['run']}", markup=False)
            err.print("  Ctrl-C checkpoints, publishes and leaves; nothing is lost")
        case "step":
            err.print(
                f"  {fields['unit']} step {fields['step']}  loss {fields['loss']:.4f}  {fields['per_s']:.0f} samples/s",
                end="\r",
            )
        case "published":
            loss, digest = (fields["holdout_loss_micro"] or 0) / 1e6, short(fields["checkpoint"])
            err.print(f"published {fields['unit']} at step {fields['step']}, hold-out loss {loss:.4f} ({digest})")
        case "prepare":
            err.print(f"  {fields['unit']}: {fields['done']} samples encoded", end="\r")
        case "waiting":
            err.print(f"waiting: {printable(fields['reason'])}", markup=False)
        case "alone" | "online" | "clock" | "curators" | "expelled":
            _tell_of_company(event, fields)
        case "hub" | "hub-waits" | "hub-left":
            tell(event, **fields)
        case "complete":
            err.print("[bold green]the run is complete[/]; still serving it, Ctrl-C leaves")
        case _:
            details = "  ".join(f"{key} {value}" for key, value in fields.items())
            err.print(f"{event}: {printable(details)}", markup=False)


def _tell_of_company(event: str, fields: dict[str, Any]) -> None:
    match event:
        case "alone":
            err.print("nobody answers: this node goes on alone, and keeps trying", style="yellow")
            for line in fields["tried"]:
                err.print(f"  {printable(line)}", markup=False)
        case "online":
            err.print(f"in touch with {fields['peers']} other nodes", style="green")
        case "curators":
            err.print(f"the curators say: {fields['words']}", markup=False)
        case "expelled":
            err.print(f"the curators shut {fields['name']} out: training stops", style="yellow", markup=False)
        case "clock":
            err.print(f"{fields['detail']}\n  next: {fields['cure']}", style="yellow", markup=False)
