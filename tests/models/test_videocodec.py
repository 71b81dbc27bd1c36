"""Clips through codecs, causal in time or frame by frame, and into files."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo
from PIL import Image

from paris.models.latents import CodecError, open_codec
from paris.models.video_files import ClipFileError, write_clip
from paris.models.videocodec import HUNYUAN, clip_frames, latent_frames, open_video_codec


@pytest.fixture(scope="module")
def hunyuan(tmp_path_factory):
    """HunyuanVideo's autoencoder, the real class, as small as it can be configured, with random weights."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vae")
    AutoencoderKLHunyuanVideo(
        latent_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4, scaling_factor=0.5
    ).save_pretrained(folder)
    return folder


def clips(frames, side=32, seed=0):
    return torch.rand(2, 3, frames, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_causal_autoencoder_has_one_latent_of_the_first_frame_and_one_of_every_four(hunyuan):
    codec = open_video_codec(HUNYUAN, hunyuan)
    latents = codec.encode(clips(5))
    assert latents.shape == (2, 4, 2, 4, 4)
    assert codec.decode(latents).shape == (2, 3, 5, 32, 32)
    assert (latent_frames(codec, 5), clip_frames(codec, 2)) == (2, 5)


def test_latents_are_scaled_as_the_config_says(hunyuan):
    codec = open_video_codec(HUNYUAN, hunyuan)
    raw = codec.model.encode(clips(1)).latent_dist.mode()
    assert torch.allclose(codec.encode(clips(1)), raw * 0.5)


def test_a_picture_is_a_clip_of_one_frame(hunyuan):
    codec = open_video_codec(HUNYUAN, hunyuan)
    latents = codec.encode(clips(1))
    assert latents.shape == (2, 4, 1, 4, 4)
    assert codec.decode(latents).shape == (2, 3, 1, 32, 32)


@pytest.mark.parametrize("frames", [2, 4, 6])
def test_clips_of_no_whole_number_of_latents_are_refused(hunyuan, frames):
    with pytest.raises(CodecError, match="no whole number of latents"):
        open_video_codec(HUNYUAN, hunyuan).encode(clips(frames))


def test_frame_by_frame_every_frame_is_a_picture():
    codec, pictures = open_video_codec("autoencoder-tiny"), open_codec("autoencoder-tiny")
    latents = codec.encode(clips(3))
    assert latents.shape == (2, 8, 3, 8, 8)
    assert torch.allclose(latents[:, :, 2], pictures.encode(clips(3)[:, :, 2]), atol=1e-5)
    assert torch.allclose(codec.decode(latents)[:, :, 1], pictures.decode(latents[:, :, 1]), atol=1e-5)
    assert latent_frames(codec, 3) == clip_frames(codec, 3) == 3


def test_pixels_are_clips_themselves():
    codec = open_video_codec("pixels")
    assert torch.equal(codec.decode(codec.encode(clips(3))), clips(3))


def test_a_codec_of_clips_needs_its_weights(tmp_path):
    with pytest.raises(CodecError, match="needs a folder"):
        open_video_codec(HUNYUAN)
    with pytest.raises(CodecError, match="cannot be used"):
        open_video_codec(HUNYUAN, tmp_path)


def moving(side=32, frames=8):
    """A white square that moves right."""
    pictures = []
    for number in range(frames):
        pixels = np.zeros((side, side, 3), np.uint8)
        pixels[8:16, 2 * number : 2 * number + 8] = 255
        pictures.append(Image.fromarray(pixels))
    return pictures


@pytest.mark.parametrize(("kind", "error"), [(".gif", 1), (".webp", 20)])
def test_animations_hold_the_frames_their_speed_and_repeat(tmp_path, kind, error):
    write_clip(moving(), 12.5, tmp_path / f"clip{kind}")
    with Image.open(tmp_path / f"clip{kind}") as found:
        assert (found.n_frames, found.info["loop"]) == (8, 0)
        for number, frame in enumerate(moving()):
            found.seek(number)
            found.load()
            assert found.info["duration"] == 80
            difference = np.abs(np.asarray(found.convert("RGB"), int) - np.asarray(frame, int))
            assert difference.mean() < error


@pytest.mark.parametrize("side", [32, 33])
def test_mp4_holds_the_frames_and_their_speed(tmp_path, side):
    av = pytest.importorskip("av")
    write_clip(moving(side), 12.5, tmp_path / "clip.mp4")
    with av.open(tmp_path / "clip.mp4") as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
        assert float(file.streams.video[0].average_rate) == 12.5
    assert len(frames) == 8
    for found, frame in zip(frames, moving(side), strict=True):
        assert np.abs(found.astype(int) - np.asarray(frame, int)).mean() < 20


def test_mp4_without_pyav_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ClipFileError, match=r"paris-node\[video\]"):
        write_clip(moving(), 8, tmp_path / "clip.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("frames", "fps", "name"),
    [
        ([], 8, "a.gif"),
        (moving(), 0, "a.gif"),
        (moving(), 8, "a.avi"),
        ([*moving(), *moving(16)], 8, "a.webp"),
    ],
)
def test_impossible_clips_are_refused_and_nothing_is_left(tmp_path, frames, fps, name):
    with pytest.raises(ClipFileError, match="cannot be written"):
        write_clip(frames, fps, tmp_path / name)
    assert list(tmp_path.iterdir()) == []
