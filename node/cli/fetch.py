"""`paris-node fetch`: the latest verified ensemble by its DHT key."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paris.node.cli.options import (
    AtOption,
    DownOption,
    ExpertsOption,
    HomeOption,
    JsonOption,
    LightOption,
    ListenOption,
    PeerOption,
    PolicyOption,
    RunKeyArgument,
    UpOption,
)
from paris.node.console import emit, err, errors_to_exit_codes, out, progress_bar, short
from paris.node.settings import Settings
from paris.registry.runkey import RunKey

if TYPE_CHECKING:
    from paris.registry.selection import Wish


def fetch(
    run: RunKeyArgument,
    to: Annotated[Path | None, typer.Option("--to", help="Folder for the ensemble (default paris-<run> here).")] = None,
    policy: PolicyOption = None,
    at: AtOption = None,
    experts: ExpertsOption = None,
    home: HomeOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    light: LightOption = False,
    up: UpOption = None,
    down: DownOption = None,
    json: JsonOption = False,
) -> None:
    """Fetch a verified checkpoint of every expert and the router, from several peers at once.

    Those the curators' head names, where there is one; otherwise the newest. Every piece is hashed on arrival. Stop it
    whenever you like: what is complete is kept, the same command goes on.
    """
    with errors_to_exit_codes(as_json=json):
        from paris.registry.selection import Wish

        key, wish = RunKey.parse(run), Wish(policy or "", at or "", experts or "")
        folder = to or Path(f"paris-{key.hex[:10]}")
        stands_in_it = folder.resolve() == Path.cwd()
        settings = Settings.load(home=home, peers=peer, listen=listen, up=up, down=down)
        result = asyncio.run(fetch_run(key, settings, folder, wish, light=light))
        if stands_in_it:
            err.print("  this folder was replaced as a whole: `cd .` shows what is in it now")
        emit(result) if json else out.print(str(folder), markup=False)


async def fetch_run(
    key: RunKey, settings: Settings, folder: Path, wish: Wish | None = None, *, light: bool = False
) -> dict[str, Any]:
    """Choose, verify and lay out the checkpoints of a run; return what was done."""
    from paris.node.home import Home
    from paris.node.light import open_library
    from paris.registry.assemble import fetch_ensemble
    from paris.registry.governance import follow_curators
    from paris.registry.resolve import known_peers
    from paris.registry.selection import head_of, select

    async with open_library(settings, key, light=light) as library:
        providers = tuple(record.signer for record in await known_peers(library, key.run))
        memory, hints, now_s = Home(settings.home).charter(key.run), (*key.peers, *settings.peers), time.time()
        governance = await follow_curators(library, key.run, memory, now_s, providers, hints)
        selection = await select(library, governance.charter, providers, now_s, wish)
        resolved = selection.resolved
        err.print(f"  {selection.why}", markup=False)
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
            "policy": selection.policy,
            "why": selection.why,
            "head": head_of(governance.charter),
            "fetched_bytes": fetched,
            "complete": resolved.complete,
            "units": units,
        }
