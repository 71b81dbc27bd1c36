"""Acting under another name: a contributor lends its name to a node's key, or moves it to a new key.

A *delegation* lets a node's key act for a contributor until it expires, so that the contributor's own key never lies on
a rented machine. A *rotation* lets a new key go on under an old key's name: signed by both, or, where the old key is
lost or stolen, by the curators and the new key. Records and checkpoints carry the credentials they rely on, nearest to
the signer first, so that whoever reads them needs nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import model_validator

from paris.protocol import envelope
from paris.protocol.curation import Curators
from paris.protocol.errors import RecordError, SignatureError
from paris.protocol.limits import LIMITS
from paris.protocol.schema import Count, Digest, Extensible, One, PeerId, Text


class Delegation(Extensible):
    """A node's key may act for a contributor in one run.

    Attributes:
        run: Run id.
        contributor: Who lends the name, and signs this.
        node: Whose signatures count as the contributor's.
        iat: From when on, UNIX seconds.
        exp: Until when, UNIX seconds.
    """

    v: One = 1
    run: Digest
    contributor: PeerId
    node: PeerId
    iat: Count
    exp: Count

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.contributor == self.node:
            raise ValueError("a key needs no leave to act for itself")
        if not 0 < self.exp - self.iat <= LIMITS.delegation_s:
            raise ValueError(f"a delegation lasts 1 to {LIMITS.delegation_s} s")
        return self


class Rotation(Extensible):
    """A new key goes on under an old key's name; the old one may act no longer.

    Attributes:
        run: Run id.
        old: The key whose name goes on.
        new: The key that acts under it now.
        iat: From when on, UNIX seconds.
        reason: For people.
    """

    v: One = 1
    run: Digest
    old: PeerId
    new: PeerId
    iat: Count
    reason: Text = ""

    @model_validator(mode="after")
    def _moves(self) -> Self:
        if self.old == self.new:
            raise ValueError("a key cannot follow itself")
        return self


@dataclass(frozen=True)
class Moved:
    """Where a name went: to `new`, and whether curators rather than the old key said so."""

    old: str
    new: str
    by_curators: bool


@dataclass(frozen=True)
class Authority:
    """Under which name somebody signs.

    Attributes:
        name: The contributor whose name counts, e.g. for admission.
        acting: Keys that act: the signer, and whoever delegated to it.
        moves: Rotations it relies on.
    """

    name: str
    acting: tuple[str, ...]
    moves: tuple[Moved, ...] = ()


def authority(
    signer: str, credentials: Sequence[bytes], run: str, at_s: float, curators: Curators | None = None
) -> Authority:
    """Follow credentials from a signer to the name it acts under.

    Args:
        signer: Peer id whose signature has verified.
        credentials: Envelopes of delegations and rotations, nearest to the signer first; none: the signer's own name.
        run: Run id.
        at_s: When it acted, UNIX seconds.
        curators: Those of the run, where the genesis is known.

    Raises:
        EnvelopeError: A credential is no such envelope.
        SignatureError: A signature fails, a signer is another, or one credential does not follow from the one before.
        RecordError: The content is not valid, of another run, or of another time.
    """
    if len(credentials) > LIMITS.credentials:
        raise RecordError(f"it carries {len(credentials)} credentials", f"the limit is {LIMITS.credentials}")
    name, acting, moves = signer, [signer], []
    for data in credentials:
        if envelope.kind_of(data) == "delegation":
            name = _follow_delegation(open_delegation(data), name, run, at_s)
            acting.append(name)
        else:
            moved = open_rotation(data, run, curators)
            if moved.new != name:
                raise SignatureError(f"{name} relies on a rotation to {moved.new}", "each credential follows the last")
            name = moved.old
            moves.append(moved)
    return Authority(name, tuple(acting), tuple(moves))


def open_delegation(data: bytes) -> Delegation:
    """Verify a signed delegation.

    Raises:
        EnvelopeError: The bytes are no delegation envelope.
        SignatureError: A signature fails, or the contributor is not the one signer.
        RecordError: The content is not valid.
    """
    verified = envelope.verify(data, "delegation")
    delegation = Delegation.parse(verified.payload)
    if verified.signers != {delegation.contributor}:
        raise SignatureError("this delegation is not signed by its contributor", "nobody can lend another's name")
    return delegation


def open_rotation(data: bytes, run: str, curators: Curators | None) -> Moved:
    """Verify a signed rotation: by the new key, and by the old one or enough curators.

    Where the curators are not known, the new key's and somebody else's signatures must do: a node that only stores
    cannot know more, and whoever relies on the record does.

    Raises:
        EnvelopeError: The bytes are no rotation envelope.
        SignatureError: A signature fails or is missing.
        RecordError: The content is not valid, or of another run.
    """
    verified = envelope.verify(data, "rotation")
    rotation = Rotation.parse(verified.payload)
    if rotation.run != run:
        raise RecordError("this rotation belongs to another run", f"it names {rotation.run}, this is {run}")
    others = verified.signers - {rotation.new}
    if rotation.new not in verified.signers or not others:
        raise SignatureError("this rotation is not signed by both sides", "the new key and the old one (or curators)")
    by_curators = others != {rotation.old}
    if by_curators and curators:
        curators.check(others, "this rotation")
    return Moved(rotation.old, rotation.new, by_curators)


def _follow_delegation(delegation: Delegation, name: str, run: str, at_s: float) -> str:
    if delegation.run != run:
        raise RecordError("this delegation belongs to another run", f"it names {delegation.run}, this is {run}")
    if delegation.node != name:
        raise SignatureError(f"{name} relies on a delegation to {delegation.node}", "each credential follows the last")
    if not delegation.iat - LIMITS.skew_s <= at_s < delegation.exp:
        why = f"it lasts from {delegation.iat} to {delegation.exp}, this is {at_s:.0f}"
        hint = "ask the contributor for a new one: paris-node key delegate"
        raise RecordError(f"the delegation to {name} is not in force", why, hint)
    return delegation.contributor
