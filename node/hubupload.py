"""The background work that empties the queue of checkpoints for the Hub. Training never waits for it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from filelock import FileLock, Timeout

from paris.node.abandon import abandonable
from paris.node.hubqueue import HubQueue, Waiting
from paris.protocol.bucket import TokenBucket
from paris.protocol.errors import ParisError, UnavailableError
from paris.protocol.genesis import Genesis
from paris.protocol.identity import Identity
from paris.registry.atomic import make_directory
from paris.registry.huberrors import HubError
from paris.registry.hubwriter import Committed, HubWriter
from paris.registry.store import Store

log = logging.getLogger(__name__)

AUTO = "auto"
FIRST_WAIT_S, LONGEST_WAIT_S = 4.0, 900.0
LASTING_WAIT_S = 3600.0
"""Between tries of what only a person can change."""
BUSY_S = 10.0
COMMITS_AT_ONCE, COMMIT_EVERY_S = 8, 30.0
"""The Hub was seen to take 128 commits an hour and repository."""

Report = Callable[..., None]


@dataclass(frozen=True)
class Shop:
    """What is published, and where.

    Attributes:
        store: Holds the checkpoints.
        wish: `auto`, or how the repository's name shall begin: `name`, `owner/name`.
        peer_id: Whose checkpoints: each contributor has a repository of its own.
        full_state: Publish training states too.
        identity: Seals repositories with `model.sig`; None: they have none.
    """

    store: Store
    genesis: Genesis
    run: str
    peer_id: str
    wish: str = AUTO
    full_state: bool = False
    identity: Identity | None = None

    def repository(self, me: Callable[[], str], known: str = "") -> str:
        """The one repository of this contributor and run; `me` is asked for an owner where none is given or known."""
        wish = "paris" if self.wish == AUTO else self.wish
        first, slash, last = wish.partition("/")
        ending = f"-{self.run.removeprefix('sha256:')[:8]}-{self.peer_id[-8:]}"
        if slash:
            return f"{first}/{last}{ending}"
        return known if known.endswith(f"/{first}{ending}") else f"{me()}/{first}{ending}"


class Uploader:
    """Publishes what waits, the newest checkpoint of a unit in one commit, and waits where the Hub wants it.

    Contract: what waits stays on disk until the Hub has it. Killed at any moment, it goes on at the next start, and
    nothing is published twice. Of several processes with one home, one publishes at a time.

    Args:
        shop: What is published.
        queue: Where it waits.
        writer: The Hub, with the contributor's token.
        report: Told `hub` (unit, step, repository, commit) and `hub-waits` (unit, step, reason).
        clock: UNIX seconds.
        rng: Spreads retries.
    """

    def __init__(
        self,
        shop: Shop,
        queue: HubQueue,
        writer: HubWriter,
        report: Report,
        clock: Callable[[], float] = time.time,
        rng: random.Random | None = None,
    ) -> None:
        self._shop, self._queue, self._writer, self._report = shop, queue, writer, report
        self._clock, self._rng = clock, rng or random.Random()
        self._pace = TokenBucket(1 / COMMIT_EVERY_S, COMMITS_AT_ONCE)
        self._new, self._idle, self._told = asyncio.Event(), asyncio.Event(), ""

    def add(self, unit: str, step: int, checkpoint: str) -> None:
        """Let a checkpoint be published soon."""
        self._queue.add(unit, step, checkpoint)
        self._idle.clear()
        self._new.set()

    async def run(self) -> None:
        """Publish until cancelled."""
        self._queue.hurry()
        while True:
            due_s = await self.round()
            if not self._new.is_set():
                self._idle.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._new.wait(), due_s)
            self._new.clear()

    async def drained(self, limit_s: float) -> int:
        """Wait until nothing can be published now, for a limited time; how many checkpoints still wait comes back."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), limit_s)
        return len(self._queue.waiting())

    def give_up(self) -> None:
        """Let `drained` return now."""
        self._idle.set()

    async def round(self) -> float | None:
        """Try everything that is due once; seconds until something is due again, None if nothing waits."""
        for item in self._queue.waiting():
            if item.not_before_s <= self._clock():
                await self._attempt(item)
        waiting = self._queue.waiting()
        return max(0.0, min(item.not_before_s for item in waiting) - self._clock()) if waiting else None

    async def _attempt(self, item: Waiting) -> None:
        try:
            committed = await abandonable(lambda: self._publish(item), name="hub")
        except Timeout:
            self._postpone(item, BUSY_S, "another process of this home is publishing", lasting=False)
        except UnavailableError as error:
            log.warning("%s at step %d cannot be published on the Hub any more: %s", item.unit, item.step, error)
            self._queue.drop(item)
        except ParisError as error:
            self._put_off(item, error)
        except Exception as error:
            log.exception("publishing on the Hub failed and will be tried again, training goes on")
            self._put_off(item, error)
        else:
            self._told = ""
            where = {"repository": committed.repository, "commit": committed.commit}
            self._report("hub", unit=item.unit, step=item.step, **where)
            if committed.made and (wait_s := self._pace.take(1, self._clock())):
                await asyncio.sleep(wait_s)

    def _put_off(self, item: Waiting, error: Exception) -> None:
        """Full jitter: a time by chance below a limit that doubles, and not before the Hub allows."""
        asked_s, lasting = (error.wait_s, error.lasting) if isinstance(error, HubError) else (0.0, False)
        limit_s = LASTING_WAIT_S if lasting else min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(item.tries, 16))
        self._postpone(item, asked_s + self._rng.uniform(limit_s / 4, limit_s), str(error), lasting=lasting)

    def _postpone(self, item: Waiting, wait_s: float, trouble: str, *, lasting: bool) -> None:
        self._queue.postpone(item, self._clock() + wait_s, trouble, lasting=lasting)
        if trouble != self._told:
            self._report("hub-waits", unit=item.unit, step=item.step, reason=trouble)
        self._told = trouble

    def _publish(self, item: Waiting) -> Committed:
        """Blocking: what is on the Hub already is found out first, and only noted."""
        from paris.registry.hubcheckpoint import checkpoint_change  # noqa: PLC0415 - draws pictures, so it brings torch

        shop, queue = self._shop, self._queue
        with FileLock(make_directory(queue.folder) / "publishing.lock", timeout=0):
            repository = shop.repository(self._writer.me, queue.repository)
            change = checkpoint_change(
                shop.store,
                shop.genesis,
                shop.run,
                repository,
                item.checkpoint,
                full_state=shop.full_state,
                identity=shop.identity,
            )
            committed = self._writer.update(repository, shop.run, change)
            if queue.repository != repository:
                queue.repository = repository
            queue.done(item, repository, committed.commit)
            return committed
