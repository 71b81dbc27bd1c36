"""Micro-batches, loss scales, compilation and memory change how a gradient is computed, never which one it is."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_training import RECIPE, assert_equal, new_trainer

from paris.models import flops, memory
from paris.models.dit import DiT
from paris.models.precision import FIRST_SCALE, GROWS_AFTER_STEPS, LossScale, affordable
from paris.models.presets import PRESETS
from paris.models.training import NonFiniteError

CPU = torch.device("cpu")


def gradient(trainer) -> torch.Tensor:
    trainer.passes.backward(trainer.feed.at(0))
    return torch.cat([p.grad.flatten() for p in trainer.parameters.values()])


@pytest.mark.parametrize("unit", ["cluster-0", "router"])
@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_micro_batches_add_up_to_the_whole_batch(cache, unit, size):
    """Sizes that do not divide the batch included: a mean of means would weigh the last samples too much."""
    whole, parts = (new_trainer(cache, unit, "fp32") for _ in range(2))
    for trainer in (whole, parts):
        trainer.train(2)
    parts.passes.keep_micro_batch(size)
    assert RECIPE.batch % 2
    torch.testing.assert_close(gradient(parts), gradient(whole), rtol=2e-4, atol=1e-6)


def test_loss_of_micro_batches_is_the_loss_of_the_batch(cache):
    reports = []
    for accumulate in (1, 3):
        trainer = new_trainer(cache, precision="fp32", accumulate=accumulate)
        assert trainer.passes.micro_batch == -(-RECIPE.batch // accumulate)
        trainer.train(10, reports.append)
    assert reports[1].loss == pytest.approx(reports[0].loss, rel=1e-5)


def test_loss_scale_cancels_out(cache):
    """In fp32, where nothing vanishes, a scale of a power of two leaves every bit of the update alone."""
    plain, scaled = (new_trainer(cache, precision="fp32") for _ in range(2))
    scaled.scale.used = True
    scaled.scale.scale = torch.tensor(1024.0)
    for trainer in (plain, scaled):
        trainer.train(5)
    weights = (trainer.snapshot().groups["weights"] for trainer in (plain, scaled))
    for left, right in zip(*(named.values() for named in weights), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-8)


def test_loss_scale_halves_on_overflow_and_doubles_after_a_long_calm():
    scale, no, yes = LossScale("fp16", CPU), torch.tensor(False), torch.tensor(True)
    scale.update(yes)
    assert scale.state() == {"scale": FIRST_SCALE / 2, "good_steps": 0}
    scale.load({"scale": 8.0, "good_steps": GROWS_AFTER_STEPS - 2})
    scale.update(no)
    assert scale.state() == {"scale": 8.0, "good_steps": GROWS_AFTER_STEPS - 1}
    scale.update(no)
    assert scale.state() == {"scale": 16.0, "good_steps": 0}


def test_loss_scale_of_other_precisions_never_moves():
    scale = LossScale("bf16", CPU)
    scale.update(torch.tensor(True))
    assert (float(scale.scale), scale.state()) == (1.0, {})


def overflowing(cache, steps_of_room: int):
    """An fp16 training whose scale is so high that gradients overflow until it has been halved so often."""
    trainer = new_trainer(cache, precision="fp16")
    trainer.scale.scale = torch.tensor(2.0 ** (110 + steps_of_room))
    return trainer


def test_overflow_skips_the_update_and_the_resume_knows_how_many_were_skipped(tmp_path, cache):
    whole = overflowing(cache, 5)
    before = {name: p.detach().clone() for name, p in whole.parameters.items()}
    whole.train(1)
    assert all(torch.equal(p, before[name]) for name, p in whole.parameters.items())
    whole.scale.scale = torch.tensor(256.0)
    whole.train(9)
    whole.save(tmp_path)
    note = whole.snapshot().note
    assert (note["step"], note["updates"]) == (9, 8)
    whole.train(20)
    resumed = new_trainer(cache, precision="fp16", seed=4)
    resumed.load(tmp_path)
    resumed.train(20)
    assert_equal(whole, resumed)


def test_overflow_at_the_smallest_scale_is_a_failure(cache):
    trainer = new_trainer(cache, precision="fp16")
    trainer.scale.scale = torch.tensor(1.0)
    with torch.no_grad():
        for parameter in trainer.parameters.values():
            parameter.mul_(1e4)
    with pytest.raises(NonFiniteError):
        trainer.train(10)


@pytest.mark.slow
def test_compiled_passes_have_the_same_gradient_and_resume_exactly(tmp_path, cache):
    options = {"compiled": "aot_eager"}
    plain = new_trainer(cache, precision="fp32")
    compiled = new_trainer(cache, precision="fp32", options=options)
    torch.testing.assert_close(gradient(compiled), gradient(plain), rtol=1e-4, atol=1e-6)
    compiled.passes.network.zero_grad(set_to_none=True)
    compiled.train(3)
    compiled.save(tmp_path)
    assert compiled.evaluate(cache, 20) > 0
    compiled.train(6)
    resumed = new_trainer(cache, precision="fp32", seed=5, options=options)
    resumed.load(tmp_path)
    resumed.train(6)
    assert_equal(compiled, resumed)


@given(
    batch=st.integers(1, 300),
    parts=st.integers(1, 8),
    room=st.integers(0, 10_000),
    fixed=st.integers(0, 500),
    each=st.integers(1, 500),
)
def test_the_largest_micro_batch_that_fits_is_taken(batch, parts, room, fixed, each):
    size = memory.fitting(batch, parts, room, fixed + each, fixed + 2 * each)
    assert 1 <= size <= -(-batch // min(parts, batch))
    assert size == 1 or fixed + size * each <= room
    count = -(-batch // size)
    larger = -(-batch // max(1, count - 1))
    assert count <= parts or larger == size or fixed + larger * each > room


def test_micro_batch_follows_free_memory_and_training_goes_on_from_there(tmp_path, cache, monkeypatch):
    roomy, narrow = new_trainer(cache), new_trainer(cache)
    assert roomy.fit_memory() == RECIPE.batch
    one = memory.peak_bytes(lambda: narrow.passes._try(narrow.feed.prepare(0), 1), CPU)
    two = memory.peak_bytes(lambda: narrow.passes._try(narrow.feed.prepare(0), 2), CPU)
    assert 0 < one < two
    weights_bytes = sum(p.nbytes for p in narrow.parameters.values())
    room_bytes = one + 2.5 * (two - one) + 3 * weights_bytes
    monkeypatch.setattr(memory, "free_bytes", lambda device: room_bytes / memory.USED_SHARE)
    assert narrow.fit_memory() == 3
    monkeypatch.undo()
    narrow.train(4)
    narrow.save(tmp_path)
    roomy.load(tmp_path)
    assert roomy.passes.micro_batch == 3, "a resume keeps what decides the last bits"


def test_trying_for_memory_leaves_no_trace(cache):
    tried, untried = new_trainer(cache), new_trainer(cache)
    tried.fit_memory()
    for trainer in (tried, untried):
        trainer.train(5)
    assert_equal(tried, untried)


def test_flops_of_a_known_network():
    """Two a multiply-add, three products a linear layer in training; attention by hand."""
    config = {**PRESETS["micro"].expert, "depth": 1}
    D, T, L, E = config["width"], 16, 16, config["text_dim"]
    inputs = (torch.zeros(1, 3, 32, 32), torch.zeros(1), torch.zeros(1, L, E), torch.ones(1, L, dtype=torch.bool))
    network = DiT(**config)
    blocks = T * (3 + 1) * D * D + T * 2 * D * D + L * 2 * D * D + T * 8 * D * D
    ends = 2 * T * 192 * D + L * (E * D + D * D) + 256 * D + D * D + 6 * D * D
    attention = 2 * T * T * D + 2 * T * L * D
    counted = flops.training_flops(DiT, network.config, flops.shape_of(inputs))
    forward = 2 * (blocks + ends + attention)
    inputs_need_no_gradient = 2 * (T * 192 * D + L * E * D + 256 * D)
    assert counted == pytest.approx(3 * forward - inputs_need_no_gradient, rel=0.02)


def test_half_life_is_what_it_says(cache):
    """Past the warm-up of an average, weights of h steps ago count half of today's."""
    trainer = new_trainer(cache, options={"half_lives": (4,)}, precision="fp32")
    trainer.step = 10_000
    trainer.recipe = replace(RECIPE, steps=20_000, lr=1e-9)
    for parameter, average in zip(
        trainer.parameters.values(), trainer._optimiser.averages["average-4"].values(), strict=True
    ):
        average.copy_(parameter.detach() + 1)
    trainer.train(10_004)
    gap = trainer._optimiser.averages["average-4"]["patch_in.bias"] - trainer.parameters["patch_in.bias"]
    torch.testing.assert_close(gap.detach(), torch.full_like(gap, 0.5), rtol=1e-3, atol=1e-3)


