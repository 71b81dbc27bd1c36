"""The genesis: everything a run is, signed once. The run's id is the digest of the signed bytes."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, JsonValue, StringConstraints, model_validator

from paris.protocol import envelope
from paris.protocol.curation import Admission, Curators, Positive
from paris.protocol.errors import RecordError, SignatureError
from paris.protocol.limits import LIMITS
from paris.protocol.schema import Count, Decimal, Digest, Extensible, One, Payload, Text

RunName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._ -]{0,63}$")]
Zero = Annotated[int, Field(ge=0, le=0)]
Copies = Annotated[int, Field(ge=1, le=64)]
FileName = Annotated[str, StringConstraints(min_length=1, max_length=LIMITS.name_chars)]


class Model(Payload):
    """Architectures and the flow convention: x_t = (1-t) x0 + t eps, t = 0 is data, target v = eps - x0."""

    preset: Text
    expert: dict[str, JsonValue]
    router: dict[str, JsonValue]
    path: Literal["linear"] = "linear"
    t_data: Zero = 0
    target: Literal["noise-data"] = "noise-data"


Objective = Literal["velocity", "ddpm-noise", "ddpm-x0"]
"""What an expert predicts: the flow's velocity, or noise or data on a diffusion schedule (arXiv 2603.06741)."""


class Recipe(Payload):
    """How one kind of unit is trained. Lengths are in optimiser steps, fractions are decimal strings.

    Attributes:
        precision: Of the forward and backward pass; weights are fp32.
        accumulate: Micro-batches a step is split into.
        schedule: Of the learning rate after warm-up.
        objective: What experts predict, unless their cluster says otherwise; the router always classifies.
        noise_schedule: Of `ddpm-` objectives.
        times: Law the noise level is drawn from.
        time_shift: Shifts drawn times towards noise: t' = s t / (1 + (s - 1) t).
        first_frames: Share of clips whose first frame the networks are told.
    """

    steps: Positive
    batch: Positive
    lr: Decimal
    warmup_steps: Count
    ema: Decimal
    weight_decay: Decimal
    text_dropout: Decimal
    grad_clip: Decimal
    precision: Literal["bf16", "fp16", "fp32"]
    publish_every: Positive
    seed: Count
    accumulate: Positive = 1
    schedule: Literal["constant", "cosine", "wsd"] = "wsd"
    objective: Objective = "velocity"
    noise_schedule: Literal["cosine", "linear"] = "cosine"
    times: Literal["uniform", "logit-normal"] = "uniform"
    time_shift: Decimal = "1"
    first_frames: Decimal = "0"


class Training(Payload):
    """A recipe for each kind of unit; `base` only where the run trains a shared start first."""

    expert: Recipe
    router: Recipe
    base: Recipe | None = None


class Codec(Payload):
    """How pictures or clips become latents: an autoencoder by manifest digest, or none.

    An autoencoder of pictures takes each frame of a clip alone.
    """

    kind: Literal["autoencoder-tiny", "autoencoder-kl", "autoencoder-kl-hunyuan-video", "pixels"]
    manifest: Digest | None = None

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.kind == "pixels") != (self.manifest is None):
            raise ValueError("an autoencoder needs a manifest, pixels have none")
        return self


class TextModel(Payload):
    """The text encoder: kind, public name, digest of its weights file, tokens per caption."""

    kind: Literal["minilm", "clip", "t5"]
    name: Text
    sha256: Digest
    tokens: Positive


class Start(Payload):
    """What the experts start from: nothing, a published checkpoint by manifest digest, or the run's own base unit."""

    kind: Literal["scratch", "checkpoint", "base"]
    manifest: Digest | None = None
    note: Text = ""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.kind == "checkpoint") != (self.manifest is not None):
            raise ValueError("a checkpoint start needs a manifest, the others have none")
        return self


class Data(Payload):
    """The data set: the manifest of all its shard files, what was measured of it and how it was split."""

    name: Text
    license: Text
    manifest: Digest
    split_key: Text
    features: Text
    samples: Count
    holdout_samples: Count


