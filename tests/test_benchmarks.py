"""Every benchmark runs, at its smallest size; nothing here looks at how fast anything was."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture
def benchmark_module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["protocol", "registry", "models"])
def test_a_benchmark_compares_and_its_result_is_plain_json(benchmark_module, name):
    result, rows = benchmark_module("__main__").measured(name, quick=True)
    assert rows
    for row in rows:
        assert row.against
        assert len(row.ours_s) == len(row.reference_s)
        assert row.ratio > 0
    said = json.loads(json.dumps(result, allow_nan=False))
    assert said["command"] == f"python -m benchmarks {name}"
    assert not any(part in json.dumps(said) for part in (str(ROOT), str(Path.home())))


def test_pairs_are_interleaved_and_the_first_is_not_counted(benchmark_module):
    calls: list[str] = []
    compare = benchmark_module("measure").compare
    row = compare("ours", lambda: calls.append("o"), lambda: calls.append("r"), against="theirs", repeats=3)
    assert calls == ["r", "o", "o", "r", "r", "o", "o", "r"]
    assert len(row.ours_s) == 3


def test_a_ratio_above_one_means_that_we_are_faster(benchmark_module):
    row = benchmark_module("measure").Row("ours", "theirs", 10, "MB", (1.0, 2.0, 4.0), (2.0, 3.0, 2.0), target=1.0)
    assert row.ratios == [0.5, 1.5, 2.0]
    assert row.ratio == 1.5
    assert row.held is True
    assert row.speed(row.ours_s) == "5 MB/s"


def test_an_unknown_benchmark_is_refused(benchmark_module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmarks", "sorcery"])
    with pytest.raises(SystemExit) as refusal:
        benchmark_module("__main__").main()
    assert refusal.value.code == 2
    assert "there is no benchmark sorcery; there are protocol, registry, models" in capsys.readouterr().err
