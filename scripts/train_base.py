"""Train a base expert of the package, on all training samples of a packaged sample, from which experts may start.

Usage: python scripts/train_base.py OUT_DIR --autoencoder models/weights/autoencoder [--minutes 65] [--threads 2]
       python scripts/train_base.py OUT_DIR --autoencoder models/weights/autoencoder --preset video-tiny --threads 1
              --sample emoji-clips --objective ddpm-x0 --first-frames 0.25 --batch 32 --precision fp32 --minutes 45

The trainer is that of the network (paris.models), through its own cache. Samples of groups where left and right carry
no meaning are seen mirrored too. Exports config.json and diffusion_pytorch_model.safetensors (averaged weights, bf16)
every few minutes, with base.json saying how they were made, and the training state, from which a second call goes on.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from PIL import Image, ImageOps, ImageSequence
from sample_pictures import SAMPLE, is_holdout

from paris.models.cache import LatentCache
from paris.models.files import write_json
from paris.models.ingestion import ingest, picture_size
from paris.models.kinds import expert_of
from paris.models.objectives import expert_objective
from paris.models.presets import Preset
from paris.models.recipe import DECAY_SHARE, Recipe
from paris.models.text import open_text_encoder
from paris.models.training import Trainer
from paris.models.video_presets import EVERY_PRESET
from paris.models.videocodec import open_codec_of

UNMIRRORED_GROUPS = frozenset({"symbols", "flags"})
HOLDOUT_SAMPLES = 800
EXPORT_EVERY_S = 300.0
TOLD = ("batch", "lr", "ema", "weight_decay", "objective", "time_shift", "first_frames")
PLENTY_OF_STEPS = 10_000_000
PATIENCE = 1.75  # a machine that others use may slow down; the last steps matter most, so they may take longer


def mirrored(picture: bytes) -> bytes:
    """Mirror a picture, or every frame of a clip."""
    frames = [ImageOps.mirror(f.convert("RGB")) for f in ImageSequence.Iterator(Image.open(io.BytesIO(picture)))]
    out = io.BytesIO()
    frames[0].save(out, "WEBP", lossless=True, save_all=True, append_images=frames[1:])
    return out.getvalue()


def write_shards(folder: Path, sample: str) -> tuple[Path, Path]:
    """Split the sample by codepoint into one training and one hold-out shard."""
    paths = folder / "train.tar", folder / "holdout.tar"
    with tarfile.open(paths[0], "w") as train, tarfile.open(paths[1], "w") as holdout:
        for source in sorted(SAMPLE.glob(f"{sample}-[0-9]*.tar.gz")):
            with tarfile.open(source) as tar:
                members = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
            for name in sorted(n for n in members if n.endswith(".json")):
                meta, key = json.loads(members[name]), name[:-5]
                held = is_holdout(meta["codepoint"])
                pictures = {key: members[f"{key}.webp"]}
                if not held and meta["group"].lower() not in UNMIRRORED_GROUPS:
                    pictures[f"{key}-mirrored"] = mirrored(members[f"{key}.webp"])
                for new_key, picture in pictures.items():
                    add_sample(holdout if held else train, new_key, members[name], picture)
    return paths


def add_sample(tar: tarfile.TarFile, key: str, meta: bytes, picture: bytes) -> None:
    for suffix, data in (("json", meta), ("webp", picture)):
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


def open_caches(folder: Path, sample: str, preset: Preset, autoencoder: Path) -> tuple[LatentCache, LatentCache]:
    """Ingest both shards, unless an earlier run did."""
    caches = folder / "train.safetensors", folder / "holdout.safetensors"
    if not all(path.exists() for path in caches):
        codec = open_codec_of(preset.shape, preset.codec, autoencoder)
        text = open_text_encoder("minilm", "minilm", preset.text_tokens)
        side_px, frames = picture_size(codec, preset.shape)
        for shard, cache in zip(write_shards(folder, sample), caches, strict=True):
            ingest([shard], codec, text, cache, picture_px=side_px, frames=frames)
    return LatentCache.open(caches[0]), LatentCache.open(caches[1])


def lasting(seconds: float) -> Callable[[], bool]:
    """Return a question that is answered yes once so many seconds have passed."""
    end_s = time.monotonic() + seconds
    return lambda: time.monotonic() > end_s


def publish(trainer: Trainer, holdout: LatentCache, args: argparse.Namespace, loss: float) -> None:
    """Export what there is, with base.json that says how it was made, and keep the state for a resume."""
    holdout_loss = trainer.evaluate(holdout, HOLDOUT_SAMPLES)
    print(f"{time.ctime()}  step {trainer.step}  loss {loss:.4f}  hold-out {holdout_loss:.4f}", flush=True)
    trainer.save(args.out_dir / "state")
    trainer.export(args.out_dir)
    about = {
        "preset": args.preset,
        "data": f"sample:{args.sample}, training split, mirrored too where left and right carry no meaning",
        "samples": len(trainer.feed.cache),
        "steps": trainer.step,
        "samples_seen": trainer.step * trainer.recipe.batch,
        "recipe": {name: getattr(trainer.recipe, name) for name in TOLD},
        "training_loss": round(loss, 4),
        "holdout_loss": round(holdout_loss, 4),
        "script": "scripts/train_base.py",
    }
    write_json(about, args.out_dir / "base.json")


def train_for(seconds: float, trainer: Trainer, holdout: LatentCache, args: argparse.Namespace) -> None:
    """Train until the time or the recipe's steps are over, publishing every few minutes."""
    over, losses = lasting(seconds), [0.0]
    while not over() and trainer.step < trainer.recipe.steps:
        pause = lasting(EXPORT_EVERY_S)
        trainer.train(
            trainer.recipe.steps,
            on_report=lambda report: losses.append(report.loss),
            stop=lambda pause=pause: over() or pause(),  # type: ignore[misc]
        )
        publish(trainer, holdout, args, losses[-1])


def main(args: argparse.Namespace) -> None:
    args.out_dir.mkdir(parents=True, exist_ok=True)
    preset = EVERY_PRESET[args.preset]
    cache, holdout = open_caches(args.out_dir, args.sample, preset, args.autoencoder)
    recipe = Recipe(
        steps=PLENTY_OF_STEPS,
        batch=args.batch,
        lr=args.lr,
        warmup_steps=300,
        ema=0.9995,
        weight_decay=0.01,
        precision=args.precision,
        objective=args.objective,
        time_shift=args.time_shift,
        first_frames=args.first_frames,
    )
    torch.manual_seed(0)
    network = expert_of(preset.expert)(**preset.expert)
    trainer = Trainer(network, expert_objective(asdict(recipe)), cache, recipe, ("base", "base"), threads=args.threads)
    if (args.out_dir / "state").exists():
        trainer.load(args.out_dir / "state")
    train_for(args.minutes * 60 * (1 - DECAY_SHARE), trainer, holdout, args)
    # Only now is it known how many steps fit into the time: let the learning rate begin to fall here.
    trainer.recipe = replace(recipe, steps=round(trainer.step / (1 - DECAY_SHARE)))
    train_for(args.minutes * 60 * DECAY_SHARE * PATIENCE, trainer, holdout, args)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out_dir", type=Path)
    parser.add_argument("--autoencoder", type=Path, required=True)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--sample", default="emoji")
    parser.add_argument("--first-frames", type=float, default=0.0)
    parser.add_argument("--objective", default="velocity")
    parser.add_argument("--time-shift", type=float, default=1.0)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--minutes", type=float, default=65)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=2)
    main(parser.parse_args())
