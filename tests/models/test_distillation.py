"""A student of the experts of a mixture of Gaussians, whose every velocity is known, becomes the mixture's own."""

from __future__ import annotations

import pytest
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from mixtures import Mixture, separate, tangled
from torch import Tensor, nn

from paris.models.cache import LatentCache
from paris.models.conversion import Prediction
from paris.models.distillation import DistillationError, DistillationObjective, require_labels
from paris.models.ensemble import Ensemble
from paris.models.feed import Part
from paris.models.objectives import Draw, Times, VelocityObjective
from paris.models.recipe import Recipe
from paris.models.routing import Routing
from paris.models.text import TextBatch
from paris.models.training import Trainer


class Unasked(nn.Module):
    """A router nobody may need."""

    def forward(self, *_: Tensor) -> Tensor:
        raise AssertionError("a distillation asks no router")


class Student(ModelMixin, ConfigMixin):
    """A perceptron of (x, t, text)."""

    @register_to_config
    def __init__(self, *, numbers: int, texts: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(numbers + texts + 2, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, numbers),
        )

    def forward(self, x_BCHW: Tensor, t_B: Tensor, text_BLE: Tensor, mask_BL: Tensor) -> Tensor:
        assert mask_BL.all()
        seen = torch.cat([x_BCHW.flatten(1), t_B[:, None], t_B[:, None].square(), text_BLE[:, 0]], dim=1)
        return self.layers(seen).reshape(x_BCHW.shape)


def cache_of(mixture: Mixture, count: int) -> LatentCache:
    x0, clusters, texts = mixture.data(count, seed=1)
    captions = mixture.texts(torch.arange(-1, mixture.shares_KC.shape[1]))
    return LatentCache(x0, texts + 1, clusters, captions)


def teacher_of(mixture: Mixture, predictions: list[Prediction] | None = None) -> Ensemble:
    predictions = predictions or [Prediction()] * len(mixture.shares_KC)
    return Ensemble(mixture.experts(predictions), Unasked(), Routing("top-k", 1), predictions=predictions)


@pytest.mark.slow
def test_student_becomes_the_mixture_of_its_teachers():
    """With the text and without, and much nearer to the mixture than any of those it learned from."""
    mixture = tangled()
    numbers, texts = mixture.shape[0], mixture.shares_KC.shape[1]
    torch.manual_seed(0)
    student, cache = Student(numbers=numbers, texts=texts, width=64), cache_of(mixture, 4096)
    recipe = Recipe(steps=500, batch=256, lr=4e-3, warmup_steps=20, ema=0.99, precision="fp32", text_dropout=0.2)
    objective = DistillationObjective(teacher_of(mixture), Times("uniform"))
    trainer = Trainer(student, objective, cache, recipe, ("run", "student"), threads=1)
    trainer.train(500)
    for text in (-1, 0):
        texts_B = torch.full((1000,), text)
        x_BCHW, t_B = mixture.noised(1000, seed=5, text=text)
        exact, encoded = mixture.velocity(x_BCHW, t_B, texts_B), mixture.texts(texts_B)
        inputs = (x_BCHW, t_B, encoded.tokens_BLE, encoded.mask_BL)
        with trainer._averaged() as averaged, torch.no_grad():
            error = (averaged(*inputs) - exact).square().mean()
            teachers = [(expert(*inputs) - exact).square().mean() for expert in mixture.experts()]
        assert error < 0.12 * exact.square().mean()
        assert error < 0.5 * min(teachers)


