"""What all signed payloads have in common: strict, frozen models and the types of their fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)

from paris.protocol import digests, strict_json
from paris.protocol.errors import RecordError, SignatureError
from paris.protocol.identity import public_key_of
from paris.protocol.limits import LIMITS


def _peer_id(text: str) -> str:
    try:
        public_key_of(text)
    except SignatureError as error:
        raise ValueError(str(error)) from error
    return text


Digest = Annotated[str, StringConstraints(pattern=digests.PATTERN.replace(r"\Z", "$"), max_length=71)]
"""`sha256:<64 hex>`."""
PeerId = Annotated[
    str,
    AfterValidator(_peer_id),
    WithJsonSchema({"type": "string", "pattern": "^12D3KooW[1-9A-HJ-NP-Za-km-z]{44}$"}),
]
"""An Ed25519 libp2p peer id."""
Decimal = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,11})(\.[0-9]{1,18})?$")]
"""A non-negative decimal number as text, because floats are not exact."""
Unit = Annotated[str, StringConstraints(pattern=r"^(base|router|cluster-(0|[1-9][0-9]{0,3}))$")]
"""What one peer trains: `base`, `cluster-0` .. or `router`."""
One = Annotated[int, Field(ge=1, le=1)]
"""The integer 1. `Literal[1]` would take `true` for it."""
Count = Annotated[int, Field(ge=0, le=LIMITS.integer)]
"""A non-negative integer: a count, a step, or UNIX seconds."""
Text = Annotated[str, StringConstraints(max_length=1024)]
"""A short text for people."""


class Payload(BaseModel):
    """Base of every signed payload and its parts: no unknown fields, no coercion, no change."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", protected_namespaces=())

    @classmethod
    def parse(cls, payload: Mapping[str, Any]) -> Self:
        """Model of a verified payload.

        Raises:
            RecordError: A field is missing, unknown or impossible.
        """
        try:
            return cls.model_validate_json(strict_json.dumps(dict(payload)))
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "as a whole"
            raise RecordError(
                f"this {(cls.model_config.get('title') or cls.__name__).lower()} is not valid",
                f"{where}: {first['msg']}",
                "it was written by another version, or by somebody hostile",
            ) from error


class Extensible(Payload):
    """A payload with one place, `ext`, for what later versions add; readers ignore what they do not know there."""

    ext: dict[str, JsonValue] = Field(default_factory=dict)
