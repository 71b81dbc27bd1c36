"""`paris-node models`: what it lists is there, is counted right, and can be used as it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler
from rich.console import Console
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from typer.testing import CliRunner, Result

from paris.models.dit import DiT
from paris.models.ensemble import Ensemble
from paris.models.initialisation import CLASSES, HEAD, source_shapes
from paris.models.latents import Autoencoder
from paris.models.pipeline import ParisPipeline
from paris.models.presets import ROUTERS
from paris.models.router import Router
from paris.models.text_networks import Clip
from paris.models.video_presets import EVERY_PRESET
from paris.node.cli.app import app
from paris.node.cli.models import catalogue, models_table, size
from paris.registry.recipes import PLANS

pytestmark = pytest.mark.slow


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def rows():
    return {row["name"]: row for row in catalogue(2)}


def test_json_lists_every_preset_on_stdout_and_nothing_else(monkeypatch, rows):
    monkeypatch.setattr("paris.node.cli.models.catalogue", lambda batch: list(rows.values()))
    result = CliRunner().invoke(app, ["models", "--json"])
    assert result.exit_code == 0
    listed = json.loads(result.stdout)
    assert [row["name"] for row in listed] == [*EVERY_PRESET, *ROUTERS]
    assert {(row["name"], row["kind"], row["parameters"]) for row in listed} >= {
        ("dit-xl-2", "expert", 605_970_448),
        ("dit-b-2-pooled", "expert", 129_142_288),
        ("router-b-2", "router", 129_136_904),
    }


def test_what_it_says_can_be_made_into_a_run_is_what_run_create_takes(rows, tmp_path):
    assert {name for name, row in rows.items() if row["run_create"]} == set(PLANS)
    for wrong in ("tinny", "router-b-2"):
        result = CliRunner().invoke(
            app, ["run", "create", "sample:emoji", "--model", wrong, "--home", str(tmp_path), "--json"]
        )
        assert result.exit_code == 2
        message = json.loads(result.stdout)["message"]
        assert f"there is no preset '{wrong}' to make a run of" in message
        assert f"Choose one of {', '.join(PLANS)};" in message


def test_memory_is_told_by_component_and_adds_up(rows):
    xl = rows["dit-xl-2"]
    assert xl["weights_bytes"] == {"fp32": 4 * xl["parameters"], "bf16": 2 * xl["parameters"]}
    parts = xl["training_bytes"]
    assert parts["total"] == sum(value for name, value in parts.items() if name != "total") == 20 * xl["parameters"]
    assert xl["activations_bytes"]["fp32"] == 2 * xl["activations_bytes"]["bf16"]
    assert xl["checkpointed_activations_bytes"]["bf16"] < xl["activations_bytes"]["bf16"]
    assert xl["batch"] == 2
    assert (xl["latent"], xl["picture_px"], xl["codec"]) == ([4, 32, 32], 256, "autoencoder-kl")


def test_clips_are_told_with_their_frames_and_the_memory_of_the_largest_is_what_the_docs_say(rows):
    large = rows["video-11b"]
    assert (large["latent"], large["frames"], large["run_create"]) == ([16, 9, 32, 32], 33, False)
    assert (rows["video-tiny"]["frames"], rows["tiny"]["frames"]) == (16, None)
    gigabytes = {name: round(value / 1e9, 1) for name, value in large["training_bytes"].items()}
    assert gigabytes == {"weights": 48.8, "gradients": 48.8, "adamw_moments": 97.6, "average": 48.8, "total": 244.0}
    assert round(large["weights_bytes"]["bf16"] / 1e9, 1) == 24.4
    assert round(large["activations_bytes"]["fp32"] / 2e9) == 41
    assert any("T5" in need for need in large["needs"])


def test_needs_are_named_where_a_preset_brings_not_all_it_takes(rows):
    assert rows["tiny"]["needs"] == rows["video-tiny"]["needs"] == []
    assert any("--codec" in need for need in rows["dit-s-2"]["needs"])
    assert any("clip-vit-large-patch14" in need for need in rows["dit-s-2"]["needs"])


def test_the_table_says_the_same_to_people(monkeypatch, rows):
    console = Console(width=160)
    with console.capture() as capture:
        console.print(models_table(list(rows.values())))
    line = next(line for line in capture.get().splitlines() if line.startswith("dit-xl-2"))
    assert all(part in line for part in ("605.97 M", "1.21 GB", "12.12 GB", "256 px"))
    monkeypatch.setattr("paris.node.cli.models.catalogue", lambda batch: list(rows.values()))
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 0
    assert "router-b-2" in result.stdout
    assert "dit-s-2, dit-b-2, dit-b-2-pooled, dit-xl-2 need --codec" in result.stderr


def test_sizes_are_in_decimal_units():
    assert (size(999_949_999), size(2_423_881_792)) == ("999.9 MB", "2.42 GB")


def test_an_impossible_batch_is_a_usage_error():
    assert CliRunner().invoke(app, ["models", "--batch", "0"]).exit_code == 2


def test_init_makes_a_start_out_of_an_imagenet_transformer(tmp_path):
    arguments = EVERY_PRESET["micro"].expert
    with torch.device("meta"):
        found = {CLASSES: torch.Size((3, 32)), HEAD[0]: torch.Size((384, 32)), "pos_embed": torch.Size((1, 16, 32))}
        shapes = source_shapes(DiT(**arguments), found)
    save_file({name: torch.randn(shape) for name, shape in shapes.items()}, tmp_path / "dit.safetensors")
    result = invoke("models", "init", tmp_path / "dit.safetensors", tmp_path / "start", "--model", "micro")
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(tmp_path / "start")
    assert f"--model micro --start {tmp_path / 'start'}" in result.stderr
    told = json.loads(
        invoke("models", "init", tmp_path / "dit.safetensors", tmp_path / "b", "--model", "micro", "--json").stdout
    )
    assert sum(told["parameters"].values()) == 75_552
    assert (tmp_path / "start" / "config.json").is_file()


def test_init_without_a_source_or_a_preset_is_explained(tmp_path):
    result = invoke("models", "init", tmp_path / "dit.pt", tmp_path / "start")
    assert result.exit_code == 1
    assert "cannot be read as safetensors" in result.stderr
    result = invoke("models", "init", tmp_path / "dit.pt", tmp_path / "start", "--model", "router-b-2")
    assert result.exit_code == 2
    assert "no preset 'router-b-2' with experts" in result.stderr


@pytest.fixture
def clip(tmp_path) -> Clip:
    letters = [chr(c) for c in range(97, 123)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    CLIPTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=[]).save_pretrained(tmp_path / "clip")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"vocab_size": 54, "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    CLIPTextModel(CLIPTextConfig(**small, **ends)).save_pretrained(tmp_path / "clip")
    return Clip("clip", tmp_path / "clip", 77)


def test_a_release_is_written_and_drawn_from(tmp_path: Path, clip: Clip):
    torch.manual_seed(0)
    sizes = {"channels": 4, "height": 8, "patch": 2, "width": 16, "depth": 1, "heads": 2}
    routers = [Router(**sizes, clusters=2, text_dim=width) for width in (16, 0)]
    experts = [DiT(**sizes, text_dim=16) for _ in range(2)]
    codec = Autoencoder("autoencoder-kl", AutoencoderKL(block_out_channels=(32,), norm_num_groups=8).eval())
    scheduler = FlowMatchEulerDiscreteScheduler()
    ours = ParisPipeline(Ensemble(experts, routers[0]), codec, clip, scheduler, (4, 8, 8))
    ours.save_pretrained(tmp_path / "ours")
    index = tmp_path / "ours" / "text_encoder.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "name": str(tmp_path / "clip")}))
    refused = invoke("export", tmp_path / "ours", "--to", tmp_path / "release")
    assert refused.exit_code == 1
    assert "has a Router with text_dim 0" in refused.stderr
    routers[1].save_pretrained(tmp_path / "blind")
    written = invoke(
        "export", tmp_path / "ours", "--to", tmp_path / "release", "--router", tmp_path / "blind", "--bf16", "--json"
    )
    assert written.exit_code == 0, written.output
    assert json.loads(written.stdout) == {"folder": str(tmp_path / "release"), "experts": 2}
    drawn = invoke("generate", tmp_path / "release", "a fox", "--steps", 1, "--out", tmp_path / "fox.png", "--json")
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "fox.png").is_file()
