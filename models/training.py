"""The trainer of one unit: stateless randomness, exact resume, nothing non-finite ever in the weights.

A step is a function of (weights, average, moments, step): indices, noise, times and text dropout come from counters,
so an interrupted training goes on bit for bit, on the same stack with the same number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from torch.func import functional_call

from paris.models import checkpoints
from paris.models.cache import Batch, LatentCache
from paris.models.objectives import Draw, Objective, RoutingObjective, draw
from paris.models.randomness import Stream
from paris.models.recipe import Recipe

REPORT_EVERY_STEPS = 10
"""The loss stays on the device between reports, so that the host never waits for a step."""

EVALUATION_BATCH = 128
BETAS = (0.9, 0.99)
EPSILON = 1e-8


class NonFiniteError(ValueError):
    """A loss or gradient was not finite; the weights are those from before that step."""


class Trainer:
    """Train one network on one cache.

    Args:
        network: a `DiT` or a `Router`.
        objective: what it learns.
        cache: its data.
        recipe: a `Recipe` or a mapping with its fields.
        key: names that separate this unit's randomness, usually (run id, unit).
        threads: CPU threads; bit-exactness holds for one number of threads. None leaves the process's setting.

    Attributes:
        step: steps done so far.
    """

    _refused: Tensor
    _refused_step: Tensor

    def __init__(
        self,
        network: ModelMixin,
        objective: Objective,
        cache: LatentCache,
        recipe: Recipe | Mapping[str, Any],
        key: tuple[str, ...],
        *,
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.network, self.objective, self.cache, self.key = network.train(), objective, cache, key
        self.recipe = recipe if isinstance(recipe, Recipe) else Recipe.of(recipe)
        self.step = 0
        self.parameters: dict[str, Tensor] = dict(network.named_parameters())
        self._device = next(iter(self.parameters.values())).device
        self.average = {name: weight.detach().clone() for name, weight in self.parameters.items()}
        self.optimizer = self._new_optimizer()
        self._streams = {name: self._stream(name) for name in ("samples", "noise", "time", "text-dropout")}
        self._forget_failure()

    def train(
        self,
        until_step: int,
        on_step: Callable[[int, float], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        """Train until a step is reached.

        Args:
            until_step: the value of `step` to stop at.
            on_step: called every `REPORT_EVERY_STEPS` steps and at the end with (step, mean loss since the last call).
            stop: asked before every step; True ends the training early, with everything consistent.

        Raises:
            NonFiniteError: within `REPORT_EVERY_STEPS` of a non-finite loss or gradient; the weights stayed clean.
        """
        losses: list[Tensor] = []
        while self.step < until_step and not (stop and stop()):
            losses.append(self._one_step())
            if self.step % REPORT_EVERY_STEPS == 0 or self.step == until_step:
                self.check_finite()
                if on_step:
                    on_step(self.step, float(torch.stack(losses).mean()))
                losses.clear()
        self.check_finite()

    def check_finite(self) -> None:
        """Wait for the device and raise `NonFiniteError` where a step was refused."""
        if bool(self._refused):
            raise NonFiniteError(
                f"The loss or its gradient was not finite at step {int(self._refused_step)} of {' '.join(self.key)}. "
                "The step was refused, so the weights are still good. Usual causes are a learning rate that is too "
                "high or damaged data: lower the one, check the other, and go on from the last checkpoint."
            )

    def evaluate(self, holdout: LatentCache, samples: int) -> float:
        """Return the mean loss of the averaged weights on hold-out samples: the same numbers whenever it is asked."""
        total = 0.0
        for batch, randomness in self._evaluation_batches(holdout, samples):
            loss = self.objective.loss(self._averaged, batch, randomness)
            total += float(loss) * len(batch.latents_BCHW)
        return total / min(samples, len(holdout))

    def accuracy(self, holdout: LatentCache, samples: int) -> float:
        """Return the share of hold-out samples whose cluster the averaged router names, over all noise levels."""
        assert isinstance(self.objective, RoutingObjective)
        right = 0
        for batch, randomness in self._evaluation_batches(holdout, samples):
            logits = self.objective.logits(self._averaged, batch, randomness)
            right += int((logits.argmax(-1) == batch.labels_B).sum())
        return right / min(samples, len(holdout))

    def save(self, folder: Path) -> None:
        """Write state.safetensors and state.json: all that a bit-exact resume needs. Atomic."""
        self.check_finite()
        groups = {"weights": self.parameters, "average": self.average}
        if self.step:
            for moment in checkpoints.MOMENTS:
                groups[moment] = {name: self.optimizer.state[p][moment] for name, p in self.parameters.items()}
        checkpoints.save_state(folder, groups, {"key": list(self.key), "step": self.step})

    def load(self, folder: Path) -> None:
        """Take over a state written by `save`, by this process or any other.

        Raises:
            checkpoints.CheckpointError: where it belongs to another unit or another network.
        """
        groups, note = checkpoints.load_state(folder, {name: p.shape for name, p in self.parameters.items()})
        if note["key"] != list(self.key):
            raise checkpoints.CheckpointError(
                f"The training state in {folder} belongs to {note['key']}, not to {list(self.key)}. "
                "Each unit of each run has a state of its own: point at the right folder."
            )
        self.step = int(note["step"])
        self._adopt(groups["weights"], groups["average"])
        if self.step:
            for name, parameter in self.parameters.items():
                # Cloned, because the loaded tensors are views of the mapped file.
                moments = {moment: groups[moment][name].clone().to(self._device) for moment in checkpoints.MOMENTS}
                steps = torch.tensor(float(self.step), device=self._device)
                self.optimizer.state[parameter] = {"step": steps, **moments}

    def start_from(self, folder: Path) -> None:
        """Begin at step 0 from exported weights (a warm start: average and weights equal, moments empty)."""
        weights = checkpoints.load_export(folder, {name: p.shape for name, p in self.parameters.items()})
        self.step = 0
        self._adopt(weights, weights)

    def export(self, folder: Path) -> None:
        """Write what others use: config.json and the averaged weights as bf16 diffusion_pytorch_model.safetensors."""
        self.check_finite()
        checkpoints.export(folder, self.network, self.average)

    def _one_step(self) -> Tensor:
        rate = self.recipe.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._loss()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.grad_clip)
        bad = ~(torch.isfinite(loss.detach()) & torch.isfinite(norm))
        self._refused_step = torch.where(bad & ~self._refused, self.step, self._refused_step)
        self._refused = self._refused | bad
        # Fused AdamW skips the whole update on the device where found_inf is 1: no host sync, no bad weight.
        self.optimizer.found_inf = self._refused.float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        decay = self.recipe.ema_decay(self.step)
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.parameters.values()], 1 - decay)
        self.step += 1
        return loss.detach()

    def _loss(self) -> Tensor:
        size = self.recipe.batch
        indices = self._streams["samples"].batch_indices(self.step, size, len(self.cache))
        dropped = self._streams["text-dropout"].uniform(self.step, (size,)) < self.recipe.text_dropout
        batch = self.cache.batch(indices, dropped).to(self._device)
        streams = (self._streams["noise"], self._streams["time"])
        randomness = draw(self.objective, streams, self.step, tuple(batch.latents_BCHW.shape)).to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            return self.objective.loss(self.network, batch, randomness)

    def _evaluation_batches(self, holdout: LatentCache, samples: int) -> Iterator[tuple[Batch, Draw]]:
        order = Stream.of("evaluation", "samples").batch_indices(0, min(samples, len(holdout)), len(holdout))
        streams = (Stream.of("evaluation", "noise"), Stream.of("evaluation", "time"))
        for number, start in enumerate(range(0, len(order), EVALUATION_BATCH)):
            batch = holdout.batch(order[start : start + EVALUATION_BATCH]).to(self._device)
            randomness = draw(self.objective, streams, number, tuple(batch.latents_BCHW.shape))
            with torch.no_grad():
                yield batch, randomness.to(self._device)

    def _averaged(self, *inputs: Tensor) -> Tensor:
        out: Tensor = functional_call(self.network, self.average, inputs)
        return out

    def _adopt(self, weights: Mapping[str, Tensor], average: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(weights[name])
                self.average[name].copy_(average[name])
        self.optimizer = self._new_optimizer()
        self._forget_failure()

    def _forget_failure(self) -> None:
        self._refused = torch.zeros((), dtype=torch.bool, device=self._device)
        self._refused_step = torch.zeros((), dtype=torch.int64, device=self._device)

    def _new_optimizer(self) -> torch.optim.AdamW:
        matrices = [p for p in self.parameters.values() if p.ndim > 1]
        vectors = [p for p in self.parameters.values() if p.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": self.recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.recipe.lr, betas=BETAS, eps=EPSILON, fused=True)

    def _stream(self, purpose: str) -> Stream:
        return Stream.of(*self.key, str(self.recipe.seed), purpose)
