"""Training and sampling beside bare PyTorch loops over the same networks."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from benchmarks.measure import Row, compare
from paris.models.cache import LatentCache
from paris.models.dit import DiT
from paris.models.ensemble import Ensemble
from paris.models.objectives import VelocityObjective
from paris.models.presets import PRESETS, Preset
from paris.models.recipe import Recipe
from paris.models.router import Router
from paris.models.routing import Routing
from paris.models.text import TextBatch
from paris.models.training import BETAS, EPSILON, Trainer

Network = TypeVar("Network", bound=torch.nn.Module)
EXPERTS = 4
GUIDANCE = 3.0
THREADS = 1
CLIP, EMA = 1.0, 0.999


def run(*, quick: bool) -> list[Row]:
    """Measure everything of this module, on one thread: two that wait for each other measure the neighbours' load."""
    preset = PRESETS["micro" if quick else "tiny"]
    with _threads(THREADS), tempfile.TemporaryDirectory() as folder:
        return [
            *training(preset, batch=2 if quick else 64, steps=1 if quick else 4, repeats=1 if quick else 5),
            *sampling(preset, pictures=2 if quick else 16, repeats=1 if quick else 5),
            checkpoint(preset, Path(folder), repeats=1 if quick else 5),
        ]


def training(preset: Preset, batch: int, steps: int, repeats: int) -> list[Row]:
    """`Trainer` beside two bare loops: the least that trains, and one that clips and averages as the recipe asks."""
    torch.manual_seed(1)
    network, cache = DiT(**preset.expert), _cache(preset, 4 * batch)
    trainer = Trainer(
        copy.deepcopy(network), VelocityObjective(), cache, _recipe(batch), ("benchmark",), threads=THREADS
    )

    def train() -> None:
        trainer.train(trainer.step + steps)

    shared: dict[str, Any] = {"work": steps * batch, "unit": "images", "repeats": repeats}
    note = f"preset {preset.name}, batch {batch}, bf16 autocast, fused AdamW, {THREADS} thread, in-memory batches"
    return [
        compare(
            "train an expert",
            train,
            _bare_loop(copy.deepcopy(network), cache, batch, steps, careful=False),
            against="bare loop: forward, backward, AdamW",
            target=0.9,
            note=note,
            **shared,
        ),
        compare(
            "train an expert",
            train,
            _bare_loop(copy.deepcopy(network), cache, batch, steps, careful=True),
            against="bare loop that also clips and averages",
            note=note,
            **shared,
        ),
    ]


def sampling(preset: Preset, pictures: int, repeats: int) -> list[Row]:
    """One guided step of the ensemble beside as many bare passes over the whole batch, and the router's."""
    torch.manual_seed(2)
    experts = [_random(DiT(**preset.expert)) for _ in range(EXPERTS)]
    router = _random(Router(**preset.router, clusters=EXPERTS))
    x, t_B = torch.randn(pictures, *preset.shape), torch.rand(pictures)
    text, null = _text(preset, pictures), _text(preset, pictures)
    rows = []
    for strategy, k in (("top-k", 1), ("top-k", 2), ("full", EXPERTS)):
        ensemble = Ensemble(experts, router, Routing(strategy, k))
        used = len(ensemble.weights(x, t_B, text).sum(0).nonzero())
        rows.append(
            compare(
                f"sampling step, {f'top-{k}' if strategy == 'top-k' else 'all experts'}",
                partial(ensemble.velocity, x, t_B, text, null, GUIDANCE),
                partial(_bare_step, experts[:k], router, x, t_B, text, null),
                against=f"{k} bare passes + router",
                work=pictures,
                unit="images",
                target=0.95,
                repeats=repeats,
                note=f"preset {preset.name}, {pictures} pictures spread over {used} of {EXPERTS} experts, guided, fp32",
            )
        )
    return rows


