"""The router: which expert's cluster does a noised picture belong to?

Source: Decentralized Diffusion Models (arXiv 2501.05450, algorithm 1) and Paris's released router config: DiT blocks
with AdaLN-Zero, a learned CLS token, cross-entropy on cluster labels. Ours also sees the pooled text, because for
text-conditional experts the exact mixture weight is p(k | x_t, t, text).
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from paris.models.layers import Attention, Perceptron, TimeEmbedding, initialise_linear, modulate, patchify


class RouterBlock(nn.Module):
    """Self-attention and perceptron, each modulated and gated by the block's own projection (AdaLN-Zero)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, heads)
        self.mlp = Perceptron(width, mlp_ratio)

    def forward(self, x_BTD: Tensor, condition_BD: Tensor) -> Tensor:
        """Refine tokens: (B, T, D) -> (B, T, D)."""
        parts = self.modulation(functional.silu(condition_BD))[:, None].chunk(6, dim=-1)
        shift_attention, scale_attention, gate_attention, shift_mlp, scale_mlp, gate_mlp = parts
        x = x_BTD + gate_attention * self.attention(modulate(self.norm(x_BTD), shift_attention, scale_attention))
        out: Tensor = x + gate_mlp * self.mlp(modulate(self.norm(x), shift_mlp, scale_mlp))
        return out


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
    """

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
    ) -> None:
        super().__init__()
        self.patch = patch
        self.patch_in = nn.Linear(channels * patch * patch, width)
        self.pos_embed = nn.Parameter(0.02 * torch.randn((height // patch) ** 2, width))
        self.cls_token = nn.Parameter(0.02 * torch.randn(width))
        self.time = TimeEmbedding(width)
        self.text_in = nn.Linear(text_dim, width) if text_dim else None
        self.blocks = nn.ModuleList(RouterBlock(width, heads, mlp_ratio) for _ in range(depth))
        self.head = nn.Sequential(
            nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width), nn.GELU(), nn.Linear(width, clusters)
        )
        self._initialise()

    def _initialise(self) -> None:
        self.apply(initialise_linear)
        for block in self.blocks:
            assert isinstance(block, RouterBlock)
            nn.init.zeros_(block.modulation.weight)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, pooled_BE: Tensor) -> Tensor:
        """Return cluster logits (B, K). Pooled text is brought to unit root mean square first, so its scale is free."""
        x = self.patch_in(patchify(x_BCHW, self.patch)) + self.pos_embed
        condition = self.time(t_B)
        cls_BD = self.cls_token.expand(len(x), -1)
        if self.text_in is not None:
            text_BD = self.text_in(functional.rms_norm(pooled_BE, pooled_BE.shape[-1:]))
            condition = condition + text_BD
            cls_BD = cls_BD + text_BD
        x = torch.cat([cls_BD[:, None].to(x.dtype), x], dim=1)
        for block in self.blocks:
            x = block(x, condition)
        logits: Tensor = self.head(x[:, 0])
        return logits
