"""What encoders see in pictures, behind one interface: colours, a perceptual hash, DINOv2, CLIP, MobileNetV2.

A picture is prepared at once, so that only a small array of it is kept, and encoded in batches. Of a clip up to
`CLIP_FRAMES` frames are looked at and their vectors averaged. Weights come from a local folder or through the Hub's
client, as safetensors; a network whose weights are not all there is refused.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from huggingface_hub import snapshot_download
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError

from paris.models.text import HUB_FILES
from paris.protocol.errors import ResourceError, UsageError
from paris.registry.media import thumbnails

Vectors = NDArray[np.float32]
CLIP_FRAMES = 8
GRID_PX = 8
NETWORK_BATCH = 64
HASH_NAME: Final = "phash"
HASH_BITS: Final = 64


class ImageEncoder(Protocol):
    """Turns pictures and clips into vectors.

    Attributes:
        name: what a genesis calls it.
        identity: name of a folder that changes with anything that changes the vectors.
        dim: D, numbers a vector.
    """

    name: str
    identity: str
    dim: int

    def prepare(self, frames: Sequence[Image.Image], data: bytes) -> Vectors:
        """Return the little that `encode` needs of a picture (one frame) or a clip (up to `CLIP_FRAMES`, spread).

        Args:
            frames: RGB.
            data: the encoded picture or clip.
        """

    def encode(self, prepared: Sequence[Vectors]) -> Vectors:
        """Return (N, D) float32 for what was prepared of N pictures."""


class Pixels:
    """Where which colours are: an 8x8 RGB thumbnail; of a clip the mean of all frames, and how they change."""

    name, identity, dim = "pixels", "pixels-1", 2 * GRID_PX * GRID_PX * 3

    def prepare(self, frames: Sequence[Image.Image], data: bytes) -> Vectors:
        """Return (384,) the mean thumbnail, 0 to 255, and that of the differences from frame to frame."""
        if len(frames) > 1:
            return thumbnails(data, GRID_PX).ravel()
        small = np.asarray(frames[0].resize((GRID_PX, GRID_PX), Image.Resampling.BOX), dtype=np.float32)
        return np.stack([small, np.zeros_like(small)]).ravel()

    def encode(self, prepared: Sequence[Vectors]) -> Vectors:
        """Return (N, 384)."""
        return np.stack(prepared) if prepared else np.zeros((0, self.dim), np.float32)


class PerceptualHash:
    """The 64-bit DCT hash of `imagehash`, as 8 numbers from 0 to 255; of a clip its first frame's."""

    name, identity, dim = HASH_NAME, "phash-1", HASH_BITS // 8

    def __init__(self) -> None:
        try:
            import imagehash  # noqa: PLC0415 (an extra)
        except ImportError as error:
            raise ResourceError(
                "near-duplicates cannot be found here",
                "the library imagehash is not installed",
                "pip install 'paris-node[data]'",
            ) from error
        self._hash = imagehash.phash

    def prepare(self, frames: Sequence[Image.Image], data: bytes) -> Vectors:  # noqa: ARG002
        """Return (8,) the hash's bytes."""
        return np.packbits(self._hash(frames[0]).hash.ravel()).astype(np.float32)

    def encode(self, prepared: Sequence[Vectors]) -> Vectors:
        """Return (N, 8)."""
        return np.stack(prepared) if prepared else np.zeros((0, self.dim), np.float32)


