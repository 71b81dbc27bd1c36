"""Starting from an ImageNet diffusion transformer: what is kept computes what it did, and every tensor is told of."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from paris.models.checkpoints import CheckpointError
from paris.models.dit import DiT
from paris.models.initialisation import CLASSES, FITTED_AT_STEP, HEAD, Initialisation, initialise, source_shapes
from paris.models.inspect import check_config, check_weights
from paris.models.networks import load_network
from paris.models.positions import resized
from paris.models.presets import PRESETS

SIZES = {"channels": 4, "height": 8, "patch": 2, "width": 16, "depth": 3, "heads": 4}
EXPERT = {**SIZES, "text_dim": 12}
NO_CLASS = -1


def tensors(*, classes: int = 11, side: int = 4, learned_variance: bool = True) -> dict[str, torch.Tensor]:
    """A checkpoint by the published names, with small widths."""
    width, depth = SIZES["width"], SIZES["depth"]
    shapes = {
        "pos_embed": (1, side * side, width),
        "x_embedder.proj.weight": (width, 4, 2, 2),
        "t_embedder.mlp.0.weight": (width, 256),
        "t_embedder.mlp.2.weight": (width, width),
        "y_embedder.embedding_table.weight": (classes, width),
        "final_layer.linear.weight": (32 if learned_variance else 16, width),
        "final_layer.adaLN_modulation.1.weight": (2 * width, width),
    }
    for n in range(depth):
        shapes |= {
            f"blocks.{n}.attn.qkv.weight": (3 * width, width),
            f"blocks.{n}.attn.proj.weight": (width, width),
            f"blocks.{n}.mlp.fc1.weight": (4 * width, width),
            f"blocks.{n}.mlp.fc2.weight": (width, 4 * width),
            f"blocks.{n}.adaLN_modulation.1.weight": (6 * width, width),
        }
    matrices = [name for name in shapes if name.endswith(".weight") and name != "y_embedder.embedding_table.weight"]
    shapes |= {name.replace(".weight", ".bias"): (shapes[name][0],) for name in matrices}
    generator = torch.Generator().manual_seed(3)
    return {name: 0.2 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def trunk(source, x, t):
    """DiT's unconditional trunk (arXiv 2212.09748, section 3.2) up to its head, computed from the checkpoint alone."""

    def linear(name, y):
        return functional.linear(y, source[f"{name}.weight"], source[f"{name}.bias"])

    angles = 999 * t[:, None] * torch.exp(-math.log(10_000) * torch.arange(128) / 128)
    time = linear("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], 1))
    condition = functional.silu(linear("t_embedder.mlp.2", functional.silu(time)) + source[CLASSES][NO_CLASS])
    y = functional.conv2d(x, source["x_embedder.proj.weight"], source["x_embedder.proj.bias"], stride=2)
    y = y.flatten(2).transpose(1, 2) + source["pos_embed"]
    for n in range(SIZES["depth"]):
        six = linear(f"blocks.{n}.adaLN_modulation.1", condition)[:, None].chunk(6, -1)
        z = functional.layer_norm(y, y.shape[-1:], eps=1e-6) * (1 + six[1]) + six[0]
        parts = linear(f"blocks.{n}.attn.qkv", z).unflatten(-1, (3, SIZES["heads"], -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        y = y + six[2] * linear(f"blocks.{n}.attn.proj", mixed)
        z = functional.layer_norm(y, y.shape[-1:], eps=1e-6) * (1 + six[4]) + six[3]
        y = y + six[5] * linear(
            f"blocks.{n}.mlp.fc2", functional.gelu(linear(f"blocks.{n}.mlp.fc1", z), approximate="tanh")
        )
    return y


def our_trunk(network, x, t):
    """What reaches our head."""
    seen = []
    network.final_norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        velocity = network(x, t, torch.randn(len(x), 5, 12), torch.ones(len(x), 5).bool())
    assert not velocity.any(), "a new head predicts nothing yet"
    return seen[0]


@pytest.fixture
def checkpoint(tmp_path):
    save_file(tensors(), tmp_path / "dit.safetensors")
    return tmp_path / "dit.safetensors"


def batch(times):
    return torch.randn(len(times), 4, 8, 8, generator=torch.Generator().manual_seed(5)), torch.tensor(times)


@pytest.mark.parametrize("text", ["cross", "pooled"])
def test_with_its_own_modulation_the_trunk_is_the_source_s_at_every_time(checkpoint, text):
    begun = initialise(checkpoint, {**EXPERT, "modulation": "per-block", "text": text})
    x, t = batch([0.0, 0.3, 0.5, 1.0])
    torch.testing.assert_close(our_trunk(begun.network, x, t), trunk(tensors(), x, t), atol=1e-4, rtol=1e-4)
    assert begun.fitted == ("time.out.bias",)


def test_with_adaln_single_the_trunk_is_the_source_s_at_the_step_it_was_fitted_at(checkpoint):
    begun = initialise(checkpoint, EXPERT)
    x, t = batch([FITTED_AT_STEP / 999] * 2)
    torch.testing.assert_close(our_trunk(begun.network, x, t), trunk(tensors(), x, t), atol=1e-4, rtol=1e-4)
    x, t = batch([0.1])
    assert not torch.allclose(our_trunk(begun.network, x, t), trunk(tensors(), x, t), atol=1e-3)


def test_the_shared_projection_is_nearest_to_those_of_the_blocks(checkpoint):
    weights = [tensors()[f"blocks.{n}.adaLN_modulation.1.weight"] for n in range(SIZES["depth"])]
    shared = initialise(checkpoint, EXPERT).network.time_to_modulation.weight
    torch.testing.assert_close(shared, sum(weights) / len(weights))


def test_every_tensor_on_both_sides_is_told_of_once(checkpoint):
    begun = initialise(checkpoint, EXPERT)
    ours = [*begun.kept, *begun.fitted, *begun.new]
    assert sorted(ours) == sorted(begun.network.state_dict())
    assert {"patch_in.weight", "pos_embed", "blocks.2.attention.kv.bias", "blocks.0.mlp.2.weight"} <= set(begun.kept)
    assert {"blocks.1.scale_shift_table", "time_to_modulation.weight", "time.out.bias"} <= set(begun.fitted)
    news = {name.split(".")[0] if "cross" not in name else "cross_attention" for name in begun.new}
    assert news == {"text_in", "cross_attention", "final_scale_shift_table", "patch_out"}
    assert begun.left == tuple(sorted([*HEAD, *(f"final_layer.adaLN_modulation.1.{p}" for p in ("weight", "bias"))]))
    counts = begun.report()["parameters"]
    assert sum(counts.values()) == sum(p.numel() for p in begun.network.parameters())


def test_new_parts_come_from_the_seed_and_leave_the_world_s_randomness_alone(checkpoint):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    one, same, other = (initialise(checkpoint, EXPERT, seed=seed).network for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.text_in.weight, same.text_in.weight)
    assert not torch.equal(one.text_in.weight, other.text_in.weight)
    assert not one.blocks[0].cross_attention.out.weight.any()
    assert not one.patch_out.weight.any()


def test_saved_it_is_a_start_a_run_accepts(tmp_path):
    """The checks of `run create --start`, with the names and shapes of the source for the test preset."""
    arguments = PRESETS["micro"].expert
    with torch.device("meta"):
        found = {CLASSES: torch.Size((3, 32)), HEAD[0]: torch.Size((384, 32)), "pos_embed": torch.Size((1, 16, 32))}
        shapes = source_shapes(DiT(**arguments), found)
    save_file({name: torch.randn(shape) for name, shape in shapes.items()}, tmp_path / "dit.safetensors")
    begun = initialise(tmp_path / "dit.safetensors", arguments)
    assert isinstance(begun, Initialisation)
    begun.save(tmp_path / "start")
    config = json.loads((tmp_path / "start" / "config.json").read_text())
    assert check_config(config, arguments, "expert") == []
    assert check_weights(tmp_path / "start" / "diffusion_pytorch_model.safetensors", arguments, "expert") == []
    loaded = load_network(DiT, tmp_path / "start").state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in begun.network.state_dict().items())
    assert json.loads((tmp_path / "start" / "initialisation.json").read_text()) == begun.report()


def test_the_full_size_checkpoint_is_accounted_for_by_name_and_shape():
    """DiT-XL/2 of 675 M parameters, with 1000 classes and one for none, and a head of noise and variance."""
    found = {CLASSES: (1001, 1152), HEAD[0]: (32, 1152), "pos_embed": (1, 256, 1152)}
    with torch.device("meta"):
        shapes = source_shapes(DiT(**PRESETS["dit-xl-2"].expert), {n: torch.Size(s) for n, s in found.items()})
    assert sum(shape.numel() for shape in shapes.values()) == 675_129_632
    assert len(shapes) == 28 * 10 + 12


@pytest.mark.parametrize("side", [2, 6])
def test_positions_of_another_grid_are_interpolated(tmp_path, side):
    source = tensors(side=side)
    save_file(source, tmp_path / "dit.safetensors")
    network = initialise(tmp_path / "dit.safetensors", EXPERT).network
    torch.testing.assert_close(network.pos_embed, resized(source["pos_embed"][0], 4, 4))


def test_an_expert_with_rotary_positions_leaves_the_learned_ones_behind(checkpoint):
    begun = initialise(checkpoint, {**EXPERT, "positions": "rotary"})
    assert "pos_embed" in begun.left
    assert begun.network.pos_embed is None


def test_a_head_without_variance_and_weights_in_half_precision_are_no_trouble(tmp_path):
    source = {name: tensor.half() for name, tensor in tensors(learned_variance=False).items()}
    save_file(source, tmp_path / "dit.safetensors")
    network = initialise(tmp_path / "dit.safetensors", EXPERT).network
    assert network.dtype == torch.float32
    assert torch.equal(network.blocks[0].mlp[0].weight, source["blocks.0.mlp.fc1.weight"].float())


FAULTS = {
    "is missing": lambda weights: weights.pop("blocks.1.mlp.fc1.bias"),
    "is unknown": lambda weights: weights.update({"blocks.1.mlp.fc1.bias2": torch.zeros(1)}),
    "instead of": lambda weights: weights.update({"blocks.1.mlp.fc1.bias": torch.zeros(3)}),
    "not finite": lambda weights: weights["blocks.1.mlp.fc1.bias"].fill_(math.inf),
}


@pytest.mark.parametrize("words", FAULTS)
def test_a_source_that_is_not_whole_is_refused_by_name(checkpoint, words):
    weights = load_file(checkpoint)
    FAULTS[words](weights)
    save_file(weights, checkpoint)
    with pytest.raises(CheckpointError, match=rf"(?s)blocks\.1\.mlp\.fc1\.bias.*{words}|{words}.*blocks\.1\.mlp"):
        initialise(checkpoint, EXPERT)


@pytest.mark.parametrize("name", [CLASSES, "pos_embed", HEAD[0]])
def test_a_source_without_what_sizes_are_read_from_is_refused_too(checkpoint, name):
    weights = load_file(checkpoint)
    del weights[name]
    save_file(weights, checkpoint)
    with pytest.raises(CheckpointError, match=name.removesuffix(".weight")):
        initialise(checkpoint, EXPERT)


def test_places_of_no_square_grid_are_refused(tmp_path):
    source = tensors()
    source["pos_embed"] = torch.zeros(1, 15, 16)
    save_file(source, tmp_path / "dit.safetensors")
    with pytest.raises(CheckpointError, match="pos_embed"):
        initialise(tmp_path / "dit.safetensors", EXPERT)


def test_a_source_of_another_size_is_refused(checkpoint):
    for other in ({"width": 32}, {"depth": 2}, {"mlp_ratio": 2.0}, {"channels": 8}):
        with pytest.raises(CheckpointError, match="does not fit this network"):
            initialise(checkpoint, {**EXPERT, **other})


def test_a_pickled_checkpoint_is_never_opened(tmp_path):
    (tmp_path / "DiT-XL-2-256x256.pt").write_bytes(b"PK\x03\x04 whatever")
    with pytest.raises(CheckpointError, match=r"A pickled \.pt file has to be converted"):
        initialise(tmp_path / "DiT-XL-2-256x256.pt", EXPERT)
