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

from paris.node.cli.fetch import open_run
from paris.node.cli.options import (
    HomeOption,
    JsonOption,
    LightOption,
    ListenOption,
    OfflineOption,
    PeerOption,
    PolicyOption,
    refuse_beside,
    refuse_network_offline,
    stay_off_the_hub,
)
from paris.node.console import emit, err, errors_to_exit_codes, tell_doing
from paris.node.settings import Settings
from paris.protocol.errors import NetworkError, ParisError, UsageError, VerificationError
from paris.registry.runkey import RunKey

if TYPE_CHECKING:
    from paris.node.peer import Peer
    from paris.registry.audit import Depth
    from paris.registry.findings import Audit, UnitAudit
    from paris.registry.library import Library
    from paris.registry.resolve import ResolvedRun
    from paris.registry.selection import Wish


def audit(
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FOLDER|OWNER/NAME",
            help="A run key, a folder that was fetched, or a repository on the Hub that holds an exported ensemble.",
        ),
    ],
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Measure hold-out losses again, on draws nobody could know.")
    ] = False,
    replay: Annotated[
        int, typer.Option("--replay", min=0, metavar="N", help="Execute N random segments of training again.")
    ] = 0,
    sample: Annotated[
        str, typer.Option("--sample", metavar="P%", help="Look at this share of all checkpoints only, at random.")
    ] = "",
    policy: PolicyOption = None,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Also write a page, all in one.")] = None,
    provenance: Annotated[
        Path | None,
        typer.Option("--provenance", metavar="FILE", help="Also write an in-toto bundle (.intoto.jsonl) with SLSA."),
    ] = None,
    publish: Annotated[
        bool | None,
        typer.Option("--publish/--no-publish", help="Sign what was measured, and tell the network (default: yes)."),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=0, help="CPU threads to measure with; 0: one a core.")] = 0,
    home: HomeOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    light: LightOption = False,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Check every signature, digest and parent of a run, and say which level each expert reached.

    Exit code 3 if any check fails, 4 if all that is wrong is that nobody serves some files. What was measured
    (--evaluate, --replay) is published as signed verdicts under this home's name, so that audits accumulate; those of
    others are shown.
    """
    from paris.node.cli.audit_text import print_report
    from paris.registry.audit import Depth
    from paris.registry.hubindex import REPOSITORY
    from paris.registry.selection import Wish

    with errors_to_exit_codes(as_json=json):
        settings = Settings.load(home=home, peers=peer, listen=listen)
        depth = Depth(evaluate, replay, _share(sample), secrets.token_hex(16), threads=threads or os.cpu_count() or 1)
        files, is_folder = Files(html, provenance), Path(what).is_dir()
        if is_folder or REPOSITORY.fullmatch(what):
            asked = publish is not None
            given: dict[str, object] = {"--policy": policy, "--light": light, "--peer": peer, "--listen": listen}
            given |= {"--publish": asked and publish, "--no-publish": asked and not publish}
            given |= {"--evaluate": evaluate, "--replay": replay, "--sample": sample}
            given |= {"--offline": offline and is_folder}
            why = "all that lies in it is looked at; it holds nothing to measure by, and no peer is asked or told"
            refuse_beside("a folder" if is_folder else "a repository", given, why, "Leave it out, or give the run key.")
            folder = Path(what) if is_folder else _downloaded(what, offline=offline)
            report = asyncio.run(audit_folder(folder, settings, depth, files))
        else:
            if offline:
                refuse_network_offline(light=light, peer=peer, listen=listen)
                stay_off_the_hub()
            key, wish = RunKey.parse(what), Wish(policy or "", offline=offline)
            telling = publish is not False
            report = asyncio.run(audit_run(key, settings, depth, files, wish, publish=telling, light=light))
        emit(report.as_json()) if json else print_report(report)
        if not report.ok:
            raise typer.Exit((NetworkError if report.absent else VerificationError).exit_code)


def _downloaded(repository: str, *, offline: bool) -> Path:
    """An ensemble's repository, in the Hub client's cache.

    Raises:
        UsageError: it holds no whole ensemble.
        HubError: the Hub does not give it.
    """
    from paris.registry.folder import NOTE
    from paris.registry.hubensemble import download
    from paris.registry.huberrors import HubError

    try:
        folder = download(repository, offline=offline)
    except HubError as error:
        if error.status != 404:
            raise
        raise HubError(
            error.what, error.why, "If you mean a folder: there is none of this name here", status=404
        ) from error
    if not (folder / NOTE).is_file():
        hint = f"Audit its run by the key that its card names: paris-node audit 'paris://…?hub={repository}'"
        raise UsageError(f"{repository} holds no exported ensemble", f"there is no {NOTE} in it", hint)
    return folder


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
    depth: Depth,
    files: Files,
    wish: Wish,
    *,
    publish: bool,
    light: bool,
) -> Audit:
    """Resolve a run, check all of it as deep as asked, write files and tell the network."""
    from paris.node.home import Home
    from paris.registry.audit import audit as audit_resolved

    async with open_run(key, settings, wish, light=light) as opened:
        library, selection = opened.library, opened.selection
        depth = replace(depth, folder=Home(settings.home).work(key.run, "audited"))
        report = await audit_resolved(library, selection.resolved, opened.providers, tell_doing, depth, selection.why)
        files.write(library, selection.resolved, report, settings)
    if publish and (depth.evaluate or depth.replay):
        await _publish(report, settings, key, only_reads=light or wish.offline)
    return report


async def audit_folder(folder: Path, settings: Settings, depth: Depth, files: Files) -> Audit:
    """Check a fetched ensemble by what lies in its folder alone.

    Raises:
        UsageError: it is none.
    """
    from paris.registry.folder import Fetched

    with tempfile.TemporaryDirectory(prefix="paris-audit-") as scratch:
        fetched = Fetched.open(folder, Path(scratch))
        resolved, report = await fetched.audited(tell_doing, depth)
        files.write(fetched.library, resolved, report, settings)
        return report


async def _publish(report: Audit, settings: Settings, key: RunKey, *, only_reads: bool) -> None:
    """Sign and announce what was measured. That nobody took it is told, and changes nothing about the report."""
    from importlib.util import find_spec

    from paris.node.home import Home

    if only_reads or not find_spec("hivemind"):
        err.print("verdicts are not published: --offline and the light client only read")
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
