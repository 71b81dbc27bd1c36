"""What a person meets at the command line: help, typing mistakes, exit codes, keys."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from paris.node.cli.app import app

DEAD_PEER = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWDqXSWvV53X4Brd2tAHvnTt2wppht6DjoEJQFmbvVNsub"
RUN = "paris://" + "0" * 64


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_help_needs_no_torch() -> None:
    code = "import sys; import paris.node.cli.app; sys.exit('torch' in sys.modules or 'hivemind' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("command", [(), ("run",), ("key",), ("start",), ("audit",), ("demo",)])
def test_help_exits_0_and_names_the_options(command: tuple[str, ...]) -> None:
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert "--help" in result.output


@pytest.mark.parametrize("command", ["start", "status", "fetch", "generate", "audit"])
def test_help_names_the_defaults(command: str) -> None:
    """Square brackets would be swallowed as markup, or end the program."""
    assert "~/.paris" in invoke(command, "--help").output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("start", "paris://abc"), "64 hexadecimal digits"),
        (("fetch", "parris://" + "0" * 64), "is not a run key"),
        (("status", "hello"), "is not a run key"),
        (("audit", RUN[:-1]), "this one has 63"),
        (("generate", "no-such-folder", "a fox"), "neither a run key nor a folder"),
        (("run", "create", "no-such-data"), "There is no data"),
        (("run", "create", "sample:emojis"), "sample"),
        (("run", "create", "sample:emoji", "--model", "tinny"), "no preset 'tinny'"),
        (("key", "import", "no-such-file"), "there is no file"),
    ],
)
def test_typing_mistake_is_named_with_exit_code_2(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = invoke(*arguments, "--home", tmp_path, "--json")
    assert result.exit_code == 2, result.output
    assert said in json.loads(result.stdout.splitlines()[-1])["message"]


@pytest.mark.parametrize(
    "arguments", [("start",), ("demo", "--clusters", "1"), ("fetch", RUN, "--nonsense"), ("strat", RUN)]
)
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    assert invoke(*arguments).exit_code == 2


@pytest.mark.parametrize("command", ["fetch", "audit", "status"])
def test_dead_bootstrap_is_named_with_exit_code_4(command: str, tmp_path: Path) -> None:
    result = invoke(command, RUN, "--peer", DEAD_PEER, "--home", tmp_path, "--listen", "/ip4/127.0.0.1/tcp/0", "--json")
    assert result.exit_code == 4, result.output
    message = json.loads(result.stdout.splitlines()[-1])["message"]
    assert DEAD_PEER in message
    assert "--peer" in message


def test_setting_with_a_typo_in_config_toml_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('lissten = "/ip4/0.0.0.0/tcp/0"\n')
    result = invoke("key", "show", "--home", tmp_path, "--json")
    assert result.exit_code == 2
    assert "'lissten'" in result.stdout


class TestKey:
    def test_show_makes_one_and_keeps_it(self, tmp_path: Path) -> None:
        first, second = (json.loads(invoke("key", "show", "--home", tmp_path, "--json").stdout) for _ in range(2))
        assert first == second
        assert first["peer_id"].startswith("12D3KooW")
        assert stat.S_IMODE((tmp_path / "identity.key").stat().st_mode) == 0o600

    def test_export_import_moves_the_name(self, tmp_path: Path) -> None:
        name = invoke("key", "show", "--home", tmp_path / "a").stdout
        assert invoke("key", "export", tmp_path / "k", "--home", tmp_path / "a").exit_code == 0
        assert stat.S_IMODE((tmp_path / "k").stat().st_mode) == 0o600
        assert invoke("key", "import", tmp_path / "k", "--home", tmp_path / "b").stdout == name
        assert invoke("key", "show", "--home", tmp_path / "b").stdout == name

    def test_import_over_an_existing_key_is_refused(self, tmp_path: Path) -> None:
        invoke("key", "export", tmp_path / "k", "--home", tmp_path / "a")
        kept = invoke("key", "show", "--home", tmp_path / "b").stdout
        assert invoke("key", "import", tmp_path / "k", "--home", tmp_path / "b").exit_code == 2
        assert invoke("key", "show", "--home", tmp_path / "b").stdout == kept

    def test_export_over_an_existing_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "k").write_text("precious")
        assert invoke("key", "export", tmp_path / "k", "--home", tmp_path / "a").exit_code == 2
        assert (tmp_path / "k").read_text() == "precious"

    @pytest.mark.parametrize("text", ["", "not base64 !", "aGVsbG8="])
    def test_import_of_something_else_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "k").write_text(text)
        result = invoke("key", "import", tmp_path / "k", "--home", tmp_path / "a", "--json")
        assert result.exit_code == 2, result.output
        assert not (tmp_path / "a" / "identity.key").exists()
