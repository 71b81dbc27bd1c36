"""Ways to train a network of one size on the same data: ours, a bare loop, and diffusers' models in diffusers' style.

`python -m benchmarks.contenders NAME PRESET BATCH` takes two steps in a process of its own and prints how far they
raised its peak memory, in bytes: what a step needs is only seen where nothing else was before.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, DiTTransformer2DModel, PixArtTransformer2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from paris.models.cache import LatentCache
from paris.models.conditions import asked, beside
from paris.models.flops import matmul_flops_per_s, shape_of, training_flops
from paris.models.kinds import expert_of
from paris.models.objectives import VelocityObjective
from paris.models.optimiser import BETAS, EPSILON
from paris.models.precision import DTYPES, affordable, autocast
from paris.models.presets import Preset
from paris.models.recipe import Recipe
from paris.models.text import TextBatch
from paris.models.training import Trainer
from paris.models.video import TIME_SCALE, VideoExpert
from paris.models.video_presets import EVERY_PRESET

CLIP, EMA, RATE = 1.0, 0.999, 1e-4
CPU = torch.device("cpu")
PRECISION = affordable("bf16", CPU)
CLASSES = 1000


@dataclass(frozen=True)
class Contender:
    """Something that trains.

    Attributes:
        words: what it is.
        step: trains one batch.
        flops: of one image's forward and backward pass.
        parameters: of its network.
    """

    words: str
    step: Callable[[], object]
    flops: float
    parameters: int

    def mfu(self, images: int, seconds: float) -> float:
        """Its FLOPs over what bare matrix products of its dtype would have done in that time."""
        return images * self.flops / seconds / matmul_flops_per_s(CPU, DTYPES[PRECISION])


def ours(preset: Preset, batch: int) -> Contender:
    """`Trainer`, as a node uses it."""
    network, cache = _network(preset), random_cache(preset, 4 * batch)
    trainer = Trainer(network, VelocityObjective(), cache, _recipe(batch), ("benchmark",))
    return Contender("paris.models.Trainer", lambda: trainer.train(trainer.step + 1), *_size(network, preset))


def ours_without_text_tokens(preset: Preset, batch: int) -> Contender:
    """`Trainer` over our network in DiT's own wiring: one vector of text and no attention to it."""
    wiring = {"modulation": "per-block", "text": "pooled"}
    return replace(
        ours(replace(preset, expert={**preset.expert, **wiring}), batch), words="paris.models.Trainer, DiT's wiring"
    )


def bare(preset: Preset, batch: int, *, careful: bool = False) -> Contender:
    """The same network in a loop as one writes it in a notebook; a careful one clips and averages."""
    network, latents, texts = _network(preset).train(), *_loaded(preset, batch)
    ask, parameters = bare_call(network), list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=BETAS, eps=EPSILON, fused=True)
    average = [p.detach().clone() for p in parameters]

    def step() -> None:
        rows = torch.randint(len(latents), (batch,))
        x0, noise, t = latents[rows], torch.randn(batch, *preset.shape), torch.rand(batch)
        weight = t.view(-1, *[1] * len(preset.shape))
        with autocast(CPU, PRECISION):
            v = ask((1 - weight) * x0 + weight * noise, t, texts.select(rows))
            loss = functional.mse_loss(v.float(), noise - x0)
        loss.backward()
        if careful:
            torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if careful:
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - EMA)

    words = "bare loop that also clips and averages" if careful else "bare loop: forward, backward, AdamW"
    words += " over diffusers' class" if isinstance(network, VideoExpert) else ""
    return Contender(words, step, *_size(network, preset))


def bare_call(network: Any) -> Callable[[Tensor, Tensor, TextBatch], Tensor]:
    """How a notebook asks a network: ours of pictures as it is, of clips the diffusers class that lies in it."""
    if not isinstance(network, VideoExpert):
        return lambda x, t_B, text: network(x, t_B, *asked(x, text))
    kept = network.transformer
    return lambda x, t_B, text: kept(
        beside(x, None), TIME_SCALE * t_B, text.tokens_BLE, text.mask_BL, text.pooled_BE, return_dict=False
    )[0]


