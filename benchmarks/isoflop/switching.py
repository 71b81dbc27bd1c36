"""Two experts, one after the other: which is the better judge of noise, which of detail?

Paris 2.0 (arXiv 2605.26064) passed its router by and let one expert lead the first half of the sampling and another the
second. Of K experts there are K x K such pairs, those of an expert with itself being the expert alone.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.isoflop.plan import Arm

HALF = 0.5
SURE = 100.0
_PAIR = re.compile(r"(\d+) then (\d+)")


class Switch(nn.Module):
    """Stands for a router that names one expert while t is at least a half, and another one after.

    Args:
        first: number of the expert for the noise.
        second: number of the expert for the rest.
        count: K, how many there are.
    """

    dtype = torch.float32

    def __init__(self, first: int, second: int, count: int) -> None:
        super().__init__()
        self.first, self.second, self.count = first, second, count

    def forward(self, _x: Tensor, t_B: Tensor, _pooled_BE: Tensor) -> Tensor:
        """Return logits (B, K) that leave no doubt."""
        chosen_B = torch.where(t_B >= HALF, self.first, self.second)
        return SURE * functional.one_hot(chosen_B, self.count).float()


def pairs(count: int) -> list[str]:
    """Return the names of all pairs of so many experts."""
    return [f"{first} then {second}" for first in range(count) for second in range(count)]


def switch_of(way: str, arm: Arm) -> Switch | None:
    """Return the switch a way of mixing names, such as "0 then 2"; None where it names none of this arm."""
    found = _PAIR.fullmatch(way)
    if found is None or way not in pairs(arm.count):
        return None
    return Switch(int(found[1]), int(found[2]), arm.count)


def switched(alone: list[dict[str, Any]], first: int, second: int) -> list[float]:
    """Return the error by noise level of a pair, from every expert's own on all pictures."""
    levels = len(alone[first]["all"])
    half = round(HALF * levels)
    return [*alone[second]["all"][:half], *alone[first]["all"][half:]]
