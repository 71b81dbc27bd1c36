"""Weights from strangers: every way to be wrong is found before they are admitted."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from paris.models.inspect import check_weights
from paris.models.networks import save_network

FIRST = {"expert": "pos_embed.proj.weight", "router": "patch_in.weight"}
TABLE = {"expert": "scale_shift_table", "router": "pos_embed"}
"""A tensor of the file, and one of two dimensions: experts lie under diffusers' class, routers under ours."""


@pytest.fixture(params=["expert", "router"])
def exported(request, tmp_path, make_expert, make_router):
    network = make_expert(0) if request.param == "expert" else make_router(3, 0)
    save_network(network.to(torch.bfloat16), tmp_path)
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
        weights[FIRST[exported[2]]].flatten()[5] = value

    spoil(exported[0], edit)
    assert check_weights(*exported) == [f"The tensor {FIRST[exported[2]]} holds values that are not finite."]


def test_wrong_shape_is_found(exported):
    name, shape = TABLE[exported[2]], {"expert": (2, 32), "router": (16, 32)}[exported[2]]
    spoil(exported[0], lambda weights: weights.update({name: torch.randn(3, 3)}))
    assert check_weights(*exported) == [f"The tensor {name} has shape (3, 3) where {shape} is expected."]


def test_missing_and_unknown_names_are_found(exported):
    spoil(exported[0], lambda weights: weights.update(stranger=weights.pop(TABLE[exported[2]])))
    assert check_weights(*exported) == [
        f"The tensor {TABLE[exported[2]]} is missing.",
        f"The tensor stranger is not part of this {exported[2]}.",
    ]


def test_constant_tensor_is_found(exported):
    spoil(exported[0], lambda weights: weights[FIRST[exported[2]]].fill_(0.5))
    assert check_weights(*exported) == [f"The tensor {FIRST[exported[2]]} is constant, as if it was never trained."]


def test_matrix_that_is_still_zero_after_a_few_steps_is_no_fault(exported):
    spoil(exported[0], lambda weights: weights[FIRST[exported[2]]].zero_())
    assert check_weights(*exported) == []


def test_weights_of_nothing_but_zeros_are_found(exported):
    spoil(exported[0], lambda weights: [tensor.zero_() for tensor in weights.values()])
    assert check_weights(*exported) == ["Every matrix is zero, as if it was never trained."]


def test_integer_weights_are_found(exported):
    spoil(exported[0], lambda weights: weights.update({n: torch.ones(w.shape).int() for n, w in weights.items()}))
    assert "dtype torch.int32" in check_weights(*exported)[0]


@pytest.mark.parametrize("data", [b"", b"\x80\x04pickle", b"\xff" * 64])
def test_file_that_is_no_safetensors_is_found(exported, data):
    exported[0].write_bytes(data)
    assert "not a readable safetensors file" in check_weights(*exported)[0]


def test_config_of_another_architecture_is_found(exported):
    file, config, kind = exported
    assert "does not describe" in check_weights(file, {**config, "unknown_option": 1}, kind)[0]
    assert "does not describe" in check_weights(file, {}, kind)[0]
    assert check_weights(file, {**config, {"expert": "num_layers"}.get(kind, "depth"): 4}, kind)[0].endswith(
        "is missing."
    )


def test_huge_config_costs_no_memory(exported):
    """A config may claim any width: the check builds it without storage."""
    file, config, kind = exported
    huge = {"width": 2_000_000, "heads": 2}
    if kind == "expert":
        huge = {"attention_head_dim": 2**20, "num_attention_heads": 2, "cross_attention_dim": 2**21}
    assert "a width of 2" in check_weights(file, {**config, **huge}, kind)[0]
