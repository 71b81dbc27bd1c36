"""From a folder to pictures: a saved pipeline draws the same again, and an incomplete one says what is missing."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler

from paris.models.checkpoints import CheckpointError
from paris.models.ensemble import Ensemble
from paris.models.latents import Pixels, open_codec
from paris.models.pipeline import ParisPipeline, PipelineError, to_images, write_index
from paris.models.presets import PRESETS
from paris.models.text import open_text_encoder

PROMPTS = ["a red fox", "a blue car"]


@pytest.fixture(scope="module")
def minilm():
    return open_text_encoder("minilm", "minilm", 16)


@pytest.fixture
def pipeline(make_expert, make_router, minilm):
    ensemble = Ensemble([make_expert(0), make_expert(1), make_expert(2)], make_router(3, 4))
    return ParisPipeline(ensemble, Pixels(), minilm, FlowMatchEulerDiscreteScheduler(), PRESETS["micro"].shape)


@pytest.fixture
def folder(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def pixels(output) -> np.ndarray:
    return np.stack([np.asarray(image) for image in output.images])


def test_saved_pipeline_draws_the_same_pictures(pipeline, folder):
    reopened = ParisPipeline.from_pretrained(folder)
    assert isinstance(reopened, DiffusionPipeline)
    ours, theirs = (each(PROMPTS, num_inference_steps=4, seed=3) for each in (pipeline, reopened))
    np.testing.assert_array_equal(pixels(ours), pixels(theirs))
    assert ours.routing == theirs.routing


def test_output_says_which_expert_drew_how_many_steps(pipeline):
    output = pipeline(PROMPTS, num_inference_steps=5, top_k=1)
    for parts in output.routing:
        assert sum(part.steps for part in parts) == 5
        assert sum(part.weight for part in parts) == pytest.approx(1, abs=1e-3)
    everyone = pipeline(PROMPTS, num_inference_steps=5, strategy="full").routing
    assert [part.steps for parts in everyone for part in parts] == [5] * 6


def test_one_seed_counts_up_and_seeds_pair_with_prompts(pipeline):
    counted = pipeline(PROMPTS, num_inference_steps=3, seed=10)
    listed = pipeline(PROMPTS, num_inference_steps=3, seed=[10, 11])
    np.testing.assert_array_equal(pixels(counted), pixels(listed))
    with pytest.raises(PipelineError, match="2 prompts and 1 seeds"):
        pipeline(PROMPTS, seed=[1])


def test_top_k_beyond_the_experts_means_all(pipeline):
    assert len(pipeline("a fox", num_inference_steps=2, top_k=9).routing[0]) == 3


def test_prompt_and_negative_prompt_matter(pipeline):
    plain = pixels(pipeline("a red fox", num_inference_steps=3))
    assert not np.array_equal(plain, pixels(pipeline("a blue car", num_inference_steps=3)))
    assert not np.array_equal(plain, pixels(pipeline("a red fox", "blurred", num_inference_steps=3)))


def test_callback_sees_every_step(pipeline):
    seen = []
    pipeline("a fox", num_inference_steps=4, callback=lambda step, latents: seen.append((step, tuple(latents.shape))))
    assert seen == [(step, (1, 3, 32, 32)) for step in (1, 2, 3, 4)]


def test_half_precision_draws_nearly_the_same(folder):
    full, half = (ParisPipeline.from_pretrained(folder, torch_dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert half.ensemble.expert(0).dtype == torch.bfloat16
    difference = pixels(full("a fox", num_inference_steps=3)).astype(int) - pixels(half("a fox", num_inference_steps=3))
    assert np.abs(difference).mean() < 8


@pytest.mark.parametrize("part", ["router", "expert_2"])
def test_missing_part_is_named(folder, part):
    shutil.rmtree(folder / part)
    with pytest.raises(PipelineError, match=part):
        ParisPipeline.from_pretrained(folder)


@pytest.mark.parametrize("part", ["model_index.json", "text_encoder.json"])
def test_missing_index_is_named(folder, part):
    (folder / part).unlink()
    with pytest.raises(PipelineError, match=part):
        ParisPipeline.from_pretrained(folder)


def test_expert_swapped_for_a_router_is_refused(folder):
    shutil.rmtree(folder / "expert_1")
    shutil.copytree(folder / "router", folder / "expert_1")
    with pytest.raises(CheckpointError, match="not a DiT"):
        ParisPipeline.from_pretrained(folder)("a fox", num_inference_steps=2, strategy="full")


def test_other_text_encoder_is_refused(folder):
    text = json.loads((folder / "text_encoder.json").read_text())
    (folder / "text_encoder.json").write_text(json.dumps({**text, "sha256": "sha256:" + "0" * 64}))
    with pytest.raises(PipelineError, match="not the one the experts were trained with"):
        ParisPipeline.from_pretrained(folder)


def test_hub_options_are_refused_by_name(folder):
    with pytest.raises(PipelineError, match="variant"):
        ParisPipeline.from_pretrained(folder, variant="fp16")


def test_folder_assembled_from_parts_opens(folder, tmp_path):
    """What a resolver does: weights from many peers, the rest written here."""
    assembled = tmp_path / "assembled"
    for part in ("expert_0", "expert_1", "router"):
        shutil.copytree(folder / part, assembled / part)
    write_index(assembled, 2, "pixels", json.loads((folder / "text_encoder.json").read_text()), scheduler=True)
    assert len(ParisPipeline.from_pretrained(assembled).ensemble) == 2


def test_autoencoder_travels_with_the_pipeline(tmp_path, minilm, make_expert, make_router):
    codec = open_codec("autoencoder-tiny")
    ensemble = Ensemble([make_expert(0)], make_router(1, 0))
    scheduler = FlowMatchEulerDiscreteScheduler()
    ParisPipeline(ensemble, codec, minilm, scheduler, (3, 32, 32)).save_pretrained(tmp_path)
    latents = torch.randn(2, 8, 8, 8)
    reopened = ParisPipeline.from_pretrained(tmp_path).codec
    assert torch.equal(reopened.decode(latents), codec.decode(latents))


def test_levels_of_a_picture_by_hand():
    image = to_images(torch.tensor([-1.0, 0.0, 1.0]).reshape(1, 3, 1, 1))[0]
    assert image.getpixel((0, 0)) == (0, 128, 255)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"experts": "two", "codec": "pixels"}', '{"experts": 0, "codec": "x"}', "3"]
)
def test_an_index_that_names_no_experts_is_refused_in_words(folder, text):
    (folder / "model_index.json").write_text(text)
    with pytest.raises(PipelineError, match=r"not a whole pipeline: model_index\.json"):
        ParisPipeline.from_pretrained(folder)
