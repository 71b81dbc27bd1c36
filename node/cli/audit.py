"""`paris-node audit`: who trained what, on which data, from which parent, and how much of that was checked."""

from __future__ import annotations

import asyncio
import os
import secrets
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from paris.node.cli.options import HomeOption, JsonOption, LightOption, ListenOption, PeerOption
from paris.node.console import emit, err, errors_to_exit_codes
from paris.node.settings import Settings
from paris.protocol.errors import ParisError, UsageError, VerificationError
from paris.registry.runkey import RunKey

if TYPE_CHECKING:
    from paris.node.peer import Peer
    from paris.registry.audit import Depth
    from paris.registry.findings import Audit, UnitAudit
    from paris.registry.library import Library
    from paris.registry.resolve import ResolvedRun


def audit(
    what: Annotated[str, typer.Argument(metavar="RUN|FOLDER", help="A run key, or a folder that was fetched.")],
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Measure hold-out losses again, on draws nobody could know.")
    ] = False,
    replay: Annotated[
        int, typer.Option("--replay", min=0, metavar="N", help="Execute N random segments of training again.")
    ] = 0,
    sample: Annotated[
        str, typer.Option("--sample", metavar="P%", help="Look at this share of all checkpoints only, at random.")
    ] = "",
    policy: Annotated[
        str, typer.Option("--policy", help="head: what the curators promoted; latest: the newest of every unit.")
    ] = "",
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write a page, all in one.")] = None,
    provenance: Annotated[
        Path | None,
        typer.Option("--provenance", metavar="FILE", help="Also write an in-toto bundle (.intoto.jsonl) with SLSA."),
    ] = None,
    publish: Annotated[
        bool, typer.Option("--publish/--no-publish", help="Sign what was measured, and tell the network.")
    ] = True,
    threads: Annotated[int, typer.Option("--threads", min=0, help="CPU threads to measure with; 0: one a core.")] = 0,
    home: HomeOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    light: LightOption = False,
    json: JsonOption = False,
) -> None:
    """Check every signature, digest and parent of a run, and say which level each expert reached.

    Exit code 3 if any check fails. What was measured (--evaluate, --replay) is published as signed verdicts under this
    home's name, so that audits accumulate; those of others are shown.
    """
    from paris.node.cli.audit_text import print_report
    from paris.registry.audit import Depth

    with errors_to_exit_codes(as_json=json):
        settings = Settings.load(home=home, peers=peer, listen=listen)
        depth = Depth(evaluate, replay, _share(sample), secrets.token_hex(16), threads=threads or os.cpu_count() or 1)
        files = Files(html, provenance)
        if Path(what).is_dir():
            report = asyncio.run(audit_folder(Path(what), settings, depth, files))
        else:
            key = RunKey.parse(what)
            report = asyncio.run(audit_run(key, settings, depth, files, policy, publish=publish, light=light))
        emit(report.as_json()) if json else print_report(report)
        if not report.ok:
            raise typer.Exit(VerificationError.exit_code)


class Files:
    """What is written besides the report on the terminal."""

    def __init__(self, html: Path | None = None, provenance: Path | None = None) -> None:
        self.html, self.provenance = html, provenance

    def write(self, library: Library, resolved: ResolvedRun, report: Audit, settings: Settings) -> None:
        """Write what was asked for."""
        from paris.node.home import Home
        from paris.registry.atomic import write_bytes
        from paris.registry.provenance import bundle
        from paris.registry.report import html_report

        now_s = int(time.time())
        if self.html:
            write_bytes(self.html, html_report(report, now_s).encode())
        if self.provenance:
            identity = Home(settings.home).identity()
            write_bytes(self.provenance, bundle(library, resolved, report, identity, now_s))


