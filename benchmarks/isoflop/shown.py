"""What pictures and clips show, in numbers of MobileNetV2's inner blocks, and how far two sets of them are apart.

A picture is the 320 numbers of the last block at 96 px. A clip is 288: of the 96 numbers of an earlier block at 64 px,
frame by frame, the mean, the mean absolute difference from frame to frame, and that of these differences; so shuffled,
frozen or jumping frames are far from clips that move, and a clip that runs backwards is not.

The distances say which of two sets of the same size is nearer to real ones, beside what real ones are apart from each
other (the clean floor). They are no FID and no FVD: another network, another size, fewer samples.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from sklearn.linear_model import Ridge
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.isoflop.data import TEST, TRAIN, Pictures
from paris.models.files import write_tensors
from paris.registry.encoders import IMAGENET
from paris.registry.features import Vectors
from paris.registry.mobilenet import SIDE_PX, open_mobilenet

BATCH = 128
CLIP_BLOCKS = 14
CLIP_PX = 64
RIDGE = 30.0
NEAREST = 10


def shown_of(pictures: Pictures, out: Path, weights: str | None) -> Vectors:
    """Return the features of every picture (P, 320) or clip (P, 288), seen once and kept.

    Args:
        pictures: to look at.
        out: where they are kept.
        weights: file of MobileNetV2's weights; None: that of the installed package.
    """
    if not out.exists():
        write_tensors({"shown": torch.from_numpy(features(pictures.pixels_P3HW, weights))}, out, {})
    with safe_open(out, framework="pt") as file:
        shown: Vectors = file.get_tensor("shown").numpy()
    return shown


def features(pixels: Tensor, weights: str | None) -> Vectors:
    """Return what uint8 pictures (N, 3, H, W) show (N, 320), or clips (N, 3, F, H, W), (N, 288)."""
    blocks = open_mobilenet(weights)._model.features  # noqa: SLF001
    if pixels.ndim == 4:
        seen = _seen(blocks[:-1], pixels, SIDE_PX)
    else:
        frames = _seen(blocks[:CLIP_BLOCKS], pixels.transpose(1, 2).flatten(0, 1), CLIP_PX)
        seen = over_time(frames.unflatten(0, (len(pixels), -1)))
    shown: Vectors = seen.numpy()
    return shown


def over_time(seen_NFD: Tensor) -> Tensor:
    """Return what is seen over all frames (N, 3 D): the mean, how much it changes, and how much the change does."""
    change_NFD = seen_NFD.diff(dim=1)
    return torch.cat([part.mean(1) for part in (seen_NFD, change_NFD.abs(), change_NFD.diff(dim=1).abs())], dim=1)


def motion(clips_N3FHW: Tensor) -> float:
    """Return the mean absolute difference from frame to frame of uint8 clips, in levels of 0 to 255."""
    return float(clips_N3FHW.float().diff(dim=2).abs().mean())


@torch.no_grad()
def _seen(blocks: nn.Module, pixels_N3HW: Tensor, side_px: int) -> Tensor:
    mean, deviation = (torch.tensor(c)[:, None, None] for c in IMAGENET)
    parts = []
    for pixels in pixels_N3HW.split(BATCH):
        large = functional.interpolate(pixels.float() / 255, size=(side_px, side_px), mode="bicubic").clamp(0, 1)
        parts.append(blocks((large - mean) / deviation).mean(dim=(2, 3)))
    return torch.cat(parts)


def frechet(a_NF: Vectors, b_NF: Vectors) -> float:
    """Return the Frechet distance of two Gaussians with the sets' means and covariances (Heusel et al. 2017)."""
    a, b = a_NF.astype(np.float64), b_NF.astype(np.float64)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.linalg.eigvals(cov_a @ cov_b).real.clip(min=0)
    apart = ((a.mean(0) - b.mean(0)) ** 2).sum()
    return float(apart + np.trace(cov_a) + np.trace(cov_b) - 2 * np.sqrt(roots).sum())


def kernel_distance(a_NF: Vectors, b_NF: Vectors) -> float:
    """Return the kernel distance, unbiased (Binkowski et al. 2018, arXiv 1801.01401, section 3), times a thousand."""
    a, b = a_NF.astype(np.float64), b_NF.astype(np.float64)

    def kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        values: NDArray[np.float64] = (x @ y.T / x.shape[1] + 1) ** 3
        return values

    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(a, a), kernel(b, b))]
    return float(1e3 * (within[0] + within[1] - 2 * kernel(a, b).mean()))


class Retrieval:
    """How often a picture finds the caption it was drawn from among all test captions.

    A linear map from what pictures show to what their captions say is fitted on training pictures; a picture finds its
    caption where that is one of the `NEAREST` to where the picture is mapped.
    """

    def __init__(self, pictures: Pictures, shown_PF: Vectors) -> None:
        train, test = ((pictures.split_P == split).numpy() for split in (TRAIN, TEST))
        said_PE = pictures.texts.pooled_BE[pictures.text_P].numpy()
        self._map = Ridge(alpha=RIDGE).fit(shown_PF[train], said_PE[train])
        self._captions_ME = said_PE[test]

    def accuracy(self, shown_MF: Vectors) -> float:
        """Return the share of pictures, in the order of the test captions, that find theirs."""
        mapped_ME = self._map.predict(shown_MF) - self._map.intercept_
        captions_ME = self._captions_ME - self._map.intercept_
        likeness_MM = mapped_ME @ captions_ME.T / np.linalg.norm(captions_ME, axis=1)
        own_M = np.diag(likeness_MM)
        return float(((likeness_MM > own_M[:, None]).sum(1) < NEAREST).mean())
