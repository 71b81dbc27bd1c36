"""Who drew which step: summarised, saved, and drawn so that the picture can be read back."""

from __future__ import annotations

import json

import torch

from paris.models.trace import COLOURS, Drawn, Trace

WEIGHTS = torch.tensor([[[0.75, 0.25, 0.0], [0.0, 0.0, 1.0]], [[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]]])
TRACE = Trace(WEIGHTS, torch.tensor([1.0, 0.5]))


def test_every_picture_lists_its_experts_busiest_first():
    assert len(TRACE) == 2
    assert TRACE[0] == [Drawn(0, 2, 0.875), Drawn(1, 1, 0.125)]
    assert list(TRACE) == [TRACE[0], [Drawn(2, 2, 0.75), Drawn(1, 1, 0.25)]]
    assert TRACE[0:2] == list(TRACE)
    assert TRACE[-1] == TRACE[1]


def test_equal_routing_is_equal():
    assert Trace(WEIGHTS.clone(), torch.tensor([1.0, 0.5])) == TRACE
    assert Trace(WEIGHTS.flip(0), torch.tensor([1.0, 0.5])) != TRACE
    assert TRACE != [1]


def test_json_holds_every_step_and_only_experts_with_weight(tmp_path):
    TRACE.save(tmp_path / "deep" / "trace.json")
    assert json.loads((tmp_path / "deep" / "trace.json").read_text()) == {
        "experts": 3,
        "times": [1.0, 0.5],
        "pictures": [
            {"steps": [{"0": 0.75, "1": 0.25}, {"0": 1.0}]},
            {"steps": [{"2": 1.0}, {"1": 0.5, "2": 0.5}]},
        ],
    }


def test_the_null_half_is_told_apart():
    both = Trace(WEIGHTS, TRACE.times_S, WEIGHTS.flip(0)).as_json()["pictures"]
    assert both[0]["null_steps"] == [{"0": 1.0}, {"0": 0.75, "1": 0.25}]


def test_the_picture_gives_every_expert_its_share_of_every_bar():
    picture = TRACE.picture(["a fox", "a car"])
    colours = [tuple(int(c[i : i + 2], 16) for i in (1, 3, 5)) for c in COLOURS]
    for i in range(2):
        for step in range(2):
            left, top = 10 + 12 * step, 10 + 20 + i * 84 + 17
            column = [picture.getpixel((left + 5, top + y)) for y in range(61)]
            shares = [column.count(colours[k]) / 61 for k in range(3)]
            assert torch.allclose(torch.tensor(shares), WEIGHTS[step, i], atol=0.05)


def test_more_experts_than_colours_and_captions_than_room_still_draw():
    weights = torch.full((3, 1, 20), 0.05)
    assert Trace(weights, torch.ones(3)).picture(["x" * 500]).size[0] >= 20 * 40
