"""Blobs and files by digest: from the local store where they are, else from peers, verified on arrival and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from paris.protocol.digests import sha256_of
from paris.protocol.errors import DigestError, UnavailableError
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import FileEntry, Manifest
from paris.protocol.records import Checkpoint, Record, Tip
from paris.protocol.validation import RunRules
from paris.registry.store import Store

Progress = Callable[[int], None]


class Network(Protocol):
    """What the registry asks of a network: records by slot, bytes by digest. Nothing of it is trusted unverified."""

    async def records(self, kind: str, run: str, slot: str) -> list[Record]:
        """Return the newest valid record of every signer in one slot."""

    async def envelopes(self, kind: str, run: str, slot: str) -> list[bytes]:
        """Return the same as signed bytes, to be checked, kept and shown to others."""

    def know(self, run: str, rules: RunRules) -> None:
        """Check records of a run by these rules from now on; forget those that do not hold under them."""

    async def fetch_blob(self, digest: str, providers: Sequence[str]) -> bytes:
        """Return a small blob from the first provider whose bytes hash to `digest`."""

    async def fetch_file(
        self, entry: FileEntry, providers: Sequence[str], partial: Path, progress: Progress
    ) -> str | None:
        """Complete `partial`, every piece verified; return the digest of the whole where it was hashed on the way."""


def nobodys_tip(digest: str, checkpoint: Checkpoint, now_s: int, **ext: str) -> Tip:
    """A tip that nobody signed: some place holds this checkpoint. Who follows it verifies the statement behind it."""
    return Tip.parse({
        "run": checkpoint.run, "signer": checkpoint.signer, "seq": 0, "iat": now_s,
        "exp": now_s + LIMITS.life_s[Tip.kind], "unit": checkpoint.unit, "checkpoint": digest,
        "manifest": checkpoint.manifest, "step": checkpoint.to_step,
        "loss_micro": checkpoint.holdout_loss_micro or 0, "ext": ext,
    })  # fmt: skip


class Library:
    """The store with the network behind it; offline when there is no network.

    Contract: whatever a method returns has the digest that was asked for. Fetching the same thing twice costs one
    transfer.
    """

    def __init__(self, store: Store, network: Network | None = None) -> None:
        self.store = store
        self.network = network

    async def records(self, kind: str, run: str, slot: str = "") -> list[Record]:
        """Return the valid records of a slot; none when offline."""
        return await self.network.records(kind, run, slot) if self.network else []

    async def envelopes(self, kind: str, run: str, slot: str = "") -> list[bytes]:
        """Return the signed records of a slot; none when offline."""
        return await self.network.envelopes(kind, run, slot) if self.network else []

    def know(self, run: str, rules: RunRules) -> None:
        """Check records of a run by these rules from now on."""
        if self.network:
            self.network.know(run, rules)

    async def blob(self, digest: str, providers: Sequence[str] = ()) -> bytes:
        """Return a small blob.

        Raises:
            UnavailableError: neither the store nor any provider has it.
        """
        if self.store.path(digest):
            return self.store.get_bytes(digest, LIMITS.blob_bytes)
        data = await self._online(digest).fetch_blob(digest, providers)
        if sha256_of(data) != digest:
            raise DigestError(f"a provider of {digest[:19]}… sent other bytes", hint="Ask again; the peer is left out.")
        self.store.put_bytes(data)
        return data

    async def manifest(self, digest: str, providers: Sequence[str] = ()) -> Manifest:
        """Return a manifest by its id."""
        return Manifest.from_bytes(await self.blob(digest, providers))

    async def files(
        self, entries: Sequence[FileEntry], providers: Sequence[str] = (), progress: Progress | None = None
    ) -> int:
        """Make sure the store holds these files; return how many bytes had to be fetched.

        Raises:
            UnavailableError: a file is nowhere to be had; what was fetched so far is kept.
        """
        fetched_bytes = 0
        for entry in entries:
            if self.store.path(entry.sha256):
                continue
            partial, told = self.store.partial(entry), progress or (lambda _bytes: None)
            hashed = await self._online(entry.name).fetch_file(entry, providers, partial, told)
            await asyncio.to_thread(self.store.commit_partial, entry, hashed)
            fetched_bytes += entry.size
        return fetched_bytes

    def _online(self, wanted: str) -> Network:
        if self.network is None:
            raise UnavailableError(
                f"{wanted} is not in the local store",
                why="this command works offline, from what was fetched before",
                hint="Fetch the run first: paris-node fetch paris://…",
            )
        return self.network
