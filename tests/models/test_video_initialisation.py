"""What an expert of clips that starts from pictures predicts before it has learned anything."""

from __future__ import annotations

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file

from paris.models.checkpoints import CheckpointError
from paris.models.inspect import check_config
from paris.models.networks import load_network
from paris.models.video import VideoExpert
from paris.models.video_initialisation import initialise_clips

CLIPS = {
    "channels": 4, "height": 8, "frames": 3, "patch": 2, "width": 64, "dual": 2, "single": 2, "heads": 2,
    "refiners": 1, "text_dim": 24, "pooled_dim": 12, "guidance": 4.0, "rotary_base": 10000.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def flux() -> FluxTransformer2DModel:
    """FLUX.1-dev's own class, small, every parameter random."""
    network = FluxTransformer2DModel(
        in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=32, num_attention_heads=2,
        joint_attention_dim=24, pooled_projection_dim=12, guidance_embeds=True, axes_dims_rope=(4, 14, 14),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


@pytest.fixture
def source(flux, tmp_path):
    """Its weights in two files, as the published ones are in three."""
    state = {name: tensor.contiguous() for name, tensor in flux.state_dict().items()}
    names = sorted(state)
    files = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    for file, part in zip(files, (names[::2], names[1::2]), strict=True):
        save_file({name: state[name] for name in part}, file)
    return files


@torch.no_grad()
def as_flux_predicts(flux, pictures_BCHW, t_B, text_BLE, pooled_BP):
    """Ask FLUX as its pipeline does: 2 x 2 latents a token, time in 0..1, places of rows and columns."""
    B, C, H, W = pictures_BCHW.shape
    packed = pictures_BCHW.view(B, C, H // 2, 2, W // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(B, H * W // 4, 4 * C)
    places = torch.zeros(H // 2, W // 2, 3)
    places[..., 1] += torch.arange(H // 2)[:, None]
    places[..., 2] += torch.arange(W // 2)
    out = flux(
        packed, text_BLE, pooled_BP, t_B, places.reshape(-1, 3), torch.zeros(text_BLE.shape[1], 3),
        guidance=torch.full_like(t_B, 4.0), return_dict=False,
    )[0]  # fmt: skip
    return out.view(B, H // 2, W // 2, C, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(B, C, H, W)


def asked(frames):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, frames, 8, 12, generator=generator)
    text, pooled = torch.randn(2, 7, 24, generator=generator), torch.randn(2, 12, generator=generator)
    return x, torch.tensor([0.2, 0.9]), text, torch.ones(2, 7, dtype=torch.bool), pooled


@pytest.mark.parametrize(("attention", "frames"), [("full", 1), ("factorised", 1), ("factorised", 3)])
@pytest.mark.parametrize("first_frame", [False, True])
def test_every_frame_is_predicted_as_flux_predicts_the_picture(flux, source, attention, frames, first_frame):
    clips = initialise_clips(source, {**CLIPS, "attention": attention, "first_frame": first_frame}).network
    x, t, text, mask, pooled = asked(frames)
    with torch.no_grad():
        found = clips(x, t, text, mask, pooled)
    for frame in range(frames):
        expected = as_flux_predicts(flux, x[:, :, frame], t, text, pooled)
        assert expected.std() > 0.05
        assert torch.allclose(found[:, :, frame], expected, atol=2e-4)


def test_a_patch_of_two_equal_frames_is_predicted_as_the_picture(flux, source):
    start = initialise_clips(source, {**CLIPS, "frames": 4, "patch_frames": 2, "attention": "factorised"})
    x, t, text, mask, pooled = asked(4)
    x[:, :, 1::2] = x[:, :, ::2]
    with torch.no_grad():
        found = start.network(x, t, text, mask, pooled)
    for frame in range(4):
        assert torch.allclose(found[:, :, frame], as_flux_predicts(flux, x[:, :, frame], t, text, pooled), atol=2e-4)
    assert set(start.fitted) == {
        f"transformer.{n}" for n in ("x_embedder.proj.weight", "proj_out.weight", "proj_out.bias")
    }


def test_with_full_attention_frames_of_a_clip_see_each_other_from_the_start(flux, source):
    clips = initialise_clips(source, CLIPS).network
    x, t, text, mask, pooled = asked(3)
    with torch.no_grad():
        found = clips(x, t, text, mask, pooled)
    assert not torch.allclose(found[:, :, 0], as_flux_predicts(flux, x[:, :, 0], t, text, pooled), atol=1e-3)


def test_an_own_expert_of_single_frames_is_a_source_too(tmp_path):
    torch.manual_seed(2)
    pictures = VideoExpert(**{**CLIPS, "frames": 1})
    for parameter in pictures.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    pictures.eval().save_pretrained(tmp_path)
    start = initialise_clips([tmp_path / "diffusion_pytorch_model.safetensors"], {**CLIPS, "attention": "factorised"})
    x, *rest = asked(3)
    with torch.no_grad():
        together = start.network(x, *rest)
        for frame in range(3):
            alone = pictures(x[:, :, frame : frame + 1], *rest)
            assert torch.allclose(together[:, :, frame], alone[:, :, 0], atol=1e-4)
    assert all("over_time" in name or "time_norm" in name for name in start.new)


def test_every_tensor_is_told_once_and_the_start_is_a_folder_to_train_from(source, tmp_path):
    arguments = {**CLIPS, "attention": "factorised", "first_frame": True}
    start = initialise_clips(source, arguments)
    told = (*start.kept, *start.fitted, *start.new)
    assert sorted(told) == sorted(start.network.state_dict())
    assert start.left == ()
    start.save(tmp_path / "start")
    again = load_network(VideoExpert, tmp_path / "start")
    assert check_config(dict(again.config) | {"_class_name": "VideoExpert"}, arguments, "expert") == []


@pytest.mark.parametrize(
    "wrong", [{"width": 128, "heads": 4}, {"dual": 3}, {"text_dim": 32}, {"guidance": 0.0}, {"channels": 3}]
)
def test_pictures_of_another_network_are_refused(source, wrong):
    with pytest.raises(CheckpointError, match="does not fit this network"):
        initialise_clips(source, {**CLIPS, **wrong})


def test_a_file_that_is_no_safetensors_is_refused(source):
    source[1].write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        initialise_clips(source, CLIPS)