def pixart(preset: Preset, batch: int) -> Contender:
    """diffusers' text-conditional transformer of equal width and depth, trained as diffusers' examples do."""
    network = PixArtTransformer2DModel(**pixart_config(preset))
    latents, texts = _loaded(preset, batch)

    def predict(model: Any, noisy: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
        text = {"encoder_hidden_states": texts.tokens_BLE[rows], "encoder_attention_mask": texts.mask_BL[rows].long()}
        nothing = {"resolution": None, "aspect_ratio": None}
        return model(noisy, timestep=timesteps, added_cond_kwargs=nothing, return_dict=False, **text)[0]

    return _in_diffusers_style("diffusers PixArtTransformer2DModel", network, latents, batch, predict)


def dit(preset: Preset, batch: int) -> Contender:
    """diffusers' class-conditional transformer of equal width and depth: no text, and a modulation for every block."""
    config = preset.expert
    network = DiTTransformer2DModel(
        num_attention_heads=config["heads"],
        attention_head_dim=config["width"] // config["heads"],
        in_channels=config["channels"],
        num_layers=config["depth"],
        sample_size=config["height"],
        patch_size=config["patch"],
        num_embeds_ada_norm=CLASSES,
    )
    latents, _ = _loaded(preset, batch)

    def predict(model: Any, noisy: Tensor, timesteps: Tensor, rows: Tensor) -> Tensor:
        return model(noisy, timestep=timesteps, class_labels=rows % CLASSES, return_dict=False)[0]

    return _in_diffusers_style("diffusers DiTTransformer2DModel", network, latents, batch, predict)


CONTENDERS: dict[str, Callable[[Preset, int], Contender]] = {
    "ours": ours,
    "bare": bare,
    "careful": lambda preset, batch: bare(preset, batch, careful=True),
    "pixart": pixart,
    "dit": dit,
    "ours as dit": ours_without_text_tokens,
}
"""Ours first, then whom it is measured against; last ours again, as equal to diffusers' DiT as it gets."""

OF_CLIPS = ("ours", "bare", "careful")
"""Those that train networks of clips too."""


def pixart_config(preset: Preset) -> dict[str, Any]:
    """Return diffusers' settings for a PixArt of a preset's width and depth."""
    config = preset.expert
    return {
        "num_attention_heads": config["heads"],
        "attention_head_dim": config["width"] // config["heads"],
        "in_channels": config["channels"],
        "out_channels": config["channels"],
        "num_layers": config["depth"],
        "cross_attention_dim": config["width"],
        "sample_size": config["height"],
        "patch_size": config["patch"],
        "caption_channels": config["text_dim"],
        "use_additional_conditions": False,
    }


def random_cache(preset: Preset, samples: int) -> LatentCache:
    """Random data in the shape and types of a real cache, in memory."""
    texts = random_text(preset, samples + 1)
    halves = TextBatch(texts.tokens_BLE.half(), texts.mask_BL, texts.pooled_BE.half())
    latents = torch.randn(samples, *preset.shape).half()
    return LatentCache(latents, torch.arange(samples) + 1, torch.zeros(samples, dtype=torch.int64), halves)


def random_text(preset: Preset, count: int) -> TextBatch:
    """Random captions of all lengths."""
    tokens, dim = preset.text_tokens, preset.expert["text_dim"]
    mask = torch.arange(tokens).expand(count, tokens) < 1 + torch.arange(count)[:, None] % tokens
    return TextBatch(torch.randn(count, tokens, dim) * mask[..., None], mask, torch.randn(count, dim))


def _in_diffusers_style(
    words: str, network: Any, latents: Tensor, batch: int, predict: Callable[..., Tensor]
) -> Contender:
    """The loop of diffusers' examples/text_to_image: DDPM noise, torch's usual AdamW, EMAModel, the loss each step."""
    noise_scheduler, network = DDPMScheduler(num_train_timesteps=1000), network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
    rates = get_scheduler("constant", optimizer=optimizer)
    average = EMAModel(network.parameters(), decay=EMA)
    losses = [0.0]

    def step() -> None:
        rows = torch.randint(len(latents), (batch,))
        x0 = latents[rows]
        noise = torch.randn_like(x0)
        timesteps = torch.randint(0, 1000, (batch,)).long()
        noisy = noise_scheduler.add_noise(x0, noise, timesteps)
        with autocast(CPU, PRECISION):
            answer = predict(network, noisy, timesteps, rows)
        loss = functional.mse_loss(answer.float(), noise.float(), reduction="mean")
        losses[0] = loss.repeat(batch).mean().item()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        average.step(network.parameters())

    one = torch.zeros(1, dtype=torch.int64)
    flops = _counted(lambda: predict(network, latents[:1], one, one))
    network.zero_grad()
    return Contender(words, step, flops, sum(p.numel() for p in network.parameters()))


def _counted(forward: Callable[[], Tensor]) -> float:
    """Count forward and backward; attention as the two products it is, which the counter does not know on a CPU."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        forward().sum().backward()
    return float(counter.get_total_flops())


def _network(preset: Preset) -> Any:
    torch.manual_seed(1)
    return expert_of(preset.expert)(**preset.expert)


def _size(network: Any, preset: Preset) -> tuple[float, int]:
    x = torch.zeros(1, *preset.shape)
    inputs = (x, torch.zeros(1), *asked(x, random_text(preset, 1)))
    return training_flops(type(network), network.config, shape_of(inputs)), sum(p.numel() for p in network.parameters())


def _loaded(preset: Preset, batch: int) -> tuple[Tensor, TextBatch]:
    """Latents and their captions in fp32, in memory: what a notebook would have."""
    cache = random_cache(preset, 4 * batch)
    texts = cache.texts.select(cache.text_index_N)
    return cache.latents_NCHW.float(), TextBatch(texts.tokens_BLE.float(), texts.mask_BL, texts.pooled_BE.float())


def _recipe(batch: int) -> Recipe:
    return Recipe(steps=1_000_000, batch=batch, lr=RATE, ema=EMA, grad_clip=CLIP, precision=PRECISION)


def main(name: str, preset: str, batch: str) -> None:
    """Print by how many bytes two steps raise this process's peak memory."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of importing
    before = _status_bytes("VmRSS")
    contender = CONTENDERS[name](EVERY_PRESET[preset], int(batch))
    for _ in range(2):
        contender.step()
    print(_status_bytes("VmHWM") - before)


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
