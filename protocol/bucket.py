"""One token bucket: how many bytes may pass by when. Pure: the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class TokenBucket:
    """Tokens are bytes; they drip in at `rate_bytes_per_s` and at most `burst_bytes` gather.

    Whoever takes more than there are waits until the debt is paid, and whoever comes later waits for that debt too, so
    takers pass in the order they came in. By any moment, `burst_bytes + rate_bytes_per_s * elapsed` bytes at most
    have passed.

    Attributes:
        rate_bytes_per_s: More than 0.
        burst_bytes: More than 0.
    """

    rate_bytes_per_s: float
    burst_bytes: float
    _left_bytes: float = field(init=False)
    _at_s: float | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._left_bytes = self.burst_bytes

    def take(self, count_bytes: int, now_s: float) -> float:
        """Take tokens, on credit where there are none.

        Args:
            count_bytes: How many.
            now_s: A clock's seconds; one that goes back counts as standing still.

        Returns:
            How long the taker must wait before its bytes pass, seconds.
        """
        elapsed_s = 0.0 if self._at_s is None else max(0.0, now_s - self._at_s)
        self._at_s = now_s if self._at_s is None else max(self._at_s, now_s)
        self._left_bytes = min(self.burst_bytes, self._left_bytes + elapsed_s * self.rate_bytes_per_s) - count_bytes
        return max(0.0, -self._left_bytes / self.rate_bytes_per_s)

    def give_back(self, count_bytes: int) -> None:
        """Return tokens whose bytes did not pass after all."""
        self._left_bytes = min(self.burst_bytes, self._left_bytes + count_bytes)
