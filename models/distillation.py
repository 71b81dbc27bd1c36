"""Many experts into one dense network: the student learns, sample by sample, what the expert of its cluster says.

Source: Decentralized Diffusion Models (arXiv 2501.05450, section on distillation): the teacher of a sample is the
expert of the sample's own cluster, and no router is asked. Let x0 be drawn from all clusters and k be its cluster. The
student that minimises E || s(x_t, t, c) - v_k(x_t, t, c) ||^2 is

    E[v_k | x_t, c] = sum_k p(k | x_t, t, c) v_k(x_t, t, c),

the ensemble's own mixture. The posterior a router would have to learn comes from the labels, and a step of the student
costs one pass.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from paris.models.cache import Batch, LatentCache
from paris.models.conditions import asked
from paris.models.ensemble import Ensemble
from paris.models.flow import interpolate
from paris.models.objectives import Draw, Times, squared_errors
from paris.models.pipeline import ParisPipeline
from paris.models.randomness import Stream
from paris.models.recipe import Recipe
from paris.models.router import Router
from paris.models.routing import Routing
from paris.models.training import Trainer


class DistillationError(ValueError):
    """An ensemble cannot teach on this data."""


class DistillationObjective:
    """Mean squared error of the student's flow velocity against that of the sample's own expert.

    Whatever an expert predicts is converted to velocity, so experts of mixed objectives teach one velocity student. A
    sample whose text is dropped is taught by the expert without the text, too: guidance survives. Which experts a batch
    needs is read from its labels, so every step waits for the device once.

    Args:
        teacher: experts, in memory or loaded as needed; its router is not asked. Its own routing stays as it is.
        times: law of the times, logit-normal if None.
    """

    def __init__(self, teacher: Ensemble, times: Times | None = None) -> None:
        self.teacher, self.law = teacher, times or Times("logit-normal")

    def times(self, stream: Stream, step: int, batch: int) -> np.ndarray:
        """Draw the times of one step."""
        return self.law.draw(stream, step, batch)

    def losses(self, network: Callable[..., Tensor], batch: Batch, draw: Draw) -> Tensor:
        """Return each sample's loss (B,) in fp32."""
        x_t = interpolate(batch.latents_BCHW, draw.eps_BCHW, draw.t_B)
        answer = network(x_t, draw.t_B, *asked(x_t, batch.text))
        return squared_errors(answer, self._taught(x_t, batch, draw.t_B))

    def _taught(self, x_t: Tensor, batch: Batch, t_B: Tensor) -> Tensor:
        usual, self.teacher.routing = self.teacher.routing, Routing("oracle")
        try:
            return self.teacher.velocity(x_t, t_B, batch.text, batch.text, 1.0, labels_B=batch.labels_B).velocity
        finally:
            self.teacher.routing = usual


def require_labels(cache: LatentCache, experts: int) -> None:
    """Refuse data whose samples do not all name a cluster that has an expert.

    Raises:
        DistillationError: where some do not.
    """
    strange = int(((cache.labels_N < 0) | (cache.labels_N >= experts)).sum())
    if strange:
        raise DistillationError(
            f"{strange} of {len(cache)} samples name no cluster that one of the {experts} experts was trained on, so "
            "nobody can teach them. Distil on the shards of the run the experts are from, which carry their clusters."
        )


def new_student_trainer(teacher: ParisPipeline, cache: LatentCache, recipe: Recipe) -> Trainer:
    """Return a trainer whose network begins as a copy of the teacher's first expert.

    Raises:
        DistillationError: where samples name no cluster of the teacher's.
    """
    require_labels(cache, len(teacher.ensemble))
    student = copy.deepcopy(teacher.ensemble.expert(0)).requires_grad_(True)
    return Trainer(student, DistillationObjective(teacher.ensemble), cache, recipe, ("distillation", "student"))


def as_pipeline(teacher: ParisPipeline, trainer: Trainer) -> ParisPipeline:
    """Return a pipeline of the student with its averaged weights: an ensemble of one, and a router of one row."""
    student = trainer.passes.network
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            parameter.copy_(trainer.average[name])
    known = inspect.signature(Router.__init__).parameters
    config = {name: value for name, value in teacher.ensemble.router.config.items() if name in known}
    router = Router(**{**config, "clusters": 1, "depth": 1}).to(teacher.device)
    ensemble = Ensemble([student.eval()], router, Routing("top-k", 1))
    return ParisPipeline(ensemble, teacher.codec, teacher.text, teacher.scheduler, teacher.shape, top_k=1)
