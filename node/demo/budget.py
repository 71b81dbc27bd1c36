"""How many steps fit into the minutes given, on this machine as it is now: measured, then signed as the recipe."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from paris.models.conditions import asked
from paris.models.kinds import expert_of, router_of
from paris.models.precision import affordable, autocast
from paris.models.text import TextBatch
from paris.models.video_presets import EVERY_PRESET
from paris.node.demo.scenes import Scene
from paris.protocol.records import Recipe
from paris.registry.recipes import PLANS, Plan

OVERHEAD_S = 210.0
EFFICIENCY = 0.8
ROUTER_SHARE = 0.15
PROBE_STEPS = 6
CHECKPOINTS = 5
OVERTIME = 2.0
LEAST_TRAINING_S = 60.0


@dataclass(frozen=True)
class Budget:
    """What was measured and what follows from it.

    Attributes:
        samples_per_s: Of all contributors together.
        threads: Of each contributor.
        plan: Recipes and lease of the run.
    """

    samples_per_s: float
    threads: int
    plan: Plan


def plan_for(scene: Scene, minutes: float, clusters: int, peers: int) -> Budget:
    """Measure this machine and plan a run that ends within the minutes.

    Args:
        scene: What is trained.
        minutes: For the whole demo; about three and a half of them go to everything but training.
        clusters: K experts that share this machine.
        peers: Contributors that share its cores.
    """
    cores = len(os.sched_getaffinity(0))
    threads, share = shared_out(cores, peers)
    rate = _samples_per_s(scene, cores) * share
    return Budget(rate, threads, plan_at(scene, rate, minutes, clusters))


def shared_out(cores: int, peers: int) -> tuple[int, float]:
    """Threads of each contributor, and the share of the cores that all of them use together."""
    threads = max(1, cores // peers)
    return threads, min(1.0, peers * threads / cores)


def longest_s(minutes: float) -> float:
    """Time after which something must be wrong; few minutes do not shorten what every demo needs."""
    return OVERTIME * max(minutes * 60, OVERHEAD_S + LEAST_TRAINING_S)


def plan_at(scene: Scene, rate: float, minutes: float, clusters: int) -> Plan:
    """The plan for a machine that trains `rate` samples a second."""
    training_s = max(20.0, minutes * 60 - OVERHEAD_S) * EFFICIENCY
    steps = max(20, int(training_s * (1 - ROUTER_SHARE) * rate / (clusters * scene.batch)))
    router_rate = ROUTER_SHARE * rate * _router_speedup(scene)
    router_steps = max(60, min(scene.most_router_steps, int(training_s * router_rate / scene.batch)))
    plan = PLANS[scene.preset]
    expert = _sized(
        plan.expert,
        {"steps": steps, "batch": scene.batch, "lr": scene.lr, "warmup_steps": min(20, steps // 5), "ema": "0.99"},
    )
    router = _sized(
        plan.router, {"steps": router_steps, "batch": scene.batch, "warmup_steps": min(30, router_steps // 5)}
    )
    return replace(plan, expert=expert, router=router, life_s=30, settle_s=3, progress_s=240, replicas=2)


def _sized(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    publish_every = max(1, -(-changes["steps"] // CHECKPOINTS))
    return Recipe.parse({**recipe.model_dump(mode="json"), **changes, "publish_every": publish_every})


def _samples_per_s(scene: Scene, threads: int) -> float:
    """Training speed of one expert, in bf16 where this machine has units for it."""
    torch.set_num_threads(threads)
    preset, precision = EVERY_PRESET[scene.preset], affordable("bf16", torch.device("cpu"))
    network = expert_of(preset.expert)(**preset.expert)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    batch, width = scene.batch, preset.expert["text_dim"]
    mask = torch.ones(batch, preset.text_tokens, dtype=torch.bool)
    text = TextBatch(torch.randn(batch, preset.text_tokens, width), mask, torch.randn(batch, width))
    latents = torch.randn(batch, *preset.shape)
    inputs = (latents, torch.rand(batch), *asked(latents, text))
    start = 0.0
    for step in range(PROBE_STEPS + 2):
        if step == 2:
            start = time.perf_counter()
        with autocast(torch.device("cpu"), precision):
            loss = network(*inputs).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return PROBE_STEPS * batch / (time.perf_counter() - start)


def _router_speedup(scene: Scene) -> float:
    """How much faster a router sample is than an expert sample, from their parameter counts."""
    expert, router = EVERY_PRESET[scene.preset].expert, EVERY_PRESET[scene.preset].router
    with torch.device("meta"):
        ratio = _size(expert_of(expert)(**expert)) / _size(router_of(router)(**router, clusters=2))
    return math.sqrt(ratio)


def _size(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
