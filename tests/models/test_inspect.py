"""Weights from strangers: every way to be wrong is found before they are admitted."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from paris.models.inspect import check_weights


@pytest.fixture(params=["expert", "router"])
def exported(request, tmp_path, make_expert, make_router):
    network = make_expert(0) if request.param == "expert" else make_router(3, 0)
    network.to(torch.bfloat16).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    return tmp_path / "diffusion_pytorch_model.safetensors", config, request.param


def spoil(file, edit) -> None:
    weights = load_file(file)
    edit(weights)
    save_file(weights, file)


def test_good_weights_pass(exported):
    assert check_weights(*exported) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_is_found(exported, value):
    def edit(weights):
        weights["patch_in.weight"][1, 2] = value

    spoil(exported[0], edit)
    assert check_weights(*exported) == ["The tensor patch_in.weight holds values that are not finite."]


def test_wrong_shape_is_found(exported):
    spoil(exported[0], lambda weights: weights.update({"pos_embed": torch.randn(3, 3)}))
    assert check_weights(*exported) == ["The tensor pos_embed has shape (3, 3) where (16, 32) is expected."]


def test_missing_and_unknown_names_are_found(exported):
    spoil(exported[0], lambda weights: weights.update(stranger=weights.pop("pos_embed")))
    assert check_weights(*exported) == [
        "The tensor pos_embed is missing.",
        f"The tensor stranger is not part of this {exported[2]}.",
    ]


def test_constant_tensor_is_found(exported):
    spoil(exported[0], lambda weights: weights["patch_in.weight"].fill_(0.5))
    assert check_weights(*exported) == ["The tensor patch_in.weight is constant, as if it was never trained."]


def test_matrix_that_is_still_zero_after_a_few_steps_is_no_fault(exported):
    spoil(exported[0], lambda weights: weights["patch_in.weight"].zero_())
    assert check_weights(*exported) == []


def test_weights_of_nothing_but_zeros_are_found(exported):
    spoil(exported[0], lambda weights: [tensor.zero_() for tensor in weights.values()])
    assert check_weights(*exported) == ["Every matrix is zero, as if it was never trained."]


def test_integer_weights_are_found(exported):
    spoil(exported[0], lambda weights: weights.update({"pos_embed": torch.ones(16, 32, dtype=torch.int32)}))
    assert "dtype torch.int32" in check_weights(*exported)[0]


@pytest.mark.parametrize("data", [b"", b"\x80\x04pickle", b"\xff" * 64])
def test_file_that_is_no_safetensors_is_found(exported, data):
    exported[0].write_bytes(data)
    assert "not a readable safetensors file" in check_weights(*exported)[0]


def test_config_of_another_architecture_is_found(exported):
    file, config, kind = exported
    assert "does not describe" in check_weights(file, {**config, "unknown_option": 1}, kind)[0]
    assert "does not describe" in check_weights(file, {}, kind)[0]
    assert check_weights(file, {**config, "depth": 4}, kind)[0].endswith("is missing.")


def test_huge_config_costs_no_memory(exported):
    """A config may claim any width: the check builds it without storage."""
    file, config, kind = exported
    assert check_weights(file, {**config, "width": 2_000_000, "heads": 2}, kind)
