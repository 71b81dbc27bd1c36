"""`paris-node models`: what it lists is there, is counted right, and can be used as it says."""

from __future__ import annotations

import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from paris.models.presets import PRESETS, ROUTERS
from paris.node.cli.app import app
from paris.node.cli.models import catalogue, models_table, size
from paris.registry.recipes import PLANS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows():
    return {row["name"]: row for row in catalogue(2)}


def test_json_lists_every_preset_on_stdout_and_nothing_else(monkeypatch, rows):
    monkeypatch.setattr("paris.node.cli.models.catalogue", lambda batch: list(rows.values()))
    result = CliRunner().invoke(app, ["models", "--json"])
    assert result.exit_code == 0
    listed = json.loads(result.stdout)
    assert [row["name"] for row in listed] == [*PRESETS, *ROUTERS]
    assert {(row["name"], row["kind"], row["parameters"]) for row in listed} >= {
        ("dit-xl-2", "expert", 605_970_448),
        ("dit-b-2-pooled", "expert", 129_142_288),
        ("router-b-2", "router", 129_136_904),
    }


def test_what_it_says_can_be_made_into_a_run_is_what_run_create_takes(rows, tmp_path):
    assert {name for name, row in rows.items() if row["run_create"]} == set(PLANS)
    for wrong in ("tinny", "router-b-2"):
        result = CliRunner().invoke(
            app, ["run", "create", "sample:emoji", "--model", wrong, "--home", str(tmp_path), "--json"]
        )
        assert result.exit_code == 2
        message = json.loads(result.stdout)["message"]
        assert f"there is no preset '{wrong}' to make a run of" in message
        assert f"Choose one of {', '.join(PLANS)};" in message


def test_memory_is_told_by_component_and_adds_up(rows):
    xl = rows["dit-xl-2"]
    assert xl["weights_bytes"] == {"fp32": 4 * xl["parameters"], "bf16": 2 * xl["parameters"]}
    parts = xl["training_bytes"]
    assert parts["total"] == sum(value for name, value in parts.items() if name != "total") == 20 * xl["parameters"]
    assert xl["activations_bytes"]["fp32"] == 2 * xl["activations_bytes"]["bf16"]
    assert xl["checkpointed_activations_bytes"]["bf16"] < xl["activations_bytes"]["bf16"]
    assert xl["batch"] == 2
    assert (xl["latent"], xl["picture_px"], xl["codec"]) == ([4, 32, 32], 256, "autoencoder-kl")


def test_needs_are_named_where_a_preset_brings_not_all_it_takes(rows):
    assert rows["tiny"]["needs"] == []
    assert any("--codec" in need for need in rows["dit-s-2"]["needs"])
    assert any("clip-vit-large-patch14" in need for need in rows["dit-s-2"]["needs"])


def test_the_table_says_the_same_to_people(monkeypatch, rows):
    console = Console(width=160)
    with console.capture() as capture:
        console.print(models_table(list(rows.values())))
    line = next(line for line in capture.get().splitlines() if line.startswith("dit-xl-2"))
    assert all(part in line for part in ("605.97 M", "1.21 GB", "12.12 GB", "256 px"))
    monkeypatch.setattr("paris.node.cli.models.catalogue", lambda batch: list(rows.values()))
    result = CliRunner().invoke(app, ["models"])
    assert result.exit_code == 0
    assert "router-b-2" in result.stdout
    assert "dit-s-2, dit-b-2, dit-b-2-pooled, dit-xl-2 need --codec" in result.stderr


def test_sizes_are_in_decimal_units():
    assert (size(999_949_999), size(2_423_881_792)) == ("999.9 MB", "2.42 GB")


def test_an_impossible_batch_is_a_usage_error():
    assert CliRunner().invoke(app, ["models", "--batch", "0"]).exit_code == 2
