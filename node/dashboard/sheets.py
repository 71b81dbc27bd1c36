"""Small sheets of pictures of each unit: what lies in its cluster, and what its expert draws once it is complete.

They are made from what is in the home alone, so a contributor sees those of the units it has to do with. Making them
computes, so a child does it (this module, run): a job on stdin, PNG files in `<home>/sheets/<run>/`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from paris.node.dashboard.gallery import Gallery
from paris.node.home import Home
from paris.protocol.errors import ParisError
from paris.protocol.genesis import Genesis
from paris.protocol.limits import LIMITS
from paris.protocol.records import open_checkpoint, open_genesis
from paris.registry.atomic import write_bytes
from paris.registry.store import Store

log = logging.getLogger(__name__)


class Sheets:
    """The sheets of one run in one home.

    Contract: one child at a time; it is started only when a unit was completed or the home's own node went to another
    unit, and makes no sheet twice.

    Args:
        home: The node's home.
        run: Run id.
    """

    def __init__(self, home: Home, run: str) -> None:
        self._home, self._run = home, run
        self.gallery = Gallery((home.path / "sheets" / run.removeprefix("sha256:")[:16],))
        self._asked: tuple[dict[str, str | None], str | None] | None = None
        self._task: asyncio.Task[None] | None = None

    def look(self) -> dict[str, dict[str, str]]:
        """Digests of sheets by unit and kind (`data`, `drawn`), the newest of each."""
        found: dict[str, dict[str, str]] = {}
        for piece in self.gallery.look():
            unit, kind, *_ = piece.path.name.split(".")
            found.setdefault(unit, {}).setdefault(kind, piece.digest)
        return found

    def want(self, picture: Mapping[str, Any] | None, training: str | None) -> None:
        """Have made what can be made now: the picture says which units are complete."""
        if picture is None or (self._task and not self._task.done()):
            return
        units = {unit["unit"]: unit["checkpoint"] if unit["state"] == "complete" else None for unit in picture["units"]}
        if self._asked != (units, training):
            self._asked = units, training
            self._task = asyncio.create_task(self._make(units))

    async def close(self) -> None:
        """Leave what is being made."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _make(self, units: Mapping[str, str | None]) -> None:
        (folder,) = self.gallery.folders
        job = {"home": str(self._home.path), "run": self._run, "folder": str(folder), "units": units}
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "paris.node.dashboard.sheets"), stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            await child.communicate(json.dumps(job).encode())
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()


def main() -> int:
    """Make the sheets of a job that are not there yet and can be made from what is in the home."""
    from paris.registry.showcase import contact_sheet  # noqa: PLC0415 - imports torch, the parent does not

    os.nice(10)
    job = json.load(sys.stdin)
    store, folder = Home(Path(job["home"])).store, Path(job["folder"])
    genesis, _ = open_genesis(store.get_bytes(job["run"], LIMITS.blob_bytes))
    for unit, digest in job["units"].items():
        _keep(folder / f"{unit}.data.png", partial(contact_sheet, store, genesis, unit))
        if digest:
            path = folder / f"{unit}.drawn.{digest.removeprefix('sha256:')[:16]}.png"
            _keep(path, partial(_drawn, store, genesis, digest))
    return 0


def _drawn(store: Store, genesis: Genesis, digest: str) -> bytes | None:
    from paris.registry.showcase import drawn_sheet  # noqa: PLC0415 - imports torch

    return drawn_sheet(store, genesis, open_checkpoint(store.get_bytes(digest, LIMITS.blob_bytes)))


def _keep(path: Path, make: Callable[[], bytes | None]) -> None:
    """Write a sheet that is not there; one that cannot be made leaves no other unmade."""
    if path.exists():
        return
    try:
        if sheet := make():
            write_bytes(path, sheet)
    except ParisError as error:
        log.info("%s is not made: %s", path.name, error)


if __name__ == "__main__":
    sys.exit(main())
