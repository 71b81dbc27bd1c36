"""One network for all attacks of a module, and the table of what they achieved, printed after every run."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path

import pytest
from battlefield import Attack, Outcome, battlefield

COLUMNS = ("attack", "attempts", "foreign entries stored", "views looked at", "views changed")
TABLE = pytest.StashKey[list[Outcome]]()


def pytest_addoption(parser):
    parser.addoption("--attacks-json", metavar="FILE", help="write what each attack tried and achieved as JSON")


def pytest_configure(config):
    config.stash[TABLE] = []


def pytest_terminal_summary(terminalreporter, config):
    outcomes = config.stash.get(TABLE, [])
    if not outcomes:
        return
    rows = [(one.attack, one.attempts, one.stored, one.views, one.changed) for one in outcomes]
    total = ("sum", *(sum(row[column] for row in rows) for column in range(1, len(COLUMNS))))
    width = max(len(str(row[0])) for row in (*rows, total))
    terminalreporter.section("attacks on the views of eight honest nodes")
    for row in (COLUMNS, *rows, total):
        cells = [f"{cell:>{len(COLUMNS[number + 1])}}" for number, cell in enumerate(row[1:])]
        terminalreporter.line("  ".join([f"{row[0]:<{width}}", *cells]))
    for one in outcomes:
        if one.why_stored:
            terminalreporter.line(f"{one.attack}: {one.why_stored}")
    if path := config.getoption("--attacks-json", None):
        told = {"attacks": [dataclasses.asdict(one) for one in outcomes], "sum": dict(zip(COLUMNS, total, strict=True))}
        Path(path).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    """The network, held open by one event loop between the tests of a module."""
    with asyncio.Runner() as runner:
        network = battlefield(tmp_path_factory.mktemp("field"))
        made = runner.run(network.__aenter__())
        try:
            yield runner, made
        finally:
            runner.run(network.__aexit__(None, None, None))


@pytest.fixture
def fight(field, request):
    """Run an attack; demand that no honest view changed, then and after one more honest word; returns the outcome."""
    runner, made = field

    def one(attack: Attack) -> Outcome:
        outcome = Outcome(request.node.name.removeprefix("test_").replace("_", " "))

        async def scene() -> None:
            before = made.foreign()
            try:
                await attack(made, outcome)
                outcome.stored = max(0, made.foreign() - before)
                await made.withstand(outcome)
                outcome.attempts += await made.order("asked") if made.lying else 0
            finally:
                await made.calm()

        runner.run(scene())
        request.config.stash[TABLE].append(outcome)
        assert outcome.attempts, "an attack that never reached anybody proves nothing"
        assert outcome.changed == 0, outcome.details[:10]
        return outcome

    return one