class VisionNetwork:
    """A vision network that sees (3, side, side) pictures, normalised, and gives one vector each.

    Args:
        name: what a genesis calls it.
        digest: hex SHA-256 of the weights.
        side_px: of the square it looks at: the middle, as wide as the shorter side, brought to this size.
        mean: of the colours its training saw.
        deviation: of those colours.
    """

    def __init__(
        self, name: str, digest: str, dim: int, side_px: int, mean: Sequence[float], deviation: Sequence[float]
    ) -> None:
        self.name, self.dim, self.identity = name, dim, f"{name}-2-{side_px}-{digest[:16]}"
        self._side_px = side_px
        self._mean, self._deviation = (np.array(c, np.float32)[:, None, None] for c in (mean, deviation))

    def prepare(self, frames: Sequence[Image.Image], data: bytes) -> Vectors:  # noqa: ARG002
        """Return (F, 3, side, side) normalised frames."""
        return np.stack([self._square(frame) for frame in frames])

    def encode(self, prepared: Sequence[Vectors]) -> Vectors:
        """Return (N, D): the mean over each clip's frames."""
        if not prepared:
            return np.zeros((0, self.dim), np.float32)
        every = torch.from_numpy(np.concatenate(prepared))
        with torch.no_grad():
            vectors = np.concatenate([self._see(batch).float().numpy() for batch in torch.split(every, NETWORK_BATCH)])
        borders = np.cumsum([len(one) for one in prepared])[:-1]
        return np.stack([one.mean(axis=0) for one in np.split(vectors, borders)]).astype(np.float32)

    def _see(self, pictures: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _square(self, frame: Image.Image) -> Vectors:
        side, shorter = self._side_px, min(frame.size)
        left, top = (frame.width - shorter) / 2, (frame.height - shorter) / 2
        middle = (left, top, left + shorter, top + shorter)
        cut = frame.resize((side, side), Image.Resampling.BICUBIC, box=middle)
        colours = np.asarray(cut, np.float32).transpose(2, 0, 1) / np.float32(255)
        normal: Vectors = (colours - self._mean) / self._deviation
        return normal


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_CLIP_COLOURS = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


class Dinov2(VisionNetwork):
    """DINOv2 (arXiv 2304.07193): the normalised CLS token, at 224 pixels or the size a small network was built for."""

    def __init__(self, folder: Path) -> None:
        from transformers import Dinov2Model  # noqa: PLC0415 - seconds, and most runs are cut up without it

        self._model = _pretrained(Dinov2Model, folder, "DINOv2")
        side_px = min(224, int(self._model.config.image_size))
        super().__init__("dinov2", _digest(folder), int(self._model.config.hidden_size), side_px, *IMAGENET)

    def _see(self, pictures: torch.Tensor) -> torch.Tensor:
        seen: torch.Tensor = self._model(pixel_values=pictures).pooler_output
        return seen


class ClipImage(VisionNetwork):
    """CLIP's picture side (arXiv 2103.00020): the projected vector that is compared with captions."""

    def __init__(self, folder: Path) -> None:
        from transformers import CLIPVisionModelWithProjection  # noqa: PLC0415 - as above

        self._model = _pretrained(CLIPVisionModelWithProjection, folder, "CLIP", spare="text")
        config = self._model.config
        super().__init__("clip", _digest(folder), int(config.projection_dim), int(config.image_size), *_CLIP_COLOURS)

    def _see(self, pictures: torch.Tensor) -> torch.Tensor:
        seen: torch.Tensor = self._model(pixel_values=pictures).image_embeds
        return seen


def _pretrained(network: Any, folder: Path, name: str, spare: str | None = None) -> Any:
    """Load a network whose every tensor is in the folder; tensors that begin with `spare` may lie there besides."""
    try:
        model, found = network.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        why = f"{error}".partition("\n")[0]
        raise ResourceError(f"{name} cannot be opened from {folder}", why, "Fetch the folder again") from error
    foreign = [key for key in found["unexpected_keys"] if not (spare and key.startswith((spare, "logit_scale")))]
    if wrong := sorted({*found["missing_keys"], *foreign}):
        why = f"{len(wrong)} tensors are missing or unknown, the first is {wrong[0]!r}"
        raise ResourceError(f"the weights in {folder} are not those of {name}", why, "Fetch the folder again")
    return model.eval().requires_grad_(False)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


NETWORKS: Final = {"dinov2": (Dinov2, "facebook/dinov2-large"), "clip": (ClipImage, "openai/clip-vit-large-patch14")}
IMAGE_ENCODERS: Final = ("pixels", "mobilenet", *NETWORKS)


def open_image_encoder(name: str, weights: Mapping[str, str] | None = None) -> ImageEncoder:
    """Return the encoder called `name`: one of `IMAGE_ENCODERS`, or the perceptual hash.

    Args:
        name: which.
        weights: folder, or name on the Hub, by encoder; where an encoder is not in it, its published weights.

    Raises:
        UsageError: there is no such encoder.
        ResourceError: its weights or its library are not here.
    """
    given = (weights or {}).get(name)
    if name == "pixels":
        return Pixels()
    if name == HASH_NAME:
        return PerceptualHash()
    if name == "mobilenet":
        from paris.registry.mobilenet import open_mobilenet  # noqa: PLC0415 - it builds on this file

        return open_mobilenet(given)
    if name in NETWORKS:
        return _open_network(name, given)
    raise UsageError(f"there is no encoder called {name!r}", hint=f"Choose from {', '.join(IMAGE_ENCODERS)}")


@functools.cache
def _open_network(name: str, given: str | None) -> ImageEncoder:
    encoder, published = NETWORKS[name]
    where = given or published
    folder = Path(where).expanduser()
    if not folder.is_dir():
        try:
            folder = Path(snapshot_download(where, allow_patterns=HUB_FILES))
        except Exception as error:
            raise ResourceError(
                f"the weights of {name} ({where}) are not here and cannot be fetched",
                f"{error}".partition("\n")[0],
                f"Give their folder with --encoder {name}=FOLDER, or choose other --features",
            ) from error
    return encoder(folder)