def checkpoint(preset: Preset, folder: Path, repeats: int) -> Row:
    """A whole training state on disk beside the same tensors written plainly."""
    batch = 2
    trainer = Trainer(DiT(**preset.expert), VelocityObjective(), _cache(preset, 4), _recipe(batch), ("benchmark",))
    trainer.train(1)
    moments = [
        trainer.optimizer.state[p][name] for p in trainer.parameters.values() for name in ("exp_avg", "exp_avg_sq")
    ]
    tensors = dict(enumerate([*(p.detach() for p in trainer.parameters.values()), *trainer.average.values(), *moments]))
    plain = {str(number): tensor.contiguous() for number, tensor in tensors.items()}

    def write_plainly() -> None:
        path = folder / "plain.safetensors"
        save_file(plain, path)
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    size_bytes = sum(tensor.nbytes for tensor in plain.values())
    return compare(
        "save a training state: checked, atomic",
        lambda: trainer.save(folder / "state"),
        write_plainly,
        against="safetensors save_file + fsync",
        work=size_bytes / 1e6,
        unit="MB",
        repeats=repeats,
        note=f"preset {preset.name}: weights, average and both moments, {size_bytes / 1e6:.0f} MB",
    )


def _bare_loop(network: DiT, cache: LatentCache, batch: int, steps: int, *, careful: bool) -> Callable[[], None]:
    """A loop as one would write it in a notebook, over tensors that are in memory already."""
    optimizer = torch.optim.AdamW(network.train().parameters(), lr=1e-4, betas=BETAS, eps=EPSILON, fused=True)
    parameters = list(network.parameters())
    average = [p.detach().clone() for p in parameters]
    latents, texts = cache.latents_NCHW.float(), cache.texts.select(cache.text_index_N)
    tokens, mask = texts.tokens_BLE.float(), texts.mask_BL

    def one_step() -> None:
        rows = torch.randint(len(latents), (batch,))
        x0, noise, t = latents[rows], torch.randn(batch, *latents.shape[1:]), torch.rand(batch)
        weight = t[:, None, None, None]
        with torch.autocast("cpu", torch.bfloat16):
            v = network((1 - weight) * x0 + weight * noise, t, tokens[rows], mask[rows])
            loss = functional.mse_loss(v.float(), noise - x0)
        loss.backward()
        if careful:
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if careful:
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - EMA)

    def loop() -> None:
        for _ in range(steps):
            one_step()

    return loop


@torch.no_grad()
def _bare_step(experts: list[DiT], router: Router, x: Tensor, t_B: Tensor, text: TextBatch, null: TextBatch) -> None:
    router(x, t_B, text.pooled_BE).softmax(-1)
    tokens, mask = torch.cat([text.tokens_BLE, null.tokens_BLE]), torch.cat([text.mask_BL, null.mask_BL])
    for expert in experts:
        expert(x.repeat(2, 1, 1, 1), t_B.repeat(2), tokens, mask)


def _cache(preset: Preset, samples: int) -> LatentCache:
    """Random data in the shape and types of a real cache, in memory."""
    texts = _text(preset, samples + 1)
    halves = TextBatch(texts.tokens_BLE.half(), texts.mask_BL, texts.pooled_BE.half())
    latents = torch.randn(samples, *preset.shape).half()
    return LatentCache(latents, torch.arange(samples) + 1, torch.zeros(samples, dtype=torch.int64), halves)


def _text(preset: Preset, count: int) -> TextBatch:
    tokens, dim = preset.text_tokens, preset.expert["text_dim"]
    mask = torch.arange(tokens).expand(count, tokens) < 1 + torch.arange(count)[:, None] % tokens
    return TextBatch(torch.randn(count, tokens, dim) * mask[..., None], mask, torch.randn(count, dim))


def _recipe(batch: int) -> Recipe:
    return Recipe(steps=1_000_000, batch=batch, lr=1e-4, ema=EMA, grad_clip=CLIP, precision="bf16")


def _random(network: Network) -> Network:
    """Fill every parameter: a new network's zero head would send all pictures to one expert."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.08)
    return network.eval()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
