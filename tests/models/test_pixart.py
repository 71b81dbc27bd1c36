"""Experts with PixArt's wiring: they train as others do, and are what diffusers' own class computes."""

from __future__ import annotations

import pytest
import torch

from paris.models.dit import DiT
from paris.models.objectives import VelocityObjective
from paris.models.presets import PRESETS
from paris.models.recipe import Recipe
from paris.models.training import Trainer

PIXART = {**PRESETS["micro"].expert, "positions": "sinusoidal", "text_layers": 2}


def trainer_on(cache, precision: str, seed: int = 0, steps: int = 40) -> Trainer:
    torch.manual_seed(seed)
    recipe = Recipe(steps=steps, batch=7, lr=3e-3, warmup_steps=3, ema=0.9, seed=5, precision=precision)
    return Trainer(DiT(**PIXART), VelocityObjective(), cache, recipe, ("run", "cluster-0"), threads=1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_pixarts_wiring_learns_and_resumes_exactly(tmp_path, cache, precision):
    whole = trainer_on(cache, precision)
    before = whole.evaluate(cache, 48)
    whole.train(20)
    whole.save(tmp_path)
    whole.train(40)
    assert whole.evaluate(cache, 48) < 0.8 * before
    resumed = trainer_on(cache, precision, seed=3)
    resumed.load(tmp_path)
    resumed.train(40)
    assert all(torch.equal(mine, resumed.parameters[name]) for name, mine in whole.parameters.items())
