"""The expert: a text-conditional diffusion transformer, by default with the wiring of Paris's released experts.

Source: Paris (arXiv 2510.03434), its released expert config and a public port of its weights: one shared time
projection (AdaLN-Single), per-block scale-shift tables, ungated cross-attention of un-normalised tokens on projected
text, learned positions. With sinusoidal positions and two layers for the text it is the network of PixArt-alpha (arXiv
2310.00426), which diffusers has too. The other wirings are those of DiT (arXiv 2212.09748) and of the papers in
`positions.py`.
"""

from __future__ import annotations

from typing import ClassVar, Final

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from paris.models.blocks import SINGLE, Block, grid_of, require_bounded, require_sound
from paris.models.layers import TimeEmbedding, initialise_linear, modulate, patchify, unpatchify
from paris.models.positions import LEARNED, ROTARY, learned_places, places, rotation

CROSS: Final = "cross"
POOLED: Final = "pooled"


class DiT(ModelMixin, ConfigMixin):
    """Predict the flow velocity of noised latents, given time and text.

    `enable_gradient_checkpointing()` keeps only each block's input for the backward pass and computes the rest again.

    Args:
        channels: latent channels C, in and out.
        height: latent height H; training latents are square.
        patch: side of a patch; H must be a multiple of it.
        width: model width D.
        depth: number of blocks.
        heads: attention heads; D must be a multiple of it.
        mlp_ratio: hidden width of the perceptrons over D.
        text_dim: width E of the text tokens.
        modulation: "single" (AdaLN-Single) or "per-block" (AdaLN-Zero), see `blocks.py`.
        text: "cross" for cross-attention on the tokens; "pooled" adds the mean of the tokens that count to the time
            embedding, as DiT does with its class.
        text_layers: of the projection of the tokens to D: 1, or 2 with a tanh-approximated GELU between, as in PixArt.
        positions: "learned", "sinusoidal" or "rotary", see `positions.py`.
        qk_norm: normalise queries and keys of all attentions.

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
        mlp_ratio: float = 4.0,
        text_dim: int = 768,
        modulation: str = SINGLE,
        text: str = CROSS,
        text_layers: int = 1,
        positions: str = LEARNED,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        require_bounded(
            "DiT", channels=channels, height=height, patch=patch, width=width, depth=depth, heads=heads,
            mlp_ratio=mlp_ratio, text_dim=text_dim, text_layers=text_layers,
        )  # fmt: skip
        require_sound(
            "DiT", height=height, patch=patch, width=width, heads=heads, positions=positions, modulation=modulation
        )
        if text not in {CROSS, POOLED} or (text, modulation) == (POOLED, SINGLE):
            raise ValueError(
                f"A DiT with {text!r} text and {modulation!r} modulation cannot be built: text is {CROSS!r}, or "
                f"{POOLED!r} with per-block modulation. Correct the preset or config.json."
            )
        self.patch, self.channels, self.head_width = patch, channels, width // heads
        self.positions, self.height = positions, height
        self.gradient_checkpointing = False
        self.patch_in = nn.Linear(channels * patch * patch, width)
        self.register_parameter("pos_embed", learned_places(height // patch, width) if positions == LEARNED else None)
        self.time = TimeEmbedding(width)
        self.time_to_modulation = nn.Linear(width, 6 * width) if modulation == SINGLE else None
        self.text_in = _text_projection(text_dim, width, text_layers)
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, modulation=modulation, cross=text == CROSS, qk_norm=qk_norm)
            for _ in range(depth)
        )
        self.final_norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.final_scale_shift_table = nn.Parameter(width**-0.5 * torch.randn(2, width))
        self.patch_out = nn.Linear(width, channels * patch * patch)
        self._cross = text == CROSS
        self._initialise()

    def _initialise(self) -> None:
        self.apply(initialise_linear)
        if self.time_to_modulation is not None:
            nn.init.normal_(self.time_to_modulation.weight, std=0.02)
        for block in self.blocks:
            assert isinstance(block, Block)
            block.initialise()
        nn.init.zeros_(self.patch_out.weight)

    def forward(self, x_BCHW: Tensor, t_B: Tensor, text_BLE: Tensor, mask_BL: Tensor) -> Tensor:
        """Return the velocity v = eps - x0, shaped like x.

        Args:
            x_BCHW: latents (1-t) x0 + t eps, of any height and width the patch divides.
            t_B: times in [0, 1], 0 data, 1 noise.
            text_BLE: text tokens.
            mask_BL: True where a text token counts.

        Raises:
            ValueError: a side of the latents is no multiple of the patch.
        """
        rows, columns = grid_of(x_BCHW, self.patch)
        x = self.patch_in(patchify(x_BCHW, self.patch))
        turn = None
        if self.positions == ROTARY:
            turn = rotation(rows, columns, self.head_width, x.device)
        else:
            x = x + places(self.pos_embed, rows, columns, self.height, self.patch, self.patch_in.weight)
        time_BD = self.time(t_B)
        text_BLD = self.text_in(text_BLE)
        condition = self._condition(time_BD, text_BLD, mask_BL)
        asked = (text_BLD, mask_BL) if self._cross else (None, None)
        for block in self.blocks:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(block, x, condition, *asked, turn)
            else:
                x = block(x, condition, *asked, turn)
        if not self._cross:
            time_BD = condition
        shift, scale = (self.final_scale_shift_table + time_BD[:, None]).chunk(2, dim=1)
        x = self.patch_out(modulate(self.final_norm(x), shift, scale))
        return unpatchify(x, self.patch, self.channels, x_BCHW.shape[-2])

    def _condition(self, time_BD: Tensor, text_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Return what blocks are modulated by: (B, 6, D) for AdaLN-Single, (B, D) else."""
        if self.time_to_modulation is not None:
            return self.time_to_modulation(functional.silu(time_BD)).unflatten(-1, (6, -1))
        if self._cross:
            return time_BD
        counts_BL1 = mask_BL[..., None].to(text_BLD.dtype)
        return time_BD + (text_BLD * counts_BL1).sum(1) / counts_BL1.sum(1).clamp(min=1)


def _text_projection(text_dim: int, width: int, layers: int) -> nn.Module:
    if layers == 1:
        return nn.Linear(text_dim, width)
    return nn.Sequential(nn.Linear(text_dim, width), nn.GELU(approximate="tanh"), nn.Linear(width, width))
