"""Real shards, real caches and small networks for the tests of models/."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from paris.models.cache import LatentCache
from paris.models.dit import DiT
from paris.models.presets import PRESETS
from paris.models.router import Router
from paris.models.text import TextBatch

sys.path.insert(0, str(Path(__file__).parent))  # makes `mixtures` importable


class LetterEncoder:
    """A text encoder small enough to compute by hand: token i is a one-hot of the i-th letter."""

    dim, tokens = 384, 16

    def encode(self, captions: list[str]) -> TextBatch:
        tokens = torch.zeros(len(captions), self.tokens, self.dim)
        mask = torch.zeros(len(captions), self.tokens, dtype=torch.bool)
        mask[:, 0] = True
        for row, caption in enumerate(captions):
            for place, letter in enumerate(caption[: self.tokens]):
                tokens[row, place, ord(letter) % self.dim] = 1
                mask[row, place] = True
        return TextBatch(tokens, mask, tokens.mean(1))

    def identity(self) -> dict[str, str]:
        return {"kind": "letters", "name": "letters", "sha256": "sha256:" + "0" * 64}


@pytest.fixture
def letters() -> LetterEncoder:
    return LetterEncoder()


@pytest.fixture(autouse=True)
def one_thread():
    """Bit-exactness holds per number of threads, and threads that wait for a busy machine are slow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_shard(path: Path, samples: int = 12, first: int = 0) -> Path:
    """Write a webdataset shard of plain coloured squares; captions repeat, clusters alternate."""
    with tarfile.open(path, "w") as tar:
        for i in range(first, first + samples):
            picture = io.BytesIO()
            Image.new("RGB", (32, 32), (i * 20 % 256, 128, 255 - i * 20 % 256)).save(picture, "PNG")
            meta = json.dumps({"caption": f"shade {i % 5}", "cluster": i % 2}).encode()
            for suffix, data in (("json", meta), ("png", picture.getvalue())):
                info = tarfile.TarInfo(f"{i:06d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write_shard(tmp_path / "shard.tar")


@pytest.fixture
def cache() -> LatentCache:
    """Forty-eight random pixel-space samples of two clusters that differ in brightness."""
    generator = np.random.default_rng(7)
    labels = torch.arange(48) % 2
    latents = torch.from_numpy(generator.standard_normal((48, 3, 32, 32), dtype=np.float32) * 0.3)
    latents += (labels * 2 - 1)[:, None, None, None]
    texts = LetterEncoder().encode(["", *(f"word {i}" for i in range(6))])
    return LatentCache(latents.half(), torch.arange(48) % 6 + 1, labels, texts)


@pytest.fixture
def texts() -> TextBatch:
    """Six prompts of random tokens, the second half of them masked."""
    generator = torch.Generator().manual_seed(6)
    mask = torch.ones(6, 16, dtype=torch.bool)
    mask[:, 8:] = False
    return TextBatch(torch.randn(6, 16, 384, generator=generator), mask, torch.randn(6, 384, generator=generator))


@pytest.fixture
def make_shard() -> Callable[..., Path]:
    return write_shard


@pytest.fixture
def make_expert() -> Callable[[int], DiT]:
    """Build micro experts with every parameter random: a new network's zeros would hide faults."""
    return lambda seed: randomise(DiT(**PRESETS["micro"].expert), seed).eval()


@pytest.fixture
def make_router() -> Callable[[int, int], Router]:
    """Build micro routers with every parameter random, for (clusters, seed)."""
    return lambda clusters, seed: randomise(Router(**PRESETS["micro"].router, clusters=clusters), seed).eval()


def randomise(network: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Fill every parameter from a seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.08)
    return network
