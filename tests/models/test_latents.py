"""The packaged autoencoder reconstructs, its latents are normalised, and bad folders are explained."""

from __future__ import annotations

import shutil

import pytest
import torch

from paris.models.latents import PACKAGED_AUTOENCODER, CodecError, Pixels, open_codec


def smooth_pictures(count: int) -> torch.Tensor:
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")


def test_packaged_autoencoder_reconstructs():
    codec, pictures = open_codec("autoencoder-tiny"), smooth_pictures(32)
    latents = codec.encode(pictures)
    assert latents.shape == (32, 8, 8, 8)
    assert latents.dtype == torch.float32
    assert 0.2 < latents.std() < 3
    error = (codec.decode(latents) - pictures).square().mean()
    assert error < 0.01


def test_packaged_autoencoder_is_small():
    assert sum(path.stat().st_size for path in PACKAGED_AUTOENCODER.iterdir()) < 3_000_000


def test_channel_statistics_replace_the_scaling_factor():
    codec = open_codec("autoencoder-tiny")
    pictures = smooth_pictures(2)
    raw = codec.model.encode(pictures).latents
    mean, std = (torch.tensor(codec.model.config[name])[:, None, None] for name in ("latents_mean", "latents_std"))
    assert torch.allclose(codec.encode(pictures), (raw - mean) / std)


def test_scaling_factor_serves_where_there_are_no_statistics():
    from diffusers import AutoencoderKL

    from paris.models.latents import Autoencoder

    torch.manual_seed(0)
    model = AutoencoderKL(block_out_channels=(32,), norm_num_groups=8, scaling_factor=0.18215).eval()
    codec, pictures = Autoencoder("autoencoder-kl", model), smooth_pictures(2)
    with torch.inference_mode():
        mean = model.encode(pictures).latent_dist.mean
        assert torch.allclose(codec.encode(pictures), mean * 0.18215, atol=1e-5)
        assert torch.allclose(codec.decode(mean * 0.18215), model.decode(mean).sample.clamp(-1, 1), atol=1e-4)


def test_pixels_are_left_alone_and_clamped_on_the_way_out():
    pictures = smooth_pictures(1)
    assert torch.equal(Pixels().encode(pictures), pictures)
    assert Pixels().decode(3 * torch.ones(1, 3, 2, 2)).max() == 1


def test_unknown_codec_is_explained():
    with pytest.raises(CodecError, match="This version knows pixels"):
        open_codec("jpeg")


def test_codec_that_needs_a_folder_says_so():
    with pytest.raises(CodecError, match="needs a folder"):
        open_codec("autoencoder-kl")


def test_folder_of_another_class_is_refused():
    with pytest.raises(CodecError, match="AutoencoderTiny, not a AutoencoderKL"):
        open_codec("autoencoder-kl", PACKAGED_AUTOENCODER)


def test_missing_weights_are_explained(tmp_path):
    shutil.copy(PACKAGED_AUTOENCODER / "config.json", tmp_path)
    with pytest.raises(CodecError, match="cannot be read"):
        open_codec("autoencoder-tiny", tmp_path)
