"""What a test may have the loopback Hub do wrong."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from threading import Lock
from typing import Any


class RefusalError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, code: str = "", message: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message or code


@dataclass
class Fault:
    """Something that goes wrong with requests of a kind.

    Attributes:
        match: Regular expression searched for in "METHOD /path".
        times: How often it happens; -1: for ever.
        status: Answer with this status instead.
        headers: Of that answer.
        message: Of that answer.
        truncate: Send only so many bytes of the body, then hang up.
        corrupt: Flip a bit in the middle of the body.
        stale: Show the main branch as it was before its last commit.
        lost: Do what is asked, then hang up without an answer.
        hang: Answer nothing until the server ends.
        mute: Do what is asked, then answer nothing until the server ends.
    """

    match: str
    times: int = -1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "injected"
    truncate: int | None = None
    corrupt: bool = False
    stale: bool = False
    lost: bool = False
    hang: bool = False
    mute: bool = False


class Faults:
    """The faults in force."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._lock = Lock()

    def add(self, match: str, **what: Any) -> Fault:
        fault = Fault(match, **what)
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()

    def of(self, request: str) -> list[Fault]:
        """The faults that strike this request, counted down."""
        with self._lock:
            struck = [fault for fault in self._faults if fault.times and re.search(fault.match, request)]
            for fault in struck:
                fault.times -= fault.times > 0
            return struck
