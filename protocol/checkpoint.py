"""A checkpoint: an in-toto Statement v1 with an SLSA provenance v1 predicate about one training segment.

Subject is the manifest of the checkpoint's files. The statement never expires and never changes; its name is the digest
of its signed envelope. Field names are those of the two specifications.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.alias_generators import to_camel

from paris.protocol import envelope
from paris.protocol.digests import hex_of
from paris.protocol.errors import SignatureError
from paris.protocol.limits import LIMITS
from paris.protocol.schema import Count, Digest, Payload, Text, Unit

PREDICATE_TYPE: Final = "https://slsa.dev/provenance/v1"
BUILD_TYPE: Final = "urn:paris-node:training-segment:v1"
BUILDER_PREFIX = "urn:libp2p:"

_CONTENT_CHARS = 2 * LIMITS.record_bytes
_MOMENT = TypeAdapter(AwareDatetime)
Base64 = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=_CONTENT_CHARS)]
Hex = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def _real(text: str) -> str:
    _MOMENT.validate_python(text)
    return text


Timestamp = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$"),
    AfterValidator(_real),
]


class _Spec(Payload):
    """Python names inside, the specifications' camelCase on the wire."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class DigestSet(_Spec):
    """Digests of one thing by algorithm; only SHA-256 here."""

    sha256: Hex


class Descriptor(_Spec):
    """An in-toto ResourceDescriptor: something with a name, a digest, annotations, or its very content in base64."""

    name: Text
    digest: DigestSet | None = None
    annotations: dict[str, JsonValue] | None = None
    content: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]*={0,2}$", max_length=_CONTENT_CHARS)] | None = (
        None
    )


def _each_once(items: tuple[Descriptor, ...]) -> tuple[Descriptor, ...]:
    if len({item.name for item in items}) != len(items):
        raise ValueError("a name stands twice, so two readers could follow different ones")
    return items


Named = Annotated[tuple[Descriptor, ...], AfterValidator(_each_once)]
"""Descriptors that are found by name."""

_STRICT = ConfigDict(strict=True)
_LOSS: TypeAdapter[int] = TypeAdapter(Count, config=_STRICT)
_POINT = Annotated[list[Count], Field(min_length=2, max_length=2)]
_TRACE: TypeAdapter[list[list[int]]] = TypeAdapter(list[_POINT], config=_STRICT)


def _measured(byproducts: tuple[Descriptor, ...]) -> tuple[Descriptor, ...]:
    """Losses travel on into tips, which every mirror validates: what no tip may say, no checkpoint may."""
    for item in byproducts:
        found = item.annotations or {}
        try:
            if item.name == "holdout" and "loss_micro" in found:
                _LOSS.validate_python(found["loss_micro"])
            if item.name == "loss" and "points" in found:
                _TRACE.validate_python(found["points"])
        except ValidationError as error:
            raise ValueError(f"the byproduct {item.name!r} holds no loss in millionths, as a whole number") from error
    return byproducts


class Parameters(Payload):
    """What the contributor chose: the unit, the range of steps (from, to], the claim's sequence number, the seed."""

    run: Digest
    unit: Unit
    from_step: Count
    to_step: Count
    fence: Count
    seed: Count

    @model_validator(mode="after")
    def _forward(self) -> Self:
        if self.to_step <= self.from_step:
            raise ValueError(f"steps {self.from_step} to {self.to_step} are no training")
        return self


class BuildDefinition(_Spec):
    """SLSA: what was done, with what."""

    build_type: Literal["urn:paris-node:training-segment:v1"] = BUILD_TYPE
    external_parameters: Parameters
    internal_parameters: dict[str, JsonValue] = Field(default_factory=dict)
    resolved_dependencies: Named = Field(max_length=4096)


def _credentials(items: tuple[Descriptor, ...]) -> tuple[Descriptor, ...]:
    if [item.name for item in items] != [f"credential/{number}" for number in range(len(items))]:
        raise ValueError("a builder depends on credentials, numbered from 0, and on nothing else")
    for item in items:
        try:
            base64.b64decode(item.content or "", validate=True)
        except ValueError as error:
            raise ValueError(f"{item.name!r} has no content") from error
    return items


