"""`paris-node generate` on a small ensemble: every option acts, and options that contradict each other are named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from node_support import draw_ensemble
from PIL import Image
from typer.testing import CliRunner, Result

from paris.models import routing, schedulers
from paris.node.cli import drawing
from paris.node.cli.app import app
from paris.node.cli.drawing import size_bytes
from paris.protocol.errors import UsageError


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three micro experts and a router, all parameters random."""
    return draw_ensemble(tmp_path_factory.mktemp("ensemble"), experts=3)


@pytest.fixture
def generate(ensemble: Path, tmp_path: Path):
    def generate(*options: object, prompts: tuple[str, ...] = ("a fox",)) -> Result:
        words = ["generate", ensemble, *prompts, "--out", tmp_path / "out.png", "--home", tmp_path, "--json", *options]
        return CliRunner().invoke(app, [str(word) for word in words])

    return generate


def drawn(result: Result) -> dict:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


def experts(result: Result) -> list[tuple[int, int]]:
    return sorted((part["expert"], part["steps"]) for part in drawn(result)["pictures"][0]["experts"])


def test_names_on_the_command_line_are_those_of_the_models() -> None:
    assert list(drawing.STRATEGIES) == list(routing.STRATEGIES)
    assert list(drawing.SCHEDULERS) == list(schedulers.SCHEDULERS)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--strategy", "vote"), "no strategy 'vote'"),
        (("--top-k", 2, "--strategy", "full"), "--top-k says nothing to the strategy full"),
        (("--top-k", 2, "--threshold", 0.1), "--top-k says nothing to the strategy threshold"),
        (("--threshold", 0.1, "--mass", 0.9), "--mass says nothing to the strategy threshold"),
        (("--threshold", 0.1, "--strategy", "nucleus"), "--threshold says nothing to the strategy nucleus"),
        (("--expert", 1, "--top-k", 1), "--top-k says nothing to the strategy oracle"),
        (("--expert", 1, "--strategy", "top-k"), "--expert says nothing to the strategy top-k"),
        (("--temperature", 2, "--expert", 1), "--temperature says nothing to the strategy oracle"),
        (("--strategy", "oracle"), "has to be told an expert"),
        (("--expert", 3), "experts 0 to 2"),
        (("--top-k", 4), "This ensemble has 3"),
        (("--threshold", 1.5), "threshold 1.5 is impossible"),
        (("--temperature", 0), "temperature 0.0 is impossible"),
        (("--guidance-weights", "both"), "exact and shared"),
        (("--scheduler", "ddim"), "no scheduler 'ddim'"),
        (("--guidance", "nan"), "no number to scale by"),
        (("--guidance", 1, "--negative", "blurred"), "nothing to lead away from"),
        (("--guidance", 1, "--guidance-weights", "exact"), "nothing to lead away from"),
        (("--strength", 0.5), "there is none"),
        (("--image", "no-such.png"), "no picture that can be read"),
        (("--trace", "trace.gif"), "End its name in .png or .json"),
        (("--memory", "lots"), "is no size"),
        (("--memory", "0.001MB"), "memory cap"),
        (("--width", 64), "are for that size"),
        (("--strategy", "router-free"), "no data centres"),
    ],
)
def test_options_that_contradict_are_named_with_exit_code_2(generate, options, said) -> None:
    result = generate(*options)
    assert result.exit_code == 2, result.output
    assert said in json.loads(result.stdout.splitlines()[-1])["message"]


def test_a_strength_beyond_its_picture_is_named(generate, tmp_path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "in.png")
    for strength, said in ((1.5, "up to 1"), (0.01, "leaves nothing to draw")):
        result = generate("--image", tmp_path / "in.png", "--strength", strength, "--steps", 5)
        assert result.exit_code == 2
        assert said in result.stdout


def test_every_strategy_draws_with_the_experts_it_means(generate) -> None:
    assert len(experts(generate("--steps", 2))) >= 2
    assert experts(generate("--steps", 2, "--strategy", "full")) == [(0, 2), (1, 2), (2, 2)]
    assert experts(generate("--steps", 2, "--threshold", 0)) == [(0, 2), (1, 2), (2, 2)]
    assert experts(generate("--steps", 2, "--mass", 1)) == [(0, 2), (1, 2), (2, 2)]
    assert experts(generate("--steps", 2, "--expert", 1)) == [(1, 2)]
    assert sum(steps for _, steps in experts(generate("--steps", 4, "--strategy", "sample", "--top-k", 1))) == 4


def test_the_trace_is_written_as_picture_and_as_numbers(generate, tmp_path) -> None:
    result = drawn(generate("--steps", 3, "--trace", tmp_path / "t.png", prompts=("a fox", "a car")))
    assert result["trace"] == str(tmp_path / "t.png")
    with Image.open(tmp_path / "t.png") as picture:
        assert picture.size[0] > 100
    drawn(generate("--steps", 3, "--scheduler", "heun", "--trace", tmp_path / "t.json"))
    trace = json.loads((tmp_path / "t.json").read_text())
    assert [len(trace["times"]), len(trace["pictures"][0]["steps"])] == [5, 5], "Heun asks twice a step, but the last"


def test_options_reach_the_picture(generate, tmp_path) -> None:
    def pixels(*options: object) -> np.ndarray:
        drawn(generate("--steps", 4, *options))
        return np.asarray(Image.open(tmp_path / "out.png").convert("RGB"))

    Image.new("RGB", (50, 70), "red").save(tmp_path / "in.png")
    plain = pixels()
    np.testing.assert_array_equal(plain, pixels("--memory", "1GB", "--strategy", "top-k", "--guidance-weights", "auto"))
    for options in (
        ("--scheduler", "unipc"),
        ("--scheduler", "dpm++"),
        ("--negative", "blurred"),
        ("--guidance", 1),
        ("--guidance-weights", "shared"),
        ("--seed", 1),
        ("--temperature", 5),
        ("--image", tmp_path / "in.png"),
    ):
        assert not np.array_equal(plain, pixels(*options)), options


def test_people_read_who_drew_what(ensemble, tmp_path) -> None:
    words = [
        "generate",
        ensemble,
        "a fox",
        "--out",
        tmp_path / "out.png",
        "--home",
        tmp_path,
        "--steps",
        2,
        "--expert",
        2,
    ]
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert "a fox: expert 2: 2 steps" in result.output
    assert result.stdout.strip().endswith("out.png")


@pytest.mark.parametrize(
    ("text", "size"), [("800MB", 800 * 10**6), ("1.5 GiB", 3 * 2**29), ("12gb", 12 * 10**9), (None, None)]
)
def test_sizes_are_read(text, size) -> None:
    assert size_bytes(text) == size


@pytest.mark.parametrize("text", ["", "8", "GB", "-1GB", "1e3GB", "1TB"])
def test_what_is_no_size_is_refused(text) -> None:
    with pytest.raises(UsageError, match="is no size"):
        size_bytes(text)
