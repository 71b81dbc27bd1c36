"""From router logits to the weight of every expert, one row a sample.

Source: Decentralized Diffusion Models (arXiv 2501.05450, section 3.1 and table 1): v = sum_k p(k | x_t, t, text) v_k,
with all experts or with some of them, renormalised. Letters: B batch, K experts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STRATEGIES = {
    "top-k": "the k most probable experts",
    "threshold": "every expert at least this probable, and always the most probable one",
    "nucleus": "the fewest experts that together reach this probability",
    "sample": "k experts drawn by their probability at every step",
    "full": "all experts",
    "oracle": "the expert of a cluster named by the caller",
    "router-free": "the k experts whose data centres are nearest; no trained router",
}
"""What each strategy mixes; the weights of those it keeps are renormalised."""

GUIDANCE_WEIGHTS = ("auto", "exact", "shared")
"""Weights of guidance's null half: the router's own for the null text, or those of the prompt (the papers).

"auto" is "exact" where a picture has several experts a step and "shared" where it has one, because one expert is a bad
likeness of the broad mixture that the null half is. On mixtures of Gaussians with a known answer (8 clusters, 16
numbers, guidance 3, mean squared error of the guided velocity): texts that mostly belong to one cluster, top-1 1.45
exact against 1.51 shared, top-2 0.43 against 1.53, all experts 0 against 1.60; texts spread over clusters, top-1 2.57
against 0.86, top-2 0.68 against 0.65, top-4 0.12 against 0.64, all experts 0 against 0.67.
"""


USUAL_MASS = 0.9


class RoutingError(ValueError):
    """A routing strategy is unknown or asks for something impossible."""


@dataclass(frozen=True)
class Routing:
    """How experts are chosen and weighted at every step.

    Attributes:
        strategy: one of `STRATEGIES`.
        k: experts a sample for "top-k", "sample" and "router-free".
        threshold: smallest probability for "threshold".
        mass: probability that "nucleus" reaches (0.9 if None); it also bounds what "sample" draws from (all if None),
            so that "sample" of one expert with a mass is the nucleus sampling of the paper's table 1.
        temperature: divides the logits: above 1 evens the weights out, below 1 sharpens them.
        guidance_weights: one of `GUIDANCE_WEIGHTS`, see `paris.models.ensemble`.

    Raises:
        RoutingError: for an unknown name or a number out of range.
    """

    strategy: str = "top-k"
    k: int = 2
    threshold: float = 0.05
    mass: float | None = None
    temperature: float = 1.0
    guidance_weights: str = "auto"

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            known = ", ".join(STRATEGIES)
            raise RoutingError(f"There is no routing strategy {self.strategy!r}. This version knows {known}.")
        if self.guidance_weights not in GUIDANCE_WEIGHTS:
            known = " and ".join(GUIDANCE_WEIGHTS)
            raise RoutingError(f"Guidance cannot weigh its null half {self.guidance_weights!r}. There are {known}.")
        for name, fine in (
            ("k", self.k >= 1),
            ("threshold", 0 <= self.threshold <= 1),
            ("mass", self.mass is None or 0 < self.mass <= 1),
            ("temperature", self.temperature > 0),
        ):
            if not fine:
                raise RoutingError(
                    f"Routing with {name} {getattr(self, name)} is impossible. k is at least 1, a threshold lies in "
                    "0..1, a mass in 0..1 without 0, a temperature above 0."
                )

    @property
    def shares_weights(self) -> bool:
        """Whether guidance's null half takes the prompt's weights."""
        one_expert = self.strategy in {"top-k", "sample", "router-free"} and self.k == 1
        return self.guidance_weights == "shared" or (self.guidance_weights == "auto" and one_expert)

    def weights(self, logits_BK: Tensor, chance_BK: Tensor | None = None) -> Tensor:
        """Return weights (B, K) that sum to one; experts with weight 0 need not run.

        Args:
            logits_BK: the router's answer.
            chance_BK: uniform numbers in [0, 1) for "sample", one an expert, each sample's from its own seed.

        Raises:
            RoutingError: for a k beyond the experts, "sample" without chance, or "oracle", which no logits decide.
        """
        posterior_BK = (logits_BK.float() / self.temperature).softmax(dim=-1)
        if self.strategy == "full":
            return posterior_BK
        kept_BK = torch.where(self._keeps(posterior_BK, chance_BK), posterior_BK, 0)
        return kept_BK / kept_BK.sum(dim=-1, keepdim=True)

    def _keeps(self, posterior_BK: Tensor, chance_BK: Tensor | None) -> Tensor:
        if self.strategy == "threshold":
            return (posterior_BK >= self.threshold) | best(posterior_BK, 1)
        if self.strategy == "nucleus":
            return nucleus(posterior_BK, self.mass or USUAL_MASS)
        experts = posterior_BK.shape[-1]
        if self.k > experts:
            raise RoutingError(f"Top-{self.k} routing is impossible with {experts} experts. Choose 1 to {experts}.")
        if self.strategy in {"top-k", "router-free"}:
            return best(posterior_BK, self.k)
        if self.strategy == "sample" and chance_BK is not None:
            within_BK = torch.where(nucleus(posterior_BK, self.mass or 1.0), posterior_BK, 0)
            return best(perturbed(within_BK, chance_BK), self.k) & (within_BK > 0)
        raise RoutingError(f"Logits alone do not decide {self.strategy!r}: it needs labels or numbers drawn by chance.")


def oracle(labels_B: Tensor, experts: int) -> Tensor:
    """Return weights (B, K) that are 1 at each sample's own cluster.

    Raises:
        RoutingError: for a label that is no expert.
    """
    if len(labels_B) and not 0 <= int(labels_B.min()) <= int(labels_B.max()) < experts:
        raise RoutingError(
            f"Cluster {int(labels_B.max())} has no expert: this ensemble has experts 0 to {experts - 1}."
        )
    return torch.nn.functional.one_hot(labels_B, experts).float()


def best(score_BK: Tensor, k: int) -> Tensor:
    """Return True (B, K) at exactly k highest scores a row."""
    chosen = score_BK.topk(k, dim=-1).indices
    return torch.zeros_like(score_BK, dtype=torch.bool).scatter(-1, chosen, True)


def nucleus(posterior_BK: Tensor, mass: float) -> Tensor:
    """Return True (B, K) at the fewest experts whose probabilities reach `mass`."""
    ordered = posterior_BK.sort(dim=-1, descending=True, stable=True)
    before_BK = ordered.values.cumsum(dim=-1) - ordered.values
    return torch.zeros_like(posterior_BK, dtype=torch.bool).scatter(-1, ordered.indices, before_BK < mass)


def perturbed(posterior_BK: Tensor, chance_BK: Tensor) -> Tensor:
    """Return scores whose k highest are k draws without replacement (Gumbel noise; Kool et al. 2019, section 3)."""
    tiny = torch.finfo(torch.float32).tiny
    gumbel_BK = -(-chance_BK.to(posterior_BK).clamp(min=tiny).log()).clamp(min=tiny).log()
    return posterior_BK.log() + gumbel_BK