class Builder(_Spec):
    """SLSA: who did it (`urn:libp2p:` and the peer id), with which versions, by which credentials."""

    id: Text
    version: dict[str, Text]
    builder_dependencies: Annotated[tuple[Descriptor, ...], AfterValidator(_credentials)] = Field(
        default=(), max_length=LIMITS.credentials
    )


class Metadata(_Spec):
    """SLSA: when, by the contributor's own clock (RFC 3339, UTC)."""

    invocation_id: Text
    started_on: Timestamp
    finished_on: Timestamp


class RunDetails(_Spec):
    """SLSA: this particular execution."""

    builder: Builder
    metadata: Metadata
    byproducts: Annotated[Named, AfterValidator(_measured)] = Field(default=(), max_length=64)


class Predicate(_Spec):
    """SLSA provenance v1."""

    build_definition: BuildDefinition
    run_details: RunDetails


class Subject(_Spec):
    """The manifest this statement is about."""

    name: Text
    digest: DigestSet


class Checkpoint(Payload):
    """One published training segment. Accessors read the nested specification fields."""

    model_config = ConfigDict(populate_by_name=True)

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(default="https://in-toto.io/Statement/v1", alias="_type")
    subject: tuple[Subject] = Field()
    predicate_type: Literal["https://slsa.dev/provenance/v1"] = Field(default=PREDICATE_TYPE, alias="predicateType")
    predicate: Predicate

    @property
    def _parameters(self) -> Parameters:
        return self.predicate.build_definition.external_parameters

    @property
    def run(self) -> str:
        """Run id."""
        return self._parameters.run

    @property
    def unit(self) -> str:
        """The unit trained."""
        return self._parameters.unit

    @property
    def from_step(self) -> int:
        """Steps the parent had."""
        return self._parameters.from_step

    @property
    def to_step(self) -> int:
        """Steps this checkpoint has."""
        return self._parameters.to_step

    @property
    def fence(self) -> int:
        """Sequence number of the claim this was trained under."""
        return self._parameters.fence

    @property
    def seed(self) -> int:
        """Seed of the recipe."""
        return self._parameters.seed

    @property
    def parent(self) -> str | None:
        """Digest of the parent checkpoint's envelope; None for the first of a unit."""
        return self.dependency("parent")

    @property
    def start(self) -> str | None:
        """Manifest digest the first segment's weights came from; None where it started from nothing."""
        return self.dependency("start")

    @property
    def manifest(self) -> str:
        """Digest of the manifest of this checkpoint's files."""
        return f"sha256:{self.subject[0].digest.sha256}"

    @property
    def signer(self) -> str:
        """Peer id of the builder; `open_checkpoint` has checked that it signed."""
        return self.predicate.run_details.builder.id.removeprefix(BUILDER_PREFIX)

    @property
    def credentials(self) -> tuple[bytes, ...]:
        """Envelopes of delegations and rotations the builder relies on, nearest to it first."""
        items = self.predicate.run_details.builder.builder_dependencies
        return tuple(base64.b64decode(item.content or "") for item in items)

    @property
    def finished_s(self) -> int:
        """When the segment was finished, by the contributor's own clock, UNIX seconds."""
        return int(_MOMENT.validate_python(self.predicate.run_details.metadata.finished_on).timestamp())

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of the software that trained."""
        return self.predicate.run_details.builder.version

    @property
    def holdout_loss_micro(self) -> int | None:
        """Claimed hold-out loss in millionths; None where none was measured."""
        value = self._byproduct("holdout").get("loss_micro")
        return None if value is None else _LOSS.validate_python(value)

    @property
    def loss_trace_micro(self) -> tuple[tuple[int, int], ...]:
        """Claimed training loss: pairs (step, loss in millionths)."""
        points = _TRACE.validate_python(self._byproduct("loss").get("points", []))
        return tuple((step, loss_micro) for step, loss_micro in points)

    def dependency(self, name: str) -> str | None:
        """Digest of a named dependency: `parent`, `start`, or `shard/<file>`."""
        for item in self.predicate.build_definition.resolved_dependencies:
            if item.name == name and item.digest:
                return f"sha256:{item.digest.sha256}"
        return None

    def shards(self) -> dict[str, str]:
        """Digests of the training shards by file name."""
        items = self.predicate.build_definition.resolved_dependencies
        found = {item.name.removeprefix("shard/"): item.digest for item in items if item.name.startswith("shard/")}
        return {name: f"sha256:{digest.sha256}" for name, digest in found.items() if digest}

    def _byproduct(self, name: str) -> Mapping[str, JsonValue]:
        items = self.predicate.run_details.byproducts
        return next((item.annotations for item in items if item.name == name and item.annotations), {})


def statement(
    *,
    run: str,
    unit: str,
    from_step: int,
    to_step: int,
    fence: int,
    seed: int,
    manifest: str,
    parent: str | None,
    start: str | None,
    shards: Mapping[str, str],
    signer: str,
    versions: Mapping[str, str],
    invocation: str,
    started_s: int,
    finished_s: int,
    loss_trace_micro: Sequence[tuple[int, int]] = (),
    holdout_loss_micro: int | None = None,
    internal: Mapping[str, JsonValue] | None = None,
    credentials: Sequence[bytes] = (),
) -> Checkpoint:
    """Make the statement of one training segment.

    Args:
        run: Run id.
        unit: The unit trained.
        from_step: Steps before.
        to_step: Steps after.
        fence: Sequence number of the claim held.
        seed: Seed of the recipe.
        manifest: Digest of the manifest of the resulting files.
        parent: Digest of the parent checkpoint's envelope, if any.
        start: Manifest digest of the starting weights, if any; only where there is no parent.
        shards: Digests of the training shards by file name.
        signer: Peer id of the contributor.
        versions: Versions of software (and names of hardware) that trained.
        invocation: An id of this execution, of the contributor's choosing.
        started_s: UNIX seconds.
        finished_s: UNIX seconds.
        loss_trace_micro: Pairs (step, training loss in millionths).
        holdout_loss_micro: Hold-out loss in millionths.
        internal: Anything else worth knowing, e.g. whether weights or full state were resumed from.
        credentials: Envelopes by which the contributor acts under another name, nearest to it first.
    """
    named = {"parent": parent, "start": start, **{f"shard/{name}": digest for name, digest in sorted(shards.items())}}
    dependencies = tuple(
        Descriptor(name=name, digest=DigestSet(sha256=hex_of(digest))) for name, digest in named.items() if digest
    )
    byproducts = [Descriptor(name="loss", annotations={"points": [list(point) for point in loss_trace_micro]})]
    if holdout_loss_micro is not None:
        byproducts.append(Descriptor(name="holdout", annotations={"loss_micro": holdout_loss_micro}))
    return Checkpoint(
        subject=(Subject(name=f"{unit}@{to_step}", digest=DigestSet(sha256=hex_of(manifest))),),
        predicate=Predicate(
            build_definition=BuildDefinition(
                external_parameters=Parameters(
                    run=run, unit=unit, from_step=from_step, to_step=to_step, fence=fence, seed=seed
                ),
                internal_parameters=dict(internal or {}),
                resolved_dependencies=dependencies,
            ),
            run_details=RunDetails(
                builder=Builder(
                    id=BUILDER_PREFIX + signer,
                    version=dict(versions),
                    builder_dependencies=tuple(
                        Descriptor(name=f"credential/{number}", content=base64.b64encode(data).decode())
                        for number, data in enumerate(credentials)
                    ),
                ),
                metadata=Metadata(
                    invocation_id=invocation, started_on=_rfc3339(started_s), finished_on=_rfc3339(finished_s)
                ),
                byproducts=tuple(byproducts),
            ),
        ),
    )


def open_checkpoint(data: bytes) -> Checkpoint:
    """Verify a signed checkpoint statement.

    Raises:
        EnvelopeError: The bytes are no checkpoint envelope.
        SignatureError: A signature fails, or the builder is not the one signer.
        RecordError: The content is not valid.
    """
    verified = envelope.verify(data, "checkpoint")
    checkpoint = Checkpoint.parse(verified.payload)
    if verified.signers != {checkpoint.signer}:
        why = f"it names {checkpoint.signer} and is signed by {', '.join(sorted(verified.signers))}"
        raise SignatureError("this checkpoint is not signed by its builder", why)
    return checkpoint


def _rfc3339(time_s: int) -> str:
    return str(_MOMENT.dump_python(_MOMENT.validate_python(time_s), mode="json"))
