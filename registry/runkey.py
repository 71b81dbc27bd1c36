"""The name of a run, as people pass it on: `paris://<64 hex>[?peer=<multiaddr>&peer=...&hub=<owner>/<name>]`.

The hex is the SHA-256 of the signed genesis, so the key pins every rule of the run. Peers, and the repository on the
Hugging Face Hub whose peers file names more of them, are hints where to ask first and carry no trust.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import parse_qs, quote

from paris.protocol.errors import SignatureError, UsageError
from paris.protocol.identity import public_key_of

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_KEY = re.compile(r"((?i:paris)://)?(?P<run>[0-9a-f]{64})/?(\?(?P<query>.*))?")


@dataclass(frozen=True)
class RunKey:
    """A run's digest, and the addresses and the Hub repository that came with it."""

    run: str
    peers: tuple[str, ...] = ()
    hub: str = ""

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
        hints = parse_qs(key["query"] or "")
        peers = tuple(peer_address(peer) for peer in hints.get("peer", ()))
        return cls("sha256:" + key["run"], peers, hub_repository(hints.get("hub", [""])[0]))

    def with_peers(self, peers: tuple[str, ...]) -> RunKey:
        """The same run with other hints."""
        return replace(self, peers=peers)

    @property
    def hex(self) -> str:
        """The 64 hexadecimal digits."""
        return self.run.removeprefix("sha256:")

    def __str__(self) -> str:
        hints = [f"peer={quote(peer, safe='/')}" for peer in self.peers] + ([f"hub={self.hub}"] if self.hub else [])
        query = "&".join(hints)
        return f"paris://{self.hex}" + (f"?{query}" if query else "")


def hub_repository(text: str) -> str:
    """Return the name of a repository on the Hub as it was typed; empty where none is named.

    Raises:
        UsageError: it is none.
    """
    if text and not _REPOSITORY.fullmatch(text):
        raise UsageError(f"{text!r} is not the name of a repository on the Hub", hint="A name reads like owner/name")
    return text


def peer_address(text: str) -> str:
    """Return the address of a peer as it was typed.

    Raises:
        UsageError: it does not end at a peer, and so nobody could tell whether the right one answers.
    """
    try:
        public_key_of(text.rpartition("/p2p/")[2])
    except SignatureError as error:
        raise UsageError(
            f"{text!r} is not the address of a peer",
            why=f"it must end in /p2p/ and the peer's id, and {error.what}",
            hint="An address reads like /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW…; `paris-node start` prints its own",
        ) from error
    return text
