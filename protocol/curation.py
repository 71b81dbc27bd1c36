"""Who decides about a run, and who may contribute: curators, admission, and the admission list they sign."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from paris.protocol import envelope
from paris.protocol.errors import RecordError, SignatureError
from paris.protocol.limits import LIMITS
from paris.protocol.schema import Count, Digest, Extensible, One, Payload, PeerId

Positive = Annotated[int, Field(ge=1, le=LIMITS.integer)]


class Curators(Payload):
    """Who may sign the genesis, its next versions, admission lists and heads: any `threshold` of `keys`."""

    keys: tuple[PeerId, ...] = Field(min_length=1, max_length=64)
    threshold: Positive

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if len(set(self.keys)) != len(self.keys):
            raise ValueError("a curator key stands twice")
        if self.threshold > len(self.keys):
            raise ValueError(f"threshold {self.threshold} of {len(self.keys)} keys can never be met")
        return self

    def check(self, signers: Collection[str], what: str) -> None:
        """Raise unless enough distinct curators are among the signers.

        Args:
            signers: Peer ids whose signatures verified.
            what: What they signed, e.g. `this genesis`.

        Raises:
            SignatureError: They are too few.
        """
        count = len(set(signers) & set(self.keys))
        if count < self.threshold:
            why = f"it asks for {self.threshold} curators and carries {count} of their signatures"
            raise SignatureError(f"{what} is not signed by enough curators", why)


class Former(Payload):
    """A key that may contribute no longer; what it finished up to `until` (UNIX seconds) still counts."""

    key: PeerId
    until: Count


class Admission(Payload):
    """Who may claim and publish: anybody (`open`) or the listed keys."""

    policy: Literal["open", "list"]
    keys: tuple[PeerId, ...] = Field(default=(), max_length=4096)
    former: tuple[Former, ...] = Field(default=(), max_length=4096)

    def admits(self, peer_id: str) -> bool:
        """Whether this peer may contribute to the run now."""
        return peer_id in self.keys or (self.policy == "open" and not any(peer_id == f.key for f in self.former))

    def admitted(self, peer_id: str, at_s: int) -> bool:
        """Whether what this peer says it finished at `at_s` (UNIX seconds) counts."""
        return self.admits(peer_id) or any(f.key == peer_id and at_s <= f.until for f in self.former)


class AdmissionList(Extensible):
    """A newer answer to who may contribute than the genesis gives; a head names the one in force.

    Attributes:
        run: Run id.
        version: Counts up from 1 with every list of a run.
        created: UNIX seconds.
        admission: The answer; it replaces the one before as a whole.
    """

    v: One = 1
    run: Digest
    version: Positive
    created: Count
    admission: Admission


def open_admission(data: bytes, run: str, curators: Curators) -> AdmissionList:
    """Verify a signed admission list.

    Raises:
        EnvelopeError: The bytes are no admission envelope.
        SignatureError: A signature fails, a signer is no curator, or too few curators signed.
        RecordError: The content is not valid, or of another run.
    """
    verified = envelope.verify(data, "admission")
    listed = AdmissionList.parse(verified.payload)
    if listed.run != run:
        raise RecordError("this admission list belongs to another run", f"it names {listed.run}, this is {run}")
    strangers = verified.signers - set(curators.keys)
    if strangers:
        raise SignatureError(f"{', '.join(sorted(strangers))} signed this admission list", "they are no curators")
    curators.check(verified.signers, "this admission list")
    return listed
