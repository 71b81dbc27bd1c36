"""The expert: a text-conditional diffusion transformer with Paris's wiring.

Source: Paris (arXiv 2510.03434), its released expert config and a public port of its weights: one shared time
projection (AdaLN-Single), per-block scale-shift tables, ungated cross-attention of un-normalised tokens on projected
text.
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from paris.models.layers import Attention, Perceptron, TimeEmbedding, initialise_linear, modulate, patchify, unpatchify


class DiTBlock(nn.Module):
    """Self-attention, cross-attention on text, perceptron; all conditioning on time comes through one table."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(width**-0.5 * torch.randn(6, width))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, heads)
        self.cross_attention = Attention(width, heads)
        self.mlp = Perceptron(width, mlp_ratio)

    def forward(self, x_BTD: Tensor, time_B6D: Tensor, text_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Refine tokens: (B, T, D) -> (B, T, D)."""
        parts = (self.scale_shift_table + time_B6D).chunk(6, dim=1)
        shift_attention, scale_attention, gate_attention, shift_mlp, scale_mlp, gate_mlp = parts
        x = x_BTD + gate_attention * self.attention(modulate(self.norm(x_BTD), shift_attention, scale_attention))
        x = x + self.cross_attention(x, text_BLD, mask_BL)
        out: Tensor = x + gate_mlp * self.mlp(modulate(self.norm(x), shift_mlp, scale_mlp))
        return out


class DiT(ModelMixin, ConfigMixin):
    """Predict the flow velocity of noised latents, given time and text.

    Args:
        channels: latent channels C, in and out.
        height: latent height H; latents are square.
        patch: side of a patch; H must be a multiple of it.
        width: model width D.
        depth: number of blocks.
        heads: attention heads; D must be a multiple of it.
        mlp_ratio: hidden width of the perceptrons over D.
        text_dim: width E of the text tokens.

    Raises:
        ValueError: where height and patch, or width and heads, do not divide.
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
        mlp_ratio: float = 4.0,
        text_dim: int = 768,
    ) -> None:
        super().__init__()
        if height % patch or width % heads:
            raise ValueError(
                f"A DiT of height {height}, patch {patch}, width {width}, {heads} heads cannot be built: "
                "patch must divide height and heads must divide width. Correct the preset or config.json."
            )
        self.patch, self.channels, self.height = patch, channels, height
        self.patch_in = nn.Linear(channels * patch * patch, width)
        self.pos_embed = nn.Parameter(0.02 * torch.randn((height // patch) ** 2, width))
        self.time = TimeEmbedding(width)
        self.time_to_modulation = nn.Linear(width, 6 * width)
        self.text_in = nn.Linear(text_dim, width)
        self.blocks = nn.ModuleList(DiTBlock(width, heads, mlp_ratio) for _ in range(depth))
        self.final_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.final_scale_shift_table = nn.Parameter(width**-0.5 * torch.randn(2, width))
        self.patch_out = nn.Linear(width, channels * patch * patch)
        self._initialise()

    def _initialise(self) -> None:
        self.apply(initialise_linear)
        nn.init.normal_(self.time_to_modulation.weight, std=0.02)
        for block in self.blocks:
            assert isinstance(block, DiTBlock)
            nn.init.zeros_(block.cross_attention.out.weight)
        nn.init.zeros_(self.patch_out.weight)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, text_BLE: Tensor, mask_BL: Tensor) -> Tensor:
        """Return the velocity v = eps - x0, shaped like x.

        Args:
            x_BCHW: latents (1-t) x0 + t eps.
            t_B: times in [0, 1], 0 data, 1 noise.
            text_BLE: text tokens.
            mask_BL: True where a text token counts.
        """
        x = self.patch_in(patchify(x_BCHW, self.patch)) + self.pos_embed
        time_BD = self.time(t_B)
        time_B6D = self.time_to_modulation(functional.silu(time_BD)).unflatten(-1, (6, -1))
        text_BLD = self.text_in(text_BLE)
        for block in self.blocks:
            x = block(x, time_B6D, text_BLD, mask_BL)
        shift, scale = (self.final_scale_shift_table + time_BD[:, None]).chunk(2, dim=1)
        x = self.patch_out(modulate(self.final_norm(x), shift, scale))
        return unpatchify(x, self.patch, self.channels, self.height)
