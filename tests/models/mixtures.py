"""A mixture of Gaussians whose velocity, posteriors and samples are known exactly, and networks that know them.

Clusters k and texts c: component (k, c) has probability pi_kc, mean mu_kc and variance s_kc a number. Along any path
y = alpha x0 + sigma eps a component stays Gaussian, so everything a diffusion model learns has a closed form.
Letters: B batch, K clusters, C texts, D numbers of a picture of shape (D, 1, 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from paris.models.conversion import Prediction
from paris.models.schedules import open_schedule, sigma
from paris.models.text import TextBatch


@dataclass(frozen=True)
class Mixture:
    shares_KC: Tensor
    means_KCD: Tensor
    variances_KC: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        return (self.means_KCD.shape[-1], 1, 1)

    def log_joint(self, y_BD: Tensor, alpha_B: Tensor, sigma_B: Tensor) -> Tensor:
        """log p(k, c, y) up to a constant, (B, K, C)."""
        spread_BKC = self._spread(alpha_B, sigma_B)
        offset = y_BD[:, None, None] - alpha_B[:, None, None, None] * self.means_KCD
        dims = y_BD.shape[1]
        return self.shares_KC.log() - offset.square().sum(-1) / (2 * spread_BKC) - dims / 2 * spread_BKC.log()

    def components(self, y_BD: Tensor, alpha_B: Tensor, sigma_B: Tensor) -> tuple[Tensor, Tensor]:
        """E[x0 | y, k, c] and E[eps | y, k, c], (B, K, C, D)."""
        spread_BKC = self._spread(alpha_B, sigma_B)[..., None]
        alpha, noise = alpha_B[:, None, None, None], sigma_B[:, None, None, None]
        offset = y_BD[:, None, None] - alpha * self.means_KCD
        x0 = self.means_KCD + alpha * self.variances_KC[..., None] / spread_BKC * offset
        return x0, noise / spread_BKC * offset

    def denoised(self, y_BD, alpha_B, sigma_B, mask_BKC: Tensor) -> tuple[Tensor, Tensor]:
        """E[x0 | y, (k, c) in the mask] and E[eps | ...]: every expert and every ensemble is one of these."""
        joint = self.log_joint(y_BD, alpha_B, sigma_B).masked_fill(~mask_BKC, -torch.inf)
        share = joint.flatten(1).softmax(-1).reshape(joint.shape)[..., None]
        x0, eps = self.components(y_BD, alpha_B, sigma_B)
        return (share * x0).sum((1, 2)), (share * eps).sum((1, 2))

    def velocity(self, x_BCHW: Tensor, t_B: Tensor, texts_B: Tensor, clusters_BK: Tensor | None = None) -> Tensor:
        """The exact flow velocity of the texts (-1: any), within the given clusters of each sample."""
        mask = self.mask(texts_B)
        if clusters_BK is not None:
            mask = mask & clusters_BK[..., None]
        t = t_B.double()
        x0, eps = self.denoised(x_BCHW.double().flatten(1), 1 - t, t, mask)
        return (eps - x0).float().reshape(x_BCHW.shape)

    def posterior(self, x_BCHW: Tensor, t_B: Tensor, texts_B: Tensor) -> Tensor:
        """p(k | x_t, t, text), (B, K)."""
        t = t_B.double()
        joint = self.log_joint(x_BCHW.double().flatten(1), 1 - t, t).masked_fill(~self.mask(texts_B), -torch.inf)
        return joint.logsumexp(-1).softmax(-1).float()

    def mask(self, texts_B: Tensor) -> Tensor:
        K, C = self.shares_KC.shape
        allowed_BC = (texts_B[:, None] == torch.arange(C)) | (texts_B[:, None] < 0)
        return allowed_BC[:, None].expand(-1, K, C)

    def noised(self, count: int, seed: int, text: int = -1, low: float = 0.02, high: float = 0.98):
        """States x_t of the data with this text, and times between low and high: where a sampler really asks."""
        x0, _, _ = self.data(count, seed, text)
        generator = torch.Generator().manual_seed(seed + 1)
        t_B = low + (high - low) * torch.rand(count, generator=generator)
        t = t_B[:, None, None, None]
        return (1 - t) * x0 + t * torch.randn(x0.shape, generator=generator), t_B

    def data(self, count: int, seed: int, text: int = -1) -> tuple[Tensor, Tensor, Tensor]:
        """Samples (N, D, 1, 1), their clusters and their texts."""
        generator = torch.Generator().manual_seed(seed)
        shares_KC = self.shares_KC if text < 0 else self.shares_KC * (torch.arange(self.shares_KC.shape[1]) == text)
        flat = torch.multinomial(shares_KC.flatten(), count, replacement=True, generator=generator)
        k, c = flat // shares_KC.shape[1], flat % shares_KC.shape[1]
        noise = torch.randn(count, self.means_KCD.shape[-1], generator=generator, dtype=torch.float64)
        x0 = self.means_KCD[k, c] + self.variances_KC[k, c, None].sqrt() * noise
        return x0.float()[..., None, None], k, c

    def texts(self, texts_B: Tensor) -> TextBatch:
        """One token, one-hot; the null text (-1) is zero."""
        C = self.shares_KC.shape[1]
        pooled_BE = (texts_B[:, None] == torch.arange(C)).float()
        return TextBatch(pooled_BE[:, None], torch.ones(len(texts_B), 1, dtype=torch.bool), pooled_BE)

    def experts(self, predictions: list[Prediction] | None = None) -> list[Expert]:
        K = len(self.shares_KC)
        return [Expert(self, k, p) for k, p in enumerate(predictions or [Prediction()] * K)]

    def _spread(self, alpha_B: Tensor, sigma_B: Tensor) -> Tensor:
        return alpha_B.square()[:, None, None] * self.variances_KC + sigma_B.square()[:, None, None]


def read_texts(encoded_BE: Tensor) -> Tensor:
    """Undo `Mixture.texts`."""
    best = encoded_BE.max(-1)
    return torch.where(best.values > 0, best.indices, -1)


class Expert(nn.Module):
    """Knows its cluster exactly, and says it the way it was 'trained' to."""

    dtype = torch.float32

    def __init__(self, mixture: Mixture, cluster: int, prediction: Prediction) -> None:
        super().__init__()
        self.mixture, self.cluster, self.prediction = mixture, cluster, prediction
        self.asked: list[tuple[Tensor, Tensor]] = []

    def forward(self, y_BCHW: Tensor, u_B: Tensor, text_BLE: Tensor, mask_BL: Tensor) -> Tensor:
        assert mask_BL.all()
        self.asked.append((y_BCHW, u_B))
        objective, u = self.prediction.objective, u_B.double()
        if objective == "velocity":
            alpha_B, sigma_B = 1 - u, u
        else:
            alpha_B = open_schedule(self.prediction.noise_schedule).alpha(u)
            sigma_B = sigma(alpha_B)
        mask = self.mixture.mask(read_texts(text_BLE[:, 0])).clone()
        mask[:, torch.arange(mask.shape[1]) != self.cluster] = False
        x0, eps = self.mixture.denoised(y_BCHW.double().flatten(1), alpha_B, sigma_B, mask)
        answer = {"velocity": eps - x0, "ddpm-noise": eps, "ddpm-x0": x0}[objective]
        return answer.float().reshape(y_BCHW.shape)


class Router(nn.Module):
    """Knows p(k | x_t, t, text) exactly, or p(k | x_t, t) where it is blind."""

    dtype = torch.float32

    def __init__(self, mixture: Mixture, *, blind: bool = False) -> None:
        super().__init__()
        self.mixture, self.blind, self.calls = mixture, blind, 0

    def forward(self, x_BCHW: Tensor, t_B: Tensor, pooled_BE: Tensor) -> Tensor:
        self.calls += 1
        texts_B = read_texts(pooled_BE)
        return self.mixture.posterior(x_BCHW, t_B, texts_B * 0 - 1 if self.blind else texts_B).clamp(min=1e-30).log()


def tangled(clusters: int = 4, seed: int = 0) -> Mixture:
    """Overlapping clusters, each with two texts in its own proportions: the router never has an easy answer."""
    generator = torch.Generator().manual_seed(seed)
    shares_KC = 0.1 + torch.rand(clusters, 2, generator=generator, dtype=torch.float64)
    return Mixture(
        shares_KC / shares_KC.sum(),
        1.5 * torch.randn(clusters, 2, 2, generator=generator, dtype=torch.float64),
        0.1 + 0.4 * torch.rand(clusters, 2, generator=generator, dtype=torch.float64),
    )


def separate() -> Mixture:
    """Three clusters far apart, one text: each sample's component is beyond doubt."""
    means = torch.tensor([[[-3.0, 0.0]], [[3.0, 0.5]], [[0.0, 4.0]]], dtype=torch.float64)
    shares = torch.tensor([[0.5], [0.2], [0.3]], dtype=torch.float64)
    return Mixture(shares, means, torch.tensor([[0.1], [0.25], [0.04]], dtype=torch.float64))
