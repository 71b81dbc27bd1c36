"""Runs of clips: the packaged clips, what this version can train of them and what not, and what their cards say."""

from __future__ import annotations

import dataclasses

import pytest
from network_simulator import ANN, genesis_fields

from paris.models.decoding import count_frames, first_frame
from paris.models.video_presets import EVERY_PRESET
from paris.protocol.errors import RecordError, UsageError
from paris.protocol.genesis import Genesis
from paris.registry import sources
from paris.registry.modelcard import CardUnit, contributor_card
from paris.registry.recipes import PLANS
from paris.registry.runs import Choices
from paris.registry.shards import is_holdout
from paris.registry.sources import open_source, read_samples
from paris.registry.trainable import require_trainable


def genesis_of(name: str, **model: object) -> Genesis:
    """The genesis of a run of one preset over two clusters."""
    preset, plan = EVERY_PRESET[name], PLANS.get(name, PLANS["video-nano"])
    fields = genesis_fields()
    networks = {"preset": name, "expert": preset.expert, "router": {**preset.router, "clusters": 2}, **model}
    training = {"expert": plan.expert.model_dump(mode="json"), "router": plan.router.model_dump(mode="json")}
    data = {**fields["data"], "manifest": "sha256:" + "0" * 64}
    text = {**fields["text"], "tokens": preset.text_tokens}
    return Genesis.parse({**fields, "model": networks, "training": training, "data": data, "text": text})


def test_the_packaged_clips_are_whole_move_and_carry_their_licence():
    source = open_source("sample:emoji-clips")
    samples = list(read_samples(source))
    assert len(samples) == 699
    assert len({sample.group for sample in samples}) == 699
    assert {sample.fields["license"] for sample in samples} == {source.license} == {"MIT"}
    assert {(sample.suffix, count_frames(sample.picture)) for sample in samples[::20]} == {("webp", 16)}
    assert first_frame(samples[0].picture).size == (32, 32)
    assert sum(is_holdout(sample.group) for sample in samples) == 73
    notices = (sources.SAMPLE_FOLDER / "LICENSES.md").read_text(encoding="utf-8")
    assert "`emoji-clips-000.tar.gz`" in notices
    assert sum(path.stat().st_size for path in sources.SAMPLE_FOLDER.glob("emoji-clips-*")) < 10e6


def test_the_packaged_pictures_have_no_clips_among_them():
    assert len(open_source("sample:emoji").shards) == 4


def test_a_packaged_sample_that_does_not_exist_is_told_those_that_do():
    with pytest.raises(UsageError, match="sample:emoji and sample:emoji-clips"):
        open_source("sample:emoji-clip")


@pytest.mark.parametrize("name", ["video-nano", "video-micro", "video-tiny"])
def test_the_small_presets_of_clips_can_be_trained(name):
    require_trainable(genesis_of(name))


@pytest.mark.parametrize("name", EVERY_PRESET)
def test_the_networks_of_every_preset_can_stand_in_a_genesis(name):
    """Signed JSON knows no floats."""
    assert genesis_of(name).model.expert == EVERY_PRESET[name].expert


def test_what_needs_a_text_encoder_that_is_not_here_is_refused_in_words():
    with pytest.raises(RecordError, match="no text encoder of this version is wide enough"):
        require_trainable(genesis_of("video-11b"))
    with pytest.raises(UsageError, match="text encoders it was made for are not among those of this version"):
        Choices.default("run", 2, "video-11b")


def test_a_run_whose_networks_have_no_place_for_the_first_frames_it_tells_is_refused():
    genesis = genesis_of("micro")
    require_trainable(genesis)
    told = genesis.training.expert.model_copy(update={"first_frames": "0.5"})
    changed = genesis.model_copy(update={"training": genesis.training.model_copy(update={"expert": told})})
    with pytest.raises(RecordError, match="cannot be told a first frame"):
        require_trainable(changed)


def test_a_card_of_clips_names_their_network_and_their_task():
    unit = CardUnit("cluster-0", 60, "sha256:" + "a" * 64, None, (ANN.peer_id,))
    router = dataclasses.replace(unit, unit="router")
    experts, routers = (
        contributor_card(genesis_of("video-nano"), "sha256:" + "1" * 64, "a/b", [u]) for u in (unit, router)
    )
    assert "pipeline_tag: text-to-video" in experts
    assert "from diffusers import HunyuanVideoTransformer3DModel" in experts
    assert "from paris.models.video_router import VideoRouter" in routers
