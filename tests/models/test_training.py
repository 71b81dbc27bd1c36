"""Training survives anything: interrupted anywhere, resumed by another process, replayed, poisoned with a NaN."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from paris.models.checkpoints import CheckpointError
from paris.models.dit import DiT
from paris.models.feed import Feed
from paris.models.objectives import RoutingObjective, expert_objective
from paris.models.presets import PRESETS
from paris.models.recipe import Recipe, RecipeError
from paris.models.router import Router
from paris.models.training import NonFiniteError, Trainer

RECIPE = Recipe(steps=20, batch=7, lr=3e-3, warmup_steps=3, ema=0.9, weight_decay=0.01, seed=5)


NOTE = '{"key": ["run", "cluster-0"], "step": 2, "updates": 2, "micro_batch": 7, "precision": "bf16", "loss_scale": {}}'


def new_trainer(cache, unit="cluster-0", precision="bf16", seed=0, options=None, **changes) -> Trainer:
    torch.manual_seed(seed)
    micro = PRESETS["micro"]
    network = Router(**micro.router, clusters=2) if unit == "router" else DiT(**micro.expert)
    recipe = replace(RECIPE, precision=precision, **changes)
    objective = RoutingObjective() if unit == "router" else expert_objective(asdict(recipe))
    return Trainer(network, objective, cache, recipe, ("run", unit), threads=1, **(options or {}))


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    moments = {
        f"{moment}.{name}": trainer.optimizer.state[p][moment]
        for name, p in trainer.parameters.items()
        for moment in ("exp_avg", "exp_avg_sq")
    }
    averages = {f"average.{name}": value for name, value in trainer.average.items()}
    return {**trainer.parameters, **averages, **moments}


def assert_equal(left: Trainer, right: Trainer) -> None:
    """Every tensor and number of the state."""
    ours, theirs = left.snapshot(copy=False), right.snapshot(copy=False)
    assert ours.note == theirs.note
    assert ours.groups.keys() == theirs.groups.keys()
    for group, named in ours.groups.items():
        assert [name for name in named if not torch.equal(named[name], theirs.groups[group][name])] == [], group


KINDS = [
    ("cluster-0", {}),
    ("cluster-0", {"objective": "ddpm-noise"}),
    ("cluster-0", {"objective": "ddpm-x0", "noise_schedule": "linear"}),
    ("router", {}),
]


@pytest.mark.parametrize(("unit", "objective"), KINDS)
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_resume_is_exact_wherever_it_was_interrupted(tmp_path, cache, unit, objective, precision):
    whole = new_trainer(cache, unit, precision, **objective)
    for step in (0, 1, 9, 10, 19):
        whole.train(step)
        whole.save(tmp_path / str(step))
    whole.train(20)
    for folder in tmp_path.iterdir():
        resumed = new_trainer(cache, unit, precision, seed=99, **objective)
        resumed.load(folder)
        assert resumed.step == int(folder.name)
        resumed.train(20)
        assert_equal(whole, resumed)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_resume_keeps_micro_batches_and_every_average(tmp_path, cache, precision):
    options, changes = {"half_lives": (3, 30)}, {"accumulate": 3, "schedule": "cosine"}
    whole = new_trainer(cache, precision=precision, options=options, **changes)
    whole.passes.keep_micro_batch(2)
    whole.train(11)
    whole.save(tmp_path)
    whole.train(20)
    resumed = new_trainer(cache, precision=precision, seed=9, options=options, **changes)
    resumed.load(tmp_path)
    assert resumed.passes.micro_batch == 2
    resumed.train(20)
    assert_equal(whole, resumed)


def test_stopping_between_steps_changes_nothing(cache):
    whole, stopped = new_trainer(cache), new_trainer(cache)
    whole.train(20)
    answers = iter([False] * 4 + [True])
    stopped.train(20, stop=lambda: next(answers))
    assert stopped.step == 4
    stopped.train(20)
    assert_equal(whole, stopped)


RESUME = """
import sys
from pathlib import Path
from paris.models.cache import LatentCache
from paris.models.dit import DiT
from paris.models.objectives import VelocityObjective
from paris.models.presets import PRESETS
from paris.models.recipe import Recipe
from paris.models.training import Trainer
folder = Path(sys.argv[1])
recipe = Recipe(steps=20, batch=7, lr=3e-3, warmup_steps=3, ema=0.9, weight_decay=0.01, seed=5, precision=sys.argv[2])
cache = LatentCache.open(folder / "cache.safetensors")
trainer = Trainer(DiT(**PRESETS["micro"].expert), VelocityObjective(), cache, recipe, ("run", "cluster-0"), threads=1)
trainer.load(folder / "state")
trainer.train(20)
trainer.save(folder / "after")
"""


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_another_process_takes_over_bit_for_bit(tmp_path, make_shard, letters, precision):
    from paris.models.ingestion import ingest
    from paris.models.latents import Pixels

    cache = ingest([make_shard(tmp_path / "a.tar", 30)], Pixels(), letters, tmp_path / "cache.safetensors")
    whole = new_trainer(cache, precision=precision)
    whole.train(11)
    whole.save(tmp_path / "state")
    whole.train(20)
    whole.save(tmp_path / "whole")
    subprocess.run([sys.executable, "-c", RESUME, str(tmp_path), precision], check=True, timeout=120)
    assert (tmp_path / "after/state.safetensors").read_bytes() == (tmp_path / "whole/state.safetensors").read_bytes()


@pytest.mark.parametrize("changed", [{"seed": 6}, {"text_dropout": 0.9}, {"batch": 8}])
def test_another_recipe_trains_another_network(cache, changed):
    ours, theirs = new_trainer(cache), new_trainer(cache, **changed)
    ours.train(3)
    theirs.train(3)
    assert not torch.equal(ours.parameters["patch_in.weight"], theirs.parameters["patch_in.weight"])


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_poisoned_sample_never_reaches_the_weights(tmp_path, cache, poison, precision):
    poisoned = cache.latents_NCHW.clone()
    poisoned[:] = poison
    trainer = new_trainer(cache, precision=precision)
    trainer.train(4)
    before = {name: value.clone() for name, value in state(trainer).items() if "average" not in name}
    trainer.feed.cache = replace(cache, latents_NCHW=poisoned)
    with pytest.raises(NonFiniteError, match="at step 4 of run cluster-0"):
        trainer.train(20)
    after = state(trainer)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(torch.isfinite(value).all() for value in after.values())
    with pytest.raises(NonFiniteError):
        trainer.save(tmp_path)
    assert not list(tmp_path.iterdir())


def test_training_goes_on_from_the_last_state_after_a_nan(tmp_path, cache):
    whole, hurt = new_trainer(cache), new_trainer(cache)
    hurt.train(5)
    hurt.save(tmp_path)
    hurt.feed.cache = replace(cache, latents_NCHW=cache.latents_NCHW * float("nan"))
    with pytest.raises(NonFiniteError):
        hurt.train(20)
    hurt.feed.cache = cache
    hurt.load(tmp_path)
    hurt.train(20)
    whole.train(20)
    assert_equal(whole, hurt)


def test_state_of_another_unit_is_refused(tmp_path, cache):
    trainer = new_trainer(cache)
    trainer.train(1)
    trainer.save(tmp_path)
    trainer.key = ("run", "cluster-1")
    with pytest.raises(CheckpointError, match="belongs to"):
        trainer.load(tmp_path)


def test_state_of_another_network_is_refused(tmp_path, cache):
    new_trainer(cache, "router").save(tmp_path)
    with pytest.raises(CheckpointError, match="another preset"):
        new_trainer(cache).load(tmp_path)


def test_state_cut_short_is_refused(tmp_path, cache):
    trainer = new_trainer(cache)
    trainer.train(1)
    trainer.save(tmp_path)
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="last published checkpoint"):
        trainer.load(tmp_path)


def test_state_without_moments_is_refused(tmp_path, cache):
    """A state with a step but no Adam moments would resume to other weights without a word."""
    trainer = new_trainer(cache)
    trainer.train(2)
    trainer.save(tmp_path)
    path = tmp_path / "state.safetensors"
    kept = {name: value for name, value in load_file(path).items() if not name.startswith("exp_avg.")}
    save_file(kept, path, metadata={"note": NOTE})
    with pytest.raises(CheckpointError):
        trainer.load(tmp_path)


def rewrite(path, edit, note=NOTE) -> None:
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"note": note})


@pytest.mark.parametrize("group", ["weights", "average", "exp_avg", "exp_avg_sq"])
def test_poisoned_state_of_a_stranger_is_refused(tmp_path, cache, group):
    trainer = new_trainer(cache)
    trainer.train(2)
    trainer.save(tmp_path)

    def poison(tensors):
        tensors[f"{group}.patch_in.weight"][0, 0] = float("nan")

    rewrite(tmp_path / "state.safetensors", poison)
    with pytest.raises(CheckpointError, match="poisoned"):
        new_trainer(cache).load(tmp_path)


def test_negative_second_moment_is_refused(tmp_path, cache):
    """It is finite itself, but its square root would make the weights NaN one step later."""
    trainer = new_trainer(cache)
    trainer.train(2)
    trainer.save(tmp_path)
    rewrite(tmp_path / "state.safetensors", lambda tensors: tensors["exp_avg_sq.patch_in.bias"].fill_(-1))
    with pytest.raises(CheckpointError, match="negative squares"):
        new_trainer(cache).load(tmp_path)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "[]",
        "{}",
        NOTE.replace('["run", "cluster-0"]', '"x"'),
        NOTE.replace('"step": 2', '"step": -1'),
        NOTE.replace('"step": 2', '"step": true'),
        NOTE.replace('"updates": 2', '"updates": 3'),
        NOTE.replace('"micro_batch": 7', '"micro_batch": 0'),
        NOTE.replace("{}", "[]"),
    ],
)
def test_state_with_a_false_note_is_refused(tmp_path, cache, note):
    trainer = new_trainer(cache)
    trainer.train(2)
    trainer.save(tmp_path)
    rewrite(tmp_path / "state.safetensors", lambda _: None, note)
    with pytest.raises(CheckpointError, match="cannot be read"):
        new_trainer(cache).load(tmp_path)


def test_weights_that_overflowed_are_never_written(tmp_path, cache):
    trainer = new_trainer(cache)
    with torch.no_grad():
        trainer.parameters["patch_in.bias"][0] = float("inf")
        trainer.average["patch_in.bias"][0] = float("inf")
    for write in (trainer.save, trainer.export):
        with pytest.raises(CheckpointError, match="poisoned"):
            write(tmp_path / "out")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_training_on_leaves_the_loaded_file_alone(tmp_path, cache):
    trainer = new_trainer(cache)
    trainer.train(2)
    trainer.save(tmp_path)
    before = (tmp_path / "state.safetensors").read_bytes()
    trainer.load(tmp_path)
    trainer.train(6)
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_crash_while_saving_leaves_the_old_state(tmp_path, cache, monkeypatch):
    trainer = new_trainer(cache)
    trainer.train(2)
    trainer.save(tmp_path)
    trainer.train(4)

    def crash(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", crash)
    with pytest.raises(OSError, match="No space"):
        trainer.save(tmp_path)
    monkeypatch.undo()
    resumed = new_trainer(cache)
    resumed.load(tmp_path)
    assert resumed.step == 2


def test_warm_start_begins_at_step_0_with_the_given_weights(tmp_path, cache):
    base = new_trainer(cache, precision="fp32")
    base.train(12)
    base.export(tmp_path)
    expert = new_trainer(cache, seed=4)
    expert.start_from(tmp_path)
    assert expert.step == 0
    for name, value in expert.parameters.items():
        assert torch.equal(value, base.average[name].bfloat16().float())
        assert torch.equal(expert.average[name], value)


def test_training_learns(cache):
    expert, router = new_trainer(cache, steps=60), new_trainer(cache, "router", steps=60)
    before = expert.evaluate(cache, 48)
    expert.train(60)
    router.train(60)
    assert expert.evaluate(cache, 48) < 0.8 * before
    assert router.accuracy(cache, 48) > 0.8


def test_evaluation_repeats_and_disturbs_nothing(cache):
    watched, alone = new_trainer(cache), new_trainer(cache)
    watched.train(5)
    first = watched.evaluate(cache, 30)
    assert watched.evaluate(cache, 30) == first
    watched.train(9)
    alone.train(9)
    assert_equal(watched, alone)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_step_never_makes_the_host_wait_for_the_device(cache, precision):
    """`.item()`, `float(tensor)`, `if tensor:` and whatever has a shape that depends on numbers would."""
    waited: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func.overloadpacket in {torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero}:
                waited.append(str(func))
            return func(*args, **(kwargs or {}))

    trainer = new_trainer(cache, precision=precision, options={"half_lives": (5,)}, accumulate=2)
    trainer.train(1)
    with Watch():
        for _ in range(3):
            trainer._one_step()
        assert waited == []
        trainer.check_finite()
    assert waited, "this test cannot see a wait"


def test_the_next_step_is_prepared_while_this_one_runs_and_nothing_changes(cache):
    ahead, behind = new_trainer(cache), new_trainer(cache)
    ahead.feed = Feed(cache, ahead.objective, ahead.recipe, ahead.key, ahead=True)
    for trainer in (ahead, behind):
        trainer.train(7)
        trainer.train(12)
    assert_equal(ahead, behind)


def test_loss_by_noise_level_adds_up_to_the_loss(cache):
    """Every sample is in the bin of its own time, and in no other."""
    trainer, reports = new_trainer(cache, times="uniform", batch=48), []
    trainer.train(10, reports.append)
    report = reports[0]
    times = np.concatenate([trainer.feed.prepare(step).draw.t_B for step in range(10)])
    counts = np.histogram(times, bins=len(report.loss_by_noise), range=(0, 1))[0]
    assert (counts * report.loss_by_noise).sum() / counts.sum() == pytest.approx(report.loss, rel=1e-4)
    assert report.images_per_s > 0
    assert report.mfu is None


def test_share_of_the_peak_is_said_once_the_peak_is_known(cache):
    trainer, reports = new_trainer(cache), []
    trainer.measure_peak()
    trainer.train(1, reports.append)
    assert reports[0].mfu > 0


def test_losses_are_reported_and_average_the_steps_since(cache):
    trainer, reports = new_trainer(cache), []
    trainer.train(15, reports.append)
    assert [report.step for report in reports] == [10, 15]
    assert all(0 < report.loss < 10 for report in reports)


def test_learning_rate_warms_up_holds_and_falls_to_zero():
    recipe = Recipe(steps=100, batch=1, lr=1.0, warmup_steps=9)
    assert [recipe.learning_rate(step) for step in (0, 4, 9, 79)] == [0.1, 0.5, 1.0, 1.0]
    assert recipe.learning_rate(90) == pytest.approx(0.5)
    assert recipe.learning_rate(100) == 0.0


def test_constant_learning_rate_warms_up_and_stays():
    recipe = Recipe(steps=100, batch=1, lr=1.0, warmup_steps=9, schedule="constant")
    assert [recipe.learning_rate(step) for step in (0, 4, 9, 79, 90, 99)] == [0.1, 0.5, 1.0, 1.0, 1.0, 1.0]


def test_cosine_learning_rate_warms_up_and_falls_along_half_a_cosine():
    recipe = Recipe(steps=109, batch=1, lr=1.0, warmup_steps=9, schedule="cosine")
    assert [recipe.learning_rate(step) for step in (0, 4, 9)] == [0.1, 0.5, 1.0]
    assert [recipe.learning_rate(step) for step in (34, 59, 109)] == pytest.approx([0.85355, 0.5, 0.0], abs=1e-5)


def test_recipe_reads_decimal_strings_and_ignores_the_publish_cadence():
    recipe = Recipe.of({"steps": 10, "batch": 4, "lr": "0.001", "ema": "0.99", "publish_every": 5, "precision": "fp32"})
    assert (recipe.lr, recipe.ema, recipe.precision) == (0.001, 0.99, "fp32")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"steps": 1, "batch": 0, "lr": "1"},
        {"steps": 1, "batch": 1, "lr": "x"},
        {"steps": 1, "batch": 1, "lr": "0"},
        {"steps": 1, "batch": 1, "lr": "1", "accumulate": 2},
        {"steps": 1, "batch": 1, "lr": "1", "time_shift": "0"},
        {"steps": 1, "batch": 1, "lr": "1", "precision": "fp8"},
        {"steps": 1, "batch": 1, "lr": "1", "schedule": "wavy"},
    ],
)
def test_bad_recipe_is_explained(values):
    with pytest.raises(RecipeError, match="genesis"):
        Recipe.of(values)
