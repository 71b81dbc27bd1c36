"""Blocking work that nobody has to wait for, not even the end of the program."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def abandonable(work: Callable[[], T], limit_s: float | None = None, *, name: str = "abandonable") -> T:
    """Do blocking work in a thread of its own.

    Args:
        work: What to do.
        limit_s: Longest time to wait for it; None: as long as it takes, or until this is cancelled.
        name: Of the thread.

    Raises:
        TimeoutError: It takes longer.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def finish(value: T | None, error: BaseException | None) -> None:
        if result.done():
            return
        if error:
            result.set_exception(error)
        else:
            result.set_result(value)  # type: ignore[arg-type]  # None only where T is

    def run() -> None:
        try:
            outcome: tuple[T | None, BaseException | None] = (work(), None)
        except Exception as error:  # noqa: BLE001 - raised again where it is waited for
            outcome = (None, error)
        if not loop.is_closed():
            loop.call_soon_threadsafe(finish, *outcome)

    threading.Thread(target=run, daemon=True, name=name).start()
    return await asyncio.wait_for(result, limit_s)
