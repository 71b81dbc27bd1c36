"""Writes are wholly there or not there at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys

import pytest

from paris.protocol.errors import ResourceError
from paris.registry import atomic


def temporaries(folder):
    return list(folder.rglob(f"*{atomic.TEMPORARY_SUFFIX}"))


def test_a_file_appears_with_its_folders(tmp_path):
    path = tmp_path / "a" / "b" / "c.bin"
    atomic.write_bytes(path, b"whole")
    assert path.read_bytes() == b"whole"
    assert not temporaries(tmp_path)


def interrupted_write(path):
    with atomic.replacing(path) as out:
        out.write(b"half of the n")
        raise KeyboardInterrupt


def test_a_failing_writer_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "file"
    atomic.write_bytes(path, b"old")
    with pytest.raises(KeyboardInterrupt):
        interrupted_write(path)
    assert path.read_bytes() == b"old"
    assert not temporaries(tmp_path)


def test_nobody_sees_the_new_file_before_it_is_whole(tmp_path):
    path = tmp_path / "file"
    atomic.write_bytes(path, b"old")
    with atomic.replacing(path) as out:
        out.write(b"new")
        out.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_a_full_disk_keeps_the_old_file_and_says_how_much_is_needed(tmp_path, full_disk):
    path = tmp_path / "file"
    atomic.write_bytes(path, b"old")
    with full_disk(100_000), pytest.raises(ResourceError) as caught:
        atomic.write_bytes(path, b"x" * 1_234_567)
    assert caught.value.exit_code == 5
    assert "1,234,567 bytes are needed" in str(caught.value)
    assert str(path) in str(caught.value) or path.name in str(caught.value)
    assert path.read_bytes() == b"old"
    assert not temporaries(tmp_path)


def test_other_disk_errors_are_not_called_a_full_disk(tmp_path):
    with pytest.raises(OSError, match="Input/output") as caught, atomic.replacing(tmp_path / "file"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert not isinstance(caught.value, ResourceError)
    assert not temporaries(tmp_path)


def test_a_new_file_never_overwrites_or_removes_a_stranger(tmp_path):
    path = tmp_path / "taken"
    path.write_bytes(b"somebody else's")
    with pytest.raises(FileExistsError), atomic.new_file(path) as out:
        out.write(b"mine")
    assert path.read_bytes() == b"somebody else's"


def test_secrets_can_be_written_for_their_owner_only(tmp_path):
    atomic.write_bytes(tmp_path / "identity.key", b"secret", mode=0o600)
    assert stat.S_IMODE((tmp_path / "identity.key").stat().st_mode) == 0o600


def test_equal_json_gives_equal_bytes(tmp_path):
    atomic.write_json(tmp_path / "a", {"b": 1, "a": ["é", None]})
    atomic.write_json(tmp_path / "b", {"a": ["é", None], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text(encoding="utf-8")) == {"a": ["é", None], "b": 1}


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        atomic.write_json(tmp_path / "a", {"loss": float("nan")})
    assert not (tmp_path / "a").exists()


def test_a_folder_is_replaced_whole(tmp_path):
    folder, staging = tmp_path / "out", tmp_path / "staging"
    folder.mkdir()
    (folder / "old").touch()
    staging.mkdir()
    (staging / "new").touch()
    atomic.replace_directory(staging, folder)
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_removing_what_is_not_there_is_no_error_and_links_are_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    (tmp_path / "link").symlink_to(precious)
    atomic.remove_tree(tmp_path / "nothing")
    atomic.remove_tree(tmp_path / "link")
    assert not (tmp_path / "link").is_symlink()
    assert (precious / "file").exists()


def test_sweeping_takes_what_the_dead_left_and_spares_the_living(tmp_path):
    dead, living, ordinary = (tmp_path / "sub" / name for name in ("dead", "living", "file"))
    ordinary.parent.mkdir()
    dead, living = atomic.temporary_beside(dead), atomic.temporary_beside(living)
    for path in (dead, living, ordinary):
        path.write_bytes(b"x")
    for path in (dead, ordinary):
        os.utime(path, (0, 0))
    assert atomic.sweep(tmp_path) == 1
    assert [path.exists() for path in (dead, living, ordinary)] == [False, True, True]


KILLED_WRITER = """
import sys
from pathlib import Path
from paris.registry.atomic import replacing
with replacing(Path(sys.argv[1])) as out:
    out.write(b"half of the n")
    out.flush()
    print("half", flush=True)
    sys.stdin.read()
"""


def test_kill_9_in_the_middle_of_a_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    atomic.write_bytes(path, b"old")
    command = [sys.executable, "-c", KILLED_WRITER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"half\n"
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(temporaries(tmp_path)) == 1
    assert atomic.sweep(tmp_path, older_than_s=-60) == 1
    atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