def test_each_sample_is_taught_by_the_expert_of_its_own_cluster():
    """In noise-predicting experts' own terms, too: what is compared is velocity."""
    mixture = tangled()
    predictions = [Prediction("ddpm-noise")] + [Prediction()] * (len(mixture.shares_KC) - 1)
    teacher = teacher_of(mixture, predictions)
    cache = cache_of(mixture, 64)
    recipe = Recipe(steps=1, batch=64, lr=1e-3, precision="fp32")
    student = Student(numbers=mixture.shape[0], texts=mixture.shares_KC.shape[1], width=8)
    trainer = Trainer(student, DistillationObjective(teacher), cache, recipe, ("run", "student"), threads=1)
    part: Part = trainer.feed.prepare(0)
    clusters_BK = part.batch.labels_B[:, None] == torch.arange(len(mixture.shares_KC))

    def perfect(x_BCHW: Tensor, t_B: Tensor, text_BLE: Tensor, _: Tensor) -> Tensor:
        best = text_BLE[:, 0].max(-1)
        return mixture.velocity(x_BCHW, t_B, torch.where(best.values > 0, best.indices, -1), clusters_BK)

    times_B = part.draw.t_B.clamp(0.05, 0.95)
    losses_B = trainer.objective.losses(perfect, part.batch, Draw(part.draw.eps_BCHW, times_B))
    assert losses_B.max() < 1e-4
    assert (VelocityObjective().losses(perfect, part.batch, part.draw) > 1e-3).any(), "data are noisier than teachers"
    assert teacher.routing == Routing("top-k", 1), "the teacher draws as before"


def test_distillation_resumes_exactly(tmp_path):
    mixture = separate()

    def new(seed: int) -> Trainer:
        torch.manual_seed(seed)
        student = Student(numbers=mixture.shape[0], texts=mixture.shares_KC.shape[1], width=8)
        recipe = Recipe(steps=9, batch=16, lr=1e-2, precision="fp32")
        return Trainer(
            student, DistillationObjective(teacher_of(mixture)), cache_of(mixture, 64), recipe, ("r", "s"), threads=1
        )

    whole, resumed = new(0), new(1)
    whole.train(4)
    whole.save(tmp_path)
    whole.train(9)
    resumed.load(tmp_path)
    resumed.train(9)
    assert whole.snapshot().digest() == resumed.snapshot().digest()


@pytest.mark.parametrize("label", [-1, 2])
def test_data_nobody_can_teach_are_refused(label):
    texts = TextBatch(torch.zeros(1, 1, 2), torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, 2))
    labels = torch.tensor([0, 1, label])
    cache = LatentCache(torch.zeros(3, 1, 1, 1), torch.zeros(3, dtype=torch.int64), labels, texts)
    with pytest.raises(DistillationError, match="1 of 3 samples"):
        require_labels(cache, 2)
    require_labels(LatentCache(cache.latents_NCHW[:2], cache.text_index_N[:2], labels[:2], texts), 2)


@pytest.mark.slow
def test_command_distils_a_folder_that_generate_draws_with(tmp_path, make_expert, make_router, make_shard):
    """Called again, it finds its cache and its state."""
    import json

    from typer.testing import CliRunner

    from paris.models.latents import Pixels
    from paris.models.pipeline import ParisPipeline
    from paris.models.schedulers import make_scheduler
    from paris.models.text import open_text_encoder
    from paris.node.cli.app import app

    experts, text = [make_expert(1), make_expert(2)], open_text_encoder("minilm", "all-MiniLM-L6-v2", 16)
    ensemble = Ensemble(experts, make_router(2, 3))
    ParisPipeline(ensemble, Pixels(), text, make_scheduler("euler"), (3, 32, 32)).save_pretrained(tmp_path / "teacher")
    shard = make_shard(tmp_path / "a.tar", 24)
    losses = []
    for steps in (10, 60):
        command = ["distill", tmp_path / "teacher", shard, "--out", tmp_path / "student", "--steps", steps, "--json"]
        done = CliRunner().invoke(app, [str(part) for part in (*command, "--batch", 8, "--lr", "0.003")])
        assert done.exit_code == 0, done.output
        losses.append(json.loads(done.stdout.splitlines()[-1])["loss"])
    assert losses[1] < losses[0]
    student = ParisPipeline.from_pretrained(tmp_path / "student")
    assert len(student.ensemble) == 1
    assert len(student(["shade 1"], num_inference_steps=2).images) == 1
