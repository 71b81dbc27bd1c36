"""From a folder to pictures: a saved pipeline draws the same again, and an incomplete one says what is missing."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from PIL import Image

from paris.models.centroids import Centroids
from paris.models.checkpoints import CheckpointError
from paris.models.conversion import Prediction
from paris.models.dit import DiT
from paris.models.ensemble import Ensemble
from paris.models.experts import MemoryCapError
from paris.models.images import to_images
from paris.models.index import write_index
from paris.models.latents import Pixels, open_codec
from paris.models.pipeline import ParisPipeline, PipelineError
from paris.models.presets import PRESETS
from paris.models.router import Router
from paris.models.routing import RoutingError
from paris.models.schedulers import SCHEDULERS, SchedulerError, make_scheduler, shift_of
from paris.models.text import open_text_encoder

PROMPTS = ["a red fox", "a blue car"]


@pytest.fixture(scope="module")
def minilm():
    return open_text_encoder("minilm", "minilm", 16)


@pytest.fixture
def pipeline(make_expert, make_router, minilm):
    ensemble = Ensemble([make_expert(0), make_expert(1), make_expert(2)], make_router(3, 4))
    quiet = ParisPipeline(ensemble, Pixels(), minilm, FlowMatchEulerDiscreteScheduler(), PRESETS["micro"].shape)
    quiet.set_progress_bar_config(disable=True)
    return quiet


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
    with pytest.raises(PipelineError, match="2 prompts and 3 negative"):
        pipeline(PROMPTS, ["a", "b", "c"])


def test_top_k_beyond_the_experts_means_all(pipeline):
    assert len(pipeline("a fox", num_inference_steps=2, top_k=9).routing[0]) == 3


def test_prompt_and_negative_prompt_matter(pipeline):
    plain = pixels(pipeline("a red fox", num_inference_steps=3))
    assert not np.array_equal(plain, pixels(pipeline("a blue car", num_inference_steps=3)))
    assert not np.array_equal(plain, pixels(pipeline("a red fox", "blurred", num_inference_steps=3)))


def test_callback_sees_every_step_and_may_change_it(pipeline):
    seen = []

    def watch(caller, step, timestep, values):
        assert caller is pipeline
        seen.append((step, float(timestep), tuple(values["latents"].shape)))

    plain = pipeline("a fox", num_inference_steps=4, callback_on_step_end=watch)
    assert [step for step, _, _ in seen] == [0, 1, 2, 3]
    assert {shape for _, _, shape in seen} == {(1, 3, 32, 32)}
    assert [timestep for _, timestep, _ in seen] == sorted((timestep for _, timestep, _ in seen), reverse=True)
    grey = pipeline("a fox", num_inference_steps=4, callback_on_step_end=lambda *a: {"latents": a[-1]["latents"] * 0})
    assert set(pixels(grey).ravel().tolist()) == {128}
    assert not np.array_equal(pixels(plain), pixels(grey))


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
    write_index(assembled, 2, "pixels", json.loads((folder / "text_encoder.json").read_text()), shift=1.0)
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


def test_a_negative_prompt_each_leads_each_picture_away(pipeline):
    together = pixels(pipeline(PROMPTS, ["blurred", "dark"], num_inference_steps=3, seed=[1, 2]))
    alone = pixels(pipeline(PROMPTS[1], "dark", num_inference_steps=3, seed=2))
    assert np.abs(together[1].astype(int) - alone[0]).max() <= 1


def test_measured_numbers_and_objectives_travel_with_the_folder(pipeline, tmp_path):
    pipeline.top_k, pipeline.ensemble.router_temperature = 3, 1.7
    kinds = [Prediction("velocity"), Prediction("ddpm-noise", "linear"), Prediction("ddpm-x0", "cosine")]
    pipeline.ensemble.predictions = kinds
    pipeline.save_pretrained(tmp_path)
    reopened = ParisPipeline.from_pretrained(tmp_path)
    assert (reopened.top_k, reopened.ensemble.router_temperature) == (3, 1.7)
    assert reopened.ensemble.predictions == kinds
    ours, theirs = (each("a fox", num_inference_steps=3) for each in (pipeline, reopened))
    np.testing.assert_array_equal(pixels(ours), pixels(theirs))
    assert len(ours.routing[0]) == 3


def test_a_folder_without_objectives_is_all_velocity(folder):
    index = json.loads((folder / "model_index.json").read_text())
    plain = {name: index[name] for name in ("_class_name", "experts", "codec")}
    (folder / "model_index.json").write_text(json.dumps(plain))
    reopened = ParisPipeline.from_pretrained(folder)
    assert reopened.ensemble.predictions == [Prediction()] * 3
    assert reopened.top_k == 2


@pytest.mark.parametrize(
    ("objectives", "said"),
    [
        ([{"objective": "velocity"}], "one objective an expert"),
        ("velocity", "one objective an expert"),
        (["flow"] * 3, "no objective 'flow'"),
    ],
)
def test_wrong_objectives_in_an_index_are_named(folder, objectives, said):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "objectives": objectives}))
    with pytest.raises(ValueError, match=said):
        ParisPipeline.from_pretrained(folder)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_draws_and_comes_back_from_its_folder(pipeline, tmp_path, name):
    pipeline.scheduler = make_scheduler(name, shift=2.0)
    pipeline.save_pretrained(tmp_path)
    reopened = ParisPipeline.from_pretrained(tmp_path)
    assert type(reopened.scheduler) is type(pipeline.scheduler)
    assert shift_of(reopened.scheduler) == 2.0
    ours, theirs = (pixels(each("a fox", num_inference_steps=4)) for each in (pipeline, reopened))
    np.testing.assert_array_equal(ours, theirs)


def test_a_memory_cap_changes_no_pixel(pipeline, folder):
    size = sum(p.numel() for p in pipeline.ensemble.expert(0).parameters()) * 4
    capped = ParisPipeline.from_pretrained(folder, memory_bytes=size)
    ours, theirs = (pixels(each(PROMPTS, num_inference_steps=3)) for each in (pipeline, capped))
    np.testing.assert_array_equal(ours, theirs)
    assert len(capped.ensemble.experts.resident) == 1
    with pytest.raises(MemoryCapError, match="memory cap"):
        ParisPipeline.from_pretrained(folder, memory_bytes=size - 1)("a fox", num_inference_steps=2)


def test_oracle_draws_with_the_named_experts_alone(pipeline):
    output = pipeline(PROMPTS, num_inference_steps=3, strategy="oracle", cluster=[2, 0])
    assert [[(p.expert, p.steps) for p in parts] for parts in output.routing] == [[(2, 3)], [(0, 3)]]


def test_image_to_image_keeps_the_picture_the_better_the_weaker_it_is(pipeline):
    generator = np.random.default_rng(0)
    picture = Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8))
    far = []
    for strength in (0.05, 0.3, 0.9):
        drawn = pixels(pipeline("a fox", image=picture, strength=strength, num_inference_steps=20))[0]
        far.append(np.abs(drawn.astype(int) - np.asarray(picture)).mean())
    assert far == sorted(far)
    assert far[0] < 0.5 * far[2]


def test_image_to_image_at_full_strength_forgets_the_picture(pipeline):
    plain = pixels(pipeline("a fox", num_inference_steps=3))
    picture = Image.new("RGB", (100, 40), "red")
    np.testing.assert_array_equal(plain, pixels(pipeline("a fox", num_inference_steps=3, image=picture, strength=1.0)))


@pytest.mark.parametrize("strength", [0.0, -1.0, 1.5, 0.1])
def test_a_strength_that_leaves_no_step_is_explained(pipeline, strength):
    with pytest.raises(SchedulerError, match="leaves nothing to draw"):
        pipeline("a fox", num_inference_steps=3, image=Image.new("RGB", (32, 32)), strength=strength)


def test_another_size_is_refused_where_positions_were_learned(pipeline):
    with pytest.raises(PipelineError, match="positions are for that size"):
        pipeline("a fox", height=64)
    assert pixels(pipeline("a fox", num_inference_steps=2, height=32, width=32)).shape == (1, 32, 32, 3)


def test_rotary_experts_draw_other_sizes(minilm):
    torch.manual_seed(0)
    experts = [DiT(**{**PRESETS["micro"].expert, "positions": "rotary"}) for _ in range(2)]
    ensemble = Ensemble(experts, Router(**PRESETS["micro"].router, clusters=2, positions="rotary"))
    pipeline = ParisPipeline(ensemble, Pixels(), minilm, FlowMatchEulerDiscreteScheduler(), PRESETS["micro"].shape)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline("a fox", num_inference_steps=2, width=64, height=40).images[0].size == (64, 40)
    wide = pipeline("a fox", num_inference_steps=2, width=64, image=Image.new("RGB", (10, 10)))
    assert wide.images[0].size == (64, 32)
    with pytest.raises(PipelineError, match="multiples of 8"):
        pipeline("a fox", width=60)


def test_to_moves_precision_of_experts_and_router(pipeline, folder):
    half = ParisPipeline.from_pretrained(folder).to(torch.bfloat16)
    half.ensemble.expert(1)
    assert {half.dtype, half.ensemble.expert(1).dtype, half.ensemble.router.dtype} == {torch.bfloat16}
    assert half.to("cpu", dtype=torch.float32).ensemble.expert(1).dtype == torch.float32
    np.testing.assert_array_equal(
        pixels(pipeline("a fox", num_inference_steps=2)),
        pixels(ParisPipeline.from_pretrained(folder).to("cpu")("a fox", num_inference_steps=2)),
    )


def test_to_takes_codec_and_centres_along(minilm, make_expert, make_router, cache):
    """To the meta device, where everything can be sent and nothing computes."""
    ensemble = Ensemble([make_expert(0)], make_router(1, 0), centroids=Centroids.measure(cache, 2))
    codec = open_codec("autoencoder-tiny")
    pipeline = ParisPipeline(ensemble, codec, minilm, FlowMatchEulerDiscreteScheduler(), (3, 32, 32)).to("meta")
    parts = (codec.model, ensemble.router, ensemble.expert(0))
    assert {p.device.type for part in parts for p in part.parameters()} == {"meta"}
    assert ensemble.centroids.centres_KF.device.type == pipeline.device.type == "meta"


def test_an_unknown_scheduler_is_named():
    with pytest.raises(SchedulerError, match="euler, heun, unipc"):
        make_scheduler("ddim")


def test_a_scheduler_of_another_path_is_refused(folder):
    path = folder / "scheduler" / "scheduler_config.json"
    for config in (
        {"_class_name": "DDIMScheduler"},
        {"_class_name": "UniPCMultistepScheduler"},
        {},
        {"_class_name": []},
    ):
        path.write_text(json.dumps(config))
        with pytest.raises(SchedulerError):
            ParisPipeline.from_pretrained(folder)


def test_centres_travel_with_the_pipeline(pipeline, cache, tmp_path):
    pipeline.ensemble.centroids = Centroids.measure(cache, 2).with_cluster(
        torch.zeros(4, 3, 32, 32), torch.zeros(4, 384)
    )
    ours = pipeline("a fox", num_inference_steps=3, strategy="router-free")
    pipeline.save_pretrained(tmp_path)
    theirs = ParisPipeline.from_pretrained(tmp_path)("a fox", num_inference_steps=3, strategy="router-free")
    assert ours.routing == theirs.routing
    np.testing.assert_array_equal(pixels(ours), pixels(theirs))


@pytest.mark.parametrize("absent", [[0], [2], [0, 1]])
def test_an_ensemble_without_some_experts_draws_with_the_others(pipeline, folder, tmp_path, absent):
    """An expert the curators revoked, or nobody wanted: its share goes to the others, its number stays free."""
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "absent": absent, "top_k": 3}))
    for number in absent:
        shutil.rmtree(folder / f"expert_{number}")
    reopened = ParisPipeline.from_pretrained(folder)
    reopened.set_progress_bar_config(disable=True)
    present = [number for number in range(3) if number not in absent]
    assert (reopened.ensemble.present, reopened.top_k) == (present, len(present))
    for strategy in ("top-k", "threshold", "nucleus", "sample", "full"):
        output = reopened(PROMPTS, num_inference_steps=2, strategy=strategy)
        assert {part.expert for picture in output.routing for part in picture} <= {*present}
        assert pixels(output).std() > 0
    with pytest.raises(RoutingError, match=f"Cluster {absent[0]} has no expert here"):
        reopened(PROMPTS, num_inference_steps=2, strategy="oracle", cluster=[absent[0], present[0]])
    reopened.save_pretrained(tmp_path / "again")
    again = ParisPipeline.from_pretrained(tmp_path / "again")
    again.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(*(pixels(each("a fox", num_inference_steps=2)) for each in (reopened, again)))


@pytest.mark.parametrize("absent", [[0, 1, 2], [3], [-1], "0", [True], None, [0.0]])
def test_an_index_with_odd_absences_is_refused_in_words(folder, absent):
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "absent": absent}))
    with pytest.raises(PipelineError, match="not a whole pipeline"):
        ParisPipeline.from_pretrained(folder)
