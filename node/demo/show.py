"""The demo from start to end: create, contribute, kill, take over, fetch, draw, audit."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.live import Live

from paris.node.cli.run import make_run
from paris.node.cli.status import units_table
from paris.node.console import err
from paris.node.demo.budget import longest_s, plan_for
from paris.node.demo.processes import NodeProcess, run_command
from paris.node.demo.scenes import Scene
from paris.node.overview import look, rows
from paris.node.peer import open_peer
from paris.node.settings import Settings
from paris.protocol.charter import Charter
from paris.protocol.errors import ParisError, UsageError
from paris.registry.atomic import remove_tree, write_json
from paris.registry.resolve import load_genesis
from paris.registry.runkey import RunKey
from paris.registry.runs import Choices

NAMES = (
    "ada",
    "bea",
    "cleo",
    "dora",
    "emmy",
    "fei",
    "grace",
    "hedy",
    "ida",
    "joan",
    "kato",
    "lise",
    "mary",
    "nora",
    "olga",
    "pia",
)
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
LOOK_EVERY_S = 3.0
MARK = ".paris-demo"
"""The file by which a demo knows an earlier demo's folder again: only such a one is emptied."""
Rows = list[dict[str, Any]]


def run_demo(scene: Scene, out: Path, minutes: float, clusters: int, peers: int) -> dict[str, Any]:
    """Run the whole demo in `out` and return its summary, also written to `out/summary.json`.

    Raises:
        ParisError: a part failed, or a signal told the demo to end; every process is ended, the logs stay in
            `out/logs`. A failed audit or a takeover that did not happen is no error here, the summary says so.
    """
    started_s = time.monotonic()
    _make_room(out)
    err.print(f"[bold]paris-node demo[/]: {peers} contributors, {clusters} clusters, about {minutes:g} minutes")
    err.print("Ctrl-C ends all of it")
    budget = plan_for(scene, minutes, clusters, peers)
    choices = replace(Choices.default("demo", clusters, scene.preset), plan=budget.plan)
    steps = budget.plan.expert.steps
    err.print(f"this machine trains {budget.samples_per_s:.0f} samples/s, so each expert gets {steps} steps")
    created = make_run(scene.data, choices, Settings.load(home=out / "homes" / "curator"))
    deadline_s = started_s + longest_s(minutes)
    try:
        summary = asyncio.run(_scenes(scene, created["run"], out, peers, budget.threads, deadline_s))
    except asyncio.CancelledError:
        raise ParisError("the demo was ended by a signal", hint=f"The logs are in {out / 'logs'}.") from None
    summary["seconds"] = round(time.monotonic() - started_s)
    write_json(out / "summary.json", summary)
    return summary


async def _scenes(scene: Scene, run: str, out: Path, peers: int, threads: int, deadline_s: float) -> dict[str, Any]:
    """Everything that happens in processes of its own; however it ends, they end with it."""
    this = asyncio.current_task()
    assert this is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            asyncio.get_running_loop().add_signal_handler(number, this.cancel)
    nodes: list[NodeProcess] = []
    try:
        key = await _start_network(run, out, peers, threads, nodes)
        table = await _watch(key, out, nodes, deadline_s)
        fetched, drawn, audited = await _use(scene, key, out)
    finally:
        await asyncio.gather(*(node.end() for node in nodes))
    return {
        "run": str(key),
        "units": [_unit(row, nodes) for row in table],
        "takeovers": sum(len(row["trained_by"]) > 1 for row in table),
        "fetched_bytes": fetched["fetched_bytes"],
        "audit": audited.get("audit") or f"failed: {audited.get('message', 'it said nothing')}",
        "grid": drawn["file"],
        **({"sheet": drawn["sheet"]} if scene.sheet else {}),
        "pictures": drawn["pictures"],
    }


def _make_room(out: Path) -> None:
    """Start from an empty folder, but never empty a folder that is not an earlier demo's.

    Raises:
        UsageError: it is a file, or holds something else.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", hint="The demo needs a folder: choose one with --out.")
    if out.exists() and any(out.iterdir()) and not (out / MARK).is_file():
        raise UsageError(f"{out} is not empty and is no earlier demo", hint="Choose another folder with --out.")
    for part in ("homes", "ensemble", "logs", "summary.json", "grid.png", "grid.webp", "sheet.png"):
        remove_tree(out / part)
    (out / "logs").mkdir(parents=True)
    (out / MARK).touch()


async def _start_network(run: str, out: Path, peers: int, threads: int, nodes: list[NodeProcess]) -> RunKey:
    """Start the curator's node, which serves genesis and data, and the contributors, which find it through the DHT."""
    curator = NodeProcess("curator", out / "homes" / "curator", out / "logs" / "curator.log")
    nodes.append(curator)
    await curator.start(run, "--no-train")
    await curator.ready()
    key = RunKey.parse(run).with_peers(curator.addrs[:1])
    err.print(f"run key: {key}", markup=False)
    for name in NAMES[:peers]:
        node = NodeProcess(name, out / "homes" / name, out / "logs" / f"{name}.log")
        nodes.append(node)
        await node.start(str(key), "--threads", str(threads))
    for node in nodes[1:]:
        await node.ready()
    return key


