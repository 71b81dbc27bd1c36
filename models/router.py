"""The router: which expert's cluster does a noised picture belong to?

Source: Decentralized Diffusion Models (arXiv 2501.05450, algorithm 1) and Paris's released router config: DiT blocks
with AdaLN-Zero, a learned CLS token, cross-entropy on cluster labels. Ours also sees the pooled text, because for
text-conditional experts the exact mixture weight is p(k | x_t, t, text).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from paris.models.blocks import PER_BLOCK, Block, grid_of, require_bounded, require_sound
from paris.models.layers import TimeEmbedding, initialise_linear, patchify
from paris.models.positions import LEARNED, ROTARY, learned_places, places, rotation


class Router(ModelMixin, ConfigMixin):
    """Classify noised latents into clusters, given time and (unless blind) pooled text.

    Args:
        channels: latent channels C.
        height: latent height H; latents are square.
        patch: side of a patch.
        width: model width D.
        depth: number of blocks.
        heads: attention heads.
        clusters: number of clusters K.
        mlp_ratio: hidden width of the perceptrons over D.
        text_dim: width E of the pooled text; 0 makes a blind router, as Paris released.
        positions: "learned", "sinusoidal" or "rotary", see `positions.py`.
        qk_norm: normalise queries and keys.

    Raises:
        ValueError: no network has such sizes or such a wiring; said before anything is built.
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
        patch: int,
        width: int,
        depth: int,
        heads: int,
        clusters: int,
        mlp_ratio: float = 4.0,
        text_dim: int = 768,
        positions: str = LEARNED,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        require_bounded(
            "Router", channels=channels, height=height, patch=patch, width=width, depth=depth, heads=heads,
            clusters=clusters, mlp_ratio=mlp_ratio, text_dim=text_dim,
        )  # fmt: skip
        require_sound("Router", height=height, patch=patch, width=width, heads=heads, positions=positions)
        self.patch, self.head_width = patch, width // heads
        self.positions, self.height = positions, height
        self.gradient_checkpointing = False
        self.patch_in = nn.Linear(channels * patch * patch, width)
        self.register_parameter("pos_embed", learned_places(height // patch, width) if positions == LEARNED else None)
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

    def forward(self, x_BCHW: Tensor, t_B: Tensor, pooled_BE: Tensor) -> Tensor:
        """Return cluster logits (B, K). Pooled text is brought to unit root mean square first, so its scale is free.

        Args:
            x_BCHW: latents (1-t) x0 + t eps, of any height and width the patch divides.
            t_B: times in [0, 1], 0 data, 1 noise.
            pooled_BE: pooled text; a blind router does not look at it.

        Raises:
            ValueError: a side of the latents is no multiple of the patch.
        """
        rows, columns = grid_of(x_BCHW, self.patch)
        x = self.patch_in(patchify(x_BCHW, self.patch))
        turn = None
        if self.positions == ROTARY:
            turn = rotation(rows, columns, self.head_width, x.device, unplaced=1)
        else:
            x = x + places(self.pos_embed, rows, columns, self.height, self.patch, self.patch_in.weight)
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
