"""Crowds and enemies under the rules: seeds hold every invariant, and each invariant notices the rule it stands for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sim_peers
import sim_run
import sim_world
from sim_byzantine import Flooder, Forger, Liar, Replayer, Squatter
from sim_run import Scenario, simulate

from paris.protocol import validation
from paris.protocol.book import RecordBook
from paris.protocol.claims import Train, View, Wait, Withdraw, decide
from paris.protocol.errors import SignatureError
from paris.protocol.limits import LIMITS
from paris.protocol.progress import Standing

REPEAT = "repeat with: python tests/sim/sim_main.py --seed"
QUIET = Scenario(hostile=(), flood=0, crashes=0, loss=0.0, skew_s=0.0, split=False)
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", range(10))
def test_every_unit_is_completed_whatever_happens(seed):
    report = simulate(seed)
    assert not report.broken, f"{report}\n{REPEAT} {seed}"


def test_a_seed_repeats_itself_exactly():
    small = Scenario(peers=5, clusters=2, crashes=3)
    assert simulate(1, small) == simulate(1, small)


def test_one_honest_peer_among_enemies_finishes_alone():
    report = simulate(3, Scenario(peers=1, clusters=2, crashes=0, hostile=(Squatter,) * 9 + (Liar,) * 3))
    assert not report.broken, report


def test_a_quiet_world_wastes_little():
    report = simulate(2, QUIET)
    assert not report.broken
    assert report.wasted < 0.15


def test_a_crowd_finds_work_for_every_unit():
    crowd = replace(Scenario.of_crowd(100, 4), target_step=90)
    report = simulate(0, crowd)
    assert not report.broken
    assert report.all_held_s < 900


def test_twenty_thousand_signers_flood_a_slot_of_a_listed_run(monkeypatch):
    """Their signatures are taken as checked: the flood is of names, and what it is to be held against is the book."""

    def flood(unit, signers, now_s):
        return tuple(f"{unit}|{number}|{now_s}".encode() for number in range(signers))

    def check(data, now_s, rules):
        if data.startswith(b"{"):
            return validation.check_record(data, now_s, rules)
        raise SignatureError("this run lists its contributors")

    monkeypatch.setattr(sys.modules["sim_byzantine"], "flood", flood)
    monkeypatch.setattr(sim_world.RealNetwork, "check", staticmethod(check))
    report = simulate(2, replace(QUIET, flood=20_000, listed=True))
    assert Flooder.signers == 20_000
    assert not report.broken


def broken_by(kind: str, seeds: range = range(4), decide=decide, **scenario) -> bool:
    """Whether an invariant of this kind breaks in one of a few worlds."""
    world = Scenario(**scenario)
    return any(reason.startswith(kind) for seed in seeds for reason in simulate(seed, world, decide).broken)


def test_without_checking_signatures_a_forged_record_is_noticed(monkeypatch):
    def credulous(data, now_s, rules):
        payload = validation.envelope._parse(data, LIMITS.record_bytes)
        record = validation.parse_record("claim", validation.strict_json.loads(payload.payload, LIMITS.record_bytes))
        acting = validation.Authority(record.signer, (record.signer,))
        digest, signers = validation.envelope.sha256_of(data), frozenset({record.signer})
        return validation.Received(record, data, digest, acting, signers)

    def check(data, now_s, rules):
        return (credulous if b"vnd.paris.claim" in data else validation.check_record)(data, now_s, rules)

    monkeypatch.setattr(sim_world.RealNetwork, "check", staticmethod(check))
    assert broken_by("signed", hostile=(Forger,))


def test_without_comparing_sequence_numbers_a_replay_is_noticed(monkeypatch):
    monkeypatch.setattr(RecordBook, "_compare", lambda *_: None)
    assert broken_by("seq", hostile=(Replayer,))


def test_without_measuring_garbage_is_noticed(monkeypatch):
    """Counting whatever is claimed makes the liar's wonderful losses carry every unit."""
    real = sim_peers.standing

    def credulous(chains, judge, nothing, proven):
        return Standing(real(chains, lambda *_: True, nothing, proven).counted)

    monkeypatch.setattr(sim_peers, "standing", credulous)
    assert broken_by("promoted", hostile=(Liar,))


def test_without_the_progress_deadline_squatters_would_block():
    def patient(view: View, me, now_s, rng):
        return decide(replace(view, units=tuple(replace(u, since_s=2.0**40) for u in view.units)), me, now_s, rng)

    assert broken_by("neglect", decide=patient, hostile=(Squatter,))


def test_without_withdrawing_two_would_train_on():
    def stubborn(view: View, me, now_s, rng):
        action = decide(view, me, now_s, rng)
        return Train(action.unit) if isinstance(action, Withdraw) else action

    assert broken_by("overlap", decide=stubborn, target_step=200) or broken_by(
        "agreement", decide=stubborn, target_step=200
    )


def test_without_claiming_nothing_would_ever_be_complete():
    assert broken_by("neglect", range(1), decide=lambda *_: Wait(30, "nothing moves me"))


def test_the_command_prints_a_table_and_one_line_that_repeats_a_broken_seed(tmp_path):
    command = [sys.executable, str(Path(sim_run.__file__).parent / "sim_main.py"), "--seed", "3", "--peers", "4"]
    done = subprocess.run(
        [*command, "--clusters", "2", "--out", str(tmp_path / "table.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all held s" in done.stdout
    assert (tmp_path / "table.json").read_text().startswith("{")
