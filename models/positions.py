"""Where a token is: learned places, as Paris has them, fixed sinusoids as in PixArt, or rotations, which fit any size.

Learned places belong to one grid; for another they are interpolated bicubically (Dosovitskiy et al. 2021, ViT,
arXiv 2010.11929, section 3.2), which fine-tuning must then get used to. Sinusoids (MAE, arXiv 2111.06377, appendix A;
DiT; PixArt-alpha, arXiv 2310.00426) are diffusers' own numbers, so that its class computes what ours does; on another
grid they are stretched over it, which is PixArt's way to larger pictures. Rotary places (Su et al. 2021, RoFormer,
arXiv 2104.09864, equation 15) are axial: half of each head turns with the row, half with the column, by the base Heo et
al. 2024 (arXiv 2403.13298, section 3.2) use for pictures. Attention then sees differences of places alone.
Letters: B batch, N heads, T tokens, d width of a head.
"""

from __future__ import annotations

import functools
from typing import Final, TypeAlias

import torch
from diffusers.models.embeddings import get_2d_sincos_pos_embed
from torch import Tensor, nn
from torch.nn import functional

from paris.models.pixart import interpolation_scale

LEARNED: Final = "learned"
SINUSOIDAL: Final = "sinusoidal"
ROTARY: Final = "rotary"
POSITIONS: Final = (LEARNED, SINUSOIDAL, ROTARY)
ROTARY_BASE = 100.0

Rotation: TypeAlias = tuple[Tensor, Tensor]
"""Cosines and sines of every token's angles, each (T, d)."""


def rotation(rows: int, columns: int, width: int, device: torch.device, *, unplaced: int = 0) -> Rotation:
    """Return the rotation of a grid's tokens, row by row.

    Args:
        rows: of patches.
        columns: of patches.
        width: of a head; a multiple of 4.
        device: where to compute.
        unplaced: tokens before the grid's that are nowhere, such as CLS, and are not turned.
    """
    quarter = torch.arange(width // 4, device=device, dtype=torch.float32)
    speeds = ROTARY_BASE ** (-quarter / (width // 4))
    by_row = torch.arange(rows, device=device).repeat_interleave(columns)[:, None] * speeds
    by_column = torch.arange(columns, device=device).repeat(rows)[:, None] * speeds
    angles_Td = torch.cat([by_row, by_row, by_column, by_column], dim=-1)
    angles_Td = functional.pad(angles_Td, (0, 0, unplaced, 0))
    return angles_Td.cos(), angles_Td.sin()


def rotate(x_BNTd: Tensor, by: Rotation) -> Tensor:
    """Turn each head's pairs of numbers by their token's angles, in fp32; lengths do not change."""
    cos_Td, sin_Td = by
    x = x_BNTd.float()
    a, b, c, d = x.chunk(4, dim=-1)
    turned = torch.cat([-b, a, -d, c], dim=-1)
    return (x * cos_Td + turned * sin_Td).to(x_BNTd.dtype)


def learned_places(side: int, width: int) -> nn.Parameter:
    """Return the places (side * side, D) of a square grid, to be learned."""
    return nn.Parameter(0.02 * torch.randn(side**2, width))


def resized(places_TD: Tensor, rows: int, columns: int) -> Tensor:
    """Return the learned places of a square grid for another: (rows * columns, D); for its own, those themselves."""
    side = round(len(places_TD) ** 0.5)
    if (rows, columns) == (side, side):
        return places_TD
    grid_1Dhw = places_TD.float().unflatten(0, (side, side)).permute(2, 0, 1)[None]
    other_1Dhw = functional.interpolate(grid_1Dhw, size=(rows, columns), mode="bicubic", align_corners=False)
    return other_1Dhw[0].flatten(1).T.to(places_TD.dtype)


def places(learned_TD: Tensor | None, rows: int, columns: int, side: int, patch: int, like: Tensor) -> Tensor:
    """Return what is added to the tokens of a grid (rows * columns, D): learned places, or else sinusoids.

    Args:
        learned_TD: of a square grid.
        rows: of patches.
        columns: of patches.
        side: of the latents that training has.
        patch: side of a patch.
        like: first layer's weight (D, P), whose precision and device they get.
    """
    if learned_TD is not None:
        return resized(learned_TD, rows, columns)
    # A compiler looks through the cache, and then has the arithmetic in its own program.
    computed = sinusoids if torch.compiler.is_compiling() else kept_sinusoids
    return computed(rows, columns, side, patch, len(like), like.device).to(like.dtype)


def sinusoids(rows: int, columns: int, side: int, patch: int, width: int, device: torch.device) -> Tensor:
    """Return the fixed places of a grid as PixArt has them: (rows * columns, D), fp32.

    Args:
        rows: of patches.
        columns: of patches.
        side: of the square latents that training has; other grids are stretched over theirs.
        patch: side of a patch.
        width: D, a multiple of 4.
        device: where they are.
    """
    # Kept for later calls, which may train: a tensor of inference mode could not be.
    with torch.inference_mode(False):
        places: Tensor = get_2d_sincos_pos_embed(
            width,
            (rows, columns),
            base_size=side // patch,
            interpolation_scale=interpolation_scale(side),
            device=device,
        )
        return places.float()


kept_sinusoids = functools.lru_cache(maxsize=16)(sinusoids)
"""The same, computed once for each grid."""
