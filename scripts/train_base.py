"""Train the package's base expert: one `tiny` DiT on all training pictures of the sample, from which experts may start.

Usage: python scripts/train_base.py OUT_DIR --autoencoder models/weights/autoencoder [--minutes 65] [--threads 2]

The trainer is that of the network (paris.models), through its own cache. Pictures of groups where left and right carry
no meaning are seen mirrored too. Exports config.json and diffusion_pytorch_model.safetensors (averaged weights, bf16)
every few minutes, with base.json saying how they were made.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageOps
from sample_pictures import SAMPLE, is_holdout

from paris.models.cache import LatentCache, ingest
from paris.models.dit import DiT
from paris.models.files import write_json
from paris.models.latents import open_codec
from paris.models.objectives import VelocityObjective
from paris.models.presets import PRESETS
from paris.models.recipe import DECAY_SHARE, Recipe
from paris.models.text import open_text_encoder
from paris.models.training import Trainer

PRESET = PRESETS["tiny"]
UNMIRRORED_GROUPS = frozenset({"symbols", "flags"})
HOLDOUT_SAMPLES = 800
EXPORT_EVERY_S = 300.0
PLENTY_OF_STEPS = 10_000_000


def mirrored(picture: bytes) -> bytes:
    out = io.BytesIO()
    ImageOps.mirror(Image.open(io.BytesIO(picture)).convert("RGB")).save(out, "WEBP", lossless=True)
    return out.getvalue()


def write_shards(folder: Path) -> tuple[Path, Path]:
    """Split the sample by codepoint into one training and one hold-out shard."""
    paths = folder / "train.tar", folder / "holdout.tar"
    with tarfile.open(paths[0], "w") as train, tarfile.open(paths[1], "w") as holdout:
        for source in sorted(SAMPLE.glob("*.tar.gz")):
            with tarfile.open(source) as tar:
                members = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
            for name in sorted(n for n in members if n.endswith(".json")):
                meta, key = json.loads(members[name]), name[:-5]
                held = is_holdout(meta["codepoint"])
                pictures = {key: members[f"{key}.webp"]}
                if not held and meta["group"] not in UNMIRRORED_GROUPS:
                    pictures[f"{key}-mirrored"] = mirrored(members[f"{key}.webp"])
                for new_key, picture in pictures.items():
                    add_sample(holdout if held else train, new_key, members[name], picture)
    return paths


def add_sample(tar: tarfile.TarFile, key: str, meta: bytes, picture: bytes) -> None:
    for suffix, data in (("json", meta), ("webp", picture)):
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def open_caches(folder: Path, autoencoder: Path) -> tuple[LatentCache, LatentCache]:
    """Ingest both shards, unless an earlier run did."""
    caches = folder / "train.safetensors", folder / "holdout.safetensors"
    if not all(path.exists() for path in caches):
        codec, text = open_codec(PRESET.codec, autoencoder), open_text_encoder("minilm", "minilm", PRESET.text_tokens)
        for shard, cache in zip(write_shards(folder), caches, strict=True):
            ingest([shard], codec, text, cache, picture_px=PRESET.picture_px)
    return LatentCache.open(caches[0]), LatentCache.open(caches[1])


def train(out_dir: Path, autoencoder: Path, minutes: float, batch: int, lr: float, threads: int) -> None:
    out_dir.mkdir(parents=True, exist_ok=True)
    cache, holdout = open_caches(out_dir, autoencoder)
    recipe = Recipe(steps=PLENTY_OF_STEPS, batch=batch, lr=lr, warmup_steps=300, ema=0.9995, weight_decay=0.01)
    torch.manual_seed(0)
    trainer = Trainer(DiT(**PRESET.expert), VelocityObjective(), cache, recipe, ("base", "base"), threads=threads)
    start_s, losses = time.monotonic(), [0.0]

    def elapsed_s() -> float:
        return time.monotonic() - start_s

    def export(seconds: float) -> None:
        holdout_loss = trainer.evaluate(holdout, HOLDOUT_SAMPLES)
        rate = trainer.step * batch / seconds
        print(
            f"{seconds:6.0f} s  step {trainer.step}  {rate:.0f}/s  loss {losses[-1]:.4f}  hold-out {holdout_loss:.4f}",
            flush=True,
        )
        trainer.export(out_dir)
        trainer.save(out_dir / "state")
        about = {
            "preset": PRESET.name,
            "data": "the packaged emoji sample, training split, mirrored where left and right carry no meaning",
            "pictures": len(cache),
            "steps": trainer.step,
            "samples_seen": trainer.step * batch,
            "seconds": round(seconds),
            "threads": threads,
            "recipe": {"batch": batch, "lr": lr, "ema": recipe.ema, "weight_decay": recipe.weight_decay},
            "holdout_loss": round(holdout_loss, 4),
            "script": "scripts/train_base.py",
        }
        write_json(about, out_dir / "base.json")

    def train_for(until_s: float) -> None:
        deadlines = [elapsed_s() + EXPORT_EVERY_S]
        while elapsed_s() < until_s and trainer.step < trainer.recipe.steps:
            pause_s = min(deadlines[-1], until_s)
            trainer.train(trainer.recipe.steps, lambda _, loss: losses.append(loss), lambda: elapsed_s() > pause_s)
            export(elapsed_s())
            deadlines.append(elapsed_s() + EXPORT_EVERY_S)

    train_for(minutes * 60 * (1 - DECAY_SHARE))
    trainer.recipe = replace(recipe, steps=round(trainer.step / (1 - DECAY_SHARE)))
    train_for(minutes * 60 * 1.1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--autoencoder", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=65)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    train(args.out_dir, args.autoencoder, args.minutes, args.batch, args.lr, args.threads)
