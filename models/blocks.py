"""The transformer block of expert and router, in the wirings of the papers.

How time (and pooled text) reaches a block:

* "single" (AdaLN-Single, PixArt-alpha, arXiv 2310.00426, section 2.3; Paris's experts): one projection for all blocks
  to six vectors a sample, plus a learned table in each block;
* "per-block" (AdaLN-Zero, DiT, arXiv 2212.09748, section 3.2; Paris's router): each block projects the condition.

Shape letters: B batch, T picture tokens, L text tokens, D model width.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from paris.models.layers import Attention, Perceptron, modulate
from paris.models.positions import POSITIONS, ROTARY, SINUSOIDAL, Rotation

SINGLE: Final = "single"
PER_BLOCK: Final = "per-block"
MODULATIONS: Final = (SINGLE, PER_BLOCK)

LARGEST: Final = {
    "channels": 1024,
    "height": 4096,
    "patch": 256,
    "width": 16384,
    "depth": 256,
    "heads": 256,
    "mlp_ratio": 64,
    "text_dim": 65536,
    "text_layers": 2,
    "clusters": 4096,
    "frames": 4096,
    "patch_frames": 64,
    "dual": 256,
    "single": 256,
    "refiners": 16,
    "pooled_dim": 65536,
    "guidance": 1000,
    "rotary_base": 1e9,
}
"""Largest sizes a network is built with. Far above any preset: a config.json that asks for a million blocks, which
would take hours to build even without memory for their numbers, comes from somebody hostile."""


class Block(nn.Module):
    """Self-attention, cross-attention on text where there is any, perceptron.

    Args:
        width: model width D.
        heads: attention heads.
        mlp_ratio: hidden width of the perceptron over D.
        modulation: "single" or "per-block".
        cross: whether to attend to text; without a gate, on tokens that are not normalised, as Paris does.
        qk_norm: normalise queries and keys.
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: float, *, modulation: str, cross: bool, qk_norm: bool = False
    ) -> None:
        super().__init__()
        if modulation == SINGLE:
            self.scale_shift_table = nn.Parameter(width**-0.5 * torch.randn(6, width))
        self.modulation = nn.Linear(width, 6 * width) if modulation == PER_BLOCK else None
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attention = Attention(width, heads, qk_norm=qk_norm)
        self.cross_attention = Attention(width, heads, qk_norm=qk_norm) if cross else None
        self.mlp = Perceptron(width, mlp_ratio)

    def initialise(self) -> None:
        """Let the block begin without text, and a block of its own modulation as the identity."""
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
        if self.cross_attention is not None:
            nn.init.zeros_(self.cross_attention.out.weight)

    def forward(
        self,
        x_BTD: Tensor,
        condition: Tensor,
        text_BLD: Tensor | None = None,
        mask_BL: Tensor | None = None,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """Refine tokens: (B, T, D) -> (B, T, D).

        Args:
            x_BTD: picture tokens.
            condition: (B, 6, D) for "single", (B, D) for "per-block".
            text_BLD: text tokens for cross-attention.
            mask_BL: True where a text token counts.
            rotation: places of the picture tokens, where they are rotary.
        """
        shift_attention, scale_attention, gate_attention, shift_mlp, scale_mlp, gate_mlp = self._parts(condition)
        asked = modulate(self.norm(x_BTD), shift_attention, scale_attention)
        x = x_BTD + gate_attention * self.attention(asked, rotation=rotation)
        if self.cross_attention is not None:
            x = x + self.cross_attention(x, text_BLD, mask_BL)
        out: Tensor = x + gate_mlp * self.mlp(modulate(self.norm(x), shift_mlp, scale_mlp))
        return out

    def _parts(self, condition: Tensor) -> tuple[Tensor, ...]:
        if self.modulation is None:
            return (self.scale_shift_table + condition).chunk(6, dim=1)
        own: Tensor = self.modulation(functional.silu(condition))
        return own[:, None].chunk(6, dim=-1)


def require_bounded(network: str, **sizes: float) -> None:
    """Refuse sizes no network can be built with, before anything is built.

    Raises:
        ValueError: a size is no number, none that a network can have, or beyond `LARGEST`.
    """
    for name, size in sizes.items():
        kinds = (int, float) if name in {"mlp_ratio", "guidance", "rotary_base"} else (int,)
        least = 0 if name in {"text_dim", "mlp_ratio", "guidance"} else 1
        if type(size) not in kinds or not least <= size <= LARGEST[name]:
            raise ValueError(
                f"A {network} with a {name} of {size!r:.80} cannot be built: it is a number from {least} to "
                f"{LARGEST[name]}. Correct the preset, or take no config.json from whoever wrote this one."
            )


def require_sound(
    network: str, *, height: int, patch: int, width: int, heads: int, positions: str, modulation: str = SINGLE
) -> None:
    """Refuse settings no network can be built from.

    Raises:
        ValueError: height and patch, or width and heads, do not divide; or a wiring has no such name.
    """
    if height % patch or width % heads:
        raise ValueError(
            f"A {network} of height {height}, patch {patch}, width {width}, {heads} heads cannot be built: "
            "patch must divide height and heads must divide width. Correct the preset or config.json."
        )
    if positions not in POSITIONS or modulation not in MODULATIONS:
        raise ValueError(
            f"A {network} with {positions!r} positions and {modulation!r} modulation cannot be built: positions are "
            f"{' or '.join(POSITIONS)}, modulation is {' or '.join(MODULATIONS)}. Correct the preset or config.json."
        )
    if positions == ROTARY and width // heads % 4:
        raise ValueError(
            f"A {network} with rotary positions needs heads of a width that 4 divides, for two axes of pairs; here "
            f"it is {width // heads}. Correct the preset or config.json."
        )
    if positions == SINUSOIDAL and width % 4:
        raise ValueError(
            f"A {network} with sinusoidal positions needs a width that 4 divides, for sines and cosines of two axes; "
            f"here it is {width}. Correct the preset or config.json."
        )


def grid_of(x_BCHW: Tensor, patch: int) -> tuple[int, int]:
    """Return rows and columns of patches of a latent picture.

    Raises:
        ValueError: a side is no multiple of the patch.
    """
    height, width = x_BCHW.shape[-2:]
    if height % patch or width % patch:
        raise ValueError(f"Latents of {height} x {width} cannot be cut into patches of {patch} x {patch}.")
    return height // patch, width // patch
