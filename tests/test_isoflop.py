"""The study's harness, at the smallest size: who is trained on what, and that mixing is what the ensemble does."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from paris.models.conversion import Prediction
from paris.models.ensemble import Ensemble
from paris.models.files import write_json
from paris.models.randomness import Stream
from paris.models.routing import Routing
from paris.models.text import TextBatch
from paris.registry.shards import is_holdout

ROOT = Path(__file__).parent.parent
STYLES = ("flat", "noto")
GROUPS = 100


@pytest.fixture
def isoflop(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.isoflop.{name}")


@pytest.fixture
def pictures(isoflop):
    """A hundred emoji in two styles, each seen plain and, in training, mirrored; latents and texts are noise."""
    data = isoflop("data")
    groups = [f"{number:04x}" for number in range(GROUPS) for _ in STYLES]
    splits = torch.tensor([data.split_of(group) for group in groups])
    picture = torch.cat([torch.arange(2 * GROUPS), (splits == data.TRAIN).nonzero().flatten()])
    view = (torch.arange(len(picture)) >= 2 * GROUPS).long()
    stream = Stream.of("test", "isoflop")
    tokens = torch.from_numpy(stream.normal(0, (2 * GROUPS + 1, 1, 384)))
    return data.Pictures(
        torch.from_numpy(stream.normal(1, (len(picture), 8, 8, 8))).half(),
        picture,
        view,
        torch.zeros(2 * GROUPS, 3, 32, 32, dtype=torch.uint8),
        splits,
        torch.arange(1, 2 * GROUPS + 1),
        TextBatch(tokens, torch.ones(2 * GROUPS + 1, 1, dtype=torch.bool), functional.normalize(tokens[:, 0], dim=-1)),
        tuple(f"thing {number}" for number in range(2 * GROUPS)),
        tuple(groups),
        STYLES * GROUPS,
    )


@pytest.fixture
def clips(pictures):
    """The same as clips of eight frames."""
    latents = Stream.of("test", "isoflop clips").normal(0, (len(pictures.latents_VCHW), 8, 8, 8, 8))
    pixels = pictures.pixels_P3HW[:, :, None].expand(-1, -1, 8, -1, -1)
    return replace(pictures, latents_VCHW=torch.from_numpy(latents).half(), pixels_P3HW=pixels)


def test_no_group_is_trained_on_and_tested_on(isoflop, pictures):
    data = isoflop("data")
    by_split = [
        {pictures.groups[int(pictures.picture_V[row])] for row in pictures.rows(split, views=data.MIRRORED)}
        for split in (data.TRAIN, data.VALIDATION, data.TEST)
    ]
    assert all(by_split)
    assert sum(map(len, by_split)) == len(set.union(*by_split)) == GROUPS
    assert all(is_holdout(group) for group in by_split[data.TEST])
    assert not any(is_holdout(group) for group in by_split[data.TRAIN] | by_split[data.VALIDATION])


def test_only_training_pictures_are_seen_mirrored(isoflop, pictures):
    data = isoflop("data")
    train, test = (pictures.rows(split, views=data.MIRRORED) for split in (data.TRAIN, data.TEST))
    assert len(train) == 2 * len(pictures.rows(data.TRAIN))
    assert len(test) == len(pictures.rows(data.TEST))


@pytest.mark.parametrize("name", ["small", "small-s", "huge-s0", "small-text4-s0", "small-text4-b0-s0x", "../small-s0"])
def test_a_misspelt_arm_is_refused_with_an_example(isoflop, name):
    plan = isoflop("plan")
    with pytest.raises(plan.PlanError, match=r"small-text4-b1000-o20-s0"):
        plan.arm_of(name)


@pytest.mark.parametrize("name", ["small-words4-b0-s0", "small-text3-b0-s0", "small-text1-b0-s0"])
def test_clusters_that_cannot_be_made_are_refused(isoflop, name):
    plan = isoflop("plan")
    with pytest.raises(plan.PlanError, match="divisible"):
        plan.arm_of(name)


@pytest.mark.parametrize("branch", [1, 2000, 10_000])
def test_experts_begin_at_a_checkpoint_that_leaves_them_steps(isoflop, branch):
    plan = isoflop("plan")
    with pytest.raises(plan.PlanError, match="checkpoint"):
        plan.arm_of(f"small-text4-b{branch}-s0")


@pytest.mark.parametrize(
    "name", ["small-text4-b1000-o20-s0", "small-style5-b0-s1", "small-random8-b500-s0", "clips-text3-b600-s0"]
)
def test_experts_and_what_they_begin_from_cost_no_more_than_the_one_model(isoflop, name):
    plan = isoflop("plan")
    arm, single = plan.arm_of(name), plan.arm_of(plan.arm_of(name).base)
    assert arm.batch * arm.count == single.batch == single.recipe().batch
    assert arm.branch + arm.steps < single.steps
    assert replace(arm.recipe(), steps=1, batch=1, lr=1) == replace(single.recipe(), steps=1, batch=1, lr=1)


def test_experts_may_learn_at_a_share_of_the_one_models_rate(isoflop):
    plan = isoflop("plan")
    arm, slow = (plan.arm_of(f"clips-text3-b600{rate}-s0") for rate in ("", "-l58"))
    assert slow.recipe().lr == pytest.approx(0.58 * arm.recipe().lr)
    assert replace(slow.recipe(), lr=arm.recipe().lr) == arm.recipe()
    assert (slow.clustering, slow.base) == (arm.clustering, arm.base)
    with pytest.raises(plan.PlanError, match="There is no arm"):
        plan.arm_of("clips-text3-b600-l0-s0")


def test_an_overlap_is_the_share_of_samples_from_elsewhere(isoflop, pictures):
    plan, train = isoflop("plan"), isoflop("train")
    labels = torch.tensor([STYLES.index(style) for style in pictures.styles])
    for number in range(2):
        rows = train.rows_of(plan.arm_of("small-text2-b0-o20-s0"), number, pictures, labels)
        foreign = labels[pictures.picture_V[rows]] != number
        assert len(set(rows.tolist())) == len(rows)
        assert float(foreign.float().mean()) == pytest.approx(0.2, abs=0.02)


def test_clusters_by_chance_and_by_text_keep_groups_whole(isoflop, pictures):
    labels_of = isoflop("clusterings").labels_of
    for features in ("random", "text"):
        labels = labels_of(features, 2, pictures)
        assert sorted(set(labels.tolist())) == [0, 1]
        assert len(set(zip(pictures.groups, labels.tolist(), strict=True))) == GROUPS


def test_styles_are_clusters_and_no_other_number_of_them(isoflop, pictures):
    labels_of = isoflop("clusterings").labels_of
    assert labels_of("style", 2, pictures).tolist() == [0, 1] * GROUPS
    with pytest.raises(ValueError, match="2 styles, not 4"):
        labels_of("style", 4, pictures)


def test_mixing_answers_is_what_the_ensemble_does(isoflop, pictures):
    data, measure, media, plan = (isoflop(name) for name in ("data", "measure", "media", "plan"))
    torch.manual_seed(0)
    networks = [plan.SIZES["micro"].network() for _ in range(4)]
    router = plan.arm_of("micro-random4-b0-s0").router(blind=False)
    with torch.no_grad():
        for parameter in (p for network in (*networks, router) for p in network.parameters()):
            parameter.normal_(std=0.1)
    questions = measure.Questions.of(media.PICTURES, pictures, data.TEST, torch.arange(2 * GROUPS) % 4)
    answers = torch.stack([questions.answers(network, Prediction()) for network in networks])
    for routing in measure.ROUTINGS.values():
        ensemble = Ensemble(networks, router, routing)
        said = ensemble.velocity(questions.x_NCHW, questions.t_N, questions.batch.text, questions.batch.text, 1.0)
        mixed = measure.mixed(answers, routing.weights(questions.logits(router)))
        torch.testing.assert_close(mixed, said.velocity, atol=1e-5, rtol=1e-4)


def test_questions_are_the_same_for_everybody_and_cover_every_noise_level(isoflop, pictures):
    data, measure = isoflop("data"), isoflop("measure")
    one, two = (measure.Questions.of(isoflop("media").PICTURES, pictures, data.TEST, None) for _ in range(2))
    assert torch.equal(one.x_NCHW, two.x_NCHW)
    assert set(one.level_N.tolist()) == set(range(measure.LEVELS))
    assert all(error == 0 for error in one.errors(one.truth_NCHW))
    assert all(error == pytest.approx(1, abs=1e-4) for error in one.errors(one.truth_NCHW + 1))


def test_an_answer_is_about_the_picture_and_time_it_was_asked(isoflop, pictures):
    data, measure = isoflop("data"), isoflop("measure")
    questions = measure.Questions.of(isoflop("media").PICTURES, pictures, data.VALIDATION, None)
    clean = questions.batch.latents_BCHW
    t = questions.t_N[:, None, None, None]
    torch.testing.assert_close(questions.x_NCHW - t * questions.truth_NCHW, clean, atol=1e-5, rtol=1e-4)


def result(name: str, errors: dict[str, list[float]], flops: list[float], way: str = "monolith") -> dict:
    points = [
        {"step": step, "flops": cost, "errors": {split: {way: [values[step]]} for split, values in errors.items()}}
        for step, cost in enumerate(flops)
    ]
    return {"arm": name, "curve": points, "routers": {"text": {"flops": 0.5}, "blind": {"flops": 0.5}}}


def test_the_one_model_may_use_all_that_experts_and_router_cost_and_both_stop_on_validation(isoflop):
    report = isoflop("report")
    single = result(
        "small-s0",
        {"validation": [5, 4, 3, 1], "test": [5.5, 4.5, 3.5, 1.5], "train": [5, 4, 3, 1]},
        [1.0, 2.0, 3.0, 4.0],
    )
    experts = result(
        "small-text4-b500-s0",
        {"validation": [2, 1, 3], "test": [2.5, 1.25, 0.5], "train": [1, 1, 1]},
        [1.0, 1.5, 2.0],
        "top-1",
    )
    (row,) = report.rows_of({"small-s0": single, "small-text4-b500-s0": experts})
    assert (row.flops, row.monolith_flops) == (2.5, 3.0)
    assert (row.experts["test"], row.monolith["test"]) == (1.25, 3.5)
    assert "| `small-text4-b500` | top-1 | 1 | 1.2500 | 3.5000 | -2.2500 |" in report.table([row])


def test_sets_that_are_alike_are_nearer_than_sets_that_are_not(isoflop):
    shown = isoflop("shown")
    stream = Stream.of("test", "distances")
    a, b, c = (stream.normal(number, (400, 16)) for number in range(3))
    for distance in (shown.frechet, shown.kernel_distance):
        assert abs(distance(a, b)) < distance(a, c + 0.5) / 3
    assert shown.frechet(a, a) == pytest.approx(0, abs=1e-6)
    assert shown.frechet(a, a + 2) == pytest.approx(4 * 16, rel=1e-5)


def test_a_picture_that_shows_what_its_caption_says_finds_it(isoflop, pictures):
    shown = isoflop("shown")
    said = pictures.texts.pooled_BE[pictures.text_P].numpy()
    judge = shown.Retrieval(pictures, said)
    judge_of = said[(pictures.split_P == isoflop("data").TEST).numpy()]
    wrong = np.roll(judge_of, len(judge_of) // 2, axis=0)
    assert judge.accuracy(judge_of) >= judge.accuracy(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["micro", "microclips"])
def test_a_study_runs_from_end_to_end_and_goes_on_where_it_was_cut(isoflop, request, size, tmp_path, monkeypatch):
    data, measure, plan, report, train = (isoflop(name) for name in ("data", "measure", "plan", "report", "train"))
    drawing, tables = isoflop("drawing"), isoflop("tables")
    whole = plan.SIZES[size]
    few = dict.fromkeys(whole.medium.asked, (20, 3))
    monkeypatch.setitem(plan.SIZES, size, replace(whole, medium=replace(whole.medium, batch=10, asked=few)))
    monkeypatch.setattr(drawing, "STEPS", 2)
    for module in (measure, plan, train):
        monkeypatch.setattr(module, "ROUTER_STEPS", 3)
    samples = request.getfixturevalue(whole.medium.name)
    labels = isoflop("clusterings").labels_of("random", 2, samples)
    single, experts = plan.arm_of(f"{size}-s0"), plan.arm_of(f"{size}-random2-b4-o20-s0")
    with pytest.raises(plan.PlanError, match="run that first"):
        train.train_arm(experts, samples, labels, tmp_path, print)
    train.train_arm(single, samples, None, tmp_path, print)
    said: list[str] = []
    train.train_arm(single, samples, None, tmp_path, said.append)
    assert said == []
    train.train_arm(experts, samples, labels, tmp_path, print)
    train.train_routers(experts, samples, labels, tmp_path, print)
    results = {
        single.name: measure.measure(single, samples, None, tmp_path),
        experts.name: measure.measure(experts, samples, labels, tmp_path),
    }
    rows = report.rows_of(results)
    assert {row.way for row in rows} >= {"top-1", "top-2", "full", "oracle", "router-free top-1", "full, blind"}
    assert [row.way for row in rows if not np.isfinite(list(row.experts.values())).all()] == []
    report.plot_curves(results, size, tmp_path / "curves.png")
    report.plot_levels(rows, tmp_path / "levels.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert {*results[single.name]["curve"][0]["errors"]} == {*data.SPLITS}
    assert "| expert 1 |" in tables.specialists(results, size)
    write_json(results[experts.name], tmp_path / "results" / f"{experts.name}.json")
    wanted = drawing.test_pictures(samples)[:2]
    drawn = {
        way: drawing.draw(
            drawing.ensemble_of(experts, report.best_step(experts, way, results[experts.name]), way, tmp_path),
            samples,
            wanted,
        )
        for way in ("0 then 0", "1 then 1", "full")
    }
    assert all(pixels.shape == samples.pixels_P3HW[:2].shape for pixels in drawn.values())
    assert not torch.equal(drawn["0 then 0"], drawn["1 then 1"])


def test_a_misspelt_arm_on_the_command_line_is_a_usage_error(isoflop, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["isoflop", "run", "smal-s0", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as refusal:
        isoflop("__main__").main()
    assert refusal.value.code == 2
    assert "There is no arm 'smal-s0'" in capsys.readouterr().err


@pytest.mark.parametrize(("arm", "why"), [("small-s0", "Run it first"), ("small-text4-b0-s0:all", "mixed by 'all'")])
def test_what_was_not_run_or_cannot_be_mixed_is_not_drawn(isoflop, monkeypatch, capsys, tmp_path, arm, why):
    monkeypatch.setattr(sys, "argv", ["isoflop", "draw", arm, "--step", "500", "--out", str(tmp_path)])
    with pytest.raises(SystemExit) as refusal:
        isoflop("__main__").main()
    assert refusal.value.code == 2
    assert why in capsys.readouterr().err


def test_clips_are_asked_about_data_and_told_its_error(isoflop, clips):
    data, measure, media = isoflop("data"), isoflop("measure"), isoflop("media")
    questions = measure.Questions.of(media.CLIPS, clips, data.TEST, None)
    nothing = questions.answers(lambda x, *_: torch.zeros_like(x), Prediction(media.CLIPS.objective))
    told = media.CLIPS.told(questions.errors(nothing))
    energy = questions.batch.latents_BCHW.square().flatten(1).mean(1)
    for level, error in enumerate(told):
        assert error == pytest.approx(float(energy[questions.level_N == level].mean()), rel=1e-3)
    assert media.PICTURES.told([3.0, 2.0]) == [3.0, 2.0]


def test_a_switch_asks_one_expert_about_noise_and_the_other_about_the_rest(isoflop, clips):
    data, measure, media, switching = (isoflop(name) for name in ("data", "measure", "media", "switching"))
    arm = isoflop("plan").arm_of("microclips-random3-b0-s0")
    questions = measure.Questions.of(media.CLIPS, clips, data.TEST, torch.arange(2 * GROUPS) % 3)
    answers = torch.from_numpy(Stream.of("test", "answers").normal(0, (3, *questions.truth_NCHW.shape)))
    weights = Routing("top-k", 1).weights(questions.logits(switching.switch_of("2 then 0", arm)))
    noisy = questions.t_N >= 0.5
    expected = torch.where(noisy[:, None, None, None, None], answers[2], answers[0])
    torch.testing.assert_close(measure.mixed(answers, weights), expected)
    assert switching.switched(questions.alone(answers), 2, 0) == questions.errors(expected)


def test_only_pairs_of_an_arms_own_experts_are_switches(isoflop):
    switching, arm = isoflop("switching"), isoflop("plan").arm_of("microclips-random3-b0-s0")
    assert len(switching.pairs(3)) == 9
    assert all(switching.switch_of(way, arm) for way in switching.pairs(3))
    assert not any(switching.switch_of(way, arm) for way in ("0 then 3", "full", "0 then", ""))


def test_what_an_expert_errs_alone_is_told_cluster_by_cluster(isoflop, clips):
    data, measure, media = isoflop("data"), isoflop("measure"), isoflop("media")
    labels = torch.arange(2 * GROUPS) % 2
    questions = measure.Questions.of(media.CLIPS, clips, data.TEST, labels)
    off = (questions.batch.labels_B == 1).float()[:, None, None, None, None]
    first, second = questions.alone(torch.stack([questions.truth_NCHW, questions.truth_NCHW + 2 * off]))
    assert first["clusters"] == [[0.0] * measure.LEVELS] * 2
    assert second["clusters"][0] == [0.0] * measure.LEVELS
    assert second["clusters"][1] == pytest.approx([4.0] * measure.LEVELS, rel=1e-4)
    assert all(0 < error < 4 for error in second["all"])


def test_frames_of_a_clip_are_spread_over_it_and_mirrored_each(isoflop, tmp_path):
    data = isoflop("data")
    folder, groups = tmp_path / "clips", ["0041", "0042"]
    folder.mkdir()
    for group in groups:
        levels = np.zeros((8, 32, 32, 3), np.uint8)
        levels[:, :, :16] = np.arange(8, dtype=np.uint8)[:, None, None, None] * 30
        frames = [Image.fromarray(level) for level in levels]
        frames[0].save(folder / f"{group}.webp", save_all=True, append_images=frames[1:], lossless=True)
        (folder / f"{group}.json").write_text(json.dumps({"caption": f"letter {group}", "codepoint": group}))
    clips = data.ingest(str(folder), 4, tmp_path / "clips.safetensors")
    assert clips.pixels_P3HW.shape == (2, 3, 4, 32, 32)
    assert clips.pixels_P3HW[0, 0, :, 0, 0].tolist() == [0, 60, 120, 180]
    assert clips.latents_VCHW.shape[1:] == (8, 4, 8, 8)
    mirrored = (clips.view_V == data.MIRRORED).nonzero().flatten()
    assert len(mirrored) == int((clips.split_P == data.TRAIN).sum()) > 0
    same = clips.picture_V == clips.picture_V[mirrored[0]]
    plain = clips.latents_VCHW[same & (clips.view_V == data.PLAIN)][0]
    seen = clips.latents_VCHW[mirrored[0]]
    # Rows, columns and frames are where they were; only left and right are exchanged.
    assert (seen.flip(-1) - plain).abs().mean() < 0.5 * (seen - plain).abs().mean()


def test_features_of_clips_know_what_moves_and_not_which_way(isoflop):
    over_time = isoflop("shown").over_time
    seen = torch.from_numpy(Stream.of("test", "seen").normal(0, (5, 6, 4))).cumsum(1)
    frozen = over_time(seen[:, :1].expand(-1, 6, -1))
    assert over_time(seen).shape == (5, 12)
    assert not frozen[:, 4:].any()
    torch.testing.assert_close(over_time(seen.flip(1)), over_time(seen))
    shuffled = over_time(seen[:, [0, 3, 1, 5, 2, 4]])
    torch.testing.assert_close(shuffled[:, :4], over_time(seen)[:, :4])
    assert (shuffled[:, 4:].mean(0) > over_time(seen)[:, 4:].mean(0)).all()


def test_motion_is_the_mean_change_of_a_level_from_frame_to_frame(isoflop):
    motion = isoflop("shown").motion
    clips = torch.zeros(2, 3, 4, 8, 8, dtype=torch.uint8)
    assert motion(clips) == 0
    clips[0, :, 1::2] = 255
    assert motion(clips) == pytest.approx(255 / 2)


def test_drawings_are_told_by_medium_over_seeds_and_beside_the_real_ones(isoflop, tmp_path):
    media, tables = isoflop("media"), isoflop("tables")
    told = {"n": 7, "frechet": 2.0, "kernel": 1.0, "retrieval": 0.5}
    for name, about in {
        "clips-clean": {**told, "motion": 9.0},
        "pictures-clean": told,
        "clips-s0": {"arm": "clips-s0", "way": "", **told, "motion": 3.0},
        "clips-s1": {"arm": "clips-s1", "way": "", **told, "frechet": 4.0, "motion": 3.0},
        "nano-s0": {"arm": "nano-s0", "way": "", **told},
    }.items():
        write_json(about, tmp_path / f"{name}.json")
    drawings = tables.drawings_in(tmp_path, media.CLIPS)
    assert list(drawings) == ["clips-clean", "clips-s0", "clips-s1"]
    lines = tables.drawn_table(drawings).splitlines()
    assert lines[2] == "| `clips-clean` |  | 1 | 2.0000 | 1.0000 | 0.5000 | 9.0000 |"
    assert lines[3].startswith("| `clips` |  | 2 | 3.0000 ± 1.4142 |")
    assert list(tables.drawings_in(tmp_path, media.PICTURES)) == ["pictures-clean", "nano-s0"]
