"""What the study trains: sizes of networks, and arms that a name on the command line spells out.

An arm is one model (`small-s0`: size, seed) or experts (`small-text4-b1000-o20-s0`: size, features and number of the
clusters, the step of the one model that experts begin from (b0: from nothing), the share of an expert's samples that
come from anywhere (left out: none), seed). With `-l58` before the seed, experts learn at 58 % of the one model's rate:
where three share a batch, a step is then about as noisy as the one model's. Every arm of a size sees as many samples:
experts share each step's batch (Decentralized Diffusion Models, arXiv 2501.05450, section 4), and what they begin from
counts as theirs. A size is one of pictures or of clips.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.isoflop.media import CLIPS, PICTURES, TEXT_DIM, Medium
from paris.models import kinds
from paris.models.recipe import Recipe

FEATURES = ("text", "visual", "both", "style", "random")
ROUTER_STEPS = 200
ROUTER = {"width": 32, "depth": 1, "heads": 1}
_NAME = re.compile(
    r"(?P<size>[a-z]+)(?:-(?P<features>[a-z]+)(?P<count>\d+)-b(?P<branch>\d+)"
    r"(?:-o(?P<overlap>\d+))?(?:-l(?P<rate>[1-9]\d*))?)?-s(?P<seed>\d+)"
)


class PlanError(ValueError):
    """An arm cannot be trained as it was named."""


@dataclass(frozen=True)
class Size:
    """One size of expert and monolith.

    Attributes:
        architecture: arguments of the expert, besides those that all of the medium have.
        steps: of the one model.
        every: steps between two checkpoints.
        medium: what it is trained on.
    """

    architecture: Mapping[str, int]
    steps: int
    every: int = 500
    medium: Medium = PICTURES

    def network(self) -> Any:
        """Return the untrained network: of pictures with the mean text token added to the time."""
        arguments = {**self.medium.latents, **self.architecture, **self.medium.wiring}
        return kinds.expert_of(arguments)(**arguments)


SIZES = {
    "micro": Size({"width": 32, "depth": 1, "heads": 1}, steps=12, every=4),
    "nano": Size({"width": 32, "depth": 1, "heads": 1}, steps=4000),
    "small": Size({"width": 64, "depth": 2, "heads": 2}, steps=2500),
    "large": Size({"width": 96, "depth": 3, "heads": 3}, steps=2500),
    "microclips": Size({"width": 32, "dual": 1, "single": 1, "heads": 1}, steps=12, every=4, medium=CLIPS),
    "clips": Size({"width": 64, "dual": 1, "single": 2, "heads": 2}, steps=1000, every=100, medium=CLIPS),
}


@dataclass(frozen=True)
class Arm:
    """One training to compare, see the module."""

    name: str
    size: str
    seed: int
    features: str = ""
    count: int = 1
    branch: int = 0
    overlap: float = 0.0
    rate: float = 1.0

    @property
    def medium(self) -> Medium:
        """What is trained on."""
        return SIZES[self.size].medium

    @property
    def steps(self) -> int:
        """Steps of each expert, or of the one model.

        Experts end one checkpoint earlier, so that the one model is seen at all they cost together with a router.
        """
        size = SIZES[self.size]
        return size.steps - size.every - self.branch if self.features else size.steps

    @property
    def batch(self) -> int:
        """Samples of one step of one unit."""
        return self.medium.batch // self.count

    @property
    def base(self) -> str:
        """Name of the arm that these experts begin from."""
        return f"{self.size}-s{self.seed}"

    @property
    def clustering(self) -> str:
        """Name of the clusters, as in the arm's own; two media have none in common."""
        return f"{'' if self.medium.frames is None else f'{self.medium.name}-'}{self.features}{self.count}"

    def recipe(self) -> Recipe:
        """Return how each unit is trained: alike in every arm but for the batch."""
        return Recipe(
            steps=self.steps,
            batch=self.batch,
            lr=self.rate * self.medium.lr,
            warmup_steps=100,
            ema=0.998,
            weight_decay=0.01,
            text_dropout=0.1,
            precision="fp32",
            schedule="constant",
            seed=self.seed,
            objective=self.medium.objective,
        )

    def router(self, *, blind: bool) -> Any:
        """Return an untrained router of the clusters, which a blind one tells apart without text."""
        arguments = {**self.medium.latents, **ROUTER, "text_dim": 0 if blind else TEXT_DIM}
        return kinds.router_of(arguments)(**arguments, clusters=self.count)

    def router_recipe(self) -> Recipe:
        """Return how a router is trained."""
        return Recipe(
            steps=ROUTER_STEPS,
            batch=self.medium.batch,
            lr=1e-3,
            warmup_steps=30,
            ema=0.98,
            weight_decay=0.01,
            precision="fp32",
        )


def arm_of(name: str) -> Arm:
    """Read an arm's name.

    Raises:
        PlanError: it is none, or what it says is impossible.
    """
    found = _NAME.fullmatch(name)
    if found is None or found["size"] not in SIZES:
        raise PlanError(
            f"There is no arm {name!r}. One model is called like small-s0, experts like small-text4-b1000-o20-s0; "
            f"sizes are {', '.join(SIZES)}."
        )
    if found["features"] is None:
        return Arm(name, found["size"], int(found["seed"]))
    count, branch, size = int(found["count"]), int(found["branch"]), SIZES[found["size"]]
    if found["features"] not in FEATURES or count < 2 or size.medium.batch % count:
        raise PlanError(
            f"The clusters of {name!r} cannot be made: features are {', '.join(FEATURES)}, and a batch of "
            f"{size.medium.batch} has to be divisible by their number."
        )
    if branch % size.every or branch >= size.steps - size.every:
        raise PlanError(f"{name!r} begins at no checkpoint: these lie every {size.every} steps, the end excluded.")
    overlap, rate = int(found["overlap"] or 0) / 100, int(found["rate"] or 100) / 100
    return Arm(name, found["size"], int(found["seed"]), found["features"], count, branch, overlap, rate)