def test_each_half_life_is_exported(tmp_path, cache):
    from safetensors.torch import load_file

    trainer = new_trainer(cache, options={"half_lives": (1, 50)}, ema=0.6)
    trainer.train(20)
    for half_life in (None, 1, 50):
        trainer.export(tmp_path / str(half_life), half_life)
    weights = [
        load_file(tmp_path / name / "diffusion_pytorch_model.safetensors")["proj_out.weight"]
        for name in ("None", "1", "50")
    ]
    assert not torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])


@pytest.mark.parametrize(("units", "runs_in"), [(True, "bf16"), (False, "fp32")])
def test_a_cpu_without_units_for_short_numbers_computes_in_fp32(monkeypatch, units, runs_in):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: units, raising=False)
    assert affordable("bf16", CPU) == runs_in
    assert affordable("bf16", torch.device("cuda")) == "bf16"
    assert affordable("fp32", CPU) == "fp32"


def test_the_precision_used_is_part_of_the_state(cache):
    emulated, spared = new_trainer(cache), new_trainer(cache, options={"precision": "fp32"})
    assert (emulated.snapshot().note["precision"], spared.snapshot().note["precision"]) == ("bf16", "fp32")
    exact = new_trainer(cache, precision="fp32")
    for trainer in (exact, spared):
        trainer.train(4)
    assert_equal(exact, spared)
