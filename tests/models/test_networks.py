"""The networks are those of the paper: parameter counts, wiring, and loading that accounts for every tensor."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from paris.models.checkpoints import CheckpointError
from paris.models.dit import DiT
from paris.models.inspect import check_weights
from paris.models.latents import PACKAGED_AUTOENCODER
from paris.models.layers import patchify, unpatchify
from paris.models.networks import load_network, save_network
from paris.models.presets import PRESETS
from paris.models.router import Router


def count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [("micro", 75_552), ("tiny", 4_921_632), ("tiny-pixels", 3_406_128), ("dit-xl-2", 605_970_448)],
)
def test_expert_size(preset, parameters):
    """The 605.97 M of dit-xl-2 are those of the released Paris experts."""
    with torch.device("meta"):
        assert count(DiT(**PRESETS[preset].expert)) == parameters


def test_blind_router_has_the_size_of_the_released_one():
    with torch.device("meta"):
        blind = Router(**{**PRESETS["dit-xl-2"].router, "text_dim": 0}, clusters=8)
    assert round(count(blind) / 1e6, 2) == 129.14


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_consistent(name):
    preset = PRESETS[name]
    channels, height, width = preset.shape
    assert height == width == preset.expert["height"] == preset.router["height"]
    assert channels == preset.expert["channels"] == preset.router["channels"]


def test_patches_are_cut_row_by_row_and_glued_back():
    picture = torch.arange(2 * 3 * 4 * 4.0).reshape(2, 3, 4, 4)
    tokens = patchify(picture, 2)
    assert tokens.shape == (2, 4, 12)
    assert tokens[0, 1, :4].tolist() == [2.0, 3.0, 6.0, 7.0]
    assert torch.equal(unpatchify(tokens, 2, 3, 4), picture)


def test_masked_text_is_not_seen(make_expert, texts):
    expert, x, t = make_expert(0), torch.randn(6, 3, 32, 32), torch.rand(6)
    garbage = texts.tokens_BLE.masked_fill(~texts.mask_BL[..., None], 99.0)
    assert torch.equal(expert(x, t, texts.tokens_BLE, texts.mask_BL), expert(x, t, garbage, texts.mask_BL))


def test_expert_hears_text_time_and_place(make_expert, texts):
    expert, x, t = make_expert(0), torch.randn(6, 3, 32, 32), torch.rand(6)
    out = expert(x, t, texts.tokens_BLE, texts.mask_BL)
    assert out.shape == x.shape
    assert not torch.allclose(out, expert(x, 1 - t, texts.tokens_BLE, texts.mask_BL))
    assert not torch.allclose(out, expert(x, t, texts.tokens_BLE.flip(0), texts.mask_BL))
    turned = expert(x.roll(8, -1), t, texts.tokens_BLE, texts.mask_BL).roll(-8, -1)
    assert not torch.allclose(out, turned, atol=1e-4)


def test_new_expert_predicts_zero_velocity(texts):
    expert = DiT(**PRESETS["micro"].expert)
    assert not expert(torch.randn(6, 3, 32, 32), torch.rand(6), texts.tokens_BLE, texts.mask_BL).any()


def test_router_does_not_care_for_the_length_of_pooled_text(make_router, texts):
    router, x, t = make_router(4, 0), torch.randn(6, 3, 32, 32), torch.rand(6)
    logits = router(x, t, texts.pooled_BE)
    assert logits.shape == (6, 4)
    assert torch.allclose(logits, router(x, t, 7 * texts.pooled_BE), atol=1e-5)
    assert not torch.allclose(logits, router(x, t, texts.pooled_BE.flip(0)))


def test_blind_router_sees_no_text(texts):
    blind = Router(**{**PRESETS["micro"].router, "text_dim": 0}, clusters=2).eval()
    x, t = torch.randn(6, 3, 32, 32), torch.rand(6)
    assert torch.equal(blind(x, t, texts.pooled_BE), blind(x, t, -texts.pooled_BE))


def test_impossible_size_is_explained():
    with pytest.raises(ValueError, match="patch must divide height"):
        DiT(**{**PRESETS["micro"].expert, "patch": 5})


@pytest.fixture
def exported(tmp_path, make_expert):
    save_network(make_expert(0), tmp_path / "expert")
    return tmp_path / "expert"


def change(folder, edit) -> None:
    path = folder / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    edit(weights)
    save_file(weights, path)


def test_saved_network_comes_back_equal(exported, make_expert):
    before, after = make_expert(0).state_dict(), load_network(DiT, exported).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_missing_tensor_is_never_filled_with_random_numbers(exported):
    change(exported, lambda weights: weights.pop("proj_out.bias"))
    with pytest.raises(CheckpointError, match=r"proj_out\.bias"):
        load_network(DiT, exported)


def test_unknown_tensor_is_refused(exported):
    change(exported, lambda weights: weights.update(extra=torch.zeros(2)))
    with pytest.raises(CheckpointError, match="extra"):
        load_network(DiT, exported)


def test_weights_cut_short_are_refused(exported):
    path = exported / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_network(DiT, exported)


@pytest.mark.parametrize("config", [b"", b"[]", b"{", b'{"_class_name": "Router"}', b'{"_class_name": "DiT"}', b"\xff"])
def test_bad_config_is_refused(exported, config):
    (exported / "config.json").write_bytes(config)
    with pytest.raises(CheckpointError):
        load_network(DiT, exported)


def test_config_may_not_hide_a_pickle(exported):
    """Only the safetensors file is ever opened, whatever else lies in the folder."""
    (exported / "diffusion_pytorch_model.safetensors").rename(exported / "diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError):
        load_network(DiT, exported)
    assert json.loads((exported / "config.json").read_text())["_class_name"] == "PixArtTransformer2DModel"


def test_packaged_base_fits_the_tiny_preset():
    folder = PACKAGED_AUTOENCODER.parent / "base"
    network = load_network(DiT, folder)
    assert {name: network.config[name] for name in PRESETS["tiny"].expert} == PRESETS["tiny"].expert
    config = json.loads((folder / "config.json").read_text())
    assert check_weights(folder / "diffusion_pytorch_model.safetensors", config, "expert") == []
