"""How a run of each preset is trained unless its curator says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

from paris.protocol.records import Recipe


@dataclass(frozen=True)
class Plan:
    """A curator's choices that are not read off the data.

    Attributes:
        expert: Recipe of every expert.
        router: Recipe of the router.
        life_s: How long a claim lives unrenewed.
        settle_s: How long a claimant waits before it reads back.
        progress_s: How long claims can hold a unit without a checkpoint.
        replicas: Copies of each checkpoint beside the trainer's own.
    """

    expert: Recipe
    router: Recipe
    life_s: int = 900
    settle_s: int = 20
    progress_s: int = 21600
    replicas: int = 2


_EXPERT = {
    "warmup_steps": 100,
    "ema": "0.999",
    "weight_decay": "0.01",
    "text_dropout": "0.1",
    "grad_clip": "1.0",
    "seed": 0,
    "times": "logit-normal",
}
_CLIPS = {"first_frames": "0.25"}
# Noise hides less of 16 frames that say much the same: experts of clips learn, and draw, at more of it.
_MOVING = {**_CLIPS, "time_shift": "3"}
# A patch of video-tiny has as many numbers as its tokens are wide: noise does not pass, data do (arXiv 2511.13720).
_DATA = {**_CLIPS, "objective": "ddpm-x0", "times": "uniform"}
_ROUTER = {**_EXPERT, "ema": "0.995", "times": "uniform"}


def _recipe(shared: dict[str, object], steps: int, batch: int, lr: str, precision: str = "bf16") -> Recipe:
    publish_every = max(1, steps // 20)
    return Recipe.parse(
        {**shared, "steps": steps, "batch": batch, "lr": lr, "precision": precision, "publish_every": publish_every}
    )


PLANS: dict[str, Plan] = {
    "micro": Plan(_recipe(_EXPERT, 60, 8, "0.001", "fp32"), _recipe(_ROUTER, 60, 16, "0.002", "fp32")),
    "tiny": Plan(_recipe(_EXPERT, 20_000, 128, "0.0006"), _recipe(_ROUTER, 4_000, 128, "0.001")),
    "tiny-pixels": Plan(_recipe(_EXPERT, 40_000, 128, "0.0006"), _recipe(_ROUTER, 4_000, 128, "0.001")),
    "dit-s-2": Plan(_recipe(_EXPERT, 400_000, 256, "0.0001"), _recipe(_ROUTER, 100_000, 256, "0.0001")),
    "dit-b-2": Plan(_recipe(_EXPERT, 400_000, 256, "0.0001"), _recipe(_ROUTER, 100_000, 256, "0.0001")),
    "dit-b-2-pooled": Plan(_recipe(_EXPERT, 400_000, 256, "0.0001"), _recipe(_ROUTER, 100_000, 256, "0.0001")),
    "video-nano": Plan(
        _recipe(_EXPERT | _MOVING, 60, 8, "0.001", "fp32"), _recipe(_ROUTER | _CLIPS, 60, 16, "0.002", "fp32")
    ),
    "video-micro": Plan(
        _recipe(_EXPERT | _MOVING, 20_000, 32, "0.0006"), _recipe(_ROUTER | _CLIPS, 4_000, 64, "0.001")
    ),
    "video-tiny": Plan(_recipe(_EXPERT | _DATA, 20_000, 64, "0.0006"), _recipe(_ROUTER | _CLIPS, 4_000, 64, "0.001")),
    "dit-xl-2": Plan(_recipe(_EXPERT, 400_000, 256, "0.0001"), _recipe(_ROUTER, 100_000, 256, "0.0001")),
}
"""The default plan of every preset that has a text encoder here; the large ones take learning rate and batch from DDM
(arXiv 2501.05450). A quarter of the clips come with their first frame, so that experts learn image-to-video too."""
