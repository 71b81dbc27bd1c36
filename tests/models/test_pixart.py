"""Experts that diffusers' own classes compute: they train as others do, and diffusers opens what is published alone."""

from __future__ import annotations

import json
import math

import pytest
import torch
from diffusers import HunyuanVideoTransformer3DModel, PixArtTransformer2DModel
from diffusers_alone import velocity_by_diffusers_alone
from safetensors.torch import load_file, save_file

from paris.models import checkpoints
from paris.models.checkpoints import CheckpointError
from paris.models.conditions import beside
from paris.models.dit import DiT
from paris.models.experts import load_expert, weights_count
from paris.models.filenames import CONFIG, WEIGHTS
from paris.models.inspect import check_config, check_weights, largest_bytes
from paris.models.networks import load_network, network_config, save_network
from paris.models.objectives import VelocityObjective
from paris.models.presets import PRESETS
from paris.models.published import COUNTERPARTS, as_ours, form_of
from paris.models.recipe import Recipe
from paris.models.training import Trainer
from paris.models.video import VideoExpert
from paris.models.video_presets import VIDEO_PRESETS

WIRING = {"positions": "sinusoidal", "text_layers": 2}
PIXART = PRESETS["micro"].expert
SMALL = {"channels": 3, "height": 8, "patch": 2, "width": 32, "depth": 2, "heads": 4, "text_dim": 16, **WIRING}
CLIPS = VIDEO_PRESETS["video-nano"].expert


def random(kind, arguments):
    """A network of no special numbers: fresh ones begin with zeros where an error could hide."""
    network = kind(**arguments).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return network


def arguments_of(network) -> dict:
    return {name: value for name, value in network.config.items() if not name.startswith("_")}


