"""One run, looked at while somebody has the page open: one look every few seconds, however many watch."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from paris.node.activity import activity_file, last_activity
from paris.node.home import Home
from paris.node.light import open_library
from paris.node.overview import overview
from paris.node.settings import Settings
from paris.protocol.errors import NetworkError, ParisError
from paris.registry.runkey import RunKey

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 15.0
_PREFIX = re.compile("[0-9a-f]{16}")


class Watch:
    """What is known of one run.

    Contract: each look is what `status` does, under a new passing name, so that every way to peers is tried anew. There
    is none unless somebody called `ask` since the last, and at most one in `every_s`. What was seen last stays when the
    network goes, with its age and with why.

    Args:
        key: The run, with the addresses that came with it.
        settings: Home, extra peers, limits.
        light: Ask nodes directly, without the daemon.
        every_s: Shortest time between two looks.
        clock: UNIX seconds.
    """

    def __init__(
        self,
        key: RunKey,
        settings: Settings,
        *,
        light: bool = False,
        every_s: float = LOOK_EVERY_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.key, self.light = key, light
        self._settings, self._every_s, self._clock = settings, every_s, clock
        self._home = Home(settings.home)
        self._picture: dict[str, Any] | None = None
        self._seen_s: int | None = None
        self._trouble: dict[str, Any] | None = None
        self._asked = asyncio.Event()

    @property
    def name(self) -> str:
        """The run, without the addresses that came with it."""
        return f"paris://{self.key.hex}"

    def ask(self) -> None:
        """Somebody watches: let there be another look."""
        self._asked.set()

    def state(self) -> dict[str, Any]:
        """What is known now."""
        return {
            "run": self.name,
            "picture": self._picture,
            "seen_s": self._seen_s,
            "trouble": self._trouble,
            "node": last_activity(activity_file(self._home, self.key.run)),
        }

    async def run(self) -> None:
        """Look whenever somebody watches, for ever; whatever goes wrong is shown and tried again."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self._look()
            except ParisError as error:
                self._failed(error)
            except Exception as error:
                log.exception("looking at %s failed and will be tried again", self.key)
                self._failed(ParisError("looking at the run failed", why=f"{type(error).__name__}: {error}"))
            await asyncio.sleep(self._every_s)

    async def _look(self) -> None:
        hints = (*self.key.peers, *self._settings.peers)
        async with open_library(self._settings, self.reachable(), light=self.light) as library:
            self._picture = await overview(library, self.key, self._home, hints)
        self._seen_s, self._trouble = round(self._clock()), None

    def reachable(self) -> RunKey:
        """The run's key with the addresses of this home's own node, where one runs: it is the nearest to ask."""
        note = last_activity(activity_file(self._home, self.key.run))
        own = tuple(str(address) for address in note["addrs"]) if note and note["running"] and "addrs" in note else ()
        return replace(self.key, peers=tuple(dict.fromkeys((*own, *self.key.peers))))

    def _failed(self, error: ParisError) -> None:
        self._trouble = {
            "kind": "network" if isinstance(error, NetworkError) else "other",
            "what": error.what,
            "why": error.why,
            "hint": error.hint,
            "since_s": self._trouble["since_s"] if self._trouble else round(self._clock()),
        }


def known_runs(home: Home) -> list[RunKey]:
    """The runs this home has had to do with, of which it still holds the genesis."""
    places = (home.path / name for name in ("activity", "peers", "charters", "work", "hub"))
    prefixes = dict.fromkeys(path.name.partition(".")[0] for place in places for path in sorted(place.glob("*")))
    store = home.store.root / "blobs"
    blobs = (
        path for prefix in prefixes if _PREFIX.fullmatch(prefix) for path in (store / prefix[:2]).glob(f"{prefix}*")
    )
    return [RunKey(f"sha256:{path.name}") for path in blobs]
