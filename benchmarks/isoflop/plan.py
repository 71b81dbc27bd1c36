"""What the study trains: sizes of networks, and arms that a name on the command line spells out.

An arm is one model (`small-s0`: size, seed) or experts (`small-text4-b1000-o20-s0`: size, features and number of the
clusters, the step of the one model that experts begin from (b0: from nothing), the share of an expert's samples that
come from anywhere (left out: none), seed). Every arm of a size sees as many samples: experts share each step's batch
(Decentralized Diffusion Models, arXiv 2501.05450, section 4), and what they begin from counts as theirs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from paris.models.dit import DiT
from paris.models.recipe import Recipe
from paris.models.router import Router

LATENTS = {"channels": 8, "height": 8, "patch": 2}
TEXT_DIM = 384
BATCH = 160
"""Divided by 2, 4, 5 and 8 experts without rest."""

LEARNING_RATE = 4e-3
"""The best of 1e-3, 2e-3 and 4e-3 for one model, in a first trial of 500 steps."""

FEATURES = ("text", "visual", "both", "style", "random")
ROUTER_STEPS = 200
ROUTER = {"width": 32, "depth": 1, "heads": 1}
_NAME = re.compile(
    r"(?P<size>[a-z]+)(?:-(?P<features>[a-z]+)(?P<count>\d+)-b(?P<branch>\d+)(?:-o(?P<overlap>\d+))?)?-s(?P<seed>\d+)"
)


class PlanError(ValueError):
    """An arm cannot be trained as it was named."""


@dataclass(frozen=True)
class Size:
    """One size of expert and monolith.

    Attributes:
        width, depth, heads: of the DiT, with one modulation a block and the mean text token added to the time.
        steps: of the one model.
        every: steps between two checkpoints.
    """

    width: int
    depth: int
    heads: int
    steps: int
    every: int = 500

    def network(self) -> DiT:
        """Return the untrained network."""
        sizes = {"width": self.width, "depth": self.depth, "heads": self.heads}
        return DiT(**LATENTS, **sizes, text_dim=TEXT_DIM, modulation="per-block", text="pooled")


SIZES = {
    "micro": Size(32, 1, 1, steps=12, every=4),
    "nano": Size(32, 1, 1, steps=4000),
    "small": Size(64, 2, 2, steps=2500),
    "large": Size(96, 3, 3, steps=2500),
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
        return BATCH // self.count

    @property
    def base(self) -> str:
        """Name of the arm that these experts begin from."""
        return f"{self.size}-s{self.seed}"

    @property
    def clustering(self) -> str:
        """Name of the clusters, as in the arm's own."""
        return f"{self.features}{self.count}"

    def recipe(self) -> Recipe:
        """Return how each unit is trained: alike in every arm but for the batch."""
        return Recipe(
            steps=self.steps,
            batch=self.batch,
            lr=LEARNING_RATE,
            warmup_steps=100,
            ema=0.998,
            weight_decay=0.01,
            text_dropout=0.1,
            precision="fp32",
            schedule="constant",
            seed=self.seed,
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
    if found["features"] not in FEATURES or count < 2 or BATCH % count:
        raise PlanError(
            f"The clusters of {name!r} cannot be made: features are {', '.join(FEATURES)}, and a batch of {BATCH} has "
            "to be divisible by their number."
        )
    if branch % size.every or branch >= size.steps - size.every:
        raise PlanError(f"{name!r} begins at no checkpoint: these lie every {size.every} steps, the end excluded.")
    overlap = int(found["overlap"] or 0) / 100
    return Arm(name, found["size"], int(found["seed"]), found["features"], count, branch, overlap)


def router_of(count: int, *, blind: bool) -> Router:
    """Return an untrained router of so many clusters, which a blind one tells apart without text."""
    return Router(**LATENTS, **ROUTER, clusters=count, text_dim=0 if blind else TEXT_DIM)


def router_recipe() -> Recipe:
    """Return how a router is trained."""
    return Recipe(
        steps=ROUTER_STEPS,
        batch=BATCH,
        lr=1e-3,
        warmup_steps=30,
        ema=0.98,
        weight_decay=0.01,
        precision="fp32",
    )
