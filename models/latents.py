"""Pictures to latents and back behind one small interface: a trained autoencoder, or pixels as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from paris.models.checkpoints import CheckpointError
from paris.models.networks import load_network, read_config

PACKAGED_AUTOENCODER = Path(__file__).parent / "weights" / "autoencoder"
"""The package's own small autoencoder: 32x32 RGB <-> 8x8x8, see scripts/train_autoencoder.py."""


CHANNEL_STATISTICS = ("latents_mean", "latents_std")

FORMER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""How diffusers before 0.18 called the layers of an autoencoder's attention. sd-vae-ft-mse was published so."""

MOST_LAYERS, MOST_LEVELS, WIDEST = 64, 16, 65_536
"""Bounds of an autoencoder's config.json, far above any: one that asks for a million layers would take hours to build
even without memory for their numbers, and comes from somebody hostile."""


class CodecError(ValueError):
    """A codec could not be opened."""


class Codec(Protocol):
    """What the cache and the pipeline ask of a codec."""

    kind: str

    def encode(self, pictures_B3HW: Tensor) -> Tensor:
        """Turn pictures in [-1, 1] into float32 latents (B, C, h, w) of about unit deviation."""
        ...

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Turn latents back into pictures in [-1, 1]."""
        ...


class Pixels:
    """The identity: a diffusion model on pictures themselves."""

    kind = "pixels"

    def encode(self, pictures_B3HW: Tensor) -> Tensor:
        """Return the pictures."""
        return pictures_B3HW.float()

    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Return the latents, clamped to [-1, 1]."""
        return latents_BCHW.float().clamp(-1, 1)


class Autoencoder:
    """A diffusers autoencoder whose latents are brought to about unit deviation.

    The config either has a `latents_mean` and `latents_std` for every channel (the convention of diffusers' newer
    autoencoders) or one scaling factor for all, before which a shift factor is subtracted where there is one.
    """

    def __init__(self, kind: str, model: Any) -> None:
        self.kind = kind
        self.model = model
        config = model.config
        self._mean_C11 = torch.tensor(config.get("latents_mean") or [config.get("shift_factor") or 0.0])[:, None, None]
        self._std_C11 = torch.tensor(config.get("latents_std") or [1 / config.scaling_factor])[:, None, None]

    def to(self, device: torch.device) -> None:
        """Move the autoencoder; pictures and latents are expected there from then on."""
        torch.nn.Module.to(self.model, device)
        self._mean_C11, self._std_C11 = self._mean_C11.to(device), self._std_C11.to(device)

    @torch.no_grad()
    def encode(self, pictures_B3HW: Tensor) -> Tensor:
        """Encode; of a variational encoder the mean is taken, so that ingesting is deterministic."""
        out = self.model.encode(pictures_B3HW)
        latents: Tensor = out.latents if hasattr(out, "latents") else out.latent_dist.mode()
        return (latents.float() - self._mean_C11) / self._std_C11

    @torch.no_grad()
    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Decode and clamp to [-1, 1]."""
        pictures: Tensor = self.model.decode(latents_BCHW * self._std_C11 + self._mean_C11).sample
        return pictures.float().clamp(-1, 1)


_AUTOENCODERS = {"autoencoder-tiny": "AutoencoderTiny", "autoencoder-kl": "AutoencoderKL"}


def open_codec(kind: str, folder: Path | None = None) -> Codec:
    """Open a codec.

    Args:
        kind: "pixels", "autoencoder-tiny" or "autoencoder-kl".
        folder: a diffusers autoencoder folder; None means the packaged one for "autoencoder-tiny".

    Raises:
        CodecError: for an unknown kind, or a folder that holds no such autoencoder.
    """
    if kind == "pixels":
        return Pixels()
    if kind not in _AUTOENCODERS:
        raise CodecError(f"There is no codec of kind {kind!r}. This version knows pixels, {', '.join(_AUTOENCODERS)}.")
    if folder is None and kind == "autoencoder-tiny":
        folder = PACKAGED_AUTOENCODER
    return Autoencoder(kind, load_autoencoder(_AUTOENCODERS[kind], kind, folder))


def load_autoencoder(network: str, kind: str, folder: Path | None) -> Any:
    """Return an autoencoder of this class of diffusers, loaded strictly.

    Raises:
        CodecError: there is no folder, or it holds no such autoencoder.
    """
    if folder is None:
        raise CodecError(f"A codec of kind {kind!r} needs a folder with its weights, and none was given.")
    import diffusers  # noqa: PLC0415 - seconds, and who has a cache or pixels needs no autoencoder

    try:
        _require_bounded(read_config(folder))
        model = load_network(getattr(diffusers, network), folder, names=_present_name)
        model.register_to_config(**{name: read_config(folder).get(name) for name in CHANNEL_STATISTICS})
    except CheckpointError as error:
        raise CodecError(f"The {kind} in {folder} cannot be used. {error}") from error
    return model


def _present_name(name: str) -> str:
    """Return what today's diffusers calls a tensor of an autoencoder, which may have been saved by an old one."""
    parts = name.split(".")
    if "attentions" in parts and parts[-2] in FORMER_NAMES:
        parts[-2] = FORMER_NAMES[parts[-2]]
    return ".".join(parts)


def _require_bounded(value: Any, *, name: str = "", most: int = WIDEST) -> None:
    """Refuse a config no autoencoder can be built from, before anything is built.

    Raises:
        CheckpointError: a number or a list in it is absurdly large.
    """
    if isinstance(value, dict):
        for key, part in value.items():
            layers = key == "layers_per_block" or (key.startswith("num_") and key.endswith("_blocks"))
            _require_bounded(part, name=key, most=MOST_LAYERS if layers else WIDEST)
    elif isinstance(value, list):
        _require_bounded(
            len(value), name=f"length of {name}", most=WIDEST if name in CHANNEL_STATISTICS else MOST_LEVELS
        )
        for part in value:
            _require_bounded(part, name=name, most=most)
    elif isinstance(value, int | float) and not abs(value) <= most:
        raise CheckpointError(f"Its config.json asks for a {name} of {value!r:.40}, which no autoencoder has.")
