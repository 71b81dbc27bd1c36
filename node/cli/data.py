"""`paris-node data`: data before, in and beside runs; here `fetch`, a run's verified shards."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paris.node.cli.options import (
    DownOption,
    HomeOption,
    JsonOption,
    LightOption,
    ListenOption,
    PeerOption,
    RunKeyArgument,
    UpOption,
)
from paris.node.cli.prospect import assign, push, survey
from paris.node.console import emit, err, errors_to_exit_codes, out, progress_bar
from paris.node.settings import Settings
from paris.protocol.errors import UsageError
from paris.registry.runkey import RunKey

if TYPE_CHECKING:
    from paris.protocol.records import Genesis

app = typer.Typer(help="Data before a run, in it, and beside it.", no_args_is_help=True)
app.command()(survey)
app.command()(assign)
app.command()(push)


@app.command("fetch")
def fetch(
    run: RunKeyArgument,
    to: Annotated[Path | None, typer.Option("--to", help="Folder (default paris-data-<run> here).")] = None,
    cluster: Annotated[
        list[int] | None, typer.Option("--cluster", min=0, help="Only this cluster; may be repeated.")
    ] = None,
    holdout: Annotated[bool, typer.Option("--holdout", help="Only what no training sees.")] = False,
    home: HomeOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    light: LightOption = False,
    up: UpOption = None,
    down: DownOption = None,
    json: JsonOption = False,
) -> None:
    """Fetch a run's shards: webdataset tars of pictures and captions, every piece hashed on arrival.

    Stop it whenever you like: what is complete is kept, the same command goes on.
    """
    with errors_to_exit_codes(as_json=json):
        key = RunKey.parse(run)
        settings = Settings.load(home=home, peers=peer, listen=listen, up=up, down=down)
        folder = (to or Path(f"paris-data-{key.hex[:10]}")).resolve()
        result = asyncio.run(_fetch(key, settings, folder, cluster or [], holdout=holdout, light=light))
        emit(result) if json else out.print(str(folder), markup=False)


async def _fetch(
    key: RunKey, settings: Settings, folder: Path, clusters: list[int], *, holdout: bool, light: bool
) -> dict[str, Any]:
    from paris.node.light import open_library
    from paris.registry.centroids import CENTROIDS
    from paris.registry.resolve import known_peers, load_genesis

    async with open_library(settings, key, light=light) as library:
        providers = tuple(record.signer for record in await known_peers(library, key.run))
        everyone = (*key.peers, *settings.peers)
        genesis = await load_genesis(library, key.run, providers, hints=everyone)
        names = {CENTROIDS, *_wanted(genesis, clusters, holdout=holdout)}
        files = await library.manifest(genesis.data.manifest, providers)
        chosen = files.select(lambda entry: entry.name in names)
        with progress_bar() as bar:
            total_mb = sum(entry.size for entry in chosen.files) / 1e6
            task = bar.add_task("fetching, Ctrl-C is safe", total=total_mb, unit="MB")
            fetched = await library.files(chosen.files, providers, lambda size: bar.advance(task, size / 1e6))
        await asyncio.to_thread(library.store.checkout, chosen, folder)
    err.print(f"  {len(chosen.files)} files of {genesis.data.name}, licence: {genesis.data.license}", markup=False)
    return {
        "run": str(key),
        "folder": str(folder),
        "shards": sorted(entry.name for entry in chosen.files if entry.name != CENTROIDS),
        "bytes": sum(entry.size for entry in chosen.files),
        "fetched_bytes": fetched,
        "license": genesis.data.license,
    }


def _wanted(genesis: Genesis, clusters: list[int], *, holdout: bool) -> set[str]:
    known = {cluster.id: cluster for cluster in genesis.clusters}
    if unknown := sorted(set(clusters) - known.keys()):
        numbers = ", ".join(map(str, sorted(known)))
        raise UsageError(f"the run has no cluster {unknown[0]}", hint=f"Its clusters are {numbers}")
    chosen = [known[number] for number in clusters] if clusters else genesis.clusters
    return {name for c in chosen for name in (c.holdout if holdout else (*c.shards, *c.holdout))}
