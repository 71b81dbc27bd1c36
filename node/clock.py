"""The wall clock. The rules in `paris.protocol` take the time as an argument; this is where nodes get it from."""

from __future__ import annotations

import time


def now_s() -> int:
    """The time in whole UNIX seconds."""
    return int(time.time())
