"""Pictures or clips an arm draws of the test captions, all from the same noise, and how they compare with real ones.

Wherever it says C H W, a clip has its frames too: C F H W.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.isoflop.data import PRESET, TEST, TRAIN, Pictures
from benchmarks.isoflop.measure import ROUTINGS, router_in, unit_folders
from benchmarks.isoflop.plan import Arm
from benchmarks.isoflop.shown import Retrieval, features, frechet, kernel_distance, motion
from benchmarks.isoflop.switching import switch_of
from benchmarks.isoflop.train import checkpoint, router_folder
from paris.models.conversion import Prediction
from paris.models.ensemble import Ensemble
from paris.models.randomness import Stream
from paris.models.routing import Routing
from paris.models.sampling import sample
from paris.models.schedulers import make_scheduler
from paris.models.videocodec import open_codec_of
from paris.node.grid import captioned_grid, contact_sheet
from paris.registry.features import Vectors

STEPS = 20
GUIDANCE = 2.0
BATCH = 163
SHEET = 14
SHEET_CLIPS = 8


def test_pictures(pictures: Pictures) -> Tensor:
    """Return the numbers of all test pictures, in the order in which they are drawn and judged."""
    return (pictures.split_P == TEST).nonzero().flatten()


def ensemble_of(arm: Arm, step: int, way: str, out: Path) -> Ensemble:
    """Return an arm's units at a step as others would use them; one model is an ensemble of one.

    Args:
        arm: one model or experts.
        step: of the units' checkpoints.
        way: of mixing experts: one of `ROUTINGS`, or a pair of `switching.pairs`.
        out: where the weights are.
    """
    units = [checkpoint(unit, step) for unit in unit_folders(arm, out)]
    predictions = [Prediction(arm.recipe().objective)] * arm.count
    if not arm.features:
        return Ensemble(units, arm.router(blind=True), ROUTINGS["full"], predictions=predictions)
    if switch := switch_of(way, arm):
        return Ensemble(units, switch, Routing("top-k", 1), predictions=predictions)
    router = router_in(router_folder(out, arm.clustering, blind=False))
    result = json.loads((out / "results" / f"{arm.name}.json").read_text(encoding="utf-8"))
    temperature = result["routers"]["text"]["temperature"]
    return Ensemble(units, router, ROUTINGS[way], predictions=predictions, router_temperature=temperature)


def draw(ensemble: Ensemble, pictures: Pictures, wanted: Tensor, turn: int = 0) -> Tensor:
    """Return pictures (N, 3, H, W), uint8, of these pictures' captions; each one's noise is its own, in every turn."""
    shape, drawn = tuple(pictures.latents_VCHW.shape[1:]), []
    codec = open_codec_of(shape, PRESET.codec)
    for part in wanted.split(BATCH):
        text = pictures.texts.select(pictures.text_P[part])
        null = pictures.texts.select(torch.zeros_like(part))
        latents, _ = sample(
            ensemble,
            text,
            null,
            shape,
            make_scheduler("euler"),
            steps=STEPS,
            guidance=GUIDANCE,
            seeds=(part + turn * len(pictures.captions)).tolist(),
        )
        drawn.append(((codec.decode(latents) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(drawn)


def judged(turns: Sequence[Tensor], pictures: Pictures, shown_PF: Vectors, weights: str | None) -> dict[str, Any]:
    """Return what is told of drawings of all test captions: the mean over the turns, and each."""
    return _over([_apart(features(drawn, weights), drawn, pictures, shown_PF) for drawn in turns])


def clean_floor(pictures: Pictures, shown_PF: Vectors, turns: int) -> dict[str, Any]:
    """Return the same of real pictures: as many training pictures by distance, the test pictures by the rest."""
    test = test_pictures(pictures)
    train = (pictures.split_P == TRAIN).nonzero().flatten().numpy()
    order: NDArray[np.int64] = Stream.of("isoflop", "clean floor").at(0).permutation(train)
    parts = [order[turn * len(test) :][: len(test)] for turn in range(turns)]
    apart = _over([_apart(shown_PF[part], pictures.pixels_P3HW[part], pictures, shown_PF) for part in parts])
    own = _apart(shown_PF[test.numpy()], pictures.pixels_P3HW[test], pictures, shown_PF)
    return {**apart, **{name: own[name] for name in ("retrieval", "motion") if name in own}}


def sheet(drawn: Tensor, captions: Sequence[str]) -> Image.Image:
    """Lay some of what was drawn out with captions: pictures in two rows, clips in one row each."""
    shown = SHEET if drawn.ndim == 4 else SHEET_CLIPS
    chosen = range(0, len(captions), len(captions) // shown)[:shown]
    some = [captions[number] for number in chosen]
    if drawn.ndim == 4:
        return captioned_grid([_image(drawn[number]) for number in chosen], some, SHEET // 2)
    return contact_sheet([[_image(frame) for frame in drawn[number].unbind(1)] for number in chosen], some)


def _image(pixels_3HW: Tensor) -> Image.Image:
    return Image.fromarray(pixels_3HW.permute(1, 2, 0).numpy())


def _apart(shown_NF: Vectors, pixels: Tensor, pictures: Pictures, shown_PF: Vectors) -> dict[str, Any]:
    real_NF = shown_PF[test_pictures(pictures).numpy()]
    told = {
        "n": len(shown_NF),
        "frechet": round(frechet(shown_NF, real_NF), 4),
        "kernel": round(kernel_distance(shown_NF, real_NF), 4),
        "retrieval": round(Retrieval(pictures, shown_PF).accuracy(shown_NF), 4),
    }
    return told if pixels.ndim == 4 else {**told, "motion": round(motion(pixels), 4)}


def _over(turns: list[dict[str, Any]]) -> dict[str, Any]:
    means = {name: round(mean(turn[name] for turn in turns), 4) for name in turns[0]}
    return means if len(turns) == 1 else {**means, "turns": turns}
