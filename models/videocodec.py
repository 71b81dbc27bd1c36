"""Clips to video latents and back: causal in time, each frame through an autoencoder of pictures, or pixels.

HunyuanVideo's autoencoder (arXiv 2412.03603, section 4.1), which Paris 2.0 trains in, looks back only: the first frame
has a latent of its own, and every further four frames have one, so a clip has 4 n + 1 frames and a picture is a clip of
one. Letters: B batch, F frames of a clip, f frames of latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from paris.models.latents import Autoencoder, Codec, CodecError, Pixels, load_autoencoder, open_codec

HUNYUAN: Final = "autoencoder-kl-hunyuan-video"


class Framewise(Autoencoder):
    """An autoencoder of pictures, asked about every frame alone; the first frame is then like any other."""

    frames_a_latent = 1

    def encode(self, pictures_B3HW: Tensor) -> Tensor:
        """Turn clips (B, 3, F, H, W) in [-1, 1] into latents (B, C, F, h, w)."""
        latents = super().encode(pictures_B3HW.transpose(1, 2).flatten(0, 1))
        return latents.unflatten(0, (len(pictures_B3HW), -1)).transpose(1, 2)

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Turn latents (B, C, F, h, w) into clips (B, 3, F, H, W) in [-1, 1]."""
        pictures = super().decode(latents_BCHW.transpose(1, 2).flatten(0, 1))
        return pictures.unflatten(0, (len(latents_BCHW), -1)).transpose(1, 2)


class CausalAutoencoder(Autoencoder):
    """A diffusers autoencoder of clips: (B, 3, F, H, W) <-> (B, C, f, h, w), with F = frames_a_latent (f - 1) + 1."""

    def __init__(self, kind: str, model: Any) -> None:
        super().__init__(kind, model)
        self._mean_C11, self._std_C11 = self._mean_C11[..., None], self._std_C11[..., None]
        self.frames_a_latent: int = model.config.temporal_compression_ratio

    def encode(self, pictures_B3HW: Tensor) -> Tensor:
        """Encode clips.

        Raises:
            CodecError: so many frames have no whole number of latents.
        """
        latent_frames(self, pictures_B3HW.shape[2])
        return super().encode(pictures_B3HW)


def open_video_codec(kind: str, folder: Path | None = None) -> Codec:
    """Open a codec of clips.

    Args:
        kind: a kind of `paris.models.latents.open_codec`, for each frame alone, or "autoencoder-kl-hunyuan-video".
        folder: as `open_codec` takes it.

    Raises:
        CodecError: for an unknown kind, or a folder that holds no such autoencoder.
    """
    if kind == HUNYUAN:
        return CausalAutoencoder(kind, load_autoencoder("AutoencoderKLHunyuanVideo", kind, folder))
    codec = open_codec(kind, folder)
    return codec if isinstance(codec, Pixels) or not isinstance(codec, Autoencoder) else Framewise(kind, codec.model)


def open_codec_of(shape: Sequence[int], kind: str, folder: Path | None = None) -> Codec:
    """Open a codec of pictures or of clips, after the shape of the latents, (C, H, W) or (C, F, H, W).

    Raises:
        CodecError: as `paris.models.latents.open_codec` or `open_video_codec`.
    """
    return open_codec(kind, folder) if len(shape) == 3 else open_video_codec(kind, folder)


def latent_frames(codec: Codec, frames: int) -> int:
    """Return how many frames of latents a clip has.

    Raises:
        CodecError: no whole number.
    """
    each = getattr(codec, "frames_a_latent", 1)
    latents, over = divmod(frames - 1, each)
    if frames < 1 or over:
        raise CodecError(
            f"A clip of {frames} frames has no whole number of latents: of the first frame there is one, then of every "
            f"{each}. Cut it to {max(1, frames - max(over, 0))} frames."
        )
    return latents + 1


def clip_frames(codec: Codec, latents: int) -> int:
    """Return how many frames a clip of so many frames of latents has."""
    return (latents - 1) * int(getattr(codec, "frames_a_latent", 1)) + 1
