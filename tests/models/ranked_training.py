"""One of several processes that train one expert together: copied weights first (DDP), then sharded ones (FSDP2).

Usage: RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=... python ranked_training.py FOLDER
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from paris.models.cache import LatentCache
from paris.models.distributed import Ranks, joined
from paris.models.dit import DiT
from paris.models.objectives import VelocityObjective
from paris.models.presets import PRESETS
from paris.models.recipe import Recipe
from paris.models.text import TextBatch
from paris.models.training import Trainer

RECIPE = Recipe(steps=12, batch=8, lr=3e-3, warmup_steps=3, ema=0.9, weight_decay=0.01, seed=5, precision="fp32")


def small_cache() -> LatentCache:
    """Thirty random samples, the same in every process."""
    numbers = np.random.default_rng(3)
    latents = torch.from_numpy(numbers.standard_normal((30, 3, 32, 32), dtype=np.float32) * 0.5)
    tokens = torch.from_numpy(numbers.standard_normal((5, 16, 384), dtype=np.float32))
    texts = TextBatch(tokens.half(), torch.ones(5, 16, dtype=torch.bool), tokens.mean(1).half())
    return LatentCache(latents.half(), torch.arange(30) % 5, torch.zeros(30, dtype=torch.int64), texts)


def new_trainer(cache: LatentCache, ranks: Ranks, recipe: Recipe = RECIPE) -> Trainer:
    torch.manual_seed(0)
    network = DiT(**PRESETS["micro"].expert)
    return Trainer(network, VelocityObjective(), cache, recipe, ("run", "cluster-0"), threads=1, ranks=ranks)


def train_together(folder: Path, cache: LatentCache, ranks: Ranks) -> dict[str, object]:
    name = "sharded" if ranks.sharded else "copied"
    trainer = new_trainer(cache, ranks, replace(RECIPE, accumulate=2))
    trainer.fit_memory()
    reports = []
    trainer.train(6, reports.append)
    trainer.save(folder / name / "half")
    loss = trainer.evaluate(cache, 20)
    trainer.train(12, reports.append)
    trainer.save(folder / name / "whole")
    trainer.export(folder / name / "export")
    again = new_trainer(cache, ranks)
    again.load(folder / name / "half")
    again.train(12)
    again.save(folder / name / "resumed")
    taken_over = new_trainer(cache, ranks)
    taken_over.load(folder / "alone" / "half")
    taken_over.train(12)
    taken_over.save(folder / name / "taken-over")
    stopped = new_trainer(cache, ranks)
    stopped.train(12, stop=lambda: ranks.number == 1 and stopped.step >= 10)
    return {"evaluated": loss, "losses": [report.loss for report in reports], "stopped_at": stopped.step}


def main(folder: Path) -> None:
    cache, said = small_cache(), {}
    with joined() as ranks:
        for sharded in (False, True):
            said[str(sharded)] = train_together(folder, cache, replace(ranks, sharded=sharded))
        (folder / f"said-{ranks.number}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
