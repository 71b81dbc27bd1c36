"""Routing without a trained router: whose data centre is nearest to what the noised picture shows?

The straightforward prediction of x0 from x_t = (1 - t) x0 + t eps is x_t / (1 - t), right on average and uncertain by
t / (1 - t). Take linear features f (here: means over squares of the latent, with noise variance n each), and describe
every cluster by the centre m_k and variance s_k of its features. The distance of the predicted x0's features to the
centres, weighed by cluster and prediction uncertainty, is

    log p(k | x_t, t) = log p(k) - |f(x_t) - (1 - t) m_k|^2 / (2 r_k) - F/2 log r_k + const,
    r_k = (1 - t)^2 s_k + t^2 n,

written without the division by 1 - t, so that it also holds at t = 1, where only the prior is left. It is the exact
posterior where clusters are isotropic Gaussians and f keeps all of the picture; on real data it is overconfident, which
one fitted temperature (`paris.models.calibration`) mends in part. Pooled text counts alike, as independent evidence.

Nothing is trained: adding an expert appends its cluster's centre, dropping one deletes it. The other clusters' numbers
do not change, only the normalisation. Letters: B batch, K clusters, F features, E text width, N samples.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from paris.models.cache import LatentCache
from paris.models.calibration import ask, fit_temperature
from paris.models.checkpoints import CheckpointError
from paris.models.files import write_tensors
from paris.models.schedules import spread

CENTROIDS = "centroids"
FILE = "centroids.safetensors"
SMALLEST_VARIANCE = 1e-6
FIT_ANSWERS = 2048
TENSORS = ("centres_KF", "variances_K", "counts_K", "text_centres_KE", "text_variances_K", "null_text_E")


@dataclass(frozen=True)
class Centroids:
    """K clusters by centre and spread of their features; callable like a router.

    Attributes:
        grid: features are the means over grid x grid equal parts of the latent, each channel on its own.
        centres_KF: mean features.
        variances_K: mean variance of a feature within the cluster.
        counts_K: samples of each cluster, as floats: the prior.
        text_centres_KE: mean pooled text; E = 0 leaves text out.
        text_variances_K: mean variance of a number of the pooled text within the cluster.
        null_text_E: pooled null text, which is no evidence.
        temperature: divides the logits.
    """

    grid: int
    centres_KF: Tensor
    variances_K: Tensor
    counts_K: Tensor
    text_centres_KE: Tensor
    text_variances_K: Tensor
    null_text_E: Tensor
    temperature: float = 1.0

    @classmethod
    def measure(cls, cache: LatentCache, clusters: int, *, grid: int = 4, use_text: bool = True) -> Centroids:
        """Measure every cluster of a data set and fit the temperature on it."""
        width = cache.texts.pooled_BE.shape[-1] if use_text else 0
        features = pooled(cache.latents_NCHW[:1].float(), grid).shape[1]
        null = cache.texts.pooled_BE[0, :width].float()
        nothing = cls(grid, torch.empty(0, features), torch.empty(0), torch.empty(0), torch.empty(0, width),
                      torch.empty(0), null)  # fmt: skip
        measured = nothing
        for cluster in range(clusters):
            rows = (cache.labels_N == cluster).nonzero().flatten()
            pooled_NE = cache.texts.pooled_BE[cache.text_index_N[rows]].float()
            measured = measured.with_cluster(cache.latents_NCHW[rows].float(), pooled_NE)
        answers = ask(measured, cache, FIT_ANSWERS)
        return replace(measured, temperature=fit_temperature(answers.logits_NK, answers.labels_N))

    def with_cluster(self, latents_NCHW: Tensor, pooled_NE: Tensor) -> Centroids:
        """Return these clusters and one more; nothing about the others changes.

        Raises:
            ValueError: where the cluster has no sample.
        """
        if not len(latents_NCHW):
            raise ValueError("A cluster without samples has no centre to route to. Check the data.")
        centre_F, variance = _centre(pooled(latents_NCHW, self.grid))
        text_E, text_variance = _centre(pooled_NE[:, : self.null_text_E.shape[0]])
        return replace(
            self,
            centres_KF=torch.cat([self.centres_KF, centre_F[None]]),
            variances_K=torch.cat([self.variances_K, variance[None]]),
            counts_K=torch.cat([self.counts_K, torch.tensor([float(len(latents_NCHW))])]),
            text_centres_KE=torch.cat([self.text_centres_KE, text_E[None]]),
            text_variances_K=torch.cat([self.text_variances_K, text_variance[None]]),
        )

    def without_cluster(self, index: int) -> Centroids:
        """Return these clusters but one."""
        names = ("centres_KF", "variances_K", "counts_K", "text_centres_KE", "text_variances_K")
        parts: dict[str, Any] = {name: _without(getattr(self, name), index) for name in names}
        return replace(self, **parts)

    def __call__(self, x_BCHW: Tensor, t_B: Tensor, pooled_BE: Tensor) -> Tensor:
        """Return cluster logits (B, K) of noised latents."""
        features_BF = pooled(x_BCHW.float(), self.grid)
        noise = features_BF.shape[1] / x_BCHW[0].numel()
        signal_B1, noise_B1 = (1 - t_B.float())[:, None], t_B.float()[:, None]
        variance_BK = signal_B1.square() * self.variances_K + noise_B1.square() * noise
        centres_BKF = spread(signal_B1[:, 0], self.centres_KF[None]) * self.centres_KF
        logits_BK = _log_density(features_BF, centres_BKF, variance_BK) + self.counts_K.log()
        if len(self.null_text_E):
            text_BE = pooled_BE.float()
            evidence_BK = _log_density(text_BE, self.text_centres_KE[None], self.text_variances_K[None])
            silent_B1 = (text_BE - self.null_text_E).abs().amax(-1, keepdim=True) < 1e-3
            logits_BK = logits_BK + evidence_BK.masked_fill(silent_B1, 0)
        return logits_BK / self.temperature

    def to(self, device: torch.device | str) -> Centroids:
        """Return these numbers on a device."""
        return replace(self, **{name: getattr(self, name).to(device) for name in TENSORS})

    def save(self, folder: Path) -> None:
        """Write centroids.safetensors, atomically."""
        note = {"grid": self.grid, "temperature": self.temperature}
        write_tensors({name: getattr(self, name) for name in TENSORS}, folder / FILE, note)

    @classmethod
    def open(cls, folder: Path) -> Centroids:
        """Read what `save` wrote.

        Raises:
            CheckpointError: where the file is missing, damaged or not finite.
        """
        try:
            with safe_open(folder / FILE, framework="pt") as file:
                parts = {name: file.get_tensor(name) for name in TENSORS}
                note = json.loads(file.metadata()["note"])
            grid, temperature = int(note["grid"]), float(note["temperature"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"The data centres in {folder} cannot be read ({error}). Fetch them again."
            ) from error
        if not all(bool(torch.isfinite(part).all()) for part in parts.values()):
            raise CheckpointError(f"The data centres in {folder} are not finite. Measure them again.")
        return cls(grid=grid, temperature=temperature, **parts)


def pooled(x_BCHW: Tensor, grid: int) -> Tensor:
    """Return means over grid x grid equal parts of every channel: (B, C, H, W) -> (B, F = C * parts)."""
    parts = min(grid, x_BCHW.shape[-2]), min(grid, x_BCHW.shape[-1])
    return functional.adaptive_avg_pool2d(x_BCHW, parts).flatten(1)


def _centre(features_NF: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean, and the mean variance of a feature around it."""
    centre_F = features_NF.mean(0)
    variance = (features_NF - centre_F).square().mean() if features_NF.numel() else torch.ones(())
    return centre_F, variance.clamp(min=SMALLEST_VARIANCE)


def _log_density(features_BF: Tensor, centres_BKF: Tensor, variance_BK: Tensor) -> Tensor:
    distance_BK = (features_BF[:, None] - centres_BKF).square().sum(-1)
    return -distance_BK / (2 * variance_BK) - features_BF.shape[1] / 2 * variance_BK.log()


def _without(values_K: Tensor, index: int) -> Tensor:
    return torch.cat([values_K[:index], values_K[index + 1 :]])
