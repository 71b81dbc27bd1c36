"""What networks are asked besides latents and times: an expert of pictures sees text tokens, one of clips more.

A clip's first frame is a condition (Open-Sora 2.0, arXiv 2503.09642, section 4.3, whose recipe Paris 2.0 follows): its
clean latents and one channel of ones, in the first frame's place beside the noised latents, zeros everywhere else and
where no first frame is given. So image-to-video and text-to-video are one network with the same weights.
Letters: B batch, C latent channels, F frames, Q = C + 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paris.models.text import TextBatch


def asked(x: Tensor, text: TextBatch, first_BQHW: Tensor | None = None) -> tuple[Tensor, ...]:
    """Return what an expert is called with after latents and times.

    Args:
        x: latents, (B, C, H, W) of pictures or (B, C, F, H, W) of clips.
        text: one text a sample.
        first_BQHW: first frames of clips, where there are some.
    """
    if x.ndim == 4:
        return text.tokens_BLE, text.mask_BL
    return text.tokens_BLE, text.mask_BL, text.pooled_BE, *given(first_BQHW)


def given(first_BQHW: Tensor | None) -> tuple[Tensor, ...]:
    """Return first frames as the last argument of a call, which is left out where there are none."""
    return () if first_BQHW is None else (first_BQHW,)


def first_frames(latents_BCFHW: Tensor, given_B: Tensor | None) -> Tensor | None:
    """Return the condition (B, Q, H, W) made of clean latents: their first frames, of those samples that give it.

    Args:
        latents_BCFHW: clean latents; one frame is enough.
        given_B: True where a sample's first frame is given; None where nobody's is.
    """
    if given_B is None:
        return None
    first_BCHW = latents_BCFHW[:, :, 0]
    condition = torch.cat([first_BCHW, torch.ones_like(first_BCHW[:, :1])], dim=1)
    return condition * given_B.to(condition.dtype)[:, None, None, None]


def beside(x_BCFHW: Tensor, first_BQHW: Tensor | None) -> Tensor:
    """Return noised latents with the condition's channels after their own: (B, 2 C + 1, F, H, W)."""
    B, C, F, H, W = x_BCFHW.shape
    place = x_BCFHW.new_zeros(B, C + 1, F, H, W)
    if first_BQHW is not None:
        place[:, :, 0] = first_BQHW.to(x_BCFHW.dtype)
    return torch.cat([x_BCFHW, place], dim=1)
