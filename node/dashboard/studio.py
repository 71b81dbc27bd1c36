"""Drawing for the page: one picture or clip at a time, in a child process, kept with who drew which step."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from paris.node.jobs import Event
from paris.protocol.errors import ParisError, UsageError
from paris.registry.atomic import write_bytes, write_json

log = logging.getLogger(__name__)

INDEX: Final = "model_index.json"
_LINE_BYTES: Final = 4 * 2**20
Prompt = Annotated[str, StringConstraints(min_length=1, max_length=400, strip_whitespace=True)]


class Wish(BaseModel):
    """What somebody at the page asks for; anything else is refused."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    ensemble: str
    prompt: Prompt
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    steps: Annotated[int, Field(ge=1, le=150)] = 30
    guidance: Annotated[float, Field(ge=0, le=30)] = 3.0
    top_k: Annotated[int, Field(ge=1, le=64)] | None = None


class Routing(BaseModel):
    """How many experts an ensemble has, and of every step the weights of those that had any, by number."""

    experts: int
    steps: list[dict[str, float]]


class Drawn(Wish):
    """What is kept beside a drawing: what was asked for, and who drew which step."""

    routing: Routing


class Studio:
    """Draws with the ensembles of this home, and with folders a person named.

    Contract: one drawing at a time; a drawing is in `folder` whole or not at all; which ensembles there are is for this
    machine's owner to say, the page only picks one by its name.

    Args:
        home: Where ensembles that `generate` fetched lie, in `ensembles/`, and drawings go, in `drawings/`.
        named: Folders with ensembles besides.
    """

    def __init__(self, home: Path, named: Sequence[Path] = ()) -> None:
        self.folder = home / "drawings"
        self._fetched, self._named = home / "ensembles", tuple(named)
        self._task: asyncio.Task[None] | None = None
        self._job: dict[str, Any] | None = None

    def ensembles(self) -> dict[str, Path]:
        """Folders with an ensemble by what the page calls them."""
        folders = (*(sorted(self._fetched.glob("*")) if self._fetched.is_dir() else ()), *self._named)
        return {f"{folder.name}-{_mark(folder)}": folder.resolve() for folder in folders if (folder / INDEX).is_file()}

    def state(self) -> dict[str, Any]:
        """What can be drawn with, and what became of the last wish."""
        return {"ensembles": [{"id": name, "name": folder.name} for name, folder in self.ensembles().items()],
                "job": self._job}  # fmt: skip

    def begin(self, wish: Wish) -> None:
        """Begin to draw.

        Raises:
            UsageError: there is no such ensemble.
            BusyError: something is being drawn.
        """
        folder = self.ensembles().get(wish.ensemble)
        if folder is None:
            raise UsageError("there is no such ensemble here", hint="Load the page again.")
        if self._task and not self._task.done():
            raise BusyError("something is being drawn already", hint="One drawing at a time: wait for it.")
        self._job = {"wish": wish.model_dump(), "state": "drawing", "step": 0}
        self._task = asyncio.create_task(self._draw(wish, folder, self._job))

    async def close(self) -> None:
        """Leave what is being drawn."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _draw(self, wish: Wish, folder: Path, job: dict[str, Any]) -> None:
        with TemporaryDirectory(prefix="paris-drawing-") as scratch:
            try:
                await self._follow(wish, folder, job, Path(scratch))
            except (ParisError, OSError, ValueError) as error:
                log.warning("drawing failed: %s", error)
                job |= {"state": "failed", "what": f"drawing failed: {error}", "why": "", "hint": ""}

    async def _follow(self, wish: Wish, folder: Path, job: dict[str, Any], scratch: Path) -> None:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "paris.node.dashboard.artist"), cwd=scratch, limit=_LINE_BYTES,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        assert child.stdin
        assert child.stdout
        try:
            child.stdin.write(json.dumps({**wish.model_dump(), "folder": str(folder)}).encode())
            child.stdin.close()
            async for line in child.stdout:
                if event := Event.parse(line):
                    await self._hear(event, wish, job, scratch)
            await child.wait()
        finally:
            if child.returncode is None:
                with suppress(ProcessLookupError):
                    child.kill()
                await child.wait()
        if job["state"] == "drawing":
            why = f"the process that draws ended with code {child.returncode}"
            hint = "There may be too little memory; `paris-node generate` in a terminal says more."
            job |= {"state": "failed", "what": "nothing was drawn", "why": why, "hint": hint}

    async def _hear(self, event: Event, wish: Wish, job: dict[str, Any], scratch: Path) -> None:
        match event.kind:
            case "step":
                job["step"] = event.fields["step"]
            case "failed":
                job |= {"state": "failed", **event.fields}
            case "drawn":
                fields = event.fields
                routing = Routing(experts=fields["experts"], steps=fields["steps"])
                drawn = Drawn(**wish.model_dump(), routing=routing)
                digest = await asyncio.to_thread(self._keep, scratch / fields["file"], drawn)
                job |= {"state": "drawn", "digest": digest}

    def _keep(self, file: Path, drawn: Drawn) -> str:
        """Put a drawing among the others; what is known of it comes first, so that no drawing lacks it."""
        data = file.read_bytes()
        digest = sha256(data).hexdigest()
        path = self.folder / f"{digest[:16]}{file.suffix}"
        write_json(path.with_suffix(".json"), drawn.model_dump())
        write_bytes(path, data)
        return digest


class BusyError(UsageError):
    """Something is being drawn already."""


def _mark(folder: Path) -> str:
    """Tells folders of one name apart."""
    return sha256(str(folder.resolve()).encode()).hexdigest()[:8]
