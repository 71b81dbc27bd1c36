"""Everything the page shows, put together: runs, this machine, pictures, drawings. Asking for it changes nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Final

from paris.node.dashboard.gallery import Gallery, Piece
from paris.node.dashboard.sheets import Sheets
from paris.node.dashboard.studio import Studio
from paris.node.dashboard.watch import Watch
from paris.node.home import Home
from paris.protocol.errors import ParisError
from paris.protocol.identity import Identity

log = logging.getLogger(__name__)

FOLDERS_EVERY_S: Final = 3.0
STORE_EVERY_S: Final = 60.0
EXAMINE_EVERY_S: Final = 15 * 60.0


class Board:
    """What is known here, as one JSON value; docs/dashboard.md says what each field means.

    Contract: however many pages ask, folders are read once in `FOLDERS_EVERY_S`, the store's size once in
    `STORE_EVERY_S`, and this machine is examined once in `EXAMINE_EVERY_S`; and nothing of it while nobody asks.

    Args:
        home: The node's home.
        watches: The runs shown.
        gallery: Pictures and clips.
        studio: What draws.
        doctor: Arguments of `paris-node doctor` for this home; the first run is added that no light client looks at.
            None: this machine is not examined.
    """

    def __init__(
        self, home: Home, watches: Sequence[Watch], gallery: Gallery, studio: Studio, doctor: Sequence[str] | None
    ) -> None:
        self.gallery, self.studio = gallery, studio
        self._home, self._doctor = home, doctor
        self._runs = {watch: Sheets(home, watch.key.run) for watch in watches}
        self._sheets: dict[Watch, dict[str, dict[str, str]]] = {}
        self._pieces: list[Piece] = []
        self._store_bytes = 0
        self._due_s = {"folders": 0.0, "store": 0.0, "doctor": 0.0}
        self._looking = asyncio.Lock()
        self._examining: asyncio.Task[None] | None = None
        self._examined: dict[str, Any] = {"at_s": None, "findings": []}

    async def state(self, run: str = "") -> dict[str, Any]:
        """What is known now; the network is asked about the run that is named, or about all where none is."""
        for watch in self._runs:
            if run in {"", watch.name}:
                watch.ask()
        async with self._looking:
            if self._is_due("folders", FOLDERS_EVERY_S):
                self._pieces = await asyncio.to_thread(self.gallery.look)
                for watch, sheets in self._runs.items():
                    self._sheets[watch] = await asyncio.to_thread(sheets.look)
            if self._is_due("store", STORE_EVERY_S):
                self._store_bytes = await asyncio.to_thread(self._home.store.usage_bytes)
        if self._doctor is not None and self._is_due("doctor", EXAMINE_EVERY_S):
            self._examining = asyncio.create_task(self._examine(self._doctor))
        return {
            "v": 1,
            "version": version("paris-node"),
            "now_s": round(time.time()),
            "machine": {
                "home": str(self._home.path),
                "peer": self._peer_id(),
                "free_bytes": shutil.disk_usage(self._home.path).free,
                "store_bytes": self._store_bytes,
            },
            "doctor": self._examined,
            "runs": [self._run(watch) for watch in self._runs],
            "pictures": [piece.as_json() for piece in self._pieces],
            "studio": self.studio.state(),
        }

    def find(self, digest: str) -> Piece | None:
        """The picture, clip or sheet with a digest, of those that were shown."""
        galleries = (self.gallery, *(sheets.gallery for sheets in self._runs.values()))
        return next(filter(None, (gallery.find(digest) for gallery in galleries)), None)

    async def close(self) -> None:
        """End whatever was begun."""
        if self._examining:
            self._examining.cancel()
            await asyncio.gather(self._examining, return_exceptions=True)
        await asyncio.gather(self.studio.close(), *(sheets.close() for sheets in self._runs.values()))

    def _run(self, watch: Watch) -> dict[str, Any]:
        state = watch.state()
        note = state["node"]
        self._runs[watch].want(state["picture"], note.get("unit") if note else None)
        return {**state, "sheets": self._sheets.get(watch, {})}

    def _is_due(self, what: str, every_s: float) -> bool:
        now_s = time.monotonic()
        if now_s < self._due_s[what]:
            return False
        self._due_s[what] = now_s + every_s
        return True

    def _peer_id(self) -> str | None:
        """This node's name, where it has one: a page that is looked at makes none."""
        try:
            return Identity.from_libp2p(self._home.identity_path.read_bytes()).peer_id
        except (ParisError, OSError):
            return None

    async def _examine(self, arguments: Sequence[str]) -> None:
        """Ask `paris-node doctor`, in a process of its own: what it imports and tries is none of ours."""
        run = next((str(watch.reachable()) for watch in self._runs if not watch.light), None)
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "paris.node", "doctor", "--json", *arguments, *([run] if run else ())),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        try:
            told, _ = await child.communicate()
            findings = json.loads(told)
        except ValueError:
            log.warning("what doctor says could not be read: it ended with code %s", child.returncode)
            return
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if isinstance(findings, list):
            self._examined = {"at_s": round(time.time()), "findings": findings}
