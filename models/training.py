"""The trainer of one unit: stateless randomness, exact resume, nothing non-finite ever in the weights.

A step is a function of (weights, averages, moments, loss scale, micro-batch, step): indices, noise, times and text
dropout come from counters, so an interrupted training goes on bit for bit, on the same stack with the same number of
threads and ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from paris.models import checkpoints, evaluation, flops
from paris.models.cache import LatentCache
from paris.models.distributed import ALONE, Ranks
from paris.models.feed import Feed
from paris.models.meter import Meter, Report
from paris.models.objectives import Objective, RoutingObjective
from paris.models.optimiser import Optimiser
from paris.models.passes import Passes
from paris.models.precision import DTYPES, LossScale
from paris.models.published import form_of
from paris.models.recipe import Recipe, warmed_decay
from paris.models.snapshots import Snapshot

if TYPE_CHECKING:
    from diffusers.models.modeling_utils import ModelMixin

REPORT_EVERY_STEPS = 10
"""The loss stays on the device between reports, so that the host never waits for a step."""


class NonFiniteError(ValueError):
    """A loss or gradient was not finite; the weights are those from before that step."""


class Trainer:
    """Train one network on one cache.

    Args:
        network: a `DiT` or a `Router`, on its device.
        objective: what it learns.
        cache: its data.
        recipe: a `Recipe` or a mapping with its fields.
        key: names that separate this unit's randomness, usually (run id, unit).
        threads: CPU threads; bit-exactness holds for one number of threads. None leaves the process's setting.
        half_lives: of further averages, in steps; they are kept in the state and exported by half-life.
        compiled: backend of `torch.compile` for the training passes, usually "inductor"; None does not compile.
        precision: of the passes, where not the recipe's own, see `paris.models.precision.affordable`.
        ranks: the processes that train this unit together; every one makes the same calls.

    Attributes:
        step: steps done so far.
        passes: forward and backward; `passes.micro_batch` is the samples of one of each, on one rank.
        meter: knows the speed; told a peak, also the share of it.
    """

    def __init__(
        self,
        network: ModelMixin,
        objective: Objective,
        cache: LatentCache,
        recipe: Recipe | Mapping[str, Any],
        key: tuple[str, ...],
        *,
        threads: int | None = None,
        half_lives: Sequence[int] = (),
        compiled: str | None = None,
        precision: str | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self.recipe = recipe if isinstance(recipe, Recipe) else Recipe.of(recipe)
        self.objective, self.key, self.ranks, self.step = objective, key, ranks, 0
        device = next(network.parameters()).device
        precision = precision or self.recipe.precision
        self.scale = LossScale(precision, device)
        self.passes = Passes(network, objective, self.recipe, self.scale, ranks, compiled=compiled, precision=precision)
        self._decays = {"average": self.recipe.ema, **{f"average-{h}": 0.5 ** (1 / h) for h in half_lives}}
        self._optimiser = Optimiser(network, self.recipe.weight_decay, list(self._decays), self.scale, ranks)
        self.feed = Feed(cache, objective, self.recipe, key, ranks=ranks, device=device)
        self.meter = Meter(device, ranks)
        self._about = {"ranks": ranks.count, "sharded": ranks.sharded, "compiled": compiled, "device": device.type}

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The weights by name; this rank's part of each where they are sharded."""
        return dict(self._optimiser.parameters)

    @property
    def average(self) -> dict[str, Tensor]:
        """The averaged weights by name, as `parameters`."""
        return self._optimiser.averages["average"]

    @property
    def optimizer(self) -> torch.optim.AdamW:
        """The torch optimiser over `parameters`."""
        return self._optimiser.adam

    def train(
        self,
        until_step: int,
        on_report: Callable[[Report], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        """Train until a step is reached.

        Args:
            until_step: the value of `step` to stop at.
            on_report: called every `REPORT_EVERY_STEPS` steps and at the end.
            stop: asked before every step; True ends the training early, with everything consistent. Several ranks ask
                each other, before every tenth step only.

        Raises:
            NonFiniteError: within `REPORT_EVERY_STEPS` of a non-finite loss or gradient; the weights stayed clean.
        """
        self.meter.restart()
        while self.step < until_step and not self._stopped(stop):
            self._one_step()
            if self.step % REPORT_EVERY_STEPS == 0 or self.step == until_step:
                self.check_finite()
                if on_report:
                    on_report(self._report())
        self.check_finite()

    def check_finite(self) -> None:
        """Wait for the device and raise `NonFiniteError` where a step was refused."""
        if bool(self._optimiser.refused):
            raise NonFiniteError(
                f"The loss or its gradient was not finite at step {int(self._optimiser.refused_step)} of "
                f"{' '.join(self.key)}. The step was refused, so the weights are still good. Usual causes are a "
                "learning rate that is too high or damaged data: lower the one, check the other, and go on from the "
                "last checkpoint."
            )

    def evaluate(self, holdout: LatentCache, samples: int, network: Callable[..., Tensor] | None = None) -> float:
        """Return the mean loss on hold-out samples: the same numbers whenever it is asked.

        Args:
            holdout: the data.
            samples: how many of them, at most.
            network: what to measure; None: the averaged weights.
        """
        with self._averaged() as averaged:
            return evaluation.mean_loss(self.objective, network or averaged, holdout, samples, self.passes.device)

    def accuracy(self, holdout: LatentCache, samples: int) -> float:
        """Return the share of hold-out samples whose cluster the averaged router names, over all noise levels."""
        assert isinstance(self.objective, RoutingObjective)
        with self._averaged() as averaged:
            return evaluation.accuracy(self.objective, averaged, holdout, samples, self.passes.device)

    def fit_memory(self) -> int:
        """Make the recipe's micro-batch small enough for the memory free now, by trying one and two samples; return it.

        It decides the last bits and is part of the state, so call this once, when a training begins or has moved to
        this machine, and not when it resumes here.
        """
        weights_bytes = sum(p.nbytes for p in self._optimiser.parameters.values())
        gradients_and_moments = weights_bytes * (1 if self.optimizer.state else 3)
        return self.passes.fit_memory(self.feed.prepare(self.step), gradients_and_moments)

    def measure_peak(self) -> None:
        """Time bare matrix products, so that reports from now on say what share of the hardware training uses."""
        peak = flops.matmul_flops_per_s(self.passes.device, DTYPES[self.passes.precision])
        self.meter.peak_flops_per_s = peak * self.ranks.count

    def snapshot(self, *, copy: bool = True) -> Snapshot:
        """Return the whole state in the host's memory; on other ranks than the first, one without tensors.

        Args:
            copy: whether the state may go on changing while the snapshot is in use.

        Raises:
            NonFiniteError: a step was refused.
        """
        self.check_finite()
        note = {
            "key": list(self.key),
            "step": self.step,
            "updates": self._optimiser.updates,
            "micro_batch": self.passes.micro_batch,
            "precision": self.passes.precision,
            "loss_scale": self.scale.state(),
        }
        return Snapshot(self._optimiser.groups(copy=copy), note, self.passes.config, self._about)

    def save(self, folder: Path) -> None:
        """Write state.safetensors and state.json: all that a bit-exact resume needs. Atomic."""
        snapshot = self.snapshot(copy=False)
        if self.ranks.first:
            snapshot.save(folder)

    def export(self, folder: Path, half_life: int | None = None) -> None:
        """Write what others use: config.json and averaged weights as bf16 diffusion_pytorch_model.safetensors."""
        snapshot = self.snapshot(copy=False)
        if self.ranks.first:
            snapshot.export(folder, "average" if half_life is None else f"average-{half_life}")

    def load(self, folder: Path) -> None:
        """Take over a state written by `save`, by this process or any other, with any number of ranks.

        Raises:
            checkpoints.CheckpointError: where it belongs to another unit or another network.
        """
        groups, note = checkpoints.load_state(folder, self._optimiser.shapes())
        if note["key"] != list(self.key):
            raise checkpoints.CheckpointError(
                f"The training state in {folder} belongs to {note['key']}, not to {list(self.key)}. "
                "Each unit of each run has a state of its own: point at the right folder."
            )
        try:
            self.scale.load(note["loss_scale"])
        except (TypeError, ValueError) as error:
            raise checkpoints.CheckpointError(f"The training state in {folder} is damaged: {error}.") from error
        self.step = int(note["step"])
        self.passes.keep_micro_batch(int(note["micro_batch"]))
        self._optimiser.adopt(groups, int(note["updates"]))

    def start_from(self, folder: Path, step: int = 0) -> None:
        """Begin from exported weights: averages and weights equal, moments empty.

        Args:
            folder: where they are.
            step: steps they have behind them. Above 0 this is the warm start of an expert whose training state is lost:
                the moments are zeros of that age, so that a state saved later resumes and replays bit for bit.
        """
        self.step = step
        weights = checkpoints.load_export(folder, form_of(self.passes.config), self._optimiser.shapes())
        self._optimiser.adopt({"weights": weights}, step)

    def _one_step(self) -> None:
        losses_B, times_B = self.passes.backward(self.feed.at(self.step))
        loss = self.ranks.total(losses_B.sum()) / self.recipe.batch
        decays = {name: warmed_decay(decay, self.step) for name, decay in self._decays.items()}
        rate = self.recipe.learning_rate(self.step)
        self._optimiser.step(self.step, loss, rate=rate, clip=self.recipe.grad_clip, decays=decays)
        self.meter.add(losses_B, times_B)
        self.step += 1

    def _report(self) -> Report:
        if self.meter.peak_flops_per_s and not self.meter.flops_per_image:
            self.meter.flops_per_image = self.passes.flops_per_image()
        return self.meter.report(self.step)

    def _stopped(self, stop: Callable[[], bool] | None) -> bool:
        if self.ranks.count == 1:
            return bool(stop and stop())
        return self.step % REPORT_EVERY_STEPS == 0 and self.ranks.any(bool(stop and stop()))

    @contextmanager
    def _averaged(self) -> Iterator[Callable[..., Tensor]]:
        with self.passes.with_weights(self.average, self._optimiser.put) as network:
            yield network
