"""What a person meets at the command line: help, typing mistakes, exit codes, keys."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from typer.testing import CliRunner, Result

from paris.node.bootstrap import Source, Tried
from paris.node.cli.app import app
from paris.node.cli.audit_text import print_report
from paris.node.cli.generate import ensemble_folder
from paris.node.cli.run import default_name
from paris.node.cli.status import units_table
from paris.node.console import printable
from paris.node.doctor import _network, addresses_finding, clock_finding, exit_code, source_finding
from paris.node.home import Home
from paris.node.settings import Settings
from paris.protocol.errors import NetworkError, UsageError
from paris.protocol.genesis import RunName
from paris.protocol.skew import Skew
from paris.protocol.transport.daemon import Dial
from paris.registry.findings import Audit, Check, UnitAudit
from paris.registry.recipes import PLANS

DEAD_PEER = "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWDqXSWvV53X4Brd2tAHvnTt2wppht6DjoEJQFmbvVNsub"
LOOPBACK = "/ip4/127.0.0.1/tcp/0"
RUN = "paris://" + "0" * 64


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def rendered(table: Table) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


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
        (("run", "create", "sample:emoji", "--lr", "0"), "nobody could train this run"),
        (("run", "create", "sample:emoji", "--lr", "abc"), "nobody could train with these numbers"),
        (("run", "create", "sample:emoji", "--steps", "9" * 20), "nobody could train with these numbers"),
        (("run", "create", "sample:emoji", "--lease", "9" * 20), "cannot be made as asked"),
        (("fetch", RUN + "?peer=/ip4/1.2.3.4/tcp/80"), "is not the address of a peer"),
        (("status", RUN, "--peer", "/ip4/1.2.3.4/tcp/80"), "is not the address of a peer"),
        (("doctor", "paris://abc"), "64 hexadecimal digits"),
        (("generate", RUN[:-1], "a fox"), "this one has 63"),
        (("generate", "no-such-folder", "a fox", "--out", "."), "is a folder"),
        (("generate", "x", "a fox", "--trace", "."), "is a folder"),
        (("key", "import", "no-such-file"), "there is no file"),
    ],
)
def test_typing_mistake_is_named_with_exit_code_2(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    result = invoke(*arguments, "--home", tmp_path, "--json")
    assert result.exit_code == 2, result.output
    assert said in json.loads(result.stdout.splitlines()[-1])["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("start",),
        ("demo", "--clusters", "1"),
        ("fetch", RUN, "--nonsense"),
        ("begin", RUN),
        ("run", "create", "x", "--clusters", "5000"),
    ],
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


@pytest.mark.parametrize(
    "arguments",
    [
        ("key", "show", "--home", "/dev/null"),
        ("status", RUN, "--home", "/dev/null"),
        ("doctor", "--home", "/dev/null"),
        ("key", "export", "/proc/x"),
    ],
)
def test_a_path_that_cannot_be_used_is_named_with_exit_code_5(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARIS_HOME", str(tmp_path))
    result = invoke(*arguments, "--json")
    assert result.exit_code == 5, result.output
    assert json.loads(result.stdout)["error"] == "ResourceError"
    assert "cannot be used" in result.stdout


def test_the_help_of_create_names_the_presets_that_can_make_a_run() -> None:
    told = " ".join(invoke("run", "create", "--help").output.split())
    assert all(preset in told for preset in PLANS)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ("sample:emoji", "sample emoji"),
        ("/data/data-{00..31}.tar", "data-00..31.tar"),
        ("photos & more/", "photos more"),
        ("été", "t"),
        ("_._", "run"),
        ("/", "run"),
        ("x" * 99, "x" * 64),
    ],
)
def test_a_run_is_named_after_its_data_whatever_they_are_called(data: str, name: str) -> None:
    assert default_name(data) == name
    assert TypeAdapter(RunName).validate_python(name) == name


class TestTextFromStrangers:
    """Names, words and errors that others wrote, some as markup, some as terminal commands."""

    HOSTILE = ("eve [/boom]", "[/]", "[bold", "[link=http://x]y[/link]", "back\\", "a\x1b[2Jb\r\u202e\u0007")

    @pytest.mark.parametrize("text", HOSTILE)
    def test_a_peers_name_does_not_break_the_status_table(self, text: str) -> None:
        unit = {
            "unit": "cluster-0", "words": [text], "holder": "12D3KooWx", "holder_name": text, "step": 1, "target": 2,
            "published_step": 0, "holdout_loss_micro": None, "lease_s": None, "copies": 0,
        }  # fmt: skip
        shown = rendered(units_table(text, [unit]))
        assert shown.count(printable(text).strip()) == 3
        assert not {"\x1b", "\r", "\u202e", "\u0007"} & set(shown)

    @pytest.mark.parametrize("text", HOSTILE)
    def test_a_datas_name_and_a_checks_detail_do_not_break_the_audit(
        self, text: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        segment = {
            "claimed_holdout_loss_micro": None, "parent": None, "checkpoint": "sha256:" + "0" * 64, "from_step": 0,
            "to_step": 1, "signer": "12D3KooWx", "acts_for": "12D3KooWx", "finished": text,
        }  # fmt: skip
        unit = UnitAudit("router", 1, 1, "attested", (Check("weights", ok=False, detail=text),), (segment,))
        print_report(Audit("sha256:" + "0" * 64, text, ("12D3KooWx",), text, text, (unit,)))
        shown = capsys.readouterr().out
        assert shown.count(printable(text).strip()) >= 5
        assert "\x1b[2J" not in shown

    def test_a_setting_with_markup_does_not_break_the_doctor(self, tmp_path: Path) -> None:
        result = invoke("doctor", "--home", tmp_path, "--listen", "[/x]")
        assert result.exit_code == 5, result.output
        assert "settings: '[/x]' is no network address" in result.output


class TestDoctor:
    def test_a_broken_key_is_one_finding_among_others(self, tmp_path: Path) -> None:
        (tmp_path / "identity.key").write_bytes(b"rubbish")
        result = invoke("doctor", "--home", tmp_path, "--listen", "/ip4/127.0.0.1/tcp/0", "--json")
        assert result.exit_code == 5, result.output
        verdicts = {finding["what"]: finding["verdict"] for finding in json.loads(result.stdout)}
        assert verdicts["key"] == "problem"
        assert verdicts["daemon"] == "ok"

    def test_only_the_network_in_the_way_is_exit_code_4(self, tmp_path: Path) -> None:
        result = invoke("doctor", RUN, "--home", tmp_path, "--peer", DEAD_PEER, "--json")
        assert result.exit_code == 4, result.output

    def test_a_key_that_names_nobody_is_told_so(self, tmp_path: Path) -> None:
        result = invoke("doctor", RUN, "--home", tmp_path, "--listen", "/ip4/127.0.0.1/tcp/0", "--json")
        assert result.exit_code == 4, result.output
        assert "this key names no peers" in result.stdout

    def test_every_source_has_a_line_of_its_own_and_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "config.toml").write_text(f'peers = ["{DEAD_PEER}"]\n')
        key = f"{RUN}?hub=team/run"
        peer = DEAD_PEER.replace("/tcp/9/", "/tcp/10/")
        given = ("--peer", peer, "--home", tmp_path, "--listen", LOOPBACK)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
            result = invoke("doctor", key, *given, "--json")
        assert result.exit_code == 4, result.output
        found = {finding["what"]: finding for finding in json.loads(result.stdout)}
        assert found["--peer"]["verdict"] == found["settings"]["verdict"] == "warning"
        assert "refused" in found["--peer"]["detail"]
        assert found["run key"] == {"what": "run key", "verdict": "ok", "detail": "names nobody", "cure": ""}
        assert "switched off here" in found["Hub team/run/peers.json"]["detail"]
        assert found["addresses"]["verdict"] == "warning"
        assert "only this machine can reach it (127.0.0.1)" in found["addresses"]["detail"]
        assert "none of the 2 known peers answered" in found["network"]["detail"]

    def test_it_never_hangs_and_tells_what_it_found_by_then(self, tmp_path: Path) -> None:
        """A peer that takes connections and says nothing is given up after the limit."""
        with socket.create_server(("127.0.0.1", 0)) as mute:
            peer = DEAD_PEER.replace("/tcp/9/", f"/tcp/{mute.getsockname()[1]}/")
            settings = Settings.load({}, home=tmp_path, peers=[peer], listen=LOOPBACK, lan=False)
            findings = asyncio.run(_network(settings, None, limit_s=1.0))
        assert [finding.what for finding in findings] == ["daemon", "addresses", "network"]
        assert "did not end in 1 s" in findings[-1].detail

    def test_a_key_others_could_read_is_told_once(self, tmp_path: Path) -> None:
        Home(tmp_path).identity()
        (tmp_path / "identity.key").chmod(0o644)
        verdicts = []
        for _ in range(2):
            result = invoke("doctor", "--home", tmp_path, "--listen", LOOPBACK, "--json")
            verdicts += [finding["verdict"] for finding in json.loads(result.stdout) if finding["what"] == "key"]
        assert verdicts == ["warning", "ok"]

    @pytest.mark.parametrize(
        ("addresses", "announce", "verdict", "said"),
        [
            ([], (), "warning", "only this machine can reach it (no address)"),
            (["/ip4/127.0.0.1/tcp/1"], (), "warning", "only this machine"),
            (["/ip4/127.0.0.1/tcp/1", "/ip4/192.168.1.7/tcp/1"], (), "warning", "only private addresses"),
            (["/ip6/fe80::1/tcp/1"], (), "warning", "only private addresses"),
            (["/ip4/10.0.0.1/tcp/1", "/ip4/9.9.9.9/tcp/1"], (), "ok", "cannot be seen from here"),
            (["/dns4/node.example/tcp/1"], (), "ok", "cannot be seen from here"),
            (["/ip4/10.0.0.1/tcp/1"], ("/ip4/9.9.9.9/tcp/1",), "ok", "announces /ip4/9.9.9.9/tcp/1"),
        ],
    )
    def test_what_addresses_tell_about_who_can_call(
        self, addresses: list[str], announce: tuple[str, ...], verdict: str, said: str
    ) -> None:
        finding = addresses_finding(addresses, Settings(announce=announce))
        assert finding.verdict == verdict
        assert said in finding.detail

    @pytest.mark.parametrize(
        ("skew", "verdict"),
        [(Skew(1.0, 3), "ok"), (Skew(-11.0, 3), "warning"), (Skew(121.0, 3), "problem"), (None, "warning")],
    )
    def test_a_clock_is_judged_and_cured(self, skew: Skew | None, verdict: str) -> None:
        finding = clock_finding(skew)
        assert finding.verdict == verdict
        assert bool(finding.cure) is (verdict != "ok")
        assert exit_code([finding]) == (5 if verdict == "problem" else 0)

    def test_a_source_is_ok_where_one_of_its_peers_answers(self) -> None:
        source = Source("run key", ("/a", "/b"))
        tried = Tried((source,), (Dial("/a"), Dial("/b", "refused"), Dial("/c", "refused")), 1.0)
        finding = source_finding(source, tried)
        assert (finding.verdict, finding.detail) == ("ok", "1 of 2 answer; /b refused")

    def test_it_examines_beside_a_running_node_of_the_same_home(self, tmp_path: Path) -> None:
        with Home(tmp_path).locked():
            assert invoke("doctor", "--home", tmp_path, "--listen", "/ip4/127.0.0.1/tcp/0").exit_code == 0


class TestGenerate:
    @pytest.mark.parametrize("source", [RUN, RUN.upper(), "0" * 64])
    def test_an_ensemble_fetched_earlier_is_used_when_nobody_answers(
        self, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        settings = Settings.load({}, home=tmp_path, peers=[DEAD_PEER], listen="/ip4/127.0.0.1/tcp/0")
        folder = tmp_path / "ensembles" / ("0" * 16)
        with pytest.raises(NetworkError):
            ensemble_folder(source, settings)
        folder.mkdir(parents=True)
        (folder / "model_index.json").write_text("{}")
        assert ensemble_folder(source, settings) == folder
        assert "fetched earlier" in capsys.readouterr().err
        with pytest.raises(NetworkError):
            ensemble_folder(source, settings, "head")  # what lies there may have been chosen otherwise

    def test_a_folder_has_no_policy(self, tmp_path: Path) -> None:
        (tmp_path / "model_index.json").write_text("{}")
        with pytest.raises(UsageError, match="--policy chooses among a run's checkpoints"):
            ensemble_folder(str(tmp_path), Settings.load({}, home=tmp_path), "latest")


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
