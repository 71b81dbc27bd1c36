"""The released Paris layout: every tensor accounted for, computed as it was, written back byte for byte."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from paris.models.checkpoints import CheckpointError
from paris.models.conversion import Prediction
from paris.models.dit import DiT
from paris.models.ensemble import Ensemble
from paris.models.latents import Autoencoder, CodecError, Pixels
from paris.models.paris_layout import TABLE, is_released, load_expert, load_router, save_released
from paris.models.pipeline import ParisPipeline
from paris.models.presets import PRESETS, RELEASED_CLUSTERS, ROUTERS
from paris.models.renaming import LayoutError, rows_of, to_ours, to_theirs
from paris.models.router import Router
from paris.models.text import TextEncoderError

EXPERTS, WIDTH, DEPTH, HEADS, SIDE, CHANNELS, WORDS = 3, 16, 2, 4, 8, 4, 16
SIZES = {"hidden_size": WIDTH, "num_layers": DEPTH, "num_heads": HEADS, "patch_size": 2, "in_channels": CHANNELS}
EXPERT_WEIGHTS, ROUTER_WEIGHTS = "diffusion_pytorch_model.safetensors", "pytorch_model.safetensors"


class ReleasedBlock(nn.Module):
    """What the port of the release calls a block's layers, here only to name and to compute."""

    def __init__(self, width: int, heads: int, expert: bool) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        if expert:
            self.scale_shift_table = nn.Parameter(torch.empty(6, width))
            self.cross_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        else:
            self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x, condition, words=None):
        six = condition + self.scale_shift_table if words is not None else self.adaLN_modulation(condition)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = six.reshape(len(x), 6, 1, -1).unbind(1)
        y = normed(x) * (1 + scale) + shift
        x = x + gate * self.attn(y, y, y, need_weights=False)[0]
        if words is not None:
            x = x + self.cross_attn(x, words, words, need_weights=False)[0]
        return x + gate_mlp * self.mlp(normed(x) * (1 + scale_mlp) + shift_mlp)


