"""The name of a run, as people pass it on: `paris://<64 hex>[?peer=<multiaddr>&peer=...]`.

The hex is the SHA-256 of the signed genesis, so the key pins every rule of the run. Peers are hints where to ask first
and carry no trust.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, quote

from paris.protocol.errors import UsageError

_KEY = re.compile(r"((?i:paris)://)?(?P<run>[0-9a-f]{64})/?(\?(?P<query>.*))?")


@dataclass(frozen=True)
class RunKey:
    """A run's digest and the addresses that came with it."""

    run: str
    peers: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> RunKey:
        """Read a key as typed by a person; white space is dropped, because mail breaks long lines.

        Raises:
            UsageError: the text is not a run key; the message says which part is wrong.
        """
        joined = "".join(text.split())
        key = _KEY.fullmatch(joined)
        if key is None:
            found = joined.removeprefix("paris://").partition("?")[0]
            raise UsageError(
                f"{text!r} is not a run key",
                why="a run key reads paris:// followed by 64 hexadecimal digits"
                + (f", this one has {len(found)} characters there" if joined.startswith("paris://") else ""),
                hint="Copy the whole key that `paris-node run create` printed.",
            )
        return cls("sha256:" + key["run"], tuple(parse_qs(key["query"] or "").get("peer", ())))

    def with_peers(self, peers: tuple[str, ...]) -> RunKey:
        """The same run with other hints."""
        return RunKey(self.run, peers)

    @property
    def hex(self) -> str:
        """The 64 hexadecimal digits."""
        return self.run.removeprefix("sha256:")

    def __str__(self) -> str:
        query = "&".join("peer=" + quote(peer, safe="/") for peer in self.peers)
        return f"paris://{self.hex}" + (f"?{query}" if query else "")
