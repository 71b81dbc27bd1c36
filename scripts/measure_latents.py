"""Write the mean and deviation of every latent channel, over the training pictures, into an autoencoder's config.json.

Usage: python scripts/measure_latents.py AUTOENCODER_DIR
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from sample_pictures import load_split


def measure(folder: Path) -> None:
    pictures, _ = load_split()
    model = AutoencoderTiny.from_pretrained(folder)
    with torch.inference_mode():
        latents = torch.cat([model.encode(x).latents for x in pictures.split(256)])
    config = json.loads((folder / "config.json").read_text())
    config.pop("block_out_channels", None)  # written by diffusers 0.42 but not an argument of the class
    config["latents_mean"] = [round(float(m), 4) for m in latents.mean((0, 2, 3))]
    config["latents_std"] = [round(float(s), 4) for s in latents.std((0, 2, 3))]
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    print(config["latents_mean"], config["latents_std"])


if __name__ == "__main__":
    measure(Path(sys.argv[1]))
