"""`paris-node fetch`: the latest verified ensemble by its DHT key."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
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
    OfflineOption,
    PeerOption,
    PolicyOption,
    RunKeyArgument,
    UpOption,
    refuse_network_offline,
    stay_off_the_hub,
)
from paris.node.console import emit, err, errors_to_exit_codes, out, progress_bar, short
from paris.node.settings import Settings
from paris.protocol.errors import UnavailableError
from paris.registry.runkey import RunKey

if TYPE_CHECKING:
    from paris.protocol.charter import Charter
    from paris.registry.library import Library
    from paris.registry.resolve import ResolvedRun
    from paris.registry.selection import Selection, Wish


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
    offline: OfflineOption = False,
    up: UpOption = None,
    down: DownOption = None,
    json: JsonOption = False,
) -> None:
    """Fetch a verified checkpoint of every expert and the router, from several peers at once.

    Those the curators' head names, where there is one; otherwise the newest. Every piece is hashed on arrival. Stop it
    whenever you like: what is complete is kept, the same command goes on. --offline lays out what was kept.
    """
    with errors_to_exit_codes(as_json=json):
        from paris.registry.selection import Wish

        if offline:
            refuse_network_offline(light=light, peer=peer, listen=listen, up=up, down=down)
            stay_off_the_hub()
        key, wish = RunKey.parse(run), Wish(policy or "", at or "", experts or "", offline)
        folder = to or Path(f"paris-{key.hex[:10]}")
        stands_in_it = folder.resolve() == Path.cwd()
        settings = Settings.load(home=home, peers=peer, listen=listen, up=up, down=down)
        result = asyncio.run(fetch_run(key, settings, folder, wish, light=light))
        if stands_in_it:
            err.print("  this folder was replaced as a whole: `cd .` shows what is in it now")
        emit(result) if json else out.print(str(folder), markup=False)


@dataclass(frozen=True)
class Opened:
    """A run that was found, and what was chosen of it.

    Attributes:
        library: Store and network.
        providers: Peers that announced themselves for the run.
        charter: What its curators say.
        selection: The checkpoints, verified.
    """

    library: Library
    providers: tuple[str, ...]
    charter: Charter
    selection: Selection


@asynccontextmanager
async def open_run(key: RunKey, settings: Settings, wish: Wish, *, light: bool = False) -> AsyncIterator[Opened]:
    """Find a run, follow its curators, choose and verify its checkpoints; the network stays open for the block."""
    from paris.node.home import Home
    from paris.node.light import open_library
    from paris.registry.governance import follow_curators
    from paris.registry.resolve import known_peers
    from paris.registry.selection import select

    async with open_library(settings, key, light=light, offline=wish.offline) as library:
        providers = tuple(record.signer for record in await known_peers(library, key.run))
        hints = None if wish.offline else (*key.peers, *settings.peers)
        memory, now_s = Home(settings.home).charter(key.run), time.time()
        governance = await follow_curators(library, key.run, memory, now_s, providers, hints)
        selection = await select(library, governance.charter, providers, now_s, wish)
        yield Opened(library, providers, governance.charter, selection)


async def fetch_run(
    key: RunKey, settings: Settings, folder: Path, wish: Wish, *, light: bool = False
) -> dict[str, Any]:
    """Choose, verify and lay out the checkpoints of a run; return what was done."""
    from paris.registry.assemble import fetch_ensemble
    from paris.registry.selection import head_of

    async with open_run(key, settings, wish, light=light) as opened:
        selection, resolved = opened.selection, opened.selection.resolved
        err.print(f"  {selection.why}", markup=False)
        if wish.offline:
            _require_here(resolved)
        with progress_bar() as bar:
            doing = "laying out" if wish.offline else "fetching, Ctrl-C is safe"
            task = bar.add_task(doing, total=None, unit="MB")
            fetched = await fetch_ensemble(
                opened.library, resolved, folder, opened.providers, lambda size: bar.advance(task, size / 1e6)
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
            "head": head_of(opened.charter),
            "fetched_bytes": fetched,
            "complete": resolved.complete,
            "units": units,
        }


def _require_here(resolved: ResolvedRun) -> None:
    """Say which units this home has nothing of.

    Raises:
        UnavailableError: there are such.
    """
    from paris.registry.offline import NOBODY_ASKED, ONCE_ONLINE

    if unknown := [unit.unit for unit in resolved.units.values() if not unit.lineage]:
        what = f"no verified checkpoint of {', '.join(unknown)} is in this home"
        refused = [why for unit in resolved.units.values() for why in unit.refused][:1]
        raise UnavailableError(what, "; ".join((NOBODY_ASKED, *refused)), ONCE_ONLINE)
