"""Pictures an arm draws of the test captions, all arms from the same noise, and how they compare with real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.isoflop.data import PRESET, TEST, TRAIN, Pictures
from benchmarks.isoflop.measure import unit_folders
from benchmarks.isoflop.plan import Arm, router_of
from benchmarks.isoflop.shown import Retrieval, features, frechet, kernel_distance
from benchmarks.isoflop.train import checkpoint, router_folder
from paris.models.ensemble import Ensemble
from paris.models.latents import open_codec
from paris.models.networks import load_network
from paris.models.randomness import Stream
from paris.models.router import Router
from paris.models.routing import Routing
from paris.models.sampling import sample
from paris.models.schedulers import make_scheduler
from paris.registry.features import Vectors

STEPS = 20
GUIDANCE = 2.0
BATCH = 163


def test_pictures(pictures: Pictures) -> Tensor:
    """Return the numbers of all test pictures, in the order in which they are drawn and judged."""
    return (pictures.split_P == TEST).nonzero().flatten()


def ensemble_of(arm: Arm, step: int, routing: Routing, out: Path) -> Ensemble:
    """Return an arm's units at a step as others would use them; one model is an ensemble of one."""
    units = [checkpoint(unit, step) for unit in unit_folders(arm, out)]
    if not arm.features:
        return Ensemble(units, router_of(1, blind=True), routing)
    router = load_network(Router, router_folder(out, arm.clustering, blind=False))
    result = json.loads((out / "results" / f"{arm.name}.json").read_text(encoding="utf-8"))
    return Ensemble(units, router, routing, router_temperature=result["routers"]["text"]["temperature"])


def draw(ensemble: Ensemble, pictures: Pictures, wanted: Tensor) -> Tensor:
    """Return pictures (N, 3, H, W), uint8, of these pictures' captions; each one's noise is its own."""
    codec, drawn = open_codec(PRESET.codec), []
    for part in wanted.split(BATCH):
        text = pictures.texts.select(pictures.text_P[part])
        null = pictures.texts.select(torch.zeros_like(part))
        latents, _ = sample(
            ensemble,
            text,
            null,
            PRESET.shape,
            make_scheduler("euler"),
            steps=STEPS,
            guidance=GUIDANCE,
            seeds=part.tolist(),
        )
        drawn.append(((codec.decode(latents) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(drawn)


def judged(drawn_N3HW: Tensor, pictures: Pictures, shown_PF: Vectors, weights: str | None) -> dict[str, Any]:
    """Return what is told of drawings of all test captions."""
    return _apart(features(drawn_N3HW, weights), pictures, shown_PF)


def clean_floor(pictures: Pictures, shown_PF: Vectors) -> dict[str, Any]:
    """Return the same of real pictures: as many training pictures by distance, the test pictures by retrieval."""
    test = test_pictures(pictures).numpy()
    train = (pictures.split_P == TRAIN).nonzero().flatten().numpy()
    chosen = Stream.of("isoflop", "clean floor").at(0).permutation(train)[: len(test)]
    apart = _apart(shown_PF[chosen], pictures, shown_PF)
    return {**apart, "retrieval": round(Retrieval(pictures, shown_PF).accuracy(shown_PF[test]), 4)}


def _apart(shown_NF: Vectors, pictures: Pictures, shown_PF: Vectors) -> dict[str, Any]:
    real_NF = shown_PF[test_pictures(pictures).numpy()]
    return {
        "n": len(shown_NF),
        "frechet": round(frechet(shown_NF, real_NF), 4),
        "kernel": round(kernel_distance(shown_NF, real_NF), 4),
        "retrieval": round(Retrieval(pictures, shown_PF).accuracy(shown_NF), 4),
    }