class Released(nn.Module):
    """Expert or router of the release, as the facts about it say; an independent reading of the same weights."""

    def __init__(self, width=WIDTH, depth=DEPTH, heads=HEADS, side=SIDE, text=WORDS, clusters=0) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(CHANNELS, width, 2, 2)
        self.pos_embed = nn.Parameter(torch.empty(1, (side // 2) ** 2, width))
        self.time_embed = nn.Module()
        self.time_embed.mlp = nn.Sequential(nn.Linear(256, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(ReleasedBlock(width, heads, not clusters) for _ in range(depth))
        if clusters:
            self.cls_token = nn.Parameter(torch.empty(1, 1, width))
            ends = nn.Linear(width, width), nn.Linear(width, clusters)
            self.head = nn.Sequential(ends[0], nn.GELU(), nn.LayerNorm(width), nn.GELU(), ends[1])
        else:
            self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
            self.text_proj = nn.Linear(text, width)
            self.final_layer = nn.Module()
            self.final_layer.linear = nn.Linear(width, 4 * CHANNELS)
            self.final_layer.scale_shift_table = nn.Parameter(torch.empty(2, width))

    def forward(self, x, t, words=None):
        frequencies = torch.exp(-math.log(10_000) * torch.arange(128) / 128)
        angles = 999 * t[:, None] * frequencies
        time = self.time_embed.mlp(torch.cat([angles.cos(), angles.sin()], 1))
        y = self.patch_embed(x).flatten(2).transpose(1, 2) + self.pos_embed
        if words is None:
            y = torch.cat([self.cls_token.expand(len(y), -1, -1), y], 1)
            for layer in self.layers:
                y = layer(y, time)
            return self.head(y[:, 0])
        condition, words = self.t_block(time).reshape(-1, 6, y.shape[-1]), self.text_proj(words)
        for layer in self.layers:
            y = layer(y, condition, words)
        shift, scale = (self.final_layer.scale_shift_table + time[:, None]).chunk(2, 1)
        y = self.final_layer.linear(normed(y) * (1 + scale) + shift)
        side = x.shape[-1] // 2
        pixels = y.reshape(len(x), side, side, 2, 2, CHANNELS)
        return torch.einsum("nhwpqc->nchpwq", pixels).reshape(x.shape)


def normed(x):
    return functional.layer_norm(x, x.shape[-1:], eps=1e-6)


def filled(network, seed: int):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return network.eval()


def write_json(path, **fields) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))


def write_weights(network, path) -> None:
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path, metadata={"format": "pt"})


@pytest.fixture(scope="session")
def pristine(tmp_path_factory):
    """A release with small widths: names, configs and files as the published one has them."""
    root = tmp_path_factory.mktemp("release") / "paris"
    kinds = {"num_experts": EXPERTS, "expert_architecture": "dit", "router_architecture": "dit"}
    names = {"vae_name": "stabilityai/sd-vae-ft-mse", "text_encoder_name": "openai/clip-vit-large-patch14"}
    about = {"model_name": "Paris", "experiment_name": "small", "dataset_name": "none"}
    write_json(
        root / "config.json", image_size=SIDE, num_channels=CHANNELS, use_latents=True, **about, **kinds, **names
    )
    parts = {"vae": ["diffusers", "AutoencoderKL"], "text_encoder": ["transformers", "CLIPTextModel"]}
    parts["tokenizer"] = ["transformers", "CLIPTokenizer"]
    write_json(root / "model_index.json", _class_name="DDMPipeline", _diffusers_version="0.21.0", **kinds, **parts)
    for k in range(EXPERTS):
        flags = {"use_text_conditioning": True, "use_class_conditioning": False, "num_classes": 1000}
        more = {"use_dit_time_embed": True, "use_adaln_single": True, "cfg_dropout_prob": 0.1}
        sizes = {**SIZES, "out_channels": CHANNELS, "mlp_ratio": 4.0, "text_embed_dim": WORDS}
        first = {"model_type": "dit_expert", "expert_id": k, "architecture": "dit"}
        write_json(root / f"expert_{k}" / "config.json", **first, **sizes, **flags, **more)
        write_weights(filled(Released(), k), root / f"expert_{k}" / EXPERT_WEIGHTS)
    first = {"model_type": "router", "architecture": "dit", "num_clusters": EXPERTS}
    write_json(root / "router" / "config.json", **first, **SIZES, use_dit_time_embed=True)
    write_weights(filled(Released(clusters=EXPERTS), 9), root / "router" / ROUTER_WEIGHTS)
    torch.manual_seed(0)
    AutoencoderKL(block_out_channels=(32,), norm_num_groups=8).save_pretrained(root / "vae")
    letters = [chr(c) for c in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[]).save_pretrained(root / "tokenizer")
    small = {"hidden_size": WORDS, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"vocab_size": 54, "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    CLIPTextModel(CLIPTextConfig(**small, **ends)).save_pretrained(root / "text_encoder")
    return root


@pytest.fixture
def release(pristine, tmp_path):
    return shutil.copytree(pristine, tmp_path / "paris")


def test_an_expert_computes_what_the_release_s_own_wiring_computes(pristine):
    x, t, words = torch.randn(2, CHANNELS, SIDE, SIDE), torch.tensor([0.2, 0.9]), torch.randn(2, 7, WORDS)
    expert = load_expert(pristine / "expert_1", torch.float32, height=SIDE)
    with torch.no_grad():
        theirs = filled(Released(), 1)(x, t, words)
        torch.testing.assert_close(expert(x, t, words, torch.ones(2, 7).bool()), theirs, atol=1e-4, rtol=1e-4)


def test_the_router_computes_what_the_release_s_own_wiring_computes(pristine):
    x, t = torch.randn(2, CHANNELS, SIDE, SIDE), torch.tensor([0.2, 0.9])
    router = load_router(pristine / "router", SIDE)
    with torch.no_grad():
        theirs = filled(Released(clusters=EXPERTS), 9)(x, t)
        torch.testing.assert_close(router(x, t, torch.randn(2, 5)), theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("router", [False, True])
def test_all_names_and_shapes_of_the_full_size_release_are_accounted_for(router):
    """605.97 M and 129.14 M parameters, none left over on either side, without memory for a single number."""
    with torch.device("meta"):
        if router:
            ours = Router(**ROUTERS["router-b-2"], clusters=RELEASED_CLUSTERS)
            theirs = Released(768, 12, 12, 32, clusters=RELEASED_CLUSTERS)
        else:
            ours, theirs = DiT(**PRESETS["dit-xl-2"].expert), Released(1152, 28, 16, 32, text=768)
        state = ours.state_dict()
        rows = rows_of(TABLE, state, len(ours.blocks))
        written, read = to_theirs(rows, state, 2), to_ours(rows, theirs.state_dict(), 2)
    assert {n: t.shape for n, t in written.items()} == {n: t.shape for n, t in theirs.state_dict().items()}
    assert {n: t.shape for n, t in read.items()} == {n: t.shape for n, t in state.items()}
    assert sum(t.numel() for t in written.values()) == (129_136_904 if router else 605_970_448)


def test_a_release_opens_as_a_pipeline_and_draws(pristine):
    pipeline = ParisPipeline.from_pretrained(pristine, memory_bytes=10**6)
    pipeline.set_progress_bar_config(disable=True)
    assert is_released(pristine)
    assert (len(pipeline.ensemble), pipeline.shape, pipeline.top_k) == (EXPERTS, (CHANNELS, SIDE, SIDE), 2)
    assert isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler)
    assert pipeline.ensemble.experts.resident == []
    output = pipeline(["a fox", "a car"], num_inference_steps=2, guidance_scale=7.5)
    assert [image.size for image in output.images] == [(SIDE, SIDE)] * 2
    again = pipeline("a fox", num_inference_steps=2, guidance_scale=7.5)
    assert again.images[0].tobytes() == output.images[0].tobytes()


def files(root):
    return {str(p.relative_to(root)): p for p in root.rglob("*") if p.is_file()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_opened_and_written_it_is_the_same_release_byte_for_byte(release, tmp_path, dtype):
    for path in (*release.glob("expert_*/*.safetensors"), release / "router" / ROUTER_WEIGHTS):
        save_file({n: t.to(dtype) for n, t in load_file(path).items()}, path, metadata={"format": "pt"})
    about = json.loads((release / "config.json").read_text())
    save_released(ParisPipeline.from_pretrained(release, torch_dtype=dtype), tmp_path / "out", about=about)
    before, after = files(release), files(tmp_path / "out")
    weights = [name for name in before if name.endswith(".safetensors")]
    assert len(weights) == EXPERTS + 3
    for name in weights:
        assert before[name].read_bytes() == after[name].read_bytes(), name
    for name in ("config.json", *(n for n in before if "expert_" in n or "router" in n)):
        if name.endswith(".json"):
            assert json.loads(before[name].read_text()) == json.loads(after[name].read_text()), name
    ParisPipeline.from_pretrained(tmp_path / "out")


def test_a_release_can_be_saved_as_our_own_layout_and_draws_the_same(pristine, tmp_path):
    pipeline = ParisPipeline.from_pretrained(pristine)
    pipeline.save_pretrained(tmp_path)
    ours = ParisPipeline.from_pretrained(tmp_path)
    drawn = []
    for one in (pipeline, ours):
        one.set_progress_bar_config(disable=True)
        drawn.append(one("a fox", num_inference_steps=2).images[0].tobytes())
    assert drawn[0] == drawn[1]


def our_ensemble(pristine, *, text_dim=0, temperature=1.0, **changes) -> ParisPipeline:
    """An ensemble that was never released, with the codec and the text encoder of one that was."""
    sizes = {"channels": CHANNELS, "height": SIDE, "patch": 2, "width": WIDTH, "depth": 1, "heads": 2}
    experts = [filled(DiT(**sizes, text_dim=WORDS, **changes), k) for k in range(2)]
    router = filled(Router(**sizes, clusters=2, text_dim=text_dim), 7)
    opened = ParisPipeline.from_pretrained(pristine)
    ensemble = Ensemble(experts, router, router_temperature=temperature)
    return ParisPipeline(ensemble, opened.codec, opened.text, opened.scheduler, opened.shape)


def test_our_ensemble_written_as_a_release_draws_the_same(pristine, tmp_path):
    """Temperature of the router included, which the layout has no word for."""
    pipeline = our_ensemble(pristine, temperature=2.5)
    save_released(pipeline, tmp_path)
    again = ParisPipeline.from_pretrained(tmp_path)
    x, t, text = torch.randn(2, CHANNELS, SIDE, SIDE), torch.tensor([0.3, 0.7]), pipeline.text.encode(["a", "b"])
    torch.testing.assert_close(again.ensemble.weights(x, t, text), pipeline.ensemble.weights(x, t, text))
    mixed = [p.ensemble.velocity(x, t, text, text, 2.0).velocity for p in (pipeline, again)]
    torch.testing.assert_close(*mixed)


def test_what_the_layout_cannot_say_is_not_written(pristine, tmp_path):
    with pytest.raises(LayoutError, match="a Router with text_dim 0"):
        save_released(our_ensemble(pristine, text_dim=WORDS), tmp_path / "hears")
    blind = our_ensemble(pristine).ensemble.router
    save_released(our_ensemble(pristine, text_dim=WORDS), tmp_path / "blind", router=blind)
    others = ({"positions": "rotary"}, {"positions": "sinusoidal"}, {"text_layers": 2}, {"modulation": "per-block"})
    for wiring in (*others, {"qk_norm": True}):
        with pytest.raises(LayoutError, match=f"a DiT with {next(iter(wiring))}"):
            save_released(our_ensemble(pristine, **wiring), tmp_path / "other")
    noise = our_ensemble(pristine)
    noise.ensemble.predictions[1] = Prediction("ddpm-noise")
    with pytest.raises(LayoutError, match="Expert 1 predicts ddpm-noise"):
        save_released(noise, tmp_path / "noise")
    pixels = our_ensemble(pristine)
    pixels.codec = Pixels()
    with pytest.raises(LayoutError, match="AutoencoderKL and CLIP"):
        save_released(pixels, tmp_path / "pixels")
    assert isinstance(noise.codec, Autoencoder)


def edit(path, change) -> None:
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


PLACES = [
    ("expert_2", EXPERT_WEIGHTS, "layers.1.cross_attn.in_proj_weight"),
    ("expert_0", EXPERT_WEIGHTS, "final_layer.linear.bias"),
    ("router", ROUTER_WEIGHTS, "cls_token"),
]


@pytest.mark.parametrize(("part", "file", "name"), PLACES)
def test_a_missing_an_unknown_and_a_misshapen_tensor_are_named(release, part, file, name):
    """Also in an expert that would not be needed for a while: everything is counted when the release is opened."""
    path = release / part / file
    whole = path.read_bytes()
    edit(path, lambda weights: weights.pop(name))
    with pytest.raises(CheckpointError, match=f"'{name}' is missing"):
        ParisPipeline.from_pretrained(release)
    path.write_bytes(whole)
    edit(path, lambda weights: weights.update({f"{name}.more": torch.zeros(1)}))
    with pytest.raises(CheckpointError, match=rf"'{name}\.more' is unknown"):
        ParisPipeline.from_pretrained(release)
    path.write_bytes(whole)
    edit(path, lambda weights: weights.update({name: weights[name][:-1].clone()}))
    with pytest.raises(CheckpointError, match=rf"'{name}' is \("):
        ParisPipeline.from_pretrained(release)


def test_a_poisoned_expert_is_refused_when_it_is_needed(release):
    name = "layers.0.mlp.0.bias"
    edit(release / "expert_0" / EXPERT_WEIGHTS, lambda weights: weights[name].fill_(math.nan))
    with pytest.raises(CheckpointError, match=name):
        ParisPipeline.from_pretrained(release).ensemble.expert(0)


def configure(path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("expert_1/config.json", {"use_adaln_single": False}, "use_adaln_single False"),
        ("expert_1/config.json", {"use_class_conditioning": True}, "use_class_conditioning True"),
        ("expert_1/config.json", {"out_channels": 8}, "other channels out than in"),
        ("expert_1/config.json", {"num_layers": 10**9}, "a depth of 1000000000 cannot be built"),
        ("expert_1/config.json", {"num_heads": 5}, "heads must divide width"),
        ("expert_1/config.json", {"hidden_size": None}, "a width of None"),
        ("router/config.json", {"num_clusters": 4}, "is \\(3,\\) instead of \\(4,\\)"),
        ("router/config.json", {"architecture": "mlp"}, "architecture 'mlp'"),
        ("config.json", {"image_size": "32"}, "image_size"),
        ("config.json", {"num_channels": 3}, "draws 4 channels"),
        ("config.json", {"image_size": 16}, "instead of"),
        ("model_index.json", {"num_experts": 10**12}, "names 1000000000000 experts"),
        ("model_index.json", {"num_experts": 4}, "expert_3"),
        ("model_index.json", {"num_experts": 2}, "knows 3 experts, and there are 2"),
    ],
)
def test_a_config_that_says_something_else_is_refused_in_words(release, file, changes, words):
    configure(release / file, **changes)
    with pytest.raises((LayoutError, CheckpointError), match=words):
        ParisPipeline.from_pretrained(release)


@pytest.mark.parametrize("part", ["vae", "text_encoder", "tokenizer", "router", "expert_1"])
def test_a_part_that_is_not_there_is_named(release, part):
    shutil.rmtree(release / part)
    with pytest.raises((LayoutError, CheckpointError, CodecError, TextEncoderError), match=part):
        ParisPipeline.from_pretrained(release)


def test_a_text_encoder_of_another_width_is_refused(release):
    small = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    CLIPTextModel(CLIPTextConfig(**small, vocab_size=54, bos_token_id=52, eos_token_id=53)).save_pretrained(
        release / "text_encoder"
    )
    with pytest.raises(LayoutError, match="has width 8; experts want 16"):
        ParisPipeline.from_pretrained(release)


def test_a_folder_of_another_layout_is_not_a_release(tmp_path):
    assert not is_released(tmp_path)
    (tmp_path / "model_index.json").write_text("[]")
    assert not is_released(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "ParisPipeline"}')
    assert not is_released(tmp_path)