def asked(arguments, rows: int, columns: int, samples: int = 4):
    """Latents, times from 0 to 1, text, and masks that let 1, 3, 5 and 7 tokens count."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(samples, arguments["channels"], rows, columns, generator=generator)
    text = torch.randn(samples, 7, arguments["text_dim"], generator=generator)
    mask = torch.arange(7) < 1 + 2 * torch.arange(samples)[:, None]
    return x, torch.linspace(0, 1, samples), text, mask


def by_diffusers(network, x, t, text, mask):
    return network(x, text, timestep=999 * t, encoder_attention_mask=mask, return_dict=False)[0]


def trainer_on(cache, precision: str, seed: int = 0, steps: int = 40) -> Trainer:
    torch.manual_seed(seed)
    recipe = Recipe(steps=steps, batch=7, lr=3e-3, warmup_steps=3, ema=0.9, seed=5, precision=precision)
    return Trainer(DiT(**PIXART), VelocityObjective(), cache, recipe, ("run", "cluster-0"), threads=1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_pixarts_wiring_learns_and_resumes_exactly(tmp_path, cache, precision):
    whole = trainer_on(cache, precision)
    before = whole.evaluate(cache, 48)
    whole.train(20)
    whole.save(tmp_path)
    whole.train(40)
    assert whole.evaluate(cache, 48) < 0.8 * before
    resumed = trainer_on(cache, precision, seed=3)
    resumed.load(tmp_path)
    resumed.train(40)
    assert all(torch.equal(mine, resumed.parameters[name]) for name, mine in whole.parameters.items())


@pytest.mark.parametrize(("height", "patch"), [(8, 2), (16, 4), (64, 8), (128, 16)])
def test_diffusers_class_gets_our_velocity_at_every_size(tmp_path, height, patch):
    """Sides of 128 too, where the class would want resolutions beside the time and divides places by two."""
    arguments = {**SMALL, "height": height, "patch": patch}
    ours = random(DiT, arguments)
    save_network(ours, tmp_path)
    theirs = PixArtTransformer2DModel.from_pretrained(tmp_path).eval()
    for rows, columns in ((height, height), (height + 2 * patch, height), (patch, 3 * patch)):
        inputs = asked(arguments, rows, columns)
        with torch.no_grad():
            expected, found = ours(*inputs), by_diffusers(theirs, *inputs)
        assert expected.std() > 0.1
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    x, t, text, mask = inputs
    with torch.no_grad():
        assert not torch.allclose(by_diffusers(theirs, x, t, text, mask.flip(0)), expected, atol=1e-2)


@pytest.mark.parametrize("arguments", [CLIPS, {**CLIPS, "first_frame": False, "guidance": 4, "rotary_base": 10000}])
def test_diffusers_class_gets_our_velocity_of_clips(tmp_path, arguments):
    ours = random(VideoExpert, arguments)
    save_network(ours, tmp_path)
    theirs = HunyuanVideoTransformer3DModel.from_pretrained(tmp_path).eval()
    x, t, text, mask = asked(arguments, 16, 8)
    x = torch.stack([x, x.flip(2), 2 * x, x.roll(1, 3)], dim=2)
    pooled, first = text.mean(1)[:, :1].expand(-1, arguments["pooled_dim"]), None
    if arguments["first_frame"]:
        first = torch.cat([x[:, :, 0], torch.ones_like(x[:, :1, 0])], dim=1)
    guidance = torch.full_like(t, 1000 * arguments["guidance"]) if arguments.get("guidance") else None
    with torch.no_grad():
        expected = ours(x, t, text, mask, pooled, *(() if first is None else (first,)))
        full = x if first is None else beside(x, first)
        found = theirs(full, 1000 * t, text, mask, pooled, guidance=guidance, return_dict=False)[0]
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_what_training_publishes_opens_with_diffusers_alone(tmp_path, cache):
    trainer = trainer_on(cache, "fp32")
    trainer.train(12)
    trainer.export(tmp_path / "published")
    assert load_file(tmp_path / "published" / WEIGHTS)["proj_out.weight"].dtype == torch.bfloat16
    inputs = asked(PIXART, 32, 48)
    named = dict(zip(("x", "t", "text", "mask"), inputs, strict=True))
    found = velocity_by_diffusers_alone(tmp_path / "published", named, tmp_path)
    with torch.no_grad():
        expected = load_expert(tmp_path / "published", torch.float32)(*inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kind", "arguments"), [(DiT, SMALL), (VideoExpert, CLIPS)], ids=["pictures", "clips"])
def test_publishing_and_loading_move_no_bit(tmp_path, kind, arguments):
    network = random(kind, arguments)
    save_network(network, tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    assert config["_class_name"] in {counterpart.theirs for counterpart in COUNTERPARTS}
    loaded = load_expert(tmp_path, torch.float32)
    assert type(loaded) is kind
    assert arguments_of(loaded) == arguments_of(network)
    state = network.state_dict()
    assert all(torch.equal(state.pop(name), tensor) for name, tensor in loaded.state_dict().items())
    assert not state
    assert weights_count(tmp_path) == sum(tensor.numel() for tensor in network.state_dict().values())
    assert check_weights(tmp_path / WEIGHTS, arguments, "expert") == []
    assert check_weights(tmp_path / WEIGHTS, config, "expert") == []
    assert check_config(config, arguments, "expert") == []
    assert (tmp_path / WEIGHTS).stat().st_size < largest_bytes(arguments, "expert")


@pytest.mark.parametrize(
    ("theirs", "kind", "arguments"),
    [(PixArtTransformer2DModel, DiT, SMALL), (HunyuanVideoTransformer3DModel, VideoExpert, CLIPS)],
)
def test_config_and_tensors_are_all_that_diffusers_class_has(theirs, kind, arguments):
    """Arguments that a later diffusers adds show up here; whether they change the mathematics is then to be seen."""
    ours = random(kind, arguments)
    form = form_of(json.loads(ours.to_json_string()))
    built = theirs.from_config({name: v for name, v in form.config.items() if not name.startswith("_")})
    said = {name: v for name, v in json.loads(built.to_json_string()).items() if not name.startswith("_")}
    assert said == {name: value for name, value in form.config.items() if not name.startswith("_")}
    shapes = {name: tensor.shape for name, tensor in form.to_file(ours.state_dict()).items()}
    assert shapes == {name: tensor.shape for name, tensor in built.state_dict().items()}


def test_what_diffusers_saved_after_its_own_training_opens_here(tmp_path):
    ours = random(DiT, SMALL)
    save_network(ours, tmp_path / "published")
    theirs = PixArtTransformer2DModel.from_pretrained(tmp_path / "published")
    with torch.no_grad():
        theirs.proj_out.bias += 1
    theirs.save_pretrained(tmp_path / "tuned")
    tuned = load_network(DiT, tmp_path / "tuned")
    torch.testing.assert_close(tuned(*asked(SMALL, 8, 8)), ours(*asked(SMALL, 8, 8)) + 1)


@pytest.mark.parametrize(
    "wiring",
    [
        {"positions": "learned"},
        {"text_layers": 1},
        {"qk_norm": True},
        {"mlp_ratio": 2.0},
        {"modulation": "per-block"},
    ],
)
def test_a_wiring_that_diffusers_does_not_compute_is_published_under_our_class(tmp_path, wiring):
    network = random(DiT, {**SMALL, **wiring})
    save_network(network, tmp_path)
    assert json.loads((tmp_path / CONFIG).read_text())["_class_name"] == "DiT"
    assert load_file(tmp_path / WEIGHTS).keys() == network.state_dict().keys()
    assert arguments_of(load_expert(tmp_path, torch.float32)) == arguments_of(network)


ODD = {
    "norm_type": "ada_norm_zero",
    "norm_eps": 1e-5,
    "norm_elementwise_affine": True,
    "attention_bias": False,
    "attention_type": "gated",
    "activation_fn": "geglu",
    "out_channels": 6,
    "use_additional_conditions": True,
    "interpolation_scale": 2,
    "interpolation_scale ": None,
    "cross_attention_dim": None,
    "dropout": 0.1,
    "upcast_attention": True,
    "num_layers": 10**9,
    "num_attention_heads": 0,
    "attention_head_dim": "8" * 99,
    "sample_size": math.nan,
    "patch_size": True,
    "in_channels": -3,
    "caption_channels": None,
    "_use_default_values": ["out_channels"],
    "quantization_config": {"load_in_8bit": True},
}


@pytest.mark.parametrize("name", ODD)
def test_a_pixart_config_that_means_another_network_is_refused_by_name(tmp_path, name):
    save_network(random(DiT, SMALL), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    hostile = {**config, name: ODD[name]}
    (tmp_path / CONFIG).write_text(json.dumps(hostile))
    for attempt in (lambda: load_expert(tmp_path, torch.float32), lambda: network_config(tmp_path)):
        with pytest.raises(CheckpointError, match=f"its {name}"):
            attempt()
    assert [name in fault for fault in check_config(hostile, SMALL, "expert")] == [True]
    assert check_weights(tmp_path / WEIGHTS, hostile, "expert") != []


def test_a_config_that_leaves_something_to_diffusers_defaults_is_refused():
    config = dict(form_of(random(DiT, SMALL).config).config)
    for name in config.keys() - {"_class_name"}:
        rest = {key: value for key, value in config.items() if key != name}
        with pytest.raises(ValueError, match=f"its {name}"):
            as_ours(rest)


def test_sizes_no_network_has_are_refused_before_anything_is_built(tmp_path):
    save_network(random(DiT, SMALL), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**config, "num_layers": 10**6}))
    with pytest.raises(CheckpointError, match="a depth of 1000000"):
        load_expert(tmp_path, torch.float32)


def test_our_names_under_diffusers_class_are_refused(tmp_path):
    network = random(DiT, SMALL)
    save_network(network, tmp_path)
    save_file(network.state_dict(), tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"is missing|is unknown"):
        load_expert(tmp_path, torch.float32)
    assert "The tensor adaln_single.linear.bias is missing." in check_weights(tmp_path / WEIGHTS, SMALL, "expert")


def test_what_is_published_is_what_was_averaged(tmp_path, cache):
    """The form of files is no business of a training state, and a start from files is the average they were made of."""
    trainer = trainer_on(cache, "fp32")
    trainer.train(3)
    trainer.export(tmp_path)
    begun = trainer_on(cache, "fp32", seed=4)
    begun.start_from(tmp_path)
    for name, tensor in trainer.average.items():
        assert torch.equal(begun.average[name], tensor.bfloat16().float())
    trainer.save(tmp_path)
    groups, _ = checkpoints.load_state(tmp_path, {name: p.shape for name, p in trainer.parameters.items()})
    assert groups["weights"].keys() == trainer.parameters.keys()
