"""The packaged plans: one for every preset, valid as they stand, and sane for what they train."""

from __future__ import annotations

from decimal import Decimal

import pytest
from network_simulator import genesis_fields

from paris.models.presets import TEXT_ENCODERS
from paris.models.video_presets import EVERY_PRESET
from paris.protocol.digests import sha256_of
from paris.protocol.records import Genesis, Recipe
from paris.registry.recipes import PLANS, Plan
from paris.registry.trainable import recipe_problem

plans = pytest.mark.parametrize("name", sorted(PLANS))


def recipes(plan: Plan) -> tuple[Recipe, Recipe]:
    return plan.expert, plan.router


def test_every_preset_that_has_a_text_encoder_has_a_plan_and_every_plan_a_preset():
    assert set(PLANS) == {name for name, preset in EVERY_PRESET.items() if preset.expert["text_dim"] in TEXT_ENCODERS}


@plans
def test_a_plan_fits_into_a_genesis(name):
    plan = PLANS[name]
    training = {"expert": plan.expert.model_dump(mode="json"), "router": plan.router.model_dump(mode="json")}
    lease = {"life_s": plan.life_s, "settle_s": plan.settle_s, "progress_s": plan.progress_s}
    fields = genesis_fields(training=training, lease=lease, replicas=plan.replicas)
    fields["data"]["manifest"] = sha256_of(b"data")
    genesis = Genesis.parse(fields)
    assert genesis.recipe("cluster-0") == plan.expert
    assert genesis.target_steps("router") == plan.router.steps


@plans
def test_work_is_published_often_enough_to_lose_little(name):
    for recipe in recipes(PLANS[name]):
        assert 10 <= recipe.steps / recipe.publish_every <= 40
        assert recipe.steps % recipe.publish_every == 0


@plans
def test_fractions_are_fractions_and_rates_are_positive(name):
    for recipe in recipes(PLANS[name]):
        assert 0 < Decimal(recipe.lr) < Decimal("0.01")
        assert 0 <= Decimal(recipe.text_dropout) < 1
        assert 0 < Decimal(recipe.ema) < 1
        assert Decimal(recipe.grad_clip) > 0


@plans
def test_a_claimant_settles_well_within_its_lease(name):
    plan = PLANS[name]
    assert plan.settle_s * 3 <= plan.life_s <= plan.progress_s
    assert plan.replicas >= 1


def test_the_large_presets_take_batch_and_rate_from_the_paper():
    for name in ("dit-b-2", "dit-xl-2"):
        expert = PLANS[name].expert
        assert (expert.batch, expert.lr, expert.precision) == (256, "0.0001", "bf16")


def test_only_the_test_presets_train_in_full_precision():
    assert [name for name, plan in PLANS.items() if plan.expert.precision == "fp32"] == ["micro", "video-nano"]


@plans
def test_networks_that_can_be_told_a_first_frame_are_told_some(name):
    for recipe in recipes(PLANS[name]):
        assert bool(float(recipe.first_frames)) == EVERY_PRESET[name].expert.get("first_frame", False)
        assert recipe_problem(recipe, EVERY_PRESET[name]) is None


def test_pictures_have_no_first_frame_to_be_told():
    assert "first frame" in str(recipe_problem(PLANS["video-nano"].expert, EVERY_PRESET["micro"]))
