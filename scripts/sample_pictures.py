"""The packaged sample pictures as tensors, split into training and hold-out by codepoint."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from paris.registry.shards import is_holdout

SAMPLE = Path(__file__).parent.parent / "registry" / "sample"


def load_split() -> tuple[torch.Tensor, torch.Tensor]:
    """Return (training, hold-out) pictures, each (N, 3, 32, 32) float in [-1, 1]."""
    train: list[np.ndarray] = []
    holdout: list[np.ndarray] = []
    for shard in sorted(SAMPLE.glob("emoji-[0-9]*.tar.gz")):
        with tarfile.open(shard) as tar:
            members = {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
        for name in (n for n in members if n.endswith(".json")):
            codepoint = json.loads(members[name])["codepoint"]
            picture = np.asarray(Image.open(io.BytesIO(members[name[:-5] + ".webp"])).convert("RGB"))
            (holdout if is_holdout(codepoint) else train).append(picture)
    as_tensor = lambda pictures: torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1  # noqa: E731
    return as_tensor(train), as_tensor(holdout)
