"""Experts and router as one velocity: v = sum_k w_k v_k, samples grouped by expert, guidance with exact weights.

Classifier-free guidance (Ho & Salimans 2022) leads from the unconditional velocity u(x) to the conditional u(x | c):
u(x) + g (u(x | c) - u(x)). Both are mixtures over the same experts, by the same law (arXiv 2501.05450, section 3.1):

    u(x | c) = sum_k p(k | x_t, t, c) v_k(x, c)          u(x) = sum_k p(k | x_t, t) v_k(x, null)

so the two halves have weights of their own: the unconditional half's come from the router with the text dropped (or
with the negative prompt, where there is one). The papers guide inside each expert with one set of weights,

    sum_k p(k | x_t, t, c) (v_k(x, null) + g (v_k(x, c) - v_k(x, null))),

which is the same only if text and cluster are independent given x_t, and otherwise guides away from the mean of the
prompt's own clusters, not from the mean of all data. `Routing.guidance_weights` chooses: "exact", "shared", or by the
number of experts. Exact weights cost one more router pass a step; the expert passes a sample are as many, two a kept
expert, but up to twice as many different experts have to be in memory. With a blind router both are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from paris.models.conditions import asked, given
from paris.models.conversion import Prediction
from paris.models.experts import ExpertPool
from paris.models.routing import Routing, RoutingError, oracle
from paris.models.text import TextBatch


class Mixed(NamedTuple):
    """One evaluation: velocity shaped like x, weights (B, K) of the prompts, and of guidance's null half (or None)."""

    velocity: Tensor
    weights_BK: Tensor
    null_weights_BK: Tensor | None


