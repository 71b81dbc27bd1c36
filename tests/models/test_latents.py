"""The packaged autoencoder reconstructs, its latents are normalised, and bad folders are explained."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from safetensors.torch import load_file, save_file

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


@pytest.fixture
def kl_folder(tmp_path):
    """An AutoencoderKL of the real class and file layout, of toy size."""
    torch.manual_seed(0)
    AutoencoderKL(block_out_channels=(32,), norm_num_groups=8, scaling_factor=0.18215).save_pretrained(tmp_path)
    return tmp_path


def configure(folder, **changes) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.parametrize(("scale", "shift"), [(0.18215, None), (0.3611, 0.1159)])
def test_scale_and_shift_come_from_the_config_of_the_folder(kl_folder, scale, shift):
    """Those of sd-vae-ft-mse, and of the autoencoder of FLUX."""
    configure(kl_folder, scaling_factor=scale, shift_factor=shift)
    codec, pictures = open_codec("autoencoder-kl", kl_folder), smooth_pictures(2)
    with torch.inference_mode():
        mean = codec.model.encode(pictures).latent_dist.mean
        latents = (mean - (shift or 0)) * scale
        torch.testing.assert_close(codec.encode(pictures), latents)
        torch.testing.assert_close(codec.decode(latents), codec.model.decode(mean).sample.clamp(-1, 1))


def test_a_tiny_autoencoder_of_somebody_else_needs_no_scaling(tmp_path):
    torch.manual_seed(0)
    sizes = {"encoder_block_out_channels": (8, 8), "decoder_block_out_channels": (8, 8)}
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    AutoencoderTiny(**sizes, **blocks, latent_channels=5).save_pretrained(tmp_path)
    codec, pictures = open_codec("autoencoder-tiny", tmp_path), smooth_pictures(2)
    with torch.inference_mode():
        latents = codec.model.encode(pictures).latents
        assert latents.shape == (2, 5, 16, 16)
        torch.testing.assert_close(codec.encode(pictures), latents)
        torch.testing.assert_close(codec.decode(latents), codec.model.decode(latents).sample.clamp(-1, 1))


def rename(folder, former) -> None:
    weights = load_file(folder / "diffusion_pytorch_model.safetensors")
    save_file(
        {former(name): tensor for name, tensor in weights.items()}, folder / "diffusion_pytorch_model.safetensors"
    )


def test_an_autoencoder_saved_by_an_old_diffusers_is_the_same(kl_folder):
    """The published sd-vae-ft-mse calls its attention's layers query, key, value and proj_attn."""
    pictures = smooth_pictures(2)
    latents = open_codec("autoencoder-kl", kl_folder).encode(pictures)
    former = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def old(name: str) -> str:
        for now, then in former.items():
            name = name.replace(f".{now}.", f".{then}.")
        return name

    rename(kl_folder, old)
    names = load_file(kl_folder / "diffusion_pytorch_model.safetensors").keys()
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in names
    assert torch.equal(open_codec("autoencoder-kl", kl_folder).encode(pictures), latents)


def test_one_tensor_under_an_old_and_a_new_name_is_refused(kl_folder):
    path = kl_folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    bias = weights["encoder.mid_block.attentions.0.to_q.bias"]
    save_file({**weights, "encoder.mid_block.attentions.0.query.bias": bias + 1}, path)
    with pytest.raises(CodecError, match="under two names"):
        open_codec("autoencoder-kl", kl_folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"layers_per_block": 10**9},
        {"block_out_channels": [2**40]},
        {"block_out_channels": [32] * 10_000},
        {"latent_channels": 10**400},
        {"scaling_factor": float("inf")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_config_of_an_absurd_autoencoder_is_refused_before_anything_is_built(kl_folder, monkeypatch, changes):
    configure(kl_folder, **changes)
    monkeypatch.setattr("paris.models.latents.load_network", None)
    with pytest.raises(CodecError, match=f"asks for a .*{next(iter(changes))}"):
        open_codec("autoencoder-kl", kl_folder)


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
