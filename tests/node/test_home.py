"""Homes, settings, jobs and grids: the small parts of a node."""

from __future__ import annotations

import dataclasses
import logging
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from paris.node.grid import CELL_PX, captioned_grid, save_png
from paris.node.home import Home
from paris.node.jobs import Event, Means, checkpoint_folders
from paris.node.settings import Settings
from paris.protocol.errors import UsageError
from paris.registry.runkey import RunKey

PEER = "/p2p/12D3KooWDqXSWvV53X4Brd2tAHvnTt2wppht6DjoEJQFmbvVNsub"


def test_two_live_nodes_with_one_key_are_refused(tmp_path: Path) -> None:
    """Another real process holds the home."""
    code = (
        "import sys; from pathlib import Path; from paris.node.home import Home\n"
        f"with Home(Path({str(tmp_path)!r})).locked(): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdin
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match=f"process {other.pid}"), Home(tmp_path).locked():
            pass
        other.stdin.close()
        other.wait()
    with Home(tmp_path).locked():
        pass


def test_kill_9_leaves_no_lock_behind(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from paris.node.home import Home\n"
        f"with Home(Path({str(tmp_path)!r})).locked(): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        other.kill()
        other.wait()
    with Home(tmp_path).locked():
        pass


class TestKeyFile:
    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o777])
    def test_a_key_that_others_can_read_is_closed_to_them_and_told(
        self, mode: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        name = Home(tmp_path).identity().peer_id
        (tmp_path / "identity.key").chmod(mode)
        with caplog.at_level(logging.WARNING):
            assert Home(tmp_path).identity().peer_id == name
        assert stat.S_IMODE((tmp_path / "identity.key").stat().st_mode) == 0o600
        assert f"mode {mode:o}" in caplog.text
        caplog.clear()
        Home(tmp_path).identity()
        assert not caplog.text

    def test_a_key_that_cannot_be_closed_is_refused_in_words(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A file system without permissions takes a chmod and forgets it; somebody else's file takes none."""
        Home(tmp_path).identity()
        (tmp_path / "identity.key").chmod(0o644)

        def refuse(*_: object) -> None:
            raise PermissionError

        for chmod in (lambda *_: None, refuse):
            monkeypatch.setattr(Path, "chmod", chmod)
            with pytest.raises(UsageError, match="others on this machine can read") as caught:
                Home(tmp_path).identity()
            assert "644" in caught.value.why
            assert "--home" in caught.value.hint


class TestSettings:
    def test_peers_of_the_command_line_come_first_and_add_to_those_set_for_good(self, tmp_path: Path) -> None:
        (tmp_path / "config.toml").write_text(f'peers = ["/a{PEER}", "/b{PEER}"]\n')
        settings = Settings.load({}, home=tmp_path, peers=["/c" + PEER, "/a" + PEER])
        assert settings.peers == ("/c" + PEER, "/a" + PEER, "/b" + PEER)
        assert settings.asked_peers == ("/c" + PEER, "/a" + PEER)
        assert Settings.load({}, home=tmp_path).asked_peers == ()

    @pytest.mark.parametrize(("value", "lan"), [("false", False), ("0", False), ("Off", False), ("true", True)])
    def test_the_local_network_can_be_switched_off(self, value: str, lan: bool, tmp_path: Path) -> None:
        assert Settings.load({"PARIS_LAN": value}, home=tmp_path).lan is lan
        (tmp_path / "config.toml").write_text("lan = false\n")
        assert Settings.load({}, home=tmp_path).lan is False

    @pytest.mark.parametrize(
        "line", ['lan = "maybe"', "lan = 2", 'hub = "name"', "hub = 5", 'hub = "a/b/c"', 'asked_peers = ["x"]']
    )
    def test_a_switch_or_a_repository_that_is_none_is_named(self, line: str, tmp_path: Path) -> None:
        (tmp_path / "config.toml").write_text(line + "\n")
        with pytest.raises(UsageError):
            Settings.load({}, home=tmp_path)

    def test_flags_beat_environment_beats_file_beats_default(self, tmp_path: Path) -> None:
        (tmp_path / "config.toml").write_text('name = "file"\nthreads = 3\nlisten = "/ip4/127.0.0.1/tcp/1"\n')
        environ = {"PARIS_HOME": str(tmp_path), "PARIS_NAME": "environment", "PARIS_THREADS": "4"}
        settings = Settings.load(environ, threads=5)
        assert (settings.name, settings.threads, settings.listen) == ("environment", 5, "/ip4/127.0.0.1/tcp/1")
        assert settings.announce == ()

    def test_peers_in_the_environment_are_separated_by_commas(self, tmp_path: Path) -> None:
        assert Settings.load({"PARIS_PEERS": f"/a{PEER},/b{PEER}"}, home=tmp_path).peers == ("/a" + PEER, "/b" + PEER)

    def test_an_empty_list_of_peers_is_no_peer(self, tmp_path: Path) -> None:
        assert Settings.load({"PARIS_PEERS": ""}, home=tmp_path).peers == ()

    @pytest.mark.parametrize("peers", ["/ip4/1.2.3.4/tcp/80", "/ip4/1.2.3.4/tcp/80/p2p/me", f"/a{PEER},/b"])
    def test_a_peer_without_its_name_is_named(self, tmp_path: Path, peers: str) -> None:
        with pytest.raises(UsageError, match="is not the address of a peer"):
            Settings.load({"PARIS_PEERS": peers}, home=tmp_path)

    @pytest.mark.parametrize(
        "line",
        ["threads = [1]", "threads = 1.5", "threads = true", "peers = 5", "peers = [5]", "name = 5", 'listen = ["/a"]'],
    )
    def test_a_value_of_another_type_in_config_toml_is_named(self, tmp_path: Path, line: str) -> None:
        (tmp_path / "config.toml").write_text(line + "\n")
        with pytest.raises(UsageError, match=line.partition(" ")[0]):
            Settings.load({}, home=tmp_path)

    def test_config_toml_that_is_not_utf_8_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "config.toml").write_bytes('name = "Zoë"\n'.encode("latin-1"))
        with pytest.raises(UsageError, match="not valid TOML"):
            Settings.load({}, home=tmp_path)

    @pytest.mark.parametrize("value", ["many", "-1", "1.5"])
    def test_impossible_threads_are_named(self, tmp_path: Path, value: str) -> None:
        with pytest.raises(UsageError, match="threads"):
            Settings.load({"PARIS_THREADS": value}, home=tmp_path)

    def test_broken_toml_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "config.toml").write_text("name = \n")
        with pytest.raises(UsageError, match="not valid TOML"):
            Settings.load({}, home=tmp_path)

    def test_zero_threads_means_every_core(self, tmp_path: Path) -> None:
        assert Settings.load({}, home=tmp_path).means.threads >= 1

    def test_what_trains_is_set_like_everything_else(self, tmp_path: Path) -> None:
        (tmp_path / "config.toml").write_text("processes = 2\nsharded = true\n")
        means = Settings.load({"PARIS_COMPILED": "inductor"}, home=tmp_path, threads=3).means
        assert means == Means(threads=3, processes=2, sharded=True, compiled="inductor")


