"""The rule vectors follow from the words of docs/protocol.md alone: computed here again, without the code's help."""

from __future__ import annotations

import hashlib

import pytest
from vector_reader import load

RULES = load("rules")


def chosen(prefix: str) -> list[str]:
    return [name for name in RULES if name.startswith(prefix)]


def hashed(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


@pytest.mark.parametrize("name", chosen("order"))
def test_who_goes_first(name):
    vector = RULES[name]
    run, evaluated = vector["run"].removeprefix("sha256:"), vector["evaluated"]

    def place(claim: dict) -> tuple:
        step = min(claim["step"], evaluated["step"])
        score = hashed(run, vector["unit"], evaluated["checkpoint"] or "", claim["signer"])
        return claim["signer"] not in vector["progressed"], -step, score

    assert min(vector["claims"], key=place)["signer"] == vector["first"]


@pytest.mark.parametrize("name", chosen("preference"))
def test_in_which_order_units_are_tried(name):
    vector = RULES[name]
    run = vector["run"].removeprefix("sha256:")
    assert sorted(vector["units"], key=lambda unit: hashed(run, vector["peer"], unit)) == vector["units"]


@pytest.mark.parametrize("name", chosen("keepers"))
def test_who_keeps_copies(name):
    vector = RULES[name]
    run = vector["run"].removeprefix("sha256:")
    ranked = sorted(vector["peers"], key=lambda peer: hashed(run, vector["unit"], peer), reverse=True)
    assert ranked[: vector["replicas"]] == vector["keepers"]


def test_the_vectors_tell_the_rules_apart():
    """Where a rule says so, neither the largest claimed step nor the lowest hash alone would find who goes first."""
    boast = RULES["order-boast"]
    assert boast["first"] != max(boast["claims"], key=lambda claim: claim["step"])["signer"]
    for name in ("order-behind", "order-progress"):
        vector = RULES[name]
        run, checkpoint = vector["run"].removeprefix("sha256:"), vector["evaluated"]["checkpoint"]
        lowest = min(vector["claims"], key=lambda claim: hashed(run, "cluster-1", checkpoint, claim["signer"]))
        assert lowest["signer"] != vector["first"], name


def test_there_are_vectors_of_every_rule():
    assert all(map(chosen, ("order", "preference", "keepers")))
    assert len({RULES[name]["first"] for name in chosen("order")}) > 1