class Cluster(Payload):
    """One cluster: its number, sizes in samples, its shard files in the data manifest, its top words.

    `objective`, where given, is this expert's instead of the recipe's: an ensemble may mix them.
    """

    id: Count
    samples: Count
    holdout_samples: Count
    shards: tuple[FileName, ...] = Field(min_length=1)
    holdout: tuple[FileName, ...]
    words: tuple[Text, ...] = Field(default=(), max_length=64)
    objective: Objective | None = None

    @property
    def unit(self) -> str:
        """The unit that trains this cluster."""
        return f"cluster-{self.id}"


class Lease(Payload):
    """Times of a lease, seconds: how long a claim lives, how long to settle, how long it may go without progress."""

    life_s: Annotated[int, Field(ge=1, le=LIMITS.life_s["claim"])]
    settle_s: Count
    progress_s: Positive

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.settle_s >= self.life_s:
            raise ValueError("a lease ends before it has settled")
        return self


class Genesis(Extensible):
    """A run. See the module's docstring and docs/protocol.md."""

    v: One = 1
    protocol: One = 1
    name: RunName
    version: Positive
    prev: Digest | None = None
    created: Count
    curators: Curators
    admission: Admission
    model: Model
    training: Training
    codec: Codec
    text: TextModel
    start: Start
    data: Data
    clusters: tuple[Cluster, ...] = Field(min_length=1, max_length=4096)
    lease: Lease
    replicas: Copies

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if [cluster.id for cluster in self.clusters] != list(range(len(self.clusters))):
            raise ValueError("clusters are not numbered 0, 1, 2, ...")
        if (self.version == 1) != (self.prev is None):
            raise ValueError("version 1 has no predecessor, later versions name theirs")
        if (self.start.kind == "base") != (self.training.base is not None):
            raise ValueError("a base start and a base recipe go together")
        return self

    def units(self) -> tuple[str, ...]:
        """Everything that can be claimed, in the order it is listed to people."""
        base = ("base",) if self.training.base else ()
        return (*base, *(cluster.unit for cluster in self.clusters), "router")

    def cluster(self, unit: str) -> Cluster | None:
        """The cluster a unit trains on; None for `base` and `router`, which train on all.

        Raises:
            RecordError: The run has no such unit.
        """
        if unit not in self.units():
            raise RecordError(f"run {self.name!r} has no unit {unit!r}", f"its units are {', '.join(self.units())}")
        number = re.fullmatch(r"cluster-([0-9]+)", unit)
        return self.clusters[int(number[1])] if number else None

    def recipe(self, unit: str) -> Recipe:
        """How a unit is trained.

        Raises:
            RecordError: The run has no such unit.
        """
        cluster = self.cluster(unit)
        if cluster is None and unit == "base" and self.training.base:
            return self.training.base
        if cluster and cluster.objective:
            return self.training.expert.model_copy(update={"objective": cluster.objective})
        return self.training.router if unit == "router" else self.training.expert

    def target_steps(self, unit: str) -> int:
        """Steps after which a unit is complete.

        Raises:
            RecordError: The run has no such unit.
        """
        return self.recipe(unit).steps


def open_genesis(data: bytes) -> tuple[Genesis, str]:
    """Verify the signed first version of a genesis, which a run key pins.

    Returns:
        The genesis and its run id.

    Raises:
        EnvelopeError: The bytes are no genesis envelope.
        SignatureError: A signature fails, a signer is no curator, or too few curators signed.
        RecordError: The content is not valid, or of a later version (see `paris.protocol.succession`).
    """
    verified = envelope.verify(data, "genesis")
    genesis = Genesis.parse(verified.payload)
    if genesis.version != 1:
        raise RecordError(f"this is version {genesis.version} of a genesis", "a run key pins the first version")
    strangers = verified.signers - set(genesis.curators.keys)
    if strangers:
        raise SignatureError(f"{', '.join(sorted(strangers))} signed this genesis", "the genesis names other curators")
    genesis.curators.check(verified.signers, "this genesis")
    return genesis, verified.digest
