"""Pictures and clips: all that the study does otherwise for the one or the other, apart from what clips show.

Networks of clips predict data on the cosine schedule, as the packaged base of clips does: a patch over several frames
has more numbers than so small a network is wide, so the noise in it does not pass. The velocity that follows from data
x0 is wrong by the error of x0 over t, so what is trained on, and told, is t^2 times the velocity's squared error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.isoflop.data import TEST, TRAIN, VALIDATION

TEXT_DIM = 384


@dataclass(frozen=True)
class Medium:
    """One of the two.

    Attributes:
        name: "pictures" or "clips".
        data: where they come from unless a person says otherwise.
        frames: of a clip; None for pictures.
        latents: arguments that experts and routers have in common.
        wiring: arguments that all experts have in common.
        batch: samples of a step, divided among experts.
        lr: learning rate.
        objective: what experts predict.
        asked: samples of each split that errors are measured on, at most, and questions about each of them.
        drawings: of each test caption, from different noise.
    """

    name: str
    data: str
    frames: int | None
    latents: dict[str, Any]
    wiring: dict[str, Any]
    batch: int
    lr: float
    objective: str
    asked: dict[int, tuple[int, int]]
    drawings: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the latents, (C, H, W) or (C, F, H, W)."""
        side = self.latents["height"]
        return (self.latents["channels"], *([self.frames] if self.frames else []), side, side)

    def told(self, errors_L: Sequence[float]) -> list[float]:
        """Return the error that is trained on at each noise level, from the velocity's mean squared error there."""
        if self.objective == "velocity":
            return list(errors_L)
        return [((level + 0.5) / len(errors_L)) ** 2 * error for level, error in enumerate(errors_L)]


PICTURES = Medium(
    name="pictures",
    data="sample:emoji",
    frames=None,
    latents={"channels": 8, "height": 8, "patch": 2},
    wiring={"text_dim": TEXT_DIM, "modulation": "per-block", "text": "pooled"},
    batch=160,  # divided by 2, 4, 5 and 8 experts without rest
    lr=4e-3,  # the best of 1e-3, 2e-3 and 4e-3 for one model, in a first trial of 500 steps
    objective="velocity",
    asked={TRAIN: (600, 2), VALIDATION: (400, 3), TEST: (1000, 2)},
    drawings=1,
)
CLIPS = Medium(
    name="clips",
    data="sample:emoji-clips",
    frames=8,
    latents={"channels": 8, "height": 8, "frames": 8, "patch": 2, "patch_frames": 4},
    wiring={"text_dim": TEXT_DIM, "pooled_dim": TEXT_DIM, "refiners": 1},
    batch=48,  # divided by 2, 3 and 4 experts
    lr=4e-3,  # better than 2e-3 for one model, in a first trial of 40 steps of 96
    objective="ddpm-x0",
    asked={TRAIN: (200, 5), VALIDATION: (400, 10), TEST: (400, 10)},
    drawings=2,
)
