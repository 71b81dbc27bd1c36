"""Comparing two ways of doing the same work on a shared, noisy machine: interleaved, and told as a ratio."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

Work = Callable[[], object]
LIBRARIES = ("torch", "diffusers", "hivemind", "cryptography", "safetensors")


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
        name: what we do.
        against: the reference, in words.
        work: how much one call does, in `unit`.
        unit: of the work; "calls" makes latencies of it.
        ours_s: seconds of each of our calls.
        reference_s: seconds of each of the reference's calls, taken in pairs with ours.
        target: smallest ratio we hold ourselves to, where DESIGN names one.
        note: what a reader must know to understand the number.
        also: other measurements of the same comparison by name, ours and the reference's.
    """

    name: str
    against: str
    work: float
    unit: str
    ours_s: tuple[float, ...]
    reference_s: tuple[float, ...]
    target: float | None = None
    note: str = ""
    also: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def ratios(self) -> list[float]:
        """Our speed over the reference's, pair by pair, ascending; above 1 we are faster."""
        return sorted(theirs / ours for ours, theirs in zip(self.ours_s, self.reference_s, strict=True))

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return median(self.ratios)

    @property
    def held(self) -> bool | None:
        """Whether the target is met; None without one."""
        return None if self.target is None else self.ratio >= self.target

    def speed(self, seconds: tuple[float, ...]) -> str:
        """The median speed in words."""
        typical_s = median(seconds)
        if self.unit == "calls":
            return f"{1e3 * typical_s:.3g} ms"
        per_s = self.work / typical_s
        return f"{per_s:,.0f} {self.unit}/s" if per_s >= 100 else f"{per_s:.3g} {self.unit}/s"

    def as_json(self) -> dict[str, Any]:
        """Raw seconds, and what follows from them."""
        derived = {
            "ratio_median": round(self.ratio, 4),
            "ratio_min": round(self.ratios[0], 4),
            "ratio_max": round(self.ratios[-1], 4),
            "ours": self.speed(self.ours_s),
            "reference": self.speed(self.reference_s),
            "held": self.held,
        }
        return {**asdict(self), **derived}


def compare(
    name: str,
    ours: Work,
    reference: Work,
    *,
    against: str,
    repeats: int,
    work: float = 1,
    unit: str = "calls",
    target: float | None = None,
    note: str = "",
    before: Work = lambda: None,
) -> Row:
    """Time two callables in turns, after one untimed call of each; every other pair starts with the reference.

    `before` is called before every call, untimed.
    """
    taken: dict[Work, list[float]] = {ours: [], reference: []}
    for number in range(repeats + 1):
        for do in (ours, reference) if number % 2 else (reference, ours):
            before()
            gc.collect()
            start_s = time.perf_counter()
            do()
            if number:
                taken[do].append(time.perf_counter() - start_s)
    return Row(name, against, work, unit, tuple(taken[ours]), tuple(taken[reference]), target, note)


def in_turns(works: dict[str, Work], repeats: int) -> dict[str, tuple[float, ...]]:
    """Time several callables in rounds, after one untimed round; every other round goes backwards."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(repeats + 1):
        for name in works if number % 2 else reversed(works):
            gc.collect()
            start_s = time.perf_counter()
            works[name]()
            if number:
                taken[name].append(time.perf_counter() - start_s)
    return {name: tuple(seconds) for name, seconds in taken.items()}


def machine() -> dict[str, Any]:
    """The machine in words that name nobody: processor, cores, memory, versions, and how busy it is."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        "load_average_1m": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
