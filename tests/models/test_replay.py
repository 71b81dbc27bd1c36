"""What an auditor does: train a stretch again from its first state, and see whether the claimed last one comes out."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_training import new_trainer

from paris.models.checkpoints import STATE
from paris.models.replay import compare, replay


@pytest.fixture
def states(tmp_path, cache):
    """The states of an honest training after 6 and 13 steps."""
    trainer = new_trainer(cache)
    for step in (6, 13):
        trainer.train(step)
        trainer.save(tmp_path / str(step))
    return tmp_path / "6", tmp_path / "13"


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("objective", ["velocity", "ddpm-noise", "ddpm-x0"])
def test_honest_stretch_comes_out_bit_for_bit(tmp_path, cache, precision, objective):
    trainer = new_trainer(cache, precision=precision, objective=objective)
    for step in (6, 13):
        trainer.train(step)
        trainer.save(tmp_path / str(step))
    replayed = replay(new_trainer(cache, precision=precision, objective=objective, seed=3), tmp_path / "6", until=13)
    comparison = compare(replayed, tmp_path / "6", tmp_path / "13")
    assert comparison.equal
    assert comparison.deviation == 0


def test_one_changed_bit_is_seen(states, cache):
    begin, claimed = states
    with_note = claimed / STATE
    tensors = load_file(with_note)
    tensors["exp_avg.patch_in.weight"].view(torch.int32)[0, 0] ^= 1
    from safetensors import safe_open

    with safe_open(with_note, "pt") as file:
        note = file.metadata()
    save_file(tensors, with_note, metadata=note)
    comparison = compare(replay(new_trainer(cache), begin, until=13), begin, claimed)
    assert not comparison.equal
    assert comparison.deviation == 0, "the weights themselves are those of an honest training"


def test_training_on_other_data_than_claimed_is_far_off(tmp_path, states, cache):
    begin, _ = states
    cheat = new_trainer(cache, seed=1)
    cheat.load(begin)
    cheat.feed.cache = type(cache)(-cache.latents_NCHW, cache.text_index_N, cache.labels_N, cache.texts)
    cheat.train(13)
    cheat.save(tmp_path / "cheated")
    comparison = compare(replay(new_trainer(cache), begin, until=13), begin, tmp_path / "cheated")
    assert not comparison.equal
    assert comparison.deviation > 0.3


def test_rounding_of_another_stack_is_told_from_a_lie(tmp_path, states, cache):
    """Other micro-batches stand for another stack: they, too, change the order of sums alone."""
    begin, claimed = states
    comparison = compare(replay(new_trainer(cache), begin, until=13, micro_batch=2), begin, claimed)
    assert not comparison.equal
    assert comparison.deviation < 0.05


def test_weights_that_never_moved_are_infinitely_far_from_a_training(states, cache):
    begin, _ = states
    assert compare(replay(new_trainer(cache), begin, until=13), begin, begin).deviation == float("inf")


def test_a_stretch_that_ends_before_it_begins_is_refused(states, cache):
    with pytest.raises(ValueError, match="cannot be replayed until 5"):
        replay(new_trainer(cache), states[0], until=5)