async def _watch(key: RunKey, out: Path, nodes: list[NodeProcess], deadline_s: float) -> Rows:
    """Show the run as the network tells it, kill one contributor half-way, and wait until every unit is complete."""
    settings = Settings.load(home=out / "homes" / "observer", listen=LOOPBACK)
    victim: NodeProcess | None = None
    said = ""
    async with open_peer(settings, key, serve=False) as peer:
        genesis = await load_genesis(peer.library, key.run)
        with Live(console=err, refresh_per_second=2, transient=not err.is_terminal) as live:
            while time.monotonic() < deadline_s:
                resolved, claims, names = await look(peer.library, key.run, Charter.begin(genesis, key.run))
                table = rows(resolved, claims, names)
                if err.is_terminal:
                    live.update(units_table(f"{genesis.name}, {len(names)} peers", table))
                elif (line := _progress_line(table)) != said:
                    said = line
                    err.print(line, markup=False)
                if victim is None and (victim := _half_way(table, nodes)):
                    victim.kill()
                    live.console.print(f"[bold red]killed {victim.name}[/] with SIGKILL, half-way through its unit")
                if resolved.complete:
                    live.update(units_table(f"{genesis.name}, complete", table))
                    if victim is None:
                        live.console.print("the run was complete before anybody could be killed: no takeover to show")
                    return table
                if not any(node.alive for node in nodes[1:]):
                    raise ParisError("every contributor has ended", why=f"see {out / 'logs'}")
                await asyncio.sleep(LOOK_EVERY_S)
    raise ParisError(
        "the demo did not end in time", why=f"this machine is busy, or something hangs: see {out / 'logs'}"
    )


def _progress_line(table: Rows) -> str:
    """Where a live table cannot be shown: what is published, in one line, so that a log stays short."""
    return "published: " + ", ".join(f"{row['unit']} {row['published_step']}/{row['target']}" for row in table)


def _half_way(table: Rows, nodes: list[NodeProcess]) -> NodeProcess | None:
    """The contributor to kill: half-way through a cluster whose newest checkpoint somebody else holds a copy of too."""
    by_id = {node.peer_id: node for node in nodes[1:] if node.alive}
    for row in table:
        published = row["published_step"] / row["target"]
        if row["unit"] != "router" and 0.3 < published < 0.9 and row["copies"] > 1 and row["holder"] in by_id:
            return by_id[row["holder"]]
    return None


async def _use(scene: Scene, key: RunKey, out: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What a stranger does with nothing but the run key: fetch, draw, audit, each as its own command."""
    home, log = ("--home", str(out / "homes" / "visitor"), "--listen", LOOPBACK), out / "logs" / "visitor.log"
    ensemble = str(out / "ensemble")
    drawing = [*scene.prompts, "--guidance", str(scene.guidance), "--out", str(out / scene.grid)]
    if scene.sheet:
        drawing += ["--sheet", str(out / scene.sheet)]
    fetched = await _told(
        "fetching the ensemble by its run key", lambda: run_command("fetch", str(key), "--to", ensemble, *home, log=log)
    )
    drawn = await _told("drawing", lambda: run_command("generate", ensemble, *drawing, log=log))
    audited = await _told("auditing", lambda: run_command("audit", str(key), *home, log=log, accepted=(0, 3, 4)))
    return fetched, drawn, audited


async def _told(what: str, work: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    started_s = time.monotonic()
    result = await work()
    err.print(f"{what}: {time.monotonic() - started_s:.0f} s")
    return result


def _unit(row: dict[str, Any], nodes: list[NodeProcess]) -> dict[str, Any]:
    names = {node.peer_id: node.name for node in nodes}
    loss = row["holdout_loss_micro"]
    return {
        "unit": "router" if row["unit"] == "router" else int(row["unit"].removeprefix("cluster-")),
        "words": row["words"],
        "holders": [{"peer": holder, "name": names.get(holder, "")} for holder in row["trained_by"]],
        "steps": row["published_step"],
        "holdout_loss": None if loss is None else loss / 1e6,
        "takeover": len(row["trained_by"]) > 1,
    }
