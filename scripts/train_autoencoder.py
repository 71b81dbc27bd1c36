"""Train the small autoencoder of the package: 32x32 RGB <-> 8x8x8 latents, diffusers' AutoencoderTiny.

Usage: python scripts/train_autoencoder.py OUT_DIR [--minutes 25]

Only pictures of the training split are seen. Latents get Gaussian noise while training, so that the decoder forgives
the small errors a diffusion model leaves; the scaling factor written to the config gives them unit deviation.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from sample_pictures import load_split
from torch.nn import functional

LATENT_NOISE = 0.1
BATCH = 64


def build() -> AutoencoderTiny:
    """Return the untrained network: two halvings, 8 latent channels, about 0.65 M parameters."""
    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(48, 48, 48),
        num_encoder_blocks=(1, 2, 2),
        num_decoder_blocks=(3, 3, 1),
        latent_channels=8,
        upsampling_scaling_factor=2,
    )


def edge_loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of horizontal and vertical gradients: keeps outlines sharp."""
    dx = (a.diff(dim=-1) - b.diff(dim=-1)).abs().mean()
    dy = (a.diff(dim=-2) - b.diff(dim=-2)).abs().mean()
    return dx + dy


def psnr_db(model: AutoencoderTiny, pictures: torch.Tensor) -> float:
    """Peak signal-to-noise ratio of reconstructions of pictures in [-1, 1]."""
    with torch.no_grad():
        out = torch.cat([model.decode(model.encode(x).latents).sample.clamp(-1, 1) for x in pictures.split(256)])
    return float(-10 * torch.log10(((out - pictures) / 2).square().mean()))


def train(out_dir: Path, minutes: float) -> None:
    torch.manual_seed(0)
    pictures, holdout = load_split()
    model = build().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4, betas=(0.9, 0.99))
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.998))
    start, step = time.monotonic(), 0
    while (elapsed_s := time.monotonic() - start) < minutes * 60:
        left = 1 - elapsed_s / (minutes * 60)
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, step / 200, left / 0.5 + 0.01)
        x = pictures[torch.randint(len(pictures), (BATCH,))]
        if step % 2:
            x = x.flip(-1)
        with torch.autocast("cpu", torch.bfloat16):
            z = model.encode(x).latents
            y = model.decode(z + LATENT_NOISE * torch.randn_like(z)).sample.float()
        z = z.float()
        spread = (z.std(dim=0).mean() - 1).square() + z.mean().square()
        loss = functional.l1_loss(y, x) + functional.mse_loss(y, x) + 0.5 * edge_loss(y, x) + 0.01 * spread
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.update_parameters(model)
        step += 1
        if step % 200 == 0:
            print(
                f"{elapsed_s:6.0f} s  step {step}  loss {loss.item():.4f}  hold-out {psnr_db(model, holdout):.2f} dB",
                flush=True,
            )
    best: AutoencoderTiny = ema.module
    with torch.no_grad():
        latents = torch.cat([best.encode(x).latents for x in pictures.split(256)])
    best.register_to_config(scaling_factor=round(float(1 / latents.std()), 4))
    best.to(memory_format=torch.contiguous_format).save_pretrained(out_dir)
    print(f"hold-out {psnr_db(best, holdout):.2f} dB, latent deviation {latents.std():.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--minutes", type=float, default=25)
    arguments = parser.parse_args()
    train(arguments.out_dir, arguments.minutes)
