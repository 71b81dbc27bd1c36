"""The router of clips: which expert's cluster does a noised clip belong to?

Paris 2.0 (arXiv 2605.26064) routes by a DiT-B that sees the noised video latents, the time, the pooled text and
optionally features of the first frame. Ours is the router of pictures with its blocks, its CLS token and its head;
patches have a length in time, places are rotary over time, rows and columns, and the first frame is the clean latents
that an expert of image-to-video is told, see `conditions.py`, not DINOv2's features.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from paris.models.blocks import PER_BLOCK, Block, require_bounded
from paris.models.conditions import beside
from paris.models.layers import TimeEmbedding, initialise_linear
from paris.models.positions import ROTARY_BASE, Rotation
from paris.models.video import require_divided

HEAD_GRAIN = 16
"""A head's width is a multiple of it, for pairs of three axes in two halves."""


class VideoRouter(ModelMixin, ConfigMixin):
    """Classify noised video latents into clusters, given time, pooled text and, if so built, first frames.

    Args:
        channels: latent channels C.
        height: latent height H trained at; any other works.
        frames: latent frames F trained at; likewise.
        patch: side of a patch.
        width: model width D.
        depth: number of blocks.
        heads: attention heads, each of a width that 16 divides.
        clusters: number of clusters K.
        patch_frames: latent frames of a patch.
        mlp_ratio: hidden width of the perceptrons over D.
        text_dim: width of the pooled text; 0 makes a blind router.
        first_frame: whether it can be told first frames.
        qk_norm: normalise queries and keys.

    Raises:
        ValueError: no network has such sizes; said before anything is built.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["Block"]
    _repeated_blocks: ClassVar[list[str]] = ["Block"]

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        *,
        channels: int,
        height: int,
        frames: int,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        clusters: int,
        patch_frames: int = 1,
        mlp_ratio: float = 4.0,
        text_dim: int = 768,
        first_frame: bool = False,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        require_bounded(
            "VideoRouter", channels=channels, height=height, frames=frames, patch=patch, patch_frames=patch_frames,
            width=width, depth=depth, heads=heads, clusters=clusters, mlp_ratio=mlp_ratio, text_dim=text_dim,
        )  # fmt: skip
        if height % patch or frames % patch_frames or width % (HEAD_GRAIN * heads):
            raise ValueError(
                f"A VideoRouter of height {height}, {frames} frames, patch {patch} x {patch} x {patch_frames} frames, "
                f"width {width} and {heads} heads cannot be built: patches must divide height and frames, and "
                f"{HEAD_GRAIN} the width of a head. Correct the preset or config.json."
            )
        self.patches, self.head_width = (patch_frames, patch, patch), width // heads
        self.gradient_checkpointing = False
        seen = 2 * channels + 1 if first_frame else channels
        self.patch_in = nn.Linear(seen * patch_frames * patch * patch, width)
        self.cls_token = nn.Parameter(0.02 * torch.randn(width))
        self.time = TimeEmbedding(width)
        self.text_in = nn.Linear(text_dim, width) if text_dim else None
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, modulation=PER_BLOCK, cross=False, qk_norm=qk_norm) for _ in range(depth)
        )
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, clusters)
        )
        self._initialise()

    def _initialise(self) -> None:
        self.apply(initialise_linear)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.initialise()

    def forward(self, x_BCFHW: Tensor, t_B: Tensor, pooled_BE: Tensor, first_BQHW: Tensor | None = None) -> Tensor:
        """Return cluster logits (B, K). Pooled text is brought to unit root mean square first, so its scale is free.

        Args:
            x_BCFHW: latents (1-t) x0 + t eps, of any length and size the patches divide.
            t_B: times in [0, 1], 0 data, 1 noise.
            pooled_BE: pooled text; a blind router does not look at it.
            first_BQHW: clean latents of first frames; a router built without them does not look at them.

        Raises:
            ValueError: patches do not divide the latents.
        """
        require_divided(x_BCFHW, self.patches)
        grid = [side // patch for side, patch in zip(x_BCFHW.shape[-3:], self.patches, strict=True)]
        if self.config["first_frame"]:
            x_BCFHW = beside(x_BCFHW, first_BQHW)
        x = self.patch_in(patches_of(x_BCFHW, self.patches))
        turn = clip_rotation(grid, self.head_width, x.device, unplaced=1)
        condition = self.time(t_B)
        cls_BD = self.cls_token.expand(len(x), -1)
        if self.text_in is not None:
            text_BD = self.text_in(functional.rms_norm(pooled_BE, pooled_BE.shape[-1:]))
            condition = condition + text_BD
            cls_BD = cls_BD + text_BD
        x = torch.cat([cls_BD[:, None].to(x.dtype), x], dim=1)
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(block, x, condition, None, None, turn)
            else:
                x = block(x, condition, rotation=turn)
        logits: Tensor = self.head(x[:, 0])
        return logits


def patches_of(x_BCFHW: Tensor, patches: tuple[int, int, int]) -> Tensor:
    """Cut clips into flattened blocks: (B, C, F, H, W) -> (B, T, C * their size), by frame, row and column."""
    B, C = x_BCFHW.shape[:2]
    f, h, w = patches
    frames, rows, columns = (side // patch for side, patch in zip(x_BCFHW.shape[-3:], patches, strict=True))
    x = x_BCFHW.reshape(B, C, frames, f, rows, h, columns, w)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(B, frames * rows * columns, C * f * h * w)


def clip_rotation(grid: list[int], width: int, device: torch.device, *, unplaced: int = 0) -> Rotation:
    """Return the rotation of a clip's tokens for `positions.rotate`: a quarter of the pairs turns with time.

    Args:
        grid: patches in time, rows and columns.
        width: of a head; a multiple of 16.
        device: where to compute.
        unplaced: tokens before the clip's that are nowhere, such as CLS, and are not turned.
    """
    pairs = (width // 8, width * 3 // 16, width * 3 // 16)
    places = torch.cartesian_prod(*(torch.arange(side, device=device, dtype=torch.float32) for side in grid))
    turning = [
        place[:, None] * ROTARY_BASE ** (-torch.arange(count, device=device, dtype=torch.float32) / count)
        for place, count in zip(places.unbind(1), pairs, strict=True)
    ]
    a, b = functional.pad(torch.cat(turning, dim=1), (0, 0, unplaced, 0)).chunk(2, dim=1)
    angles_Td = torch.cat([a, a, b, b], dim=1)
    return angles_Td.cos(), angles_Td.sin()
