"""Options that cannot be used together are refused by name, with exit code 2; nothing is silently ignored."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_starting import COMMAND, imported
from typer.testing import CliRunner

from paris.node.cli.app import app

RUN = "paris://" + "0" * 64
PEER = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWDqXSWvV53X4Brd2tAHvnTt2wppht6DjoEJQFmbvVNsub"
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
AT_THE_END = """
def tell():
    from huggingface_hub.constants import HF_HUB_OFFLINE
    sys.modules["hub-is-off" if HF_HUB_OFFLINE else "hub-is-on"] = sys
atexit.register(tell)
"""


def said(folder: Path, *arguments: object) -> tuple[int, str]:
    words = [*map(str, arguments), "--home", str(folder / "home"), "--json"]
    result = CliRunner().invoke(app, words)
    lines = result.stdout.strip().splitlines()
    return result.exit_code, json.loads(lines[-1])["message"] if lines else result.output


@pytest.mark.parametrize(
    "options", [("--light",), ("--peer", PEER), ("--listen", LOOPBACK)], ids=lambda options: options[0]
)
@pytest.mark.parametrize("command", [("fetch", RUN), ("audit", RUN), ("generate", RUN, "a fox")], ids=lambda c: c[0])
def test_a_way_to_others_beside_offline(command: tuple[str, ...], options: tuple[str, ...], tmp_path: Path) -> None:
    if command[0] == "generate" and options == ("--light",):
        options = ("--peer", PEER, "--listen", LOOPBACK)
    code, message = said(tmp_path, *command, "--offline", *options)
    assert code == 2
    named = " and ".join(word for word in options if word.startswith("--"))
    assert message.startswith(f"{named} cannot be used with --offline")


@pytest.mark.parametrize("option", ["--up", "--down"])
def test_a_rate_beside_offline(option: str, tmp_path: Path) -> None:
    code, message = said(tmp_path, "fetch", RUN, "--offline", option, "2MB/s")
    assert code == 2
    assert message.startswith(f"{option} cannot be used with --offline")


def test_an_audit_of_a_folder_offline_says_nothing_that_it_is_not_anyway(tmp_path: Path) -> None:
    code, message = said(tmp_path, "audit", tmp_path, "--offline")
    assert code == 2
    assert message.startswith("--offline cannot be used with a folder")


@pytest.mark.parametrize(
    "options",
    [
        ("--policy", "head"),
        ("--light",),
        ("--peer", PEER),
        ("--listen", LOOPBACK),
        ("--publish",),
        ("--no-publish",),
        ("--evaluate",),
        ("--replay", "1"),
        ("--sample", "5%"),
    ],
    ids=lambda options: options[0],
)
@pytest.mark.parametrize("what", ["folder", "repository"])
def test_an_audit_of_what_lies_somewhere_whole_measures_asks_and_tells_nothing(
    what: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    code, message = said(tmp_path, "audit", tmp_path if what == "folder" else "ann/foxes", *options)
    assert code == 2
    assert message.startswith(f"{options[0]} cannot be used with a {what}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("export", RUN, "--to", "hub:"), "no repository is named"),
        (("export", RUN, "--to", "hub:foxes"), "'foxes' is not the name of a repository"),
        (("export", RUN, "--to", "hub:ann/foxes", "--bf16"), "--bf16 cannot be used with a repository"),
        (("export", "no-such-folder", "--to", "hub:ann/foxes"), "neither a run key nor a folder"),
        (("data", "survey", "sample:emoji", "--license", "CC0-1.0"), "No such option: --license"),
        (("models", "release", "ensemble", "out"), "No such command 'release'"),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_a_typing_mistake_is_named(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    code, message = said(tmp_path, *arguments)
    assert code == 2
    assert words in " ".join(message.replace("│", " ").split())


@pytest.mark.parametrize("command", [("fetch", RUN), ("audit", RUN), ("generate", RUN, "a fox")], ids=lambda c: c[0])
def test_an_empty_home_offline_says_what_to_do_with_exit_code_4(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # whatever the command sets ends with the test
    code, message = said(tmp_path, *command, "--offline")
    assert code == 4
    assert "genesis" in message
    assert "Run the command once without --offline" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [("fetch", RUN), ("audit", RUN, "--evaluate"), ("generate", RUN, "a fox")],
    ids=lambda command: command[0],
)
def test_offline_the_hub_is_not_even_asked_for_a_text_encoder(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub's client reads this once, when it is imported: the command must have said it before."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    told = imported(tmp_path, AT_THE_END + COMMAND, *command, "--offline")
    assert told & {"hub-is-off", "hub-is-on"} == {"hub-is-off"}
