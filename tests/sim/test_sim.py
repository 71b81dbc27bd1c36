"""Crowds under the claim rules: ten seeds hold every invariant, and each invariant notices the rule it stands for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sim_run import Scenario, simulate

from paris.protocol.claims import Train, UnitView, View, Wait, Withdraw, decide

REPEAT = "repeat with: python tests/sim/sim_run.py"


@pytest.mark.parametrize("seed", range(10))
def test_every_unit_is_completed_in_bounded_time_whatever_happens(seed):
    report = simulate(seed)
    assert not report.broken, f"{report}\n{REPEAT} {seed}"
    assert report.steps_useful == 60 * (8 if seed % 2 else 7)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_seed_repeats_itself_exactly(seed):
    assert simulate(seed) == simulate(seed)


def test_one_honest_peer_among_many_squatters_finishes_alone():
    report = simulate(3, Scenario(contributors=1, squatters=20, clusters=2, crashes=0))
    assert not report.broken, f"{report}\n{REPEAT} 3"


def test_a_quiet_world_wastes_little():
    report = simulate(2, Scenario(squatters=0, crashes=0, loss=0.0, skew_s=0.0))
    assert not report.broken
    assert report.steps_useful / report.steps_trained > 0.75


def broken_by(rule, **scenario) -> list[str]:
    return [reason for seed in range(4) for reason in simulate(seed, Scenario(**scenario), rule).broken]


def test_without_the_progress_deadline_squatters_would_block():
    def patient(view: View, me: str, run: str, now_s: float):
        return decide(View(tuple(map(young, view.units)), view.lease, view.claimed_at_s), me, run, now_s)

    def young(unit: UnitView) -> UnitView:
        return replace(unit, since_s=2.0**40)

    assert any("lay idle" in reason for reason in broken_by(patient))


def test_without_withdrawing_two_would_train_on():
    def stubborn(view: View, me: str, run: str, now_s: float):
        action = decide(view, me, run, now_s)
        return Train(action.unit) if isinstance(action, Withdraw) else action

    assert any("trained one unit" in reason for reason in broken_by(stubborn, target_step=200))


def test_without_claiming_nothing_would_ever_be_complete():
    def idle(view: View, me: str, run: str, now_s: float):
        return Wait(30, "nothing moves me")

    assert all("lay idle" in reason for reason in broken_by(idle))
    assert broken_by(idle)


def test_a_peer_that_believes_any_progress_loses_its_unit_to_a_boast():
    """Counting the squatters as having progressed blocks a unit as long as they like: why progress is evaluated."""

    def credulous(view: View, me: str, run: str, now_s: float):
        def fooled(unit: UnitView) -> UnitView:
            boasters = {claim.signer for claim in unit.claims if claim.step > unit.target_step}
            return replace(unit, progressed=unit.progressed | boasters, since_s=now_s if boasters else unit.since_s)

        return decide(replace(view, units=tuple(map(fooled, view.units))), me, run, now_s)

    assert any("lay idle" in reason for reason in broken_by(credulous))
