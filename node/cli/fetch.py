"""`paris-node fetch`: the latest verified ensemble by its DHT key."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

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
from paris.node.console import emit, err, errors_to_exit_codes, out, progress_bar, short
from paris.node.settings import Settings
from paris.registry.runkey import RunKey


def fetch(
    run: RunKeyArgument,
    to: Annotated[Path | None, typer.Option("--to", help="Folder for the ensemble (default paris-<run> here).")] = None,
    home: HomeOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    light: LightOption = False,
    up: UpOption = None,
    down: DownOption = None,
    json: JsonOption = False,
) -> None:
    """Fetch the newest verified checkpoint of every expert and the router, from several peers at once.

    Every piece is hashed on arrival. Stop it whenever you like: what is complete is kept, the same command goes on.
    """
    with errors_to_exit_codes(as_json=json):
        key = RunKey.parse(run)
        folder = to or Path(f"paris-{key.hex[:10]}")
        stands_in_it = folder.resolve() == Path.cwd()
        settings = Settings.load(home=home, peers=peer, listen=listen, up=up, down=down)
        result = asyncio.run(fetch_run(key, settings, folder, light=light))
        if stands_in_it:
            err.print("  this folder was replaced as a whole: `cd .` shows what is in it now")
        emit(result) if json else out.print(str(folder), markup=False)


async def fetch_run(key: RunKey, settings: Settings, folder: Path, *, light: bool = False) -> dict[str, Any]:
    """Resolve, verify and lay out a run; return what was done."""
    from paris.node.light import open_library
    from paris.registry.assemble import fetch_ensemble
    from paris.registry.resolve import known_peers, load_genesis, resolve

    async with open_library(settings, key, light=light) as library:
        providers = tuple(record.signer for record in await known_peers(library, key.run))
        await load_genesis(library, key.run, providers, hints=(*key.peers, *settings.peers))
        resolved = await resolve(library, key.run, providers)
        with progress_bar() as bar:
            task = bar.add_task("fetching, Ctrl-C is safe", total=None, unit="MB")
            fetched = await fetch_ensemble(
                library, resolved, folder, providers, lambda size: bar.advance(task, size / 1e6)
            )
        units = {
            unit.unit: {
                "step": unit.step,
                "target": unit.target_steps,
                "trained_by": list(unit.holders),
                "refused": list(unit.refused),
            }
            for unit in resolved.units.values()
        }
        for unit in resolved.units.values():
            trainers = " then ".join(short(holder) for holder in unit.holders)
            err.print(f"  {unit.unit}: step {unit.step}/{unit.target_steps}, trained by {trainers}, verified")
        return {
            "run": str(key),
            "folder": str(folder),
            "fetched_bytes": fetched,
            "complete": resolved.complete,
            "units": units,
        }
