"""Building blocks shared by the expert and the router, written from the papers.

Peebles & Xie 2023 (DiT, arXiv 2212.09748, section 3.2) for patches, adaptive layer norm and time embedding;
Chen et al. 2023 (PixArt-alpha, arXiv 2310.00426, section 2.3) for AdaLN-Single and cross-attention on text;
Dehghani et al. 2023 (ViT-22B, arXiv 2302.05442, section 2) for normalised queries and keys.
Shape letters: B batch, C channels, H W picture, T picture tokens, L text tokens, E text width, D model width, N heads,
d width of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from paris.models.positions import Rotation, rotate

TIME_SCALE = 999.0
"""Networks see 999 t: Paris keeps DiT's 0..999 time axis (recipes: t_DiT = round(999 t), here not rounded)."""

SINUSOID_DIM = 256
LONGEST_PERIOD = 10_000.0


def patchify(x_BCHW: Tensor, patch: int) -> Tensor:
    """Cut pictures into flattened squares: (B, C, H, W) -> (B, T, C * patch * patch), row by row."""
    B, C, H, W = x_BCHW.shape
    x = x_BCHW.reshape(B, C, H // patch, patch, W // patch, patch)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(B, (H // patch) * (W // patch), C * patch * patch)


def unpatchify(x_BTP: Tensor, patch: int, channels: int, height: int) -> Tensor:
    """Undo `patchify`: (B, T, C * patch * patch) -> (B, C, height, W)."""
    B, T, _ = x_BTP.shape
    rows = height // patch
    x = x_BTP.reshape(B, rows, T // rows, channels, patch, patch)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(B, channels, height, (T // rows) * patch)


def modulate(x_BTD: Tensor, shift_B1D: Tensor, scale_B1D: Tensor) -> Tensor:
    """Scale and shift normalised tokens by their sample's conditioning."""
    return torch.addcmul(shift_B1D, x_BTD, 1 + scale_B1D)


class TimeEmbedding(nn.Module):
    """Sinusoids of 999 t through a two-layer perceptron: t_B in [0, 1] -> (B, D)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(SINUSOID_DIM, width)
        self.out = nn.Linear(width, width)

    def forward(self, t_B: Tensor) -> Tensor:
        """Embed times."""
        half = SINUSOID_DIM // 2
        frequencies = torch.exp(-math.log(LONGEST_PERIOD) * torch.arange(half, device=t_B.device) / half)
        angles = TIME_SCALE * t_B.float()[:, None] * frequencies
        sinusoids = torch.cat([angles.cos(), angles.sin()], dim=-1).to(self.hidden.weight.dtype)
        out: Tensor = self.out(functional.silu(self.hidden(sinusoids)))
        return out


class Attention(nn.Module):
    """Multi-head attention of tokens on themselves, or on a context of the same width.

    Args:
        width: model width D.
        heads: number of heads N.
        qk_norm: bring each head's queries and keys to unit root mean square, times a learned scale.
    """

    def __init__(self, width: int, heads: int, *, qk_norm: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.q_norm = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else None
        self.k_norm = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else None

    def forward(
        self,
        x_BTD: Tensor,
        context_BLD: Tensor | None = None,
        mask_BL: Tensor | None = None,
        rotation: Rotation | None = None,
    ) -> Tensor:
        """Attend; context tokens whose mask is False are not seen. Returns (B, T, D).

        Args:
            x_BTD: tokens that ask.
            context_BLD: tokens that answer; None for the same.
            mask_BL: True where a context token counts.
            rotation: places of the tokens, for attention on themselves.
        """
        source = x_BTD if context_BLD is None else context_BLD
        q = self._split(self.q(x_BTD))
        k, v = (self._split(part) for part in self.kv(source).chunk(2, dim=-1))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        mask = None if mask_BL is None else mask_BL[:, None, None, :]
        mixed = _mix(q, k, v, mask)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def _split(self, x_BTD: Tensor) -> Tensor:
        B, T, D = x_BTD.shape
        return x_BTD.view(B, T, self.heads, D // self.heads).transpose(1, 2)


def _mix(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    if q.device.type != "cpu":
        return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    # On CPUs the bf16 backward of torch 2.13 takes ten times as long as the fp32 one (38 ms against 4 at 16 tokens).
    with torch.autocast("cpu", enabled=False):
        mixed = functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=mask)
    return mixed.to(q.dtype)


class Perceptron(nn.Sequential):
    """Two layers with a tanh-approximated GELU between them."""

    def __init__(self, width: int, ratio: float) -> None:
        hidden = int(width * ratio)
        super().__init__(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))


def initialise_linear(module: nn.Module) -> None:
    """Give a linear layer Xavier weights and zero bias; leave anything else alone. For `nn.Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
