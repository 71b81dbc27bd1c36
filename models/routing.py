"""From router logits to the weight of every expert, one row a sample.

Source: Decentralized Diffusion Models (arXiv 2501.05450, section 3.1 and table 1): v = sum_k p(k | x_t, t, text) v_k,
either with all experts or with the k most probable ones, renormalised.
"""

from __future__ import annotations

import torch
from torch import Tensor

STRATEGIES = ("top-k", "full")


class RoutingError(ValueError):
    """A routing strategy is unknown or asks for an impossible number of experts."""


def mixture_weights(logits_BK: Tensor, strategy: str, k: int) -> Tensor:
    """Return weights (B, K) that sum to one; experts with weight 0 need not run.

    Args:
        logits_BK: the router's answer.
        strategy: "top-k" or "full".
        k: experts a sample for "top-k".

    Raises:
        RoutingError: for another strategy, or k outside 1..K.
    """
    posterior_BK = logits_BK.float().softmax(dim=-1)
    if strategy == "full":
        return posterior_BK
    if strategy != "top-k":
        raise RoutingError(f"There is no routing strategy {strategy!r}. This version knows {', '.join(STRATEGIES)}.")
    experts = logits_BK.shape[-1]
    if not 1 <= k <= experts:
        raise RoutingError(f"Top-{k} routing is impossible with {experts} experts. Choose 1 to {experts}.")
    best = posterior_BK.topk(k, dim=-1)
    kept_BK = torch.zeros_like(posterior_BK).scatter(-1, best.indices, best.values)
    return kept_BK / kept_BK.sum(dim=-1, keepdim=True)
