"""The ensemble a head names: one checkpoint a unit. Not signed itself: its digest stands in the signed head."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from paris.protocol import strict_json
from paris.protocol.digests import sha256_of
from paris.protocol.errors import RecordError
from paris.protocol.limits import LIMITS
from paris.protocol.schema import Digest, One, Payload, Unit

_UNITS = 4096 + 2


class Ensemble(Payload):
    """Which checkpoint of every unit makes up the ensemble; units left out are revoked or not ready.

    Attributes:
        run: Run id.
        units: Digest of a checkpoint's envelope by unit.
    """

    v: One = 1
    run: Digest
    units: Annotated[
        dict[Unit, Digest],
        Field(min_length=1, max_length=_UNITS, json_schema_extra={"additionalProperties": False}),
    ]

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Parse an ensemble blob. The caller has checked its digest.

        Raises:
            EnvelopeError: Not strict JSON, or too big.
            RecordError: Not valid, or not canonical.
        """
        ensemble = cls.parse(strict_json.loads(data, LIMITS.blob_bytes))
        if ensemble.to_bytes() != data:
            raise RecordError("this ensemble is not in its canonical form", "other bytes could name the same units")
        return ensemble

    def to_bytes(self) -> bytes:
        """Canonical bytes, which the digest covers."""
        return strict_json.dumps(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """Name of this ensemble as a blob."""
        return sha256_of(self.to_bytes())
