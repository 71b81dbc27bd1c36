"""The named checks, on numbers made by hand: each catches the cheat it is named for and leaves honest work alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from network_simulator import ANN, NOW_S
from safetensors.torch import save_file

from paris.models.likeness import likeness
from paris.protocol.checkpoint import statement
from paris.registry import checks
from paris.registry.findings import Check, reached

RNG = np.random.default_rng(5)
HARD = RNG.uniform(0.5, 2.0, 400)
"""How hard samples are: what varies most, and must not decide anything."""


def noise(scale: float = 0.02) -> np.ndarray:
    return RNG.normal(0, scale, len(HARD))


def segment(from_step: int, to_step: int, loss: int | None, trace=()):
    digest = "sha256:" + "0" * 64
    return statement(
        run=digest, unit="cluster-0", from_step=from_step, to_step=to_step, fence=1, seed=0, manifest=digest,
        parent=digest if from_step else None, start=None, shards={}, signer=ANN.peer_id, versions={}, invocation="x",
        started_s=NOW_S, finished_s=NOW_S, loss_trace_micro=trace, holdout_loss_micro=loss,
    )  # fmt: skip


# What files and statements alone show.


def test_weights_published_twice_are_seen_by_their_digests():
    assert checks.distinct_files("cluster-0", ["a", "b"], {"c": "cluster-1"}).ok
    assert not checks.distinct_files("cluster-0", ["a", "a"], {}).ok
    stolen = checks.distinct_files("cluster-0", ["a", "b"], {"b": "cluster-1"})
    assert not stolen.ok
    assert "cluster-1" in stolen.detail


def test_a_copy_is_seen_through_noise_and_scaling_and_honest_experts_are_not(tmp_path):
    generator = torch.Generator().manual_seed(1)

    def random(scale=1.0):
        return torch.randn(64, 64, generator=generator) * scale

    start, way = random(), random(0.1)
    experts = {
        "honest": start + random(0.1), "source": start + way, "copy": start + way,
        "noisy": start + way + random(0.05), "half": start + way / 2,
    }  # fmt: skip
    files = []
    for name, matrix in {**experts, "start": start}.items():
        save_file({"m": matrix, "bias": torch.ones(64)}, tmp_path / name)
        files.append(tmp_path / name)
    found = likeness(files[:-1], files[-1])
    cosines = dict(zip(experts, found[1], strict=True))
    assert abs(cosines["honest"]) < 0.1
    assert all(cosines[name] > checks.ALIKE for name in ("copy", "noisy", "half"))
    assert cosines["copy"] == pytest.approx(1)
    assert likeness(files[:-1])[0, 1] > 0.9, "without what all started from, all would seem alike"
    assert checks.no_copy("honest", {"source": cosines["honest"]}).ok
    assert "is a copy" in checks.no_copy("noisy", {"honest": 0.0, "source": cosines["noisy"]}).detail
    assert checks.no_copy("only", {}).ok


def test_a_cosine_that_is_no_number_hides_no_copy():
    found = checks.no_copy("noisy", {"overflowing": float("nan"), "source": 1.0})
    assert not found.ok
    assert "source is a copy" in found.detail
    assert checks.no_copy("alone", {"overflowing": float("nan")}).ok


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_weights_whose_squares_overflow_hide_no_copy(tmp_path, dtype):
    generator = torch.Generator().manual_seed(3)
    signs = torch.randn(2, 64, 64, generator=generator).sign() * 3e38
    for name, matrix in {"honest": signs[0], "source": signs[1], "copy": signs[1] / 2}.items():
        save_file({"m": matrix.to(dtype)}, tmp_path / name)
    found = likeness([tmp_path / name for name in ("honest", "source", "copy")])
    assert abs(found[0, 1]) < 0.1
    assert found[1, 2] == pytest.approx(1)


def test_networks_that_never_left_their_start_are_at_no_angle(tmp_path):
    save_file({"m": torch.ones(4, 4)}, tmp_path / "a")
    assert likeness([tmp_path / "a", tmp_path / "a"], tmp_path / "a").tolist() == [[0, 0], [0, 0]]


def test_claims_that_contradict_each_other():
    good = [segment(0, 10, 900_000, [(5, 1), (10, 1)]), segment(10, 20, 800_000)]
    assert checks.believable_claims(good, None).ok
    assert "claims no hold-out loss" in checks.believable_claims([segment(0, 10, None)], None).detail
    assert "its parent one of 0.9" in checks.believable_claims([good[0], segment(10, 20, 1_900_000)], None).detail
    assert "knowing nothing" in checks.believable_claims(good, 500_000).detail
    assert "losses of step 30" in checks.believable_claims([segment(0, 10, 900_000, [(30, 1)])], None).detail


# What measuring shows.


def test_answers_that_are_not_finite():
    assert checks.finite_answers(HARD).ok
    assert not checks.finite_answers(np.append(HARD, np.nan)).ok


@pytest.mark.parametrize(("claimed", "held"), [(1.0, True), (0.99, True), (1.5, True), (0.97, False), (0.5, False)])
def test_an_inflated_claim_has_nowhere_to_hide(claimed, held):
    measured = HARD / HARD.mean()
    assert checks.claimed_loss(round(claimed * 1e6), measured).ok is held


def test_no_claim_is_no_excuse():
    assert not checks.claimed_loss(None, HARD).ok


def test_the_tolerance_is_two_percent_and_four_standard_errors_of_the_pairs():
    public, secret = np.array([1.0, 2.0, 3.0]), np.array([1.1, 2.0, 3.2])
    error = np.std([0.1, 0.0, 0.2], ddof=1) / np.sqrt(3)
    assert checks.secret_tolerance(2.0, public, secret) == pytest.approx(0.04 + 4 * error)
    assert checks.secret_tolerance(2.0, public[:1], secret[:1]) == float("inf")


def test_good_on_the_published_draws_only():
    public = HARD + noise()
    claimed = round(public.mean() * 1e6)
    assert checks.secret_loss(claimed, public, HARD + noise()).ok
    assert not checks.secret_loss(claimed, public, HARD * 1.2 + noise()).ok


def test_a_hard_draw_is_no_lie():
    """Losses vary by half their size, but by their times: pairs of equal time tell three percent from a lie."""
    public = HARD + noise()
    assert checks.secret_tolerance(public.mean(), public, HARD + noise()) < 0.03 * public.mean()


def test_untrained_noise():
    nothing = HARD
    assert checks.learned(HARD * 0.7 + noise(), nothing, last=True).ok
    assert not checks.learned(HARD * 1.3 + noise(), nothing, last=False).ok
    level = HARD + noise()
    assert checks.learned(level, nothing, last=False).ok, "a checkpoint on the way may be level"
    assert not checks.learned(level, nothing, last=True).ok


def test_the_wrong_sign():
    good, turned = HARD * 0.7 + noise(), HARD * 3 + noise()
    assert checks.right_sign(good, turned).ok
    assert not checks.right_sign(turned, good).ok
    assert checks.right_sign(HARD + noise(), HARD + noise()).ok, "who knows nothing has no sign"


def cluster(own: float, other: float, third: float = 0.3) -> Check | None:
    leads = {"cluster-0": own + noise(), "cluster-1": other + noise(), "cluster-2": third + noise()}
    return checks.own_cluster("cluster-0", leads)


def test_an_expert_of_another_cluster():
    honest, swapped = cluster(-0.02, 0.01), cluster(0.0, -0.01)
    assert honest
    assert honest.ok
    assert swapped
    assert not swapped.ok
    assert "cluster-1" in swapped.detail


@pytest.mark.parametrize("worse", [0.0, 0.2])
def test_how_well_an_expert_was_trained_says_nothing_about_where(worse):
    found = cluster(-0.02 + worse, 0.01 + worse, 0.3 + worse)
    assert found
    assert found.ok


def test_where_chance_could_explain_it_nothing_is_said():
    flat = np.tile([-0.1, 0.1], 200)
    assert checks.own_cluster("a", {"a": flat, "b": flat.copy()}) is None
    assert checks.own_cluster("a", {"a": flat}) is None


def test_trained_on_the_published_hold_out_samples():
    assert checks.not_only_public(-0.1 + noise(), -0.1 + noise(), "others").ok
    assert checks.not_only_public(-0.1 + noise(), -0.3 + noise(), "training samples").ok, "better on what it was taught"
    assert not checks.not_only_public(-0.3 + noise(), -0.1 + noise(), "others").ok


@pytest.mark.parametrize("rivals", [2, 3, 7])
@pytest.mark.parametrize("harm", [0.5, -0.5], ids=["worse", "better"])
def test_one_rival_that_is_odd_on_the_published_samples_refutes_nobody_and_covers_nobody(rivals, harm):
    """The mean would move by `harm` / `rivals`, far above chance."""

    def judged(learned: float) -> Check:
        others = np.stack([noise() for _ in range(rivals)]), np.stack([noise() for _ in range(rivals)])
        others[0][0] += harm
        return checks.not_only_public(noise() - learned - others[0], noise() - others[1], "others")

    assert judged(0.0).ok
    covered = rivals == 2 and harm < 0  # of two, both must say so
    assert judged(0.3).ok is covered


# What is made of it.


@given(st.lists(st.sampled_from(["attested", "consistent", "evaluated", "replayed"])), st.integers(0, 20))
def test_no_level_is_reached_over_a_check_that_failed(levels, broken):
    found = [Check("x", ok=number != broken, detail="", level=level) for number, level in enumerate(levels)]
    level = reached(found)
    order = ["nothing", "attested", "consistent", "evaluated", "replayed"]
    for check in found:
        if not check.ok:
            assert order.index(level) < order.index(check.level)
    assert level == "nothing" or any(check.level == level for check in found)


def test_how_far_a_unit_is_decides_no_level():
    found = [Check("lineage", ok=True, detail="", level="attested"), Check("complete", ok=False, detail="", level="")]
    assert reached(found) == "attested"
