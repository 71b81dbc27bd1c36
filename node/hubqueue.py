"""What waits to be published on the Hub: a folder that survives kill -9, a Hub that is down for days, and a full quota.

    <home>/hub/<run>/waiting/<unit>.<step>.<digest>.json   one file a checkpoint, of each unit the newest only
    <home>/hub/<run>/published.json                        the newest published checkpoint of every unit, by unit
    <home>/hub/<run>/repository                            where, once the Hub has said whose token this is

A newer checkpoint takes the place of an older one that still waits: the statements of its whole lineage go with it, so
that nothing of who trained what is lost, and a Hub that comes back after days gets one commit a unit, not hundreds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from paris.node.home import Home
from paris.registry.atomic import make_directory, write_bytes, write_json
from paris.registry.hubindex import HUB, REPOSITORY

_NAME = re.compile(r"(base|router|cluster-\d{1,4})\.(\d{8,16})\.[0-9a-f]{16}\.json")


@dataclass(frozen=True)
class Waiting:
    """A checkpoint that is to be published.

    Attributes:
        unit: Its unit.
        step: Steps it has.
        checkpoint: Digest of its statement.
        tries: How often it was tried in vain.
        not_before_s: UNIX seconds of the next try.
        trouble: What the last try met, for people.
        lasting: Whether only a person can change that.
    """

    unit: str
    step: int
    checkpoint: str
    tries: int = 0
    not_before_s: float = 0.0
    trouble: str = ""
    lasting: bool = False

    @property
    def name(self) -> str:
        """Its file."""
        return f"{self.unit}.{self.step:08d}.{self.checkpoint.removeprefix('sha256:')[:16]}.json"


class HubQueue:
    """The queue of one run in one home. Several processes may add; one at a time should publish.

    Args:
        folder: Where it lies; see `queue_folder`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._waiting = folder / "waiting"

    def add(self, unit: str, step: int, checkpoint: str) -> None:
        """Let a checkpoint wait, unless it is published already; older ones of its unit need not wait any more.

        Raises:
            ResourceError: the disk is full.
        """
        done = self.published().get(unit, {})
        if done.get("checkpoint") == checkpoint or int(done.get("step", -1)) > step:
            return
        item = Waiting(unit, step, checkpoint)
        if not (self._waiting / item.name).exists():
            self._write(item)
        self._drop_older()

    def waiting(self) -> list[Waiting]:
        """What waits, of each unit the newest, the longest prepared for first."""
        newest = self._drop_older()
        return sorted(newest.values(), key=lambda item: (item.not_before_s, item.unit))

    def postpone(self, item: Waiting, until_s: float, trouble: str, *, lasting: bool = False) -> None:
        """Note that a try failed, and when the next is due."""
        later = replace(item, tries=item.tries + 1, not_before_s=until_s, trouble=trouble, lasting=lasting)
        if (self._waiting / item.name).exists():
            self._write(later)

    def hurry(self) -> None:
        """Let everything be due now: whoever starts again may have changed what was in the way."""
        for item in self.waiting():
            if item.not_before_s:
                self._write(replace(item, not_before_s=0.0))

    def done(self, item: Waiting, repository: str, commit: str) -> None:
        """Note that a checkpoint is on the Hub; it waits no longer."""
        entry = {"checkpoint": item.checkpoint, "step": item.step, "repository": repository, "commit": commit}
        write_json(make_directory(self.folder) / "published.json", {**self.published(), item.unit: entry})
        (self._waiting / item.name).unlink(missing_ok=True)

    def drop(self, item: Waiting) -> None:
        """Give a checkpoint up, because it cannot be published any more."""
        (self._waiting / item.name).unlink(missing_ok=True)

    def published(self) -> Mapping[str, Mapping[str, Any]]:
        """The newest published checkpoint of every unit: {"checkpoint", "step", "repository", "commit"} by unit."""
        found = _read(self.folder / "published.json")
        return {unit: entry for unit, entry in found.items() if isinstance(entry, dict)}

    @property
    def repository(self) -> str:
        """Where checkpoints go, once known; else empty."""
        with suppress(OSError, UnicodeDecodeError):
            name = (self.folder / "repository").read_text(encoding="utf-8").strip()
            return name if REPOSITORY.fullmatch(name) else ""
        return ""

    @repository.setter
    def repository(self, name: str) -> None:
        write_bytes(make_directory(self.folder) / "repository", f"{name}\n".encode())

    def as_json(self) -> dict[str, Any]:
        """The queue as a person wants to see it."""
        return {
            "repository": self.repository,
            "waiting": [asdict(item) for item in self.waiting()],
            "published": dict(self.published()),
        }

    def _drop_older(self) -> dict[str, Waiting]:
        found = [item for path in self._waiting.glob("*.json") if (item := _item(path))]
        newest = {item.unit: item for item in sorted(found, key=lambda item: (item.step, item.name))}
        for item in found:
            if newest[item.unit] != item:
                self.drop(item)
        return newest

    def _write(self, item: Waiting) -> None:
        write_json(make_directory(self._waiting) / item.name, asdict(item))


def locator(home: Home, run: str, unit: str) -> dict[str, Any]:
    """What a tip says of the Hub: the repository that holds the unit too, if one does."""
    entry = HubQueue(queue_folder(home.path, run)).published().get(unit)
    return {"ext": {HUB: str(entry["repository"])}} if entry else {}


def queue_folder(home: Path, run: str) -> Path:
    """Where the queue of a run lies in a home."""
    return home / "hub" / run.removeprefix("sha256:")[:16]


def _item(path: Path) -> Waiting | None:
    """A file of the queue; None where it is none, or cannot be read: it is left alone then."""
    fields = _read(path)
    try:
        item = Waiting(**fields)
    except TypeError:
        return None
    return item if _NAME.fullmatch(path.name) and item.name == path.name else None


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
