"""Fetching from the Hub beside the Hub's own client, from the same loopback server in a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download

from benchmarks.measure import Row, compare
from paris.protocol.digests import sha256_of
from paris.protocol.manifest import Manifest
from paris.registry.hubindex import Lying
from paris.registry.hubnetwork import HubNetwork
from paris.registry.hubreader import HubReader
from paris.registry.hubwriter import Change, HubWriter
from paris.registry.library import Library
from paris.registry.store import Store

SERVER = Path(__file__).parent.parent / "tests" / "hub" / "run_hub.py"
CLIENT = ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE", "HF_HUB_DISABLE_XET")
RUN, NAME, TOKEN = sha256_of(b"benchmark"), "ann/benchmark", "hf_ann"  # the loopback Hub knows this token


def fetching(folder: Path, size_mb: int, repeats: int) -> Row:
    """Fetch two files of weights, verified and durable, and the same by `snapshot_download`."""
    source, target = folder / "source", folder / "target"
    source.mkdir()
    for number in range(2):
        (source / f"{number}.safetensors").write_bytes(os.urandom(size_mb * 500_000))
    manifest = Store(folder / "published").add_tree(source)
    with _hub(folder / "hub") as endpoint:
        _publish(endpoint, source, manifest)

        def ours() -> None:
            asyncio.run(_fetch(Store(target), manifest))

        def theirs() -> None:
            snapshot_download(NAME, local_dir=target, endpoint=endpoint, token=False)

        return compare(
            "fetch from the Hub",
            ours,
            theirs,
            against="huggingface_hub.snapshot_download, LFS over HTTP, which does not hash what it gets",
            work=size_mb,
            unit="MB",
            repeats=repeats,
            before=lambda: shutil.rmtree(target, ignore_errors=True),
            note="two files; ours hashes every piece and every file, and syncs them to disk",
        )


async def _fetch(store: Store, manifest: Manifest) -> None:
    async with HubReader(RUN, [NAME]) as reader:
        fetched_bytes = await Library(store, HubNetwork(reader)).files(manifest.files)
    assert fetched_bytes == manifest.size_bytes


def _publish(endpoint: str, source: Path, manifest: Manifest) -> None:
    files = {entry.name: source / entry.name for entry in manifest.files}
    digests = {entry.name: Lying(sha256=entry.sha256, size=entry.size) for entry in manifest.files}
    HubWriter(endpoint, TOKEN).update(NAME, RUN, lambda _: Change("weights", files, digests=digests))


@contextmanager
def _hub(folder: Path) -> Iterator[str]:
    """A loopback Hub that this process's clients speak to, without Xet, which it does not serve."""
    before = {name: getattr(constants, name) for name in CLIENT}
    command = [sys.executable, str(SERVER), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        endpoint = json.loads(process.stdout.readline())["endpoint"]
        address = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        _set(dict(zip(CLIENT, (endpoint, address, True), strict=True)))
        try:
            yield endpoint
        finally:
            _set(before)
            process.stdin.close()


def _set(values: dict[str, Any]) -> None:
    """What HF_ENDPOINT and HF_HUB_DISABLE_XET do when the client is imported."""
    for name, value in values.items():
        setattr(constants, name, value)
