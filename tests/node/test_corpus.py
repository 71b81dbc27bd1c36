"""A cache of shards belongs to what made it: other bytes, another codec or text encoder never get its latents."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from node_support import draw_ensemble
from PIL import Image

from paris.models.cache import LatentCache
from paris.models.latents import Autoencoder, Codec, open_codec
from paris.models.pipeline import ParisPipeline
from paris.models.text import TextBatch
from paris.node.cli.corpus import cached


class Words:
    """A text encoder small enough to compute by hand; its weights are one number."""

    dim = 4

    def __init__(self, weight: float = 1.0, tokens: int = 2) -> None:
        self.weight, self.tokens = weight, tokens

    def encode(self, captions: list[str]) -> TextBatch:
        pooled = torch.tensor([[len(caption) * self.weight] * self.dim for caption in captions])
        mask = torch.ones(len(captions), self.tokens, dtype=torch.bool)
        return TextBatch(pooled[:, None].repeat(1, self.tokens, 1), mask, pooled)

    def identity(self) -> dict[str, str]:
        return {"kind": "words", "name": "words", "sha256": f"sha256:{self.weight}"}


def shard(path: Path, colour: str = "red") -> Path:
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(picture, "PNG")
    with tarfile.open(path, "w") as tar:
        for suffix, data in (("json", json.dumps({"caption": "a square"}).encode()), ("png", picture.getvalue())):
            info = tarfile.TarInfo(f"a.{suffix}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def autoencoder(*, changed: bool = False, scale: float = 1.0) -> Codec:
    """The packaged autoencoder; with its last bias, or the scale of its latents, changed."""
    codec = open_codec("autoencoder-tiny")
    assert isinstance(codec, Autoencoder)
    with torch.no_grad():
        list(codec.model.encoder.parameters())[-1].add_(float(changed))
    codec.model.register_to_config(latents_std=[scale * value for value in codec.model.config.latents_std])
    return Autoencoder(codec.kind, codec.model)


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory) -> ParisPipeline:
    return ParisPipeline.from_pretrained(draw_ensemble(tmp_path_factory.mktemp("drawn") / "ensemble", experts=2))


def ensemble(experts: ParisPipeline, codec: Codec, text: Words, side: int = 8) -> ParisPipeline:
    return ParisPipeline(experts.ensemble, codec, text, FlowMatchEulerDiscreteScheduler(), (8, side, side))


OTHERS: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    "weights of the codec": ({"changed": True}, {}, 8),
    "scale of the codec": ({"scale": 2.0}, {}, 8),
    "weights of the text encoder": ({}, {"weight": 2.0}, 8),
    "tokens of the text encoder": ({}, {"tokens": 3}, 8),
    "shape": ({}, {}, 4),
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_ensemble_on_the_same_shards_does_not_get_the_first_ones_latents(experts, tmp_path, other):
    path = shard(tmp_path / "s.tar")
    codec, text, side = OTHERS[other]
    one = ensemble(experts, autoencoder(), Words())
    two = ensemble(experts, autoencoder(**codec), Words(**text), side)
    first, second = (cached([path], pipeline, tmp_path) for pipeline in (one, two))
    fresh = cached([path], two, tmp_path / "new")
    for there, expected in zip(tensors(second), tensors(fresh), strict=True):
        assert torch.equal(there, expected)
    assert not all(torch.equal(mine, theirs) for mine, theirs in zip(tensors(first), tensors(second), strict=True))


def tensors(cache: LatentCache) -> tuple[torch.Tensor, torch.Tensor]:
    return cache.latents_NCHW, cache.texts.tokens_BLE


def test_other_shards_of_the_same_name_and_size_are_encoded_anew(experts, tmp_path):
    pipeline = ensemble(experts, autoencoder(), Words())
    first = cached([shard(tmp_path / "s.tar")], pipeline, tmp_path)
    size_bytes = (tmp_path / "s.tar").stat().st_size
    second = cached([shard(tmp_path / "s.tar", "blue")], pipeline, tmp_path)
    assert (tmp_path / "s.tar").stat().st_size == size_bytes
    assert not torch.equal(first.latents_NCHW, second.latents_NCHW)


def test_the_same_shards_elsewhere_and_in_another_order_are_known(experts, tmp_path):
    red, blue = shard(tmp_path / "red.tar"), shard(tmp_path / "blue.tar", "blue")
    first = cached([red, blue], ensemble(experts, autoencoder(), Words()), tmp_path)
    moved = red.rename(tmp_path / "moved.tar")
    again = cached([blue, moved], ensemble(experts, autoencoder(), Words()), tmp_path)
    assert len(list(tmp_path.glob("cache-*"))) == 1
    assert torch.equal(first.latents_NCHW, again.latents_NCHW)
