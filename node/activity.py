"""What the node of a home is doing for a run, on disk: for whoever looks at the home while it runs, and after it died.

It is one file a run, `<home>/activity/<run>.json`, written when something changes; of what comes many times a second,
steps of training and samples that are prepared, at most every few seconds.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import psutil

from paris.node.home import Home
from paris.protocol.errors import ParisError
from paris.registry.atomic import write_json

log = logging.getLogger(__name__)

WRITE_EVERY_S: Final = 3.0
MOST_POINTS: Final = 240
_SAME_START_S: Final = 5.0
_FIELDS: Final = {
    "ready": ("peer_id", "addrs"),
    "claiming": ("unit", "step"),
    "training": ("unit", "step", "target"),
    "prepare": ("unit", "done"),
    "step": ("unit", "step", "loss", "per_s", "mfu"),
    "waiting": ("reason",),
    "failed": ("unit", "reason"),
    "complete": (),
    "left": (),
}
"""What is kept of each event of a contributor; the event itself is what the node is doing."""
_OFTEN: Final = frozenset({"step", "prepare"})
"""Events that say how far what goes on has come: not worth a write each, which waits for the disk."""


class Activity:
    """One running node's note of what it does.

    Contract: a note that cannot be written is told once and harms nothing. `hear` waits for the disk when it writes:
    once every few seconds while steps and samples go by, else for every event.

    Args:
        path: See `activity_file`.
        run: Run id.
        clock: UNIX seconds.
    """

    def __init__(self, path: Path, run: str, clock: Callable[[], float] = time.time) -> None:
        self._path, self._clock = path, clock
        process = psutil.Process()
        self._note: dict[str, Any] = {"run": run, "pid": os.getpid(), "begun_s": process.create_time(), "curve": []}
        self._written_s = 0.0
        self._failed = False

    def hear(self, event: str, **fields: Any) -> None:
        """Note what a contributor reports."""
        if event == "published":
            self._note["published"] = {name: fields[name] for name in ("unit", "step", "holdout_loss_micro")}
        elif event in _FIELDS:
            self._become(event, fields)
        else:
            return
        if event not in _OFTEN or not 0 <= self._clock() - self._written_s < WRITE_EVERY_S:
            self._write()

    def _become(self, event: str, fields: dict[str, Any]) -> None:
        kept = {name: fields[name] for name in _FIELDS[event] if name in fields}
        if event == "step":
            self._note["curve"].append([fields["step"], fields["loss"]])
            if len(self._note["curve"]) > MOST_POINTS:
                del self._note["curve"][1::2]
        elif event in {"claiming", "training"} and self._note.get("unit") != fields["unit"]:
            self._note["curve"].clear()
        if event not in _OFTEN:
            for name in ("reason", "per_s", "done"):
                self._note.pop(name, None)
        self._note |= {"doing": event, **kept}

    def _write(self) -> None:
        self._written_s = self._clock()
        try:
            write_json(self._path, {**self._note, "at_s": round(self._written_s)})
        except (OSError, ParisError, ValueError) as error:
            if not self._failed:
                log.warning("what this node does is not noted for the dashboard: %s", error)
            self._failed = True


def activity_file(home: Home, run: str) -> Path:
    """Where the note of a run lies in a home."""
    return home.path / "activity" / f"{run.removeprefix('sha256:')[:16]}.json"


def last_activity(path: Path) -> dict[str, Any] | None:
    """The newest note, with `running`: whether the process that wrote it lives; None where there is none."""
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
        pid, begun_s, left = int(note["pid"]), float(note["begun_s"]), note["doing"] == "left"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return {**note, "running": not left and _lives(pid, begun_s)}


def _lives(pid: int, begun_s: float) -> bool:
    """Whether it is still the same process: numbers come back, together with the time of the start they do not."""
    try:
        return bool(abs(psutil.Process(pid).create_time() - begun_s) < _SAME_START_S)
    except (psutil.Error, ValueError):
        return False
