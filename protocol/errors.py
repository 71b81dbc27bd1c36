"""Errors a person can meet.

Every error says what happened, why we think so and what to do next, and carries the exit code of the command that
dies of it (0 is success)::

    ParisError ................. 1  something failed
    |-- UsageError ............. 2  the command or its arguments make no sense
    |-- VerificationError ...... 3  bytes from elsewhere are not what they claim to be
    |   |-- EnvelopeError ......    the outer form: size, JSON, types
    |   |-- SignatureError .....    a signature or its signer
    |   |-- RecordError ........    the content of a signed payload, its times, its place
    |   |-- DigestError ........    bytes do not match their digest
    |   `-- LineageError .......    a chain of checkpoints does not hold
    |-- NetworkError ........... 4  peers cannot be reached or do not answer
    |   |-- BootstrapError .....    none of the first addresses answered
    |   `-- UnavailableError ...    nobody could give us a blob
    `-- ResourceError .......... 5  disk, memory or a device ran out
"""

from __future__ import annotations

from typing import ClassVar


class ParisError(Exception):
    """Base of all errors meant for people.

    Args:
        what: What happened, one sentence without its final stop.
        why: Why we think so.
        hint: What to do next.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, why: str = "", hint: str = "") -> None:
        super().__init__(what, why, hint)
        self.what, self.why, self.hint = what, why, hint

    def __str__(self) -> str:
        return " ".join(part if part[-1] in ".!?" else f"{part}." for part in (self.what, self.why, self.hint) if part)


class UsageError(ParisError):
    """The command or its arguments make no sense."""

    exit_code = 2


class VerificationError(ParisError):
    """Bytes from elsewhere are not what they claim to be."""

    exit_code = 3


class EnvelopeError(VerificationError):
    """The outer form is wrong: size, JSON, base64, types."""


class SignatureError(VerificationError):
    """A signature does not verify, or its signer may not sign this."""


class RecordError(VerificationError):
    """A signed payload says something it must not: fields, times, place, order."""


class DigestError(VerificationError):
    """Bytes do not match the digest they were asked for by."""


class LineageError(VerificationError):
    """A chain of checkpoints does not hold."""


class NetworkError(ParisError):
    """Peers cannot be reached or do not answer."""

    exit_code = 4


class BootstrapError(NetworkError):
    """None of the addresses we were given answered."""


class UnavailableError(NetworkError):
    """Nobody could give us a blob."""


class ResourceError(ParisError):
    """Disk, memory or a device ran out."""

    exit_code = 5
