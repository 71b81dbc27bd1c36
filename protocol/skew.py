"""How far this machine's clock is from those of others, and what that means.

Records are accepted within `LIMITS.skew_s`; nobody's clock is ever set or corrected from what strangers say, it is only
measured and shown.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from paris.protocol.limits import LIMITS

NOTABLE_S = 10.0
MOST_ASKED = 8
"""Peers whose clocks are looked at."""
ABSURD_S = 1e10
"""No clock is so far from another."""
CURE = "Set the clock, and let it be kept: `timedatectl set-ntp true`, or automatic time in the system's settings"


@dataclass(frozen=True)
class Skew:
    """What several peers' clocks say about ours.

    Attributes:
        offset_s: Median of (their clock - ours), so that fewer than half of the peers asked cannot move it at will.
        peers: How many answered.
    """

    offset_s: float
    peers: int

    @classmethod
    def among(cls, offsets_s: Sequence[float]) -> Self | None:
        """What these offsets say together; None where nobody told what could be a time."""
        told = [offset for offset in offsets_s if math.isfinite(offset) and abs(offset) < ABSURD_S]
        return cls(statistics.median(told), len(told)) if told else None

    @property
    def verdict(self) -> str:
        """`problem` where honest nodes refuse our records, `warning` where somebody should know, or `ok`."""
        if abs(self.offset_s) > LIMITS.skew_s:
            return "problem"
        return "warning" if abs(self.offset_s) > NOTABLE_S else "ok"

    def __str__(self) -> str:
        peers = "that of 1 peer" if self.peers == 1 else f"those of {self.peers} peers"
        if self.verdict == "ok":
            return f"within {max(1.0, abs(self.offset_s)):.0f} s of {peers}"
        side = "behind" if self.offset_s > 0 else "ahead of"
        sentence = f"{abs(self.offset_s):.0f} s {side} {peers}"
        if self.verdict == "warning":
            return f"{sentence}; records are accepted within {LIMITS.skew_s} s, short leases suffer before"
        return f"{sentence}: beyond {LIMITS.skew_s} s they refuse what this node announces, and it refuses theirs"
