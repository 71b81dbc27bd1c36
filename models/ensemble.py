"""Experts and router as one velocity: v = sum_k w_k v_k, each expert guided on its own, samples grouped by expert."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from paris.models.dit import DiT
from paris.models.networks import load_network
from paris.models.router import Router
from paris.models.routing import mixture_weights
from paris.models.text import TextBatch


class Ensemble:
    """K experts, loaded when first needed, and the router that mixes them.

    Args:
        experts: networks, or folders with exported weights, in cluster order.
        router: the router network.
        strategy: "top-k" or "full", see `paris.models.routing`.
        k: experts a sample for "top-k".
        dtype: precision experts are loaded in.
    """

    def __init__(
        self,
        experts: Sequence[DiT | Path],
        router: Router,
        strategy: str = "top-k",
        k: int = 2,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.sources, self.router = list(experts), router.eval()
        self.strategy, self.k, self.dtype = strategy, k, dtype
        self._loaded: dict[int, DiT] = {}

    def __len__(self) -> int:
        return len(self.sources)

    def expert(self, index: int) -> DiT:
        """Return one expert, loading it on first use."""
        if index not in self._loaded:
            source = self.sources[index]
            network = load_network(DiT, source, self.dtype) if isinstance(source, Path) else source
            self._loaded[index] = network.eval()
        return self._loaded[index]

    @torch.no_grad()
    def weights(self, x_BCHW: Tensor, t_B: Tensor, text: TextBatch) -> Tensor:
        """Return mixture weights (B, K) at x_t, from the router with the prompt's text."""
        logits_BK = self.router(x_BCHW.to(self.router.dtype), t_B, text.pooled_BE.to(self.router.dtype))
        return mixture_weights(logits_BK, self.strategy, self.k)

    @torch.no_grad()
    def velocity(
        self, x_BCHW: Tensor, t_B: Tensor, text: TextBatch, null: TextBatch, guidance: float
    ) -> tuple[Tensor, Tensor]:
        """Return the mixed guided velocity, shaped like x, and the weights (B, K) it was mixed with.

        Args:
            x_BCHW: latents at time t.
            t_B: times in [0, 1].
            text: one prompt a sample.
            null: one negative prompt a sample.
            guidance: scale g of v_null + g (v_text - v_null); 1 skips the null half.
        """
        weights_BK = self.weights(x_BCHW, t_B, text)
        mixed = torch.zeros_like(x_BCHW)
        for index in range(len(self)):
            rows = weights_BK[:, index].nonzero().flatten()
            if len(rows):
                texts = text.select(rows), null.select(rows)
                v = guided(self.expert(index), x_BCHW[rows], t_B[rows], texts, guidance)
                mixed[rows] += weights_BK[rows, index, None, None, None] * v
        return mixed, weights_BK


def guided(expert: DiT, x_BCHW: Tensor, t_B: Tensor, texts: tuple[TextBatch, TextBatch], guidance: float) -> Tensor:
    """Return one expert's velocity with classifier-free guidance, both halves in one batch (Ho & Salimans 2022)."""
    text, null = texts
    x = x_BCHW.to(expert.dtype)
    if guidance == 1:
        v: Tensor = expert(x, t_B, text.tokens_BLE.to(x.dtype), text.mask_BL)
        return v.float()
    tokens = torch.cat([text.tokens_BLE, null.tokens_BLE]).to(x.dtype)
    mask = torch.cat([text.mask_BL, null.mask_BL])
    v_text, v_null = expert(x.repeat(2, 1, 1, 1), t_B.repeat(2), tokens, mask).float().chunk(2)
    out: Tensor = v_null + guidance * (v_text - v_null)
    return out
