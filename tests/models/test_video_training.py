"""Clips from cache to file: trained, interrupted, resumed, mixed by a router, sampled, saved and opened again."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

from paris.models.cache import TENSORS, LatentCache
from paris.models.conditions import first_frames
from paris.models.ensemble import Ensemble
from paris.models.feed import Feed
from paris.models.files import write_tensors
from paris.models.growth import drop_expert, fit_new_row, grow_router
from paris.models.objectives import RoutingObjective, expert_objective
from paris.models.pipeline import ParisPipeline, PipelineError
from paris.models.recipe import Recipe, RecipeError
from paris.models.routing import Routing
from paris.models.sampling import sample
from paris.models.text import TextBatch, open_text_encoder
from paris.models.training import Trainer
from paris.models.video import VideoExpert
from paris.models.video_files import write_clip
from paris.models.video_presets import VIDEO_PRESETS
from paris.models.video_router import VideoRouter
from paris.models.videocodec import open_video_codec

NANO = VIDEO_PRESETS["video-nano"]
ROUTER = {**NANO.router, "first_frame": True}
RECIPE = Recipe(
    steps=20, batch=6, lr=3e-3, warmup_steps=3, ema=0.9, seed=5, precision="fp32", accumulate=2, first_frames=0.5
)


@pytest.fixture
def clips(tmp_path, letters) -> LatentCache:
    """Twenty-four random clips of two clusters that differ in brightness, through a cache file."""
    generator = torch.Generator().manual_seed(7)
    labels = torch.arange(24) % 2
    latents = 0.3 * torch.randn(24, *NANO.shape, generator=generator) + (2 * labels - 1)[:, None, None, None, None]
    texts = letters.encode(["", *(f"word {i}" for i in range(6))])
    parts = (latents.half(), torch.arange(24) % 6 + 1, labels, *texts.parts())
    write_tensors(dict(zip(TENSORS, parts, strict=True)), tmp_path / "clips.safetensors", {"about": "clips"})
    return LatentCache.open(tmp_path / "clips.safetensors")


def new_trainer(cache, unit="cluster-0", **changes) -> Trainer:
    torch.manual_seed(0)
    recipe = replace(RECIPE, **changes)
    router = unit == "router"
    network = VideoRouter(**ROUTER, clusters=2) if router else VideoExpert(**NANO.expert)
    objective = RoutingObjective() if router else expert_objective(asdict(recipe))
    return Trainer(network, objective, cache, recipe, ("run", unit), threads=1)


def assert_equal(left: Trainer, right: Trainer) -> None:
    ours, theirs = left.snapshot(copy=False), right.snapshot(copy=False)
    assert ours.note == theirs.note
    for group, named in ours.groups.items():
        assert [name for name in named if not torch.equal(named[name], theirs.groups[group][name])] == [], group


@pytest.mark.parametrize(
    ("unit", "changes"),
    [
        ("cluster-0", {}),
        pytest.param("cluster-0", {"objective": "ddpm-noise"}, marks=pytest.mark.slow),
        ("router", {}),
    ],
)
def test_training_on_clips_resumes_bit_for_bit_and_learns(tmp_path, clips, unit, changes):
    whole = new_trainer(clips, unit, **changes)
    before = whole.evaluate(clips, 24)
    whole.train(11)
    whole.save(tmp_path)
    whole.train(20)
    resumed = new_trainer(clips, unit, **changes)
    resumed.load(tmp_path)
    resumed.train(20)
    assert_equal(whole, resumed)
    assert whole.evaluate(clips, 24) < before


def test_whose_first_frame_is_told_follows_from_seed_and_step(clips):
    def told(step: int, **changes) -> list[bool] | None:
        draw = Feed(clips, RoutingObjective(), replace(RECIPE, batch=24, **changes), ("run", "u")).at(step).draw
        return None if draw.given_B is None else draw.given_B.tolist()

    assert told(3) == told(3) != told(4)
    assert told(3, first_frames=0.0) is None
    assert told(3, first_frames=1.0) == [True] * 24
    parts = Feed(clips, RoutingObjective(), replace(RECIPE, batch=24), ("run", "u")).at(3).split(10)
    assert [given for part in parts for given in part.draw.given_B.tolist()] == told(3)


def test_a_share_of_first_frames_above_one_is_no_recipe():
    with pytest.raises(RecipeError, match="first_frames"):
        Recipe.of({**asdict(RECIPE), "first_frames": 1.5})


def randomised(network, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval().requires_grad_(False)


@pytest.fixture
def ensemble() -> Ensemble:
    experts = [randomised(VideoExpert(**NANO.expert), seed) for seed in (0, 1)]
    return Ensemble(experts, randomised(VideoRouter(**ROUTER, clusters=2), 2))


def drawn(ensemble, texts: TextBatch, guidance=2.0, seeds=(1, 2), **options):
    text = texts.select(torch.arange(len(seeds)))
    null = texts.select(torch.full((len(seeds),), 5))
    scheduler = FlowMatchEulerDiscreteScheduler()
    return sample(ensemble, text, null, NANO.shape, scheduler, steps=4, guidance=guidance, seeds=seeds, **options)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_two_experts_make_clips_that_do_not_know_their_batch(ensemble, texts, guidance):
    ensemble.routing = Routing("full")
    both, trace = drawn(ensemble, texts, guidance)
    alone, _ = drawn(ensemble, texts, guidance, seeds=(1,))
    assert both.shape == (2, *NANO.shape)
    assert torch.allclose(both[:1], alone, atol=1e-4)
    assert trace.weights_SBK.shape == (4, 2, 2)


def test_the_velocity_is_the_routers_mixture_of_the_experts(ensemble, texts):
    ensemble.routing = Routing("full")
    x, t = torch.randn(2, *NANO.shape), torch.tensor([0.3, 0.8])
    text = texts.select(torch.arange(2))
    first = first_frames(torch.randn(2, *NANO.shape), torch.tensor([True, False]))
    mixed = ensemble.velocity(x, t, text, text, 1.0, first_BQHW=first)
    weights = ensemble.router(x, t, text.pooled_BE, first).softmax(1)
    expected = sum(
        weights[:, k, None, None, None, None]
        * ensemble.expert(k)(x, t, text.tokens_BLE, text.mask_BL, text.pooled_BE, first)
        for k in (0, 1)
    )
    assert torch.allclose(mixed.velocity, expected, atol=1e-5)


def test_a_first_frame_changes_the_clip_and_none_is_text_to_video(ensemble, texts):
    picture = torch.randn(2, 3, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    plain, told, untold = (
        drawn(ensemble, texts, first_BQHW=first_frames(picture, given))[0]
        for given in (None, torch.tensor([True, True]), torch.tensor([False, False]))
    )
    assert not torch.allclose(plain, told, atol=1e-2)
    assert torch.equal(plain, untold)


def test_routers_of_clips_grow_and_shrink(clips):
    router = randomised(VideoRouter(**ROUTER, clusters=1), 3)
    grown = grow_router(router)
    assert fit_new_row(grown, clips, answers=128) < 0.69
    x, t, pooled = torch.randn(2, *NANO.shape), torch.rand(2), torch.randn(2, 384)
    assert torch.allclose(drop_expert(grown, 1)(x, t, pooled), router(x, t, pooled), atol=1e-6)


@pytest.fixture(scope="module")
def minilm():
    return open_text_encoder("minilm", "minilm", 16)


class TestPipeline:
    @pytest.fixture
    def pipeline(self, ensemble, minilm) -> ParisPipeline:
        made = ParisPipeline(
            ensemble, open_video_codec("pixels"), minilm, FlowMatchEulerDiscreteScheduler(), NANO.shape
        )
        made.set_progress_bar_config(disable=True)
        return made

    def pixels(self, output) -> np.ndarray:
        return np.stack([[np.asarray(frame) for frame in clip] for clip in output.clips])

    def test_a_saved_pipeline_makes_the_same_clips(self, pipeline, tmp_path):
        pipeline.save_pretrained(tmp_path)
        reopened = ParisPipeline.from_pretrained(tmp_path)
        reopened.set_progress_bar_config(disable=True)
        ours, theirs = (made(["a red fox", "a car"], num_inference_steps=3) for made in (pipeline, reopened))
        np.testing.assert_array_equal(self.pixels(ours), self.pixels(theirs))
        assert self.pixels(ours).shape == (2, 4, 16, 16, 3)
        assert [np.asarray(image).tolist() for image in ours.images] == self.pixels(ours)[:, 0].tolist()

    def test_clips_of_other_lengths_and_sizes(self, pipeline):
        output = pipeline("a red fox", num_inference_steps=2, frames=8, height=24, width=32)
        assert self.pixels(output).shape == (1, 8, 24, 32, 3)

    def test_a_picture_to_begin_with_changes_the_clip(self, pipeline):
        picture = Image.new("RGB", (40, 40), (250, 30, 30))
        plain, told = (pipeline("a fox", num_inference_steps=3, image=image) for image in (None, picture))
        assert (self.pixels(plain) != self.pixels(told)).mean() > 0.2

    def test_it_goes_into_a_file(self, pipeline, tmp_path):
        clip = pipeline("a red fox", num_inference_steps=2).clips[0]
        write_clip(clip, 8, tmp_path / "fox.webp")
        with Image.open(tmp_path / "fox.webp") as file:
            assert (file.n_frames, file.size) == (4, (16, 16))

    @pytest.mark.parametrize(("frames", "words"), [(3, "multiple of 2"), (0, "no whole number")])
    def test_impossible_lengths_are_refused(self, pipeline, frames, words):
        with pytest.raises(PipelineError, match=words):
            pipeline("a fox", num_inference_steps=2, frames=frames)

    def test_a_picture_for_experts_of_text_alone_is_refused(self, minilm):
        expert = randomised(VideoExpert(**{**NANO.expert, "first_frame": False}), 0)
        router = randomised(VideoRouter(**ROUTER, clusters=1), 1)
        made = ParisPipeline(
            Ensemble([expert], router),
            open_video_codec("pixels"),
            minilm,
            FlowMatchEulerDiscreteScheduler(),
            NANO.shape,
        )
        with pytest.raises(PipelineError, match="text alone"):
            made("a fox", num_inference_steps=2, image=Image.new("RGB", (16, 16)))
