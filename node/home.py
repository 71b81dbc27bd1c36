"""A node's home folder: its key, its store, its work, and the lock that keeps two live nodes from sharing one name."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paris.protocol.errors import UsageError
from paris.protocol.identity import Identity
from paris.registry.atomic import write_bytes
from paris.registry.store import Store

log = logging.getLogger(__name__)

KEY_MODE = 0o600
OTHERS = 0o077


class Home:
    """Everything a node keeps on disk.

    Layout: identity.key (0600) - store/ (content-addressed blobs) - work/<run>/<unit>/ (training state) - cache/
    (ingested data) - peers/<run>.json (peers that answered before) - charters/<run>/ (what curators have said).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.store = Store(path / "store")

    @property
    def identity_path(self) -> Path:
        """The key file, in libp2p's protobuf form, so that the DHT daemon reads the same file."""
        return self.path / "identity.key"

    def identity(self) -> Identity:
        """Return the node's key; the first call makes one. A file that others can read is closed to them, and told.

        Raises:
            UsageError: others can read the file, and that cannot be changed.
        """
        if not self.identity_path.exists():
            self.save_identity(Identity.from_seed(secrets.token_bytes(32)))
        self._close_to_others()
        return Identity.from_libp2p(self.identity_path.read_bytes())

    def key_mode(self) -> int:
        """Permission bits of the key file."""
        return stat.S_IMODE(self.identity_path.stat().st_mode)

    def _close_to_others(self) -> None:
        mode = self.key_mode()
        if not mode & OTHERS:
            return
        with suppress(OSError):
            self.identity_path.chmod(KEY_MODE)
        if self.key_mode() & OTHERS:
            raise UsageError(
                f"others on this machine can read {self.identity_path}",
                why=f"its mode is {mode:o} and cannot be changed; whoever has the key can speak as this node",
                hint="Put the home on a file system with permissions, with --home, and make the file yours.",
            )
        log.warning(
            "Others on this machine could read %s (mode %o); now only you can. If somebody may have copied it, move it "
            "away: the next start makes a new name.", self.identity_path, mode,
        )  # fmt: skip

    def save_identity(self, identity: Identity) -> None:
        """Write the key file, readable by its owner only.

        Raises:
            UsageError: there is a key already; a lost key is a lost name, so it is never overwritten.
        """
        if self.identity_path.exists():
            raise UsageError(
                f"{self.identity_path} already holds a key",
                why="overwriting it would lose this node's name for ever",
                hint="Move the old file to a safe place first, or choose another folder with --home.",
            )
        write_bytes(self.identity_path, identity.to_libp2p(), mode=KEY_MODE)

    def work(self, run: str, unit: str) -> Path:
        """The folder of one unit's training."""
        return self.path / "work" / run.removeprefix("sha256:")[:16] / unit

    def peers(self, run: str) -> Path:
        """Where the good peers of a run are kept."""
        return self.path / "peers" / f"{run.removeprefix('sha256:')[:16]}.json"

    def charter(self, run: str) -> Path:
        """The folder in which what was seen of a run's curators is kept."""
        return self.path / "charters" / run.removeprefix("sha256:")[:16]

    @property
    def cache(self) -> Path:
        """Where shards are ingested to."""
        return self.path / "cache"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the home for one live node.

        Raises:
            UsageError: another process runs with this home, and so with this key.
        """
        with (self.path / "lock").open("a+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                raise UsageError(
                    f"a node with this key is already running (process {handle.read().strip() or 'unknown'})",
                    why=f"{self.path} is locked; two live nodes with one key would contradict each other's records",
                    hint="Stop the other one, or start this one with its own --home.",
                ) from None
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            yield
