"""Where a token is in the picture: learned places, as Paris has them, or rotations, which fit any size.

Learned places belong to one grid; for another they are interpolated bicubically (Dosovitskiy et al. 2021, ViT,
arXiv 2010.11929, section 3.2), which fine-tuning must then get used to. Rotary places (Su et al. 2021, RoFormer,
arXiv 2104.09864, equation 15) are axial: half of each head turns with the row, half with the column, by the base Heo et
al. 2024 (arXiv 2403.13298, section 3.2) use for pictures. Attention then sees differences of places alone.
Letters: B batch, N heads, T tokens, d width of a head.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

LEARNED: Final = "learned"
ROTARY: Final = "rotary"
POSITIONS: Final = (LEARNED, ROTARY)
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


def resized(places_TD: Tensor, rows: int, columns: int) -> Tensor:
    """Return the learned places of a square grid for another: (rows * columns, D); for its own, those themselves."""
    side = round(len(places_TD) ** 0.5)
    if (rows, columns) == (side, side):
        return places_TD
    grid_1Dhw = places_TD.float().unflatten(0, (side, side)).permute(2, 0, 1)[None]
    other_1Dhw = functional.interpolate(grid_1Dhw, size=(rows, columns), mode="bicubic", align_corners=False)
    return other_1Dhw[0].flatten(1).T.to(places_TD.dtype)
