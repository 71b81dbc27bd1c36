"""One expert more or less, with nothing of the router retrained but the row that is new.

Let a router's last layer give logits z_k = a_k . h(x_t, t, text) + b_k of the posterior p(k | x_t, t, text).

Dropping expert j deletes row j: the softmax over the others is p(k | x_t, t, text, k is not j), the exact posterior of
the data that are left. Nothing is trained.

Adding expert K keeps z_0 .. z_{K-1}, whose differences are the posterior among the old clusters and do not depend on
the new data, and needs one number more, z_K = z_k + log p(K | x) / p(k | x). It is fitted as row K on the
frozen features h: a logistic regression, convex, by L-BFGS. What h cannot express stays unexpressed, so the fit's loss
is returned. Letters: N answers, K experts, D width of h.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from paris.models.cache import LatentCache
from paris.models.objectives import RoutingObjective, draw
from paris.models.randomness import Stream

BATCH = 128
L2 = 1e-6
"""Keeps the row finite where the new cluster is separable."""


class GrowthError(ValueError):
    """A router cannot be grown or shrunk as asked."""


def grow_router(router: Any) -> Any:
    """Return a copy of a router with one more expert, whose row is zero until `fit_new_row`."""
    return _with_rows(router, lambda rows: torch.cat([rows, torch.zeros_like(rows[:1])]), router.config["clusters"] + 1)


def drop_expert(router: Any, index: int) -> Any:
    """Return a copy of a router without one expert; those after it move down by one.

    Raises:
        GrowthError: where there is no such expert, or no other.
    """
    experts = router.config["clusters"]
    if not 0 <= index < experts or experts == 1:
        raise GrowthError(
            f"Expert {index} of {experts} cannot be dropped: experts are numbered from 0, and one must stay."
        )
    return _with_rows(router, lambda rows: torch.cat([rows[:index], rows[index + 1 :]]), experts - 1)


def fit_new_row(router: Any, cache: LatentCache, *, answers: int = 16_384, text_dropout: float = 0.1) -> float:
    """Train the last row of a grown router's head, in place, and return the cross-entropy reached, in nats.

    Args:
        router: from `grow_router`.
        cache: samples of all clusters, old and new, in their true proportions.
        answers: noised samples to fit on; each sample comes several times, with new noise, where they are fewer.
        text_dropout: share of them that see the null text.
    """
    features_ND, logits_NK, labels_N = _frozen(router, cache, answers, text_dropout)
    weight_D, bias, loss = fit_row(features_ND, logits_NK[:, :-1], labels_N)
    with torch.no_grad():
        router.head[-1].weight[-1] = weight_D.to(router.dtype)
        router.head[-1].bias[-1] = bias.to(router.dtype)
    return loss


def fit_row(features_ND: Tensor, logits_NK: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return weight (D,) and bias of the one logit that is missing, and the cross-entropy in nats.

    Args:
        features_ND: what the row sees.
        logits_NK: the old experts' logits, which stay.
        labels_N: true clusters, K for the new one.

    Raises:
        GrowthError: where no sample, or every sample, is of the new cluster: its share is then unknowable.
    """
    new_N = labels_N == logits_NK.shape[1]
    if not 0 < int(new_N.sum()) < len(labels_N):
        raise GrowthError("The new expert's row needs samples of its own cluster and of others. Check the labels.")
    scale_D = features_ND.double().std(0).clamp(min=1e-8)
    centre_D = features_ND.double().mean(0)
    features_ND, logits_NK = (features_ND.double() - centre_D) / scale_D, logits_NK.double()
    row = torch.zeros(features_ND.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([row], max_iter=200, tolerance_change=1e-12, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        logit_N1 = (features_ND @ row[:-1] + row[-1])[:, None]
        return functional.cross_entropy(torch.cat([logits_NK, logit_N1], dim=1), labels_N)

    def evaluate() -> Tensor:
        solver.zero_grad()
        total = loss() + L2 * row[:-1].square().sum()
        total.backward()
        return total.detach()

    solver.step(evaluate)
    weight_D = row.detach()[:-1] / scale_D
    return weight_D, row.detach()[-1] - weight_D @ centre_D, float(loss().detach())


def _with_rows(router: Any, change: Any, experts: int) -> Any:
    head = router.head[-1]
    if not isinstance(head, nn.Linear) or head.out_features != router.config["clusters"]:
        raise GrowthError("This router's head does not end in one linear row an expert, so it cannot grow or shrink.")
    known = inspect.signature(type(router).__init__).parameters
    config = {name: value for name, value in router.config.items() if name in known}
    other = type(router)(**{**config, "clusters": experts})
    state = router.state_dict()
    last = f"head.{len(router.head) - 1}."
    for name in (last + "weight", last + "bias"):
        state[name] = change(state[name])
    other.load_state_dict(state)
    return nn.Module.to(other, router.device, router.dtype).eval().requires_grad_(False)


@torch.no_grad()
def _frozen(router: Any, cache: LatentCache, answers: int, text_dropout: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the head's last layer sees and says on noised samples, and their labels."""
    objective, names = RoutingObjective(), ("samples", "noise", "time", "text-dropout")
    samples, noise, time, dropout = (Stream.of("new-row", name) for name in names)
    order = samples.batch_indices(0, answers, len(cache))
    seen: list[Tensor] = []
    hook = router.head[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float()))
    logits, labels = [], []
    try:
        for number, start in enumerate(range(0, answers, BATCH)):
            rows = order[start : start + BATCH]
            batch = cache.batch(rows, dropout.uniform(number, (len(rows),)) < text_dropout)
            randomness = draw(objective, (noise, time), number, tuple(batch.latents_BCHW.shape))
            logits.append(objective.logits(router, batch, randomness))
            labels.append(batch.labels_B)
    finally:
        hook.remove()
    return torch.cat(seen), torch.cat(logits), torch.cat(labels)