async def audit_run(
    key: RunKey,
    settings: Settings,
    depth: Depth | None = None,
    files: Files | None = None,
    policy: str = "",
    *,
    publish: bool = True,
    light: bool = False,
) -> Audit:
    """Resolve a run, check all of it as deep as asked, write files and tell the network."""
    from paris.node.home import Home
    from paris.node.light import open_library
    from paris.registry.audit import Depth
    from paris.registry.audit import audit as audit_resolved
    from paris.registry.governance import follow_curators
    from paris.registry.resolve import known_peers
    from paris.registry.selection import Wish, select

    home, depth, wish = Home(settings.home), depth or Depth(), Wish(policy)
    async with open_library(settings, key, light=light) as library:
        providers = tuple(record.signer for record in await known_peers(library, key.run))
        hints, now_s = (*key.peers, *settings.peers), time.time()
        governance = await follow_curators(library, key.run, home.charter(key.run), now_s, providers, hints)
        selection = await select(library, governance.charter, providers, now_s, wish)
        depth = replace(depth, folder=home.work(key.run, "audited"))
        resolved, told = selection.resolved, lambda doing: err.print(f"{doing} …", markup=False)
        report = await audit_resolved(library, resolved, providers, told, depth, selection.why)
        (files or Files()).write(library, resolved, report, settings)
    if publish and (depth.evaluate or depth.replay):
        await _publish(report, settings, key, light=light)
    return report


async def audit_folder(folder: Path, settings: Settings, depth: Depth, files: Files) -> Audit:
    """Check a fetched ensemble by what lies in its folder alone.

    Raises:
        UsageError: it is none, or something was asked for that a folder cannot give.
    """
    from paris.registry.audit import audit as audit_resolved
    from paris.registry.folder import Fetched

    if depth.evaluate or depth.replay or depth.share is not None:
        hint = "Audit the run by its key; its files are then fetched from peers."
        raise UsageError("a folder holds no hold-out data and no training states", "it cannot be measured", hint)
    with tempfile.TemporaryDirectory(prefix="paris-audit-") as scratch:
        fetched = Fetched.open(folder, Path(scratch))
        resolved = await fetched.resolve()
        told = lambda doing: err.print(f"{doing} …", markup=False)  # noqa: E731
        report = await audit_resolved(fetched.library, resolved, (), told, replace(depth, alone=True), "this folder's")
        report = fetched.with_strangers(report)
        files.write(fetched.library, resolved, report, settings)
        return report


async def _publish(report: Audit, settings: Settings, key: RunKey, *, light: bool) -> None:
    """Sign and announce what was measured. That nobody took it is told, and changes nothing about the report."""
    from importlib.util import find_spec

    from paris.node.home import Home

    if light or not find_spec("hivemind"):
        err.print("verdicts are not published: the light client only reads")
        return
    from paris.node.peer import open_peer

    try:
        with Home(settings.home).locked():
            async with open_peer(settings, key, serve=False) as peer:
                for unit in report.units:
                    if signed := await _signed(unit, report.run, peer):
                        await peer.swarm.publish(signed)
                        name = peer.home.identity().peer_id
                        err.print(f"published a verdict on {unit.unit} as {name}", markup=False)
    except ParisError as error:
        err.print(f"verdicts are not published: {error}", markup=False)


async def _signed(unit: UnitAudit, run: str, peer: Peer) -> bytes | None:
    """A verdict under the home's name, which this connection does not go by; it replaces the one before."""
    from paris.node.credentials import held
    from paris.protocol.records import Verdict
    from paris.registry.verdicts import sign_verdict

    identity, credentials = peer.home.identity(), held(peer.home, run).envelopes
    before = [record for record in await peer.library.records("verdict", run, unit.unit) if isinstance(record, Verdict)]
    own = next((record for record in before if record.signer == identity.peer_id), None)
    return sign_verdict(unit, run, identity, int(time.time()), own, credentials)


def _share(text: str) -> float | None:
    """`5%` or `0.05`.

    Raises:
        UsageError: it is no share.
    """
    if not text:
        return None
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UsageError(f"{text!r} is no share of the checkpoints", hint="Write --sample 5%.")
    return share
