"""The video expert and its router: sizes, wirings, conditions, and what a start from pictures keeps."""

from __future__ import annotations

import json

import pytest
import torch

from paris.models.conditions import first_frames
from paris.models.flops import shape_of
from paris.models.footprint import footprint, step_needs
from paris.models.inspect import check_config, check_weights
from paris.models.kinds import EXPERTS, ROUTERS, expert_of, kind_in, router_of
from paris.models.networks import load_network, save_network
from paris.models.video import VideoExpert
from paris.models.video_presets import VIDEO_PRESETS
from paris.models.video_router import VideoRouter, clip_rotation, patches_of

EXPERT = {**VIDEO_PRESETS["video-nano"].expert}
ROUTER = {**VIDEO_PRESETS["video-nano"].router, "clusters": 3}
SHAPE = VIDEO_PRESETS["video-nano"].shape

SIZES = {
    "video-nano": (169_664, 54_083),
    "video-micro": (2_761_696, 1_121_283),
    "video-tiny": (2_425_408, 1_041_411),
    "video-s": (183_388_736, 65_846_019),
    "video-11b": (12_198_206_528, 129_616_131),
}


def on_meta(kind, arguments):
    with torch.device("meta"):
        return kind(**arguments)


def parameters(network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def randomised(network, seed=0):
    """Return the network with every parameter random: a new network's zeros would hide faults."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval().requires_grad_(False)


def asked(batch=2, shape=SHAPE, seed=3, tokens=16):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(tokens)[None] < torch.tensor([5, tokens] * batch)[:batch, None]
    return (
        torch.randn(batch, *shape, generator=generator),
        torch.rand(batch, generator=generator),
        torch.randn(batch, tokens, 384, generator=generator),
        mask,
        torch.randn(batch, 384, generator=generator),
    )


@pytest.mark.parametrize("name", VIDEO_PRESETS)
def test_networks_have_the_sizes_they_are_known_by(name):
    preset = VIDEO_PRESETS[name]
    expert, router = (
        parameters(on_meta(kind, arguments))
        for kind, arguments in ((VideoExpert, preset.expert), (VideoRouter, {**preset.router, "clusters": 3}))
    )
    assert (expert, router) == SIZES[name]
    assert preset.shape == (preset.expert["channels"], preset.expert["frames"], *2 * (preset.expert["height"],))


def test_the_11_billion_of_the_paper_are_the_blocks_and_12_2_the_whole_network():
    """19 + 38 blocks of width 3072 count 11.84 B; text refiner, time, text and patches make it 12.20 B."""
    network = on_meta(VideoExpert, VIDEO_PRESETS["video-11b"].expert).transformer
    blocks = parameters(network.transformer_blocks), parameters(network.single_transformer_blocks)
    assert (len(network.transformer_blocks), len(network.single_transformer_blocks)) == (19, 38)
    assert blocks == (6_456_794_624, 5_380_488_704)
    assert parameters(network.context_embedder) == 309_175_296


@pytest.mark.parametrize("attention", ["full", "factorised"])
def test_needs_counted_on_few_blocks_are_those_of_the_whole_network(attention):
    arguments = {**EXPERT, "dual": 2, "single": 3, "attention": attention}
    sample = shape_of(asked())
    found, whole = footprint(VideoExpert, arguments, asked()), on_meta(VideoExpert, arguments)
    assert found.parameters == parameters(whole)
    assert (found.activations_bytes, found.flops) == step_needs(whole.train(), sample)
    assert 0 < found.checkpointed_bytes < found.activations_bytes


def test_memory_of_the_11_billion_is_what_the_docs_say():
    preset = VIDEO_PRESETS["video-11b"]
    words = torch.empty(1, 256, 4096, device="meta")
    inputs = (
        torch.empty(1, *preset.shape, device="meta"),
        torch.empty(1, device="meta"),
        words,
        torch.empty(1, 256, dtype=torch.bool, device="meta"),
        torch.empty(1, 768, device="meta"),
    )
    found = footprint(VideoExpert, preset.expert, inputs)
    assert round(found.weights_bytes["bf16"] / 1e9, 1) == 24.4
    assert {part: round(size / 1e9, 1) for part, size in found.training_bytes.items()} == {
        "weights": 48.8,
        "gradients": 48.8,
        "adamw_moments": 97.6,
        "average": 48.8,
    }
    activations = round(found.activations_bytes / 1e9), round(found.checkpointed_bytes / 1e9, 1)
    assert (activations, round(found.flops / 1e12)) == ((41, 3.4), 113)


@pytest.mark.parametrize("attention", ["full", "factorised"])
def test_a_new_expert_predicts_nothing_and_learns_with_every_parameter(attention):
    torch.manual_seed(0)
    network = VideoExpert(**{**EXPERT, "attention": attention})
    assert not network(*asked()).any()
    network = randomised(network).requires_grad_(True)
    first = first_frames(asked()[0], torch.tensor([True, False]))
    network(*asked(), first).square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if not parameter.grad.any()] == []


@pytest.mark.parametrize("attention", ["full", "factorised"])
@pytest.mark.parametrize("changed", [1, 2, 4])
def test_time_text_and_pooled_text_change_the_prediction(attention, changed):
    network = randomised(VideoExpert(**{**EXPERT, "attention": attention}))
    inputs, others = asked(), asked(seed=4)
    other = network(*(others[i] if i == changed else x for i, x in enumerate(inputs)))
    assert not torch.allclose(network(*inputs), other, atol=1e-4)


@pytest.mark.parametrize("attention", ["full", "factorised"])
def test_text_tokens_that_do_not_count_change_nothing(attention):
    network = randomised(VideoExpert(**{**EXPERT, "attention": attention}))
    inputs = asked()
    garbled = inputs[2].clone()
    garbled[0, 5:] = 100.0
    assert torch.allclose(network(*inputs), network(*inputs[:2], garbled, *inputs[3:]), atol=1e-5)


@pytest.mark.parametrize("attention", ["full", "factorised"])
def test_frames_hear_of_each_other(attention):
    network = randomised(VideoExpert(**{**EXPERT, "attention": attention}))
    x, *rest = asked()
    other = x.clone()
    other[:, :, -1] += 1
    assert not torch.allclose(network(x, *rest)[:, :, 0], network(other, *rest)[:, :, 0], atol=1e-4)


def test_frames_of_factorised_attention_are_pictures_before_time_is_learned():
    network = randomised(VideoExpert(**{**EXPERT, "attention": "factorised", "patch_frames": 1}))
    for blocks in (network.transformer.transformer_blocks, network.transformer.single_transformer_blocks):
        for block in blocks:
            block.over_time.out.weight.zero_()
            block.over_time.out.bias.zero_()
    x, *rest = asked()
    together = network(x, *rest)
    for frame in range(x.shape[2]):
        alone = network(x[:, :, frame : frame + 1], *rest)
        assert torch.allclose(alone[:, :, 0], together[:, :, frame], atol=1e-5)


@pytest.mark.parametrize("attention", ["full", "factorised"])
def test_clips_of_other_lengths_and_sizes_are_predicted(attention):
    network = randomised(VideoExpert(**{**EXPERT, "attention": attention}))
    x, *rest = asked(shape=(3, 2, 8, 24))
    assert network(x, *rest).shape == x.shape


@pytest.mark.parametrize("shape", [(3, 3, 16, 16), (3, 4, 15, 16), (3, 16, 16)])
def test_latents_that_patches_do_not_divide_are_refused(shape):
    x, *rest = asked(shape=shape)
    with pytest.raises(ValueError, match="cannot be cut into patches"):
        randomised(VideoExpert(**EXPERT))(x, *rest)
    with pytest.raises(ValueError, match="cannot be cut into patches"):
        randomised(VideoRouter(**ROUTER))(x, rest[0], rest[3])


@pytest.mark.parametrize("attention", ["full", "factorised"])
def test_bf16_weights_predict_nearly_the_same(attention):
    network, inputs = randomised(VideoExpert(**{**EXPERT, "attention": attention})), asked()
    first = first_frames(inputs[0], torch.tensor([True, False]))
    exact = network(*inputs, first)
    half = torch.nn.Module.to(network, torch.bfloat16)
    x, t, text, mask, pooled = inputs
    found = half(x.bfloat16(), t, text.bfloat16(), mask, pooled.bfloat16(), first.bfloat16())
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), exact, atol=0.05 * float(exact.abs().max()))
    router = randomised(VideoRouter(**{**ROUTER, "first_frame": True}))
    logits = router(x, t, pooled, first)
    halved = torch.nn.Module.to(router, torch.bfloat16)(x.bfloat16(), t, pooled.bfloat16(), first.bfloat16())
    assert torch.allclose(halved.float(), logits, atol=0.05 * float(logits.abs().max()))


def test_checkpointed_blocks_have_the_same_gradient():
    gradients = []
    for checkpointed in (False, True):
        network = randomised(VideoExpert(**EXPERT)).train().requires_grad_(True)
        if checkpointed:
            network.enable_gradient_checkpointing()
        network(*asked()).square().mean().backward()
        gradients.append([parameter.grad for parameter in network.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_a_guidance_scale_is_heard():
    told = randomised(VideoExpert(**{**EXPERT, "guidance": 4.0}))
    before = told(*asked())
    told.guidance = 1.0
    assert not torch.allclose(before, told(*asked()), atol=1e-4)


class TestFirstFrame:
    def test_it_changes_the_prediction_of_those_samples_that_give_it(self):
        network, inputs = randomised(VideoExpert(**EXPERT)), asked()
        clean = asked(seed=9)[0]
        without, given = network(*inputs), network(*inputs, first_frames(clean, torch.tensor([True, False])))
        assert not torch.allclose(given[0], without[0], atol=1e-3)
        assert torch.equal(given[1], without[1])

    def test_without_it_the_network_is_that_of_text_to_video(self):
        """The same weights but for the channels of the condition, which are zeros."""
        conditional = randomised(VideoExpert(**EXPERT))
        plain = VideoExpert(**{**EXPERT, "first_frame": False})
        weights, name = conditional.state_dict(), "transformer.x_embedder.proj.weight"
        plain.load_state_dict({**weights, name: weights[name][:, : EXPERT["channels"]]})
        assert torch.allclose(plain.eval()(*asked()), conditional(*asked()), atol=1e-6)

    def test_a_black_first_frame_is_not_no_first_frame(self):
        network, inputs = randomised(VideoExpert(**EXPERT)), asked()
        black = first_frames(torch.zeros_like(inputs[0]), torch.tensor([True, True]))
        assert not torch.allclose(network(*inputs), network(*inputs, black), atol=1e-3)

    def test_only_the_first_frame_of_the_clean_clip_is_told(self):
        clean = asked()[0]
        other = clean.clone()
        other[:, :, 1:] = 7
        every = torch.tensor([True, True])
        assert torch.equal(first_frames(clean, every), first_frames(other, every))

    def test_a_network_without_a_place_for_it_says_so(self):
        network = randomised(VideoExpert(**{**EXPERT, "first_frame": False}))
        with pytest.raises(ValueError, match="clips of text alone"):
            network(*asked(), first_frames(asked()[0], torch.tensor([True, True])))

    def test_a_router_hears_it_where_it_was_built_to(self):
        x, t, _, _, pooled = asked()
        first = first_frames(asked(seed=9)[0], torch.tensor([True, True]))
        hears, deaf = (randomised(VideoRouter(**{**ROUTER, "first_frame": built})) for built in (True, False))
        assert not torch.allclose(hears(x, t, pooled), hears(x, t, pooled, first), atol=1e-4)
        assert torch.equal(deaf(x, t, pooled), deaf(x, t, pooled, first))


class TestRouter:
    @pytest.mark.parametrize("changed", [0, 1, 2])
    def test_latents_time_and_pooled_text_change_its_answer(self, changed):
        network = randomised(VideoRouter(**ROUTER))
        inputs, others = asked(), asked(seed=4)
        inputs, others = (inputs[0], inputs[1], inputs[4]), (others[0], others[1], others[4])
        other = network(*(others[i] if i == changed else x for i, x in enumerate(inputs)))
        assert not torch.allclose(network(*inputs), other, atol=1e-4)

    def test_a_blind_router_sees_no_text(self):
        network, (x, t, _, _, pooled) = randomised(VideoRouter(**{**ROUTER, "text_dim": 0})), asked()
        assert torch.equal(network(x, t, pooled), network(x, t, 2 + pooled))

    def test_the_order_of_frames_is_seen(self):
        network, (x, t, _, _, pooled) = randomised(VideoRouter(**{**ROUTER, "patch_frames": 1})), asked()
        assert not torch.allclose(network(x, t, pooled), network(x.flip(2), t, pooled), atol=1e-5)

    def test_checkpointing_changes_no_answer(self):
        network, (x, t, _, _, pooled) = randomised(VideoRouter(**ROUTER)).train().requires_grad_(True), asked()
        before = network(x, t, pooled)
        network.enable_gradient_checkpointing()
        assert torch.equal(network(x, t, pooled), before)

    def test_patches_hold_what_the_clip_held_where_they_say(self):
        clip = torch.arange(2 * 3 * 4 * 4 * 4).reshape(2, 3, 4, 4, 4)
        patches = patches_of(clip, (2, 2, 2)).reshape(2, 2, 2, 2, 3, 2, 2, 2)
        assert torch.equal(patches[1, 1, 0, 1], clip[1, :, 2:4, 0:2, 2:4])

    def test_every_place_of_a_clip_is_turned_by_another_angle_and_the_unplaced_by_none(self):
        cos, sin = clip_rotation([3, 2, 4], 32, torch.device("cpu"), unplaced=1)
        turned = torch.cat([cos, sin], dim=1)
        assert len(turned.unique(dim=0)) == 1 + 3 * 2 * 4 - 1  # the first place, too, is turned by nothing
        assert torch.equal(cos[0], torch.ones(32))


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (VideoExpert, {"width": 33}), (VideoExpert, {"patch": 3}), (VideoExpert, {"patch_frames": 3}),
        (VideoExpert, {"attention": "sparse"}), (VideoExpert, {"dual": 10**6}),
        (VideoExpert, {"guidance": float("nan")}),
        (VideoExpert, {"frames": 0}), (VideoExpert, {"rotary_base": "256"}), (VideoRouter, {"width": 24}),
        (VideoRouter, {"patch_frames": 3}), (VideoRouter, {"frames": 10**9}),
    ],
)  # fmt: skip
def test_impossible_networks_are_refused_before_they_are_built(kind, wrong):
    with pytest.raises(ValueError, match="cannot be built"):
        kind(**{**(EXPERT if kind is VideoExpert else ROUTER), **wrong})


@pytest.mark.parametrize(
    ("kind", "arguments", "unit"), [(VideoExpert, EXPERT, "expert"), (VideoRouter, ROUTER, "router")]
)
def test_folders_are_opened_as_what_they_say_they_are(tmp_path, kind, arguments, unit):
    network = randomised(kind(**arguments))
    save_network(network, tmp_path)
    kinds, of = (EXPERTS, expert_of) if unit == "expert" else (ROUTERS, router_of)
    assert kind_in(tmp_path, kinds) is of(arguments) is kind
    again = load_network(kind_in(tmp_path, kinds), tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))
    assert check_weights(tmp_path / "diffusion_pytorch_model.safetensors", dict(network.config), unit) == []
    settings = json.loads((tmp_path / "config.json").read_text())
    assert check_config(settings, arguments, unit) == []
    other = {**arguments, "frames": 2 * arguments["frames"]}
    assert check_config(settings, other, unit) != []