class Ensemble:
    """K experts, loaded when first needed, and the router that mixes them.

    Args:
        experts: networks, or folders with exported weights, in cluster order, or a pool of either.
        router: the router network; `router_temperature` divides its logits (see `paris.models.calibration`).
        routing: how experts are chosen, changed at will between calls.
        predictions: what each expert predicts; None means velocity.
        centroids: classifies without a trained router, for "router-free" (see `paris.models.centroids`).
        router_temperature: the calibrated temperature of the router.
        absent: experts that are not there, or not to be used; what the router would give them goes to the others.
        dtype: precision experts are loaded in.
    """

    def __init__(
        self,
        experts: Sequence[Any | Path] | ExpertPool,
        router: Any,
        routing: Routing | None = None,
        *,
        predictions: Sequence[Prediction] | None = None,
        centroids: Any | None = None,
        router_temperature: float = 1.0,
        absent: Collection[int] = (),
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.experts = experts if isinstance(experts, ExpertPool) else ExpertPool(experts, dtype=dtype)
        self.router, self.centroids = router.eval(), centroids
        self.routing, self.router_temperature = routing or Routing(), router_temperature
        self.predictions = list(predictions or [Prediction()] * len(self.experts))
        if len(self.predictions) != len(self.experts):
            raise RoutingError(f"{len(self.experts)} experts and {len(self.predictions)} objectives do not pair.")
        self.present = [index for index in range(len(self.experts)) if index not in absent]
        if not self.present:
            raise RoutingError("Every expert of this ensemble is absent.")

    def __len__(self) -> int:
        return len(self.experts)

    def expert(self, index: int) -> Any:
        """Return one expert's network, loading it on first use."""
        return self.experts.get(index)

    @torch.no_grad()
    def weights(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        text: TextBatch,
        *,
        chance_BK: Tensor | None = None,
        labels_B: Tensor | None = None,
        first_BQHW: Tensor | None = None,
    ) -> Tensor:
        """Return mixture weights (B, K) at x_t for these texts.

        Args:
            x_BCHW: latents at time t.
            t_B: times in [0, 1].
            text: one text a sample.
            chance_BK: numbers "sample" draws with, uniform in [0, 1).
            labels_B: clusters, for "oracle".
            first_BQHW: first frames of clips, see `paris.models.conditions`.

        Raises:
            RoutingError: the strategy lacks what it needs: labels, chance, centroids, or as many experts as k.
        """
        if self.routing.strategy == "oracle":
            if labels_B is None:
                raise RoutingError("The oracle has to be told a cluster for every picture, and was told none.")
            if missing := sorted({*labels_B.tolist()} & ({*range(len(self))} - {*self.present})):
                raise RoutingError(f"Cluster {missing[0]} has no expert here: this ensemble is without it.")
            return oracle(labels_B, len(self)).to(x_BCHW.device)
        logits_BK = self._logits(x_BCHW, t_B, text, first_BQHW)
        if len(self.present) < len(self):
            missing = [index for index in range(len(self)) if index not in self.present]
            logits_BK = logits_BK.index_fill(1, torch.tensor(missing, device=logits_BK.device), -torch.inf)
        return self.routing.weights(logits_BK, chance_BK)

    @torch.no_grad()
    def velocity(
        self,
        x_BCHW: Tensor,
        t_B: Tensor,
        text: TextBatch,
        null: TextBatch,
        guidance: float,
        *,
        chance_BK: Tensor | None = None,
        labels_B: Tensor | None = None,
        first_BQHW: Tensor | None = None,
    ) -> Mixed:
        """Return the mixed guided velocity and the weights it was mixed with.

        Args:
            x_BCHW: latents at time t.
            t_B: times in [0, 1].
            text: one prompt a sample.
            null: one negative prompt a sample.
            guidance: scale g of u_null + g (u_text - u_null); 1 skips the null half.
            chance_BK: numbers "sample" draws with, uniform in [0, 1).
            labels_B: clusters, for "oracle".
            first_BQHW: first frames of clips, see `paris.models.conditions`.
        """
        route = partial(self.weights, x_BCHW, t_B, chance_BK=chance_BK, labels_B=labels_B, first_BQHW=first_BQHW)
        weights_BK = route(text)
        if guidance == 1:
            return Mixed(self._mix(x_BCHW, t_B, [(text, weights_BK)], first_BQHW)[0], weights_BK, None)
        null_weights_BK = weights_BK
        if not self.routing.shares_weights and self._hears_text():
            null_weights_BK = route(null)
        u_text, u_null = self._mix(x_BCHW, t_B, [(text, weights_BK), (null, null_weights_BK)], first_BQHW)
        return Mixed(u_null + guidance * (u_text - u_null), weights_BK, null_weights_BK)

    def to(self, device: torch.device | str, dtype: torch.dtype) -> None:
        """Move experts and router."""
        self.experts.to(device, dtype)
        torch.nn.Module.to(self.router, device, dtype)
        if self.centroids is not None:
            self.centroids = self.centroids.to(device)

    def _hears_text(self) -> bool:
        blind = self.routing.strategy != "router-free" and getattr(self.router, "config", {}).get("text_dim") == 0
        return not blind

    def _logits(self, x_BCHW: Tensor, t_B: Tensor, text: TextBatch, first_BQHW: Tensor | None) -> Tensor:
        if self.routing.strategy == "router-free":
            if self.centroids is None:
                raise RoutingError(
                    "This ensemble has no data centres to route by, so it cannot do without its router. "
                    "Measure them with paris.models.centroids, or choose another strategy."
                )
            return torch.as_tensor(self.centroids(x_BCHW, t_B, text.pooled_BE))
        dtype = self.router.dtype
        logits_BK: Tensor = self.router(x_BCHW.to(dtype), t_B, text.pooled_BE.to(dtype), *given(first_BQHW)).float()
        return logits_BK / self.router_temperature

    def _mix(
        self, x_BCHW: Tensor, t_B: Tensor, halves: list[tuple[TextBatch, Tensor]], first_BQHW: Tensor | None
    ) -> list[Tensor]:
        """Return one mixed velocity a half; every expert is asked once, for all rows of all halves it has a part in."""
        needed = torch.stack([weights_BK for _, weights_BK in halves]).amax(dim=(0, 1)).nonzero().flatten().tolist()
        order = self.experts.in_order(needed)
        answers: dict[int, list[tuple[Tensor, Tensor]]] = {}
        for index, following in zip(order, [*order[1:], None], strict=True):
            network = self.experts.get(index)
            if following is not None:
                self.experts.prefetch(following)
            answers[index] = self._ask(network, index, x_BCHW, t_B, halves, first_BQHW)
        sums = [torch.zeros_like(x_BCHW, dtype=torch.float32) for _ in halves]
        # Summed in the experts' own order: what happens to be in memory must not change a picture's last bit.
        for index in sorted(answers):
            for mixed, (_, weights_BK), (rows, v) in zip(sums, halves, answers[index], strict=True):
                mixed[rows] += weights_BK[rows, index].reshape(-1, *[1] * (v.ndim - 1)) * v
        return sums

    def _ask(
        self,
        network: Any,
        index: int,
        x_BCHW: Tensor,
        t_B: Tensor,
        halves: list[tuple[TextBatch, Tensor]],
        first_BQHW: Tensor | None,
    ) -> list[tuple[Tensor, Tensor]]:
        """Return for every half the rows this expert has weight in, and its velocity there: one batch for all."""
        rows = [weights_BK[:, index].nonzero().flatten() for _, weights_BK in halves]
        texts = [text.select(part) for (text, _), part in zip(halves, rows, strict=True)]
        tokens_BLE, mask_BL, pooled_BE = (torch.cat(parts) for parts in zip(*(t.parts() for t in texts), strict=True))
        dtype, every = network.dtype, torch.cat(rows)
        text = TextBatch(tokens_BLE.to(dtype), mask_BL, pooled_BE.to(dtype))
        first_BQHW = None if first_BQHW is None else first_BQHW[every]

        def ask(y: Tensor, u_B: Tensor) -> Tensor:
            answer: Tensor = network(y.to(dtype), u_B, *asked(y, text, first_BQHW))
            return answer

        v = self.predictions[index].velocity(ask, x_BCHW[every], t_B[every])
        return list(zip(rows, torch.split(v, [len(part) for part in rows]), strict=True))
