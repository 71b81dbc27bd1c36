"""The names a node acts under: what contributors lent it or moved to it, kept in its home by run.

Files read ``{"run": ..., "credentials": [envelope, ...]}``, credentials nearest to the node's key first. They hold no
secret: whoever has one cannot sign with it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paris.node.home import Home
from paris.protocol import envelope, strict_json
from paris.protocol.credentials import Authority, Delegation, Rotation, authority
from paris.protocol.curation import Curators
from paris.protocol.digests import is_digest
from paris.protocol.errors import EnvelopeError, UsageError
from paris.protocol.identity import Identity
from paris.protocol.limits import LIMITS
from paris.registry.atomic import write_bytes

DAY_S = 86_400
_FILE_BYTES = LIMITS.credentials * 4 * LIMITS.record_bytes


@dataclass(frozen=True)
class Credentials:
    """Credentials for one run, nearest to the signer first."""

    run: str
    envelopes: tuple[bytes, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Credentials:
        """Credentials as `to_bytes` writes them. Their signatures are checked by `authority`.

        Raises:
            EnvelopeError: The bytes are something else.
        """
        fields = strict_json.loads(data, _FILE_BYTES)
        items = fields.get("credentials")
        whole = isinstance(items, list) and all(isinstance(item, dict) for item in items)
        if not is_digest(fields.get("run")) or not whole:
            raise EnvelopeError("this holds no credentials", "its form is another", "use what `key delegate` printed")
        return cls(str(fields["run"]), tuple(strict_json.dumps(item) for item in items or ()))

    def to_bytes(self) -> bytes:
        """JSON for people to carry about; indented, a newline at its end."""
        return (json.dumps({"run": self.run, "credentials": list(self.carried)}, indent=1) + "\n").encode()

    @property
    def carried(self) -> tuple[dict[str, Any], ...]:
        """The envelopes as records carry them."""
        return tuple(json.loads(data) for data in self.envelopes)


def held(home: Home, run: str) -> Credentials:
    """What this home holds for a run; none is the usual case."""
    path = _path(home, run)
    return Credentials.parse(path.read_bytes()) if path.exists() else Credentials(run)


def lend(home: Home, run: str, node: str, days: int, now_s: int) -> Credentials:
    """Let a node act under this home's name (and under whatever this home's own credentials lead to).

    Raises:
        RecordError: More days than a delegation may last, or a node that is this home's own key.
    """
    contributor = home.identity()
    fields = {"run": run, "contributor": contributor.peer_id, "node": node, "iat": now_s, "exp": now_s + days * DAY_S}
    made = envelope.sign("delegation", Delegation.parse(fields), contributor)
    return Credentials(run, (made, *held(home, run).envelopes))


def move(home: Home, run: str, old: str | None, new: str, reason: str, now_s: int) -> Credentials:
    """Half a rotation, signed by this home's key, as the old one or as a curator; `accept` adds the new key's half.

    Raises:
        RecordError: The name would move to itself.
    """
    me = home.identity()
    fields = {"run": run, "old": old or me.peer_id, "new": new, "iat": now_s, "reason": reason}
    made = envelope.sign("rotation", Rotation.parse(fields), me)
    return Credentials(run, (made, *(held(home, run).envelopes if old is None else ())))


def accept(home: Home, given: Credentials, now_s: int, curators: Curators | None = None) -> Authority:
    """Take over credentials made for this home's key, adding its signature where a name moves to it.

    Returns:
        Under which name it acts from now on.

    Raises:
        VerificationError: They are not for this key, not signed as they must be, or not in force.
        UsageError: There is nothing in them.
    """
    if not given.envelopes:
        raise UsageError(
            "there are no credentials in this file", hint="Use what `key delegate` or `key rotate` printed"
        )
    me = home.identity()
    signed = Credentials(given.run, (_countersigned(given.envelopes[0], me), *given.envelopes[1:]))
    acting = authority(me.peer_id, signed.envelopes, given.run, now_s, curators)
    write_bytes(_path(home, given.run), signed.to_bytes())
    return acting


def in_force(home: Home, run: str, now_s: int, curators: Curators | None = None) -> Credentials:
    """What this home holds for a run, checked.

    Raises:
        VerificationError: It does not hold any more: a delegation has run out, the curators are others.
    """
    credentials = held(home, run)
    authority(home.identity().peer_id, credentials.envelopes, run, now_s, curators)
    return credentials


def _countersigned(data: bytes, me: Identity) -> bytes:
    return envelope.cosign(data, "rotation", me) if envelope.kind_of(data) == "rotation" else data


def _path(home: Home, run: str) -> Path:
    return home.path / "credentials" / f"{run.removeprefix('sha256:')[:16]}.json"
