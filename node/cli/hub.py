"""`paris-node hub`: what this home publishes on the Hugging Face Hub."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import typer

from paris.node.cli.options import HomeOption, JsonOption, ListenOption, PeerOption, RunKeyArgument
from paris.node.console import emit, err, errors_to_exit_codes, out, printable, short
from paris.node.settings import Settings
from paris.registry.runkey import RunKey

app = typer.Typer(help="Publish on the Hugging Face Hub, and see what waits for it.", no_args_is_help=True)
StateOption = Annotated[bool | None, typer.Option("--state/--no-state", help="Publish full training states too.")]


@app.command()
def push(
    run: RunKeyArgument,
    hub: Annotated[
        str | None, typer.Option("--hub", metavar="NAME", help="auto, name or owner/name; run and node are added.")
    ] = None,
    state: StateOption = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Publish the checkpoints that wait, now and without peers; a running `start --hub` does it by itself.

    Killing it is safe: the same command goes on, and publishes nothing twice.
    """
    with errors_to_exit_codes(as_json=json):
        from paris.node.home import Home
        from paris.node.hubpublishing import push as publish
        from paris.registry.library import Library
        from paris.registry.resolve import load_genesis

        key, settings = RunKey.parse(run), Settings.load(home=home, publish=hub, publish_state=state)
        opened = Home(settings.home)

        async def go() -> dict[str, Any]:
            genesis = await load_genesis(Library(opened.store), key.run)
            return await publish(settings, opened, key.run, genesis, quiet if json else tell)

        shown = asyncio.run(go())
        emit(shown) if json else show(shown)
        if shown["waiting"]:
            raise typer.Exit(5 if any(item["lasting"] for item in shown["waiting"]) else 4)


@app.command()
def queue(run: RunKeyArgument, home: HomeOption = None, json: JsonOption = False) -> None:
    """Show which checkpoints of a run wait for the Hub, since when they cannot go, and which are there."""
    with errors_to_exit_codes(as_json=json):
        from paris.node.hubqueue import HubQueue, queue_folder

        settings = Settings.load(home=home)
        shown = HubQueue(queue_folder(settings.home, RunKey.parse(run).run)).as_json()
        emit(shown) if json else show(shown)


@app.command("publish-registry")
def publish_registry(
    run: RunKeyArgument,
    repo: Annotated[str, typer.Option("--repo", metavar="OWNER/NAME", help="Repository of the registry.")],
    add: Annotated[
        list[str] | None,
        typer.Option("--add", metavar="OWNER/NAME", help="A contributor's repository; repeat."),
    ] = None,
    data: Annotated[bool, typer.Option("--data", help="Publish the training data too.")] = False,
    home: HomeOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    json: JsonOption = False,
) -> None:
    """Publish where a run is to be found: genesis, peers, heads, contributors' repositories. Repeat it now and then.

    What it prints is a run key that works while the Hub does, even with no peer left.
    """
    with errors_to_exit_codes(as_json=json):
        from paris.node.hubcurator import publish_registry as publish
        from paris.registry.runkey import hub_repository

        key, settings = RunKey.parse(run), Settings.load(home=home, peers=peer, listen=listen)
        more = [hub_repository(name) for name in add or ()]
        done = asyncio.run(publish(settings, key, hub_repository(repo), more, data=data))
        if json:
            emit(done)
            return
        out.print(done["run"], markup=False)
        state = "brought up to date" if done["changed"] else "is up to date"
        err.print(f"  {repo} {state}, naming {len(done['repositories'])} contributors' repositories", markup=False)


def show(shown: dict[str, Any]) -> None:
    """A queue for people."""
    for unit, entry in sorted(shown["published"].items()):
        out.print(f"{unit}: step {entry['step']} is at {entry['repository']} ({entry['commit'][:8]})", markup=False)
    for item in shown["waiting"]:
        said = f", tried {item['tries']} times: {printable(item['trouble'])}" if item["trouble"] else ""
        out.print(f"{item['unit']}: step {item['step']} waits ({short(item['checkpoint'])}){said}", markup=False)
    if not shown["published"] and not shown["waiting"]:
        out.print("nothing waits for the Hub, and nothing was published there")


def tell(event: str, **fields: Any) -> None:
    """What the uploader reports, for people."""
    match event:
        case "hub":
            told = f"{fields['unit']} at step {fields['step']} is on the Hub: {fields['repository']}"
        case "hub-waits":
            told = f"{fields['unit']} at step {fields['step']} waits for the Hub: {printable(fields['reason'])}"
        case _:
            told = (
                f"{fields['waiting']} checkpoints wait for the Hub: the next start, or `paris-node hub push`, goes on"
            )
    err.print(told, markup=False)


def quiet(_event: str, **_fields: Any) -> None:
    """Nothing is told."""