class TestProcesses:
    @pytest.mark.parametrize(("gpus", "batch", "count"), [(0, 64, 1), (1, 64, 1), (4, 64, 4), (3, 64, 2), (8, 6, 6)])
    def test_as_many_gpus_as_can_share_the_batch(self, gpus: int, batch: int, count: int) -> None:
        assert Means(threads=1).shared_by(batch, gpus) == count

    def test_who_asks_for_a_number_gets_it(self) -> None:
        assert Means(threads=1, processes=3).shared_by(64, 1) == 3


class TestCheckpointFolders:
    def test_unfinished_folder_is_not_taken_for_a_checkpoint(self, tmp_path: Path) -> None:
        for step, whole in ((20, True), (100, True), (120, False)):
            folder = tmp_path / f"checkpoint-{step}"
            folder.mkdir()
            if whole:
                (folder / "metrics.json").write_text("{}")
        (tmp_path / "checkpoint-200.broken").mkdir()
        assert list(checkpoint_folders(tmp_path)) == [20, 100]

    def test_none_at_all(self, tmp_path: Path) -> None:
        assert checkpoint_folders(tmp_path / "nothing") == {}


@pytest.mark.parametrize("line", [b"", b"Loading weights: 100%\n", b"[1]\n", b'{"no": "event"}\n', b"\xff\xfe"])
def test_noise_of_a_library_is_no_event(line: bytes) -> None:
    assert Event.parse(line) is None


def test_event_survives_the_pipe() -> None:
    event = Event("step", {"step": 3, "loss": 0.5})
    assert Event.parse(event.line().encode()) == event


class TestRunKey:
    def test_round_trip_with_hints(self) -> None:
        key = RunKey("sha256:" + "ab" * 32, ("/ip4/1.2.3.4/tcp/5" + PEER, "/dns4/x/tcp/1" + PEER))
        assert RunKey.parse(str(key)) == key

    def test_bare_digest_is_enough(self) -> None:
        assert RunKey.parse("ab" * 32).run == "sha256:" + "ab" * 32


def test_grid_holds_every_picture(tmp_path: Path) -> None:
    colours = ["red", "green", "blue", "black", "yellow"]
    sheet = captioned_grid([Image.new("RGB", (8, 8), colour) for colour in colours], colours)
    save_png(sheet, tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as read:
        assert read.size == sheet.size
        found = {pixel for _, pixel in read.getcolors(1 << 20)}
    assert {(255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 0)} <= found
    assert sheet.width >= 2 * CELL_PX


def test_the_page_of_settings_names_each_of_them_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text(encoding="utf-8")
    cells = [row.split("|") for row in page.splitlines() if row.startswith("| `")]
    defaults = {name.strip(" `"): row[-2].strip(" `") for row in cells for name in row[1].split(",")}
    settable = {field.name for field in dataclasses.fields(Settings)} - {"home", "asked_peers"}
    values = {name: getattr(Settings(), name) for name in settable}
    assert defaults == {name: "none" if value in ("", ()) else str(value).lower() for name, value in values.items()}
