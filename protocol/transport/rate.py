"""The valve that all transfers of a node in one direction pass: `--up` and `--down`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from paris.protocol.bucket import TokenBucket
from paris.protocol.limits import LIMITS

LEAST_BYTES_PER_S = 32_000
"""A stream slower than this is soon taken for stalled by the other side, which wants 256 KiB in 20 s."""
_SMALLEST_PART_BYTES = 16 * 2**10
_PARTS_PER_S = 8


class Throttle:
    """A token bucket one can wait for; without a limit, nobody waits.

    Args:
        bytes_per_s: The limit; 0: none.
        clock: Monotonic seconds.
        sleep: Waits for seconds.
    """

    def __init__(
        self,
        bytes_per_s: int = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self.bytes_per_s = bytes_per_s
        self._clock, self._sleep = clock, sleep
        part_bytes = max(_SMALLEST_PART_BYTES, bytes_per_s // _PARTS_PER_S)
        self._part_bytes = min(LIMITS.write_bytes, part_bytes) if bytes_per_s else None
        self._bucket = TokenBucket(bytes_per_s, part_bytes) if bytes_per_s else None

    def part(self, size_bytes: int) -> int:
        """How much of `size_bytes` to ask for at once, so that transfers take turns."""
        return min(size_bytes, self._part_bytes or size_bytes)

    def streams(self, most: int) -> int:
        """How many of `most` streams can share the limit without looking stalled."""
        return max(1, min(most, self.bytes_per_s // LEAST_BYTES_PER_S)) if self.bytes_per_s else most

    async def take(self, count_bytes: int) -> None:
        """Wait until `count_bytes` may pass."""
        if self._bucket is None:
            return
        wait_s = self._bucket.take(count_bytes, self._clock())
        if wait_s > 0:
            try:
                await self._sleep(wait_s)
            except asyncio.CancelledError:
                self._bucket.give_back(count_bytes)
                raise


UNLIMITED = Throttle()
