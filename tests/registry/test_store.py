"""The content-addressed store: damage is found, crashes lose nothing, names from strangers lead nowhere."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris.protocol.digests import hex_of, sha256_of
from paris.protocol.errors import DigestError, RecordError, ResourceError, UnavailableError, UsageError
from paris.protocol.manifest import FileEntry, Manifest, describe
from paris.registry.atomic import TEMPORARY_SUFFIX
from paris.registry.store import Store

LIMIT = 1 << 20


def fill(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def blobs(store):
    return sorted(path.name for path in (store.root / "blobs").rglob("*") if path.is_file())


def test_bytes_come_back_by_their_digest(store):
    digest = store.put_bytes(b"hello")
    assert digest == sha256_of(b"hello")
    assert store.get_bytes(digest, LIMIT) == b"hello"
    assert store.path(digest).read_bytes() == b"hello"
    assert store.path(digest).relative_to(store.root).as_posix() == f"blobs/{hex_of(digest)[:2]}/{hex_of(digest)}"


def test_what_is_not_there_is_said_to_be_missing(store):
    digest = sha256_of(b"nowhere")
    assert store.path(digest) is None
    assert store.remove(digest) is False
    with pytest.raises(UnavailableError, match="not in the store"):
        store.get_bytes(digest, LIMIT)


@given(name=st.text() | st.sampled_from(["sha256:../../etc/passwd", "/etc/passwd", "sha256:" + "A" * 64, "sha256:"]))
def test_a_digest_from_a_stranger_never_becomes_a_path(name):
    store = object.__new__(Store)  # no folder behind it: touching the disk would fail
    assert store.path(name) is None


def test_a_file_is_stored_with_its_pieces(store, tmp_path):
    data = os.urandom(9 * 1024 * 1024 + 7)
    (tmp_path / "weights").write_bytes(data)
    entry = store.put_file(tmp_path / "weights", "model/weights.safetensors")
    assert entry == describe("model/weights.safetensors", [data])
    assert len(entry.pieces) == 3
    assert store.verify(entry).read_bytes() == data


def test_the_store_keeps_its_own_copy_of_a_file(store, tmp_path):
    (tmp_path / "file").write_bytes(b"before")
    entry = store.put_file(tmp_path / "file", "file")
    (tmp_path / "file").write_bytes(b"after!")
    assert store.verify(entry).read_bytes() == b"before"


def test_a_flipped_byte_is_found_set_aside_and_healed_by_storing_again(store):
    data = b"x" * 1000
    digest = store.put_bytes(data)
    flip_a_byte(store.path(digest))
    with pytest.raises(DigestError, match="damaged") as caught:
        store.get_bytes(digest, LIMIT)
    assert caught.value.exit_code == 3
    assert store.path(digest) is None
    assert (store.root / "damaged" / hex_of(digest)).is_file()
    assert store.put_bytes(data) == digest
    assert store.get_bytes(digest, LIMIT) == data


def test_storing_good_bytes_over_a_damaged_blob_heals_it(store):
    digest = store.put_bytes(b"x" * 1000)
    flip_a_byte(store.path(digest))
    store.put_bytes(b"x" * 1000)
    assert store.get_bytes(digest, LIMIT) == b"x" * 1000


def test_a_flipped_byte_in_a_large_file_is_found_by_verify(store, tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 5_000_000)
    entry = store.put_file(tmp_path / "file", "file")
    flip_a_byte(store.path(entry.sha256))
    with pytest.raises(DigestError, match="damaged"):
        store.verify(entry)
    with pytest.raises(UnavailableError):
        store.verify(entry)


def test_a_truncated_blob_is_found(store, tmp_path):
    (tmp_path / "file").write_bytes(b"x" * 5000)
    manifest = store.add_tree(fill(tmp_path / "tree", {"file": b"x" * 5000}))
    path = store.path(manifest.files[0].sha256)
    path.chmod(0o644)
    path.write_bytes(b"x" * 4999)
    assert store.missing(manifest) == manifest.files
    with pytest.raises(DigestError):
        store.verify(manifest.files[0])


def test_a_lying_manifest_cannot_push_a_good_blob_aside(store):
    digest = store.put_bytes(b"good")
    lie = FileEntry(name="file", size=5, sha256=digest, pieces=(digest,))
    with pytest.raises(DigestError, match="manifest is wrong"):
        store.verify(lie)
    assert store.get_bytes(digest, LIMIT) == b"good"


def test_a_blob_larger_than_allowed_is_not_read_into_memory(store):
    digest = store.put_bytes(b"x" * 101)
    with pytest.raises(DigestError, match="100 are allowed"):
        store.get_bytes(digest, 100)
    assert len(store.get_bytes(digest, 101)) == 101


def test_a_tree_goes_in_and_comes_out_the_same(store, tmp_path):
    files = {"config.json": b"{}", "a/b/weights.bin": b"w" * 100, "empty": b""}
    manifest = store.add_tree(fill(tmp_path / "tree", files))
    assert [entry.name for entry in manifest.files] == sorted(files)
    assert Manifest.from_bytes(store.get_bytes(manifest.digest, LIMIT)) == manifest
    out = store.checkout(manifest, tmp_path / "deep" / "out")
    assert {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()} == files


def test_equal_trees_have_equal_manifests_in_any_store(store, tmp_path):
    files = {"z": b"1", "a": b"2", "m/n": b"3"}
    one = store.add_tree(fill(tmp_path / "one", files))
    two = Store(tmp_path / "other").add_tree(fill(tmp_path / "two", dict(reversed(files.items()))))
    assert one.to_bytes() == two.to_bytes()


def test_only_the_named_files_are_stored_and_laid_out(store, tmp_path):
    tree = fill(tmp_path / "tree", {"keep": b"1", "also": b"2", "plan.json": b"3"})
    manifest = store.add_tree(tree, ["keep", "also"])
    assert [entry.name for entry in manifest.files] == ["also", "keep"]
    out = store.checkout(manifest, tmp_path / "out", ["keep"])
    assert [path.name for path in out.iterdir()] == ["keep"]


def test_an_empty_tree_and_symbolic_links_are_refused(store, tmp_path):
    (tmp_path / "tree").mkdir()
    with pytest.raises(UsageError, match="no file"):
        store.add_tree(tmp_path / "tree")
    (tmp_path / "tree" / "link").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="symbolic link"):
        store.add_tree(tmp_path / "tree")


@pytest.mark.parametrize("name", ["../escaped", "/absolute", "a/../../escaped", "a\\b", "", "a//b", "nul\0", "./here"])
def test_a_path_that_leaves_its_folder_gets_no_entry(store, tmp_path, name):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(RecordError):
        store.put_file(tmp_path / "file", name)
    assert blobs(store) == []


def test_a_checkout_replaces_an_earlier_one_and_spares_strangers(store, tmp_path):
    first = store.add_tree(fill(tmp_path / "one", {"file": b"first", "other": b"same"}))
    second = store.add_tree(fill(tmp_path / "two", {"file": b"second", "other": b"same"}))
    out = store.checkout(first, tmp_path / "out")
    assert (store.checkout(second, out) / "file").read_bytes() == b"second"
    (out / "diary.txt").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"diary\.txt"):
        store.checkout(first, out)
    assert (out / "diary.txt").read_bytes() == b"mine"
    assert (out / "file").read_bytes() == b"second"


def test_a_checkout_over_a_file_is_refused(store, tmp_path):
    manifest = store.add_tree(fill(tmp_path / "tree", {"file": b"1"}))
    (tmp_path / "out").write_bytes(b"a file")
    with pytest.raises(UsageError, match="is a file"):
        store.checkout(manifest, tmp_path / "out")


@pytest.mark.parametrize("fault", ["missing", "damaged"])
def test_a_checkout_that_cannot_be_whole_leaves_nothing(store, tmp_path, fault):
    manifest = store.add_tree(fill(tmp_path / "tree", {"a": b"1", "b": b"2"}))
    if fault == "missing":
        store.remove(manifest.files[1].sha256)
    else:
        flip_a_byte(store.path(manifest.files[1].sha256))
    with pytest.raises((UnavailableError, DigestError)):
        store.checkout(manifest, tmp_path / "out" / "here")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_checkout_onto_another_file_system_copies(store, tmp_path, monkeypatch):
    manifest = store.add_tree(fill(tmp_path / "tree", {"a/b": b"1"}))

    def no_links(*_):
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    assert (store.checkout(manifest, tmp_path / "out") / "a" / "b").read_bytes() == b"1"


def test_blobs_are_read_only_so_that_links_to_them_are_not_written_by_mistake(store, tmp_path):
    manifest = store.add_tree(fill(tmp_path / "tree", {"a": b"1"}))
    out = store.checkout(manifest, tmp_path / "out")
    assert (out / "a").stat().st_mode & 0o222 == 0


def test_a_finished_download_becomes_a_blob(store):
    data = b"downloaded" * 1000
    entry = describe("file", [data])
    assert store.missing(Manifest.of([entry])) == (entry,)
    store.partial(entry).write_bytes(data)
    assert store.commit_partial(entry).read_bytes() == data
    assert store.missing(Manifest.of([entry])) == ()
    assert not store.partial(entry).exists()
    assert store.commit_partial(entry) == store.path(entry.sha256), "another process may commit it again"


@pytest.mark.parametrize("bad", [b"downloadX", b"downloadXY", b""])
def test_an_unfinished_or_wrong_download_never_becomes_a_blob(store, bad):
    entry = describe("file", [b"downloaded"])
    store.partial(entry).write_bytes(bad)
    with pytest.raises(DigestError, match="does not match"):
        store.commit_partial(entry)
    assert store.path(entry.sha256) is None
    assert store.partial(entry).read_bytes() == bad, "its good pieces can be kept"


def test_what_was_hashed_on_the_way_is_not_hashed_again_and_must_have_been_the_right_thing(store):
    entry, other = describe("file", [b"downloaded"]), describe("file", [b"something"])
    store.partial(entry).write_bytes(b"downloaded")
    with pytest.raises(DigestError, match="does not match"):
        store.commit_partial(entry, other.sha256)
    assert store.commit_partial(entry, entry.sha256).read_bytes() == b"downloaded"


def test_a_manifest_that_lies_about_a_files_pieces_cannot_spoil_an_honest_download_of_it(store):
    honest = describe("file", [b"downloaded"])
    hostile = honest.model_copy(update={"pieces": describe("file", [b"DOWNLOADED"]).pieces})
    store.partial(honest).write_bytes(b"downloaded")
    store.partial(hostile).write_bytes(b"DOWNLOADED")
    assert store.commit_partial(honest, honest.sha256).read_bytes() == b"downloaded"


def test_a_download_that_never_began_cannot_be_committed(store):
    with pytest.raises(UnavailableError):
        store.commit_partial(describe("file", [b"x"]))


def test_a_full_disk_leaves_no_half_blob_and_says_how_much_is_needed(store, tmp_path, full_disk):
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    small = store.put_bytes(b"already here")
    with full_disk(1_000_000), pytest.raises(ResourceError, match="3,000,000 bytes are needed") as caught:
        store.put_file(tmp_path / "file", "file")
    assert caught.value.exit_code == 5
    assert blobs(store) == [hex_of(small)]
    assert store.verify(store.put_file(tmp_path / "file", "file")).stat().st_size == 3_000_000


def test_a_disk_that_fills_during_a_checkout_leaves_nothing(store, tmp_path, full_disk, monkeypatch):
    manifest = store.add_tree(fill(tmp_path / "tree", {"big": b"x" * 3_000_000}))

    def no_links(*_):
        raise OSError("Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    with full_disk(1_000_000), pytest.raises(ResourceError):
        store.checkout(manifest, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(f".*{TEMPORARY_SUFFIX}"))


def test_usage_counts_blobs_and_partial_downloads_and_remove_frees_them(store):
    digest = store.put_bytes(b"x" * 1000)
    store.partial(describe("file", [b"x" * 1000])).write_bytes(b"y" * 10)
    assert store.usage_bytes() == 1010
    assert store.remove(digest) is True
    assert store.usage_bytes() == 0


PUT_FILE = """
import sys
from pathlib import Path
from paris.registry.store import Store
store = Store(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[3])):
    print(store.put_file(Path(sys.argv[2]), "file").sha256, flush=True)
"""


def start_putting(store, path, times=1):
    command = [sys.executable, "-c", PUT_FILE, str(store.root), str(path), str(times)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "ready\n"
    return child


def go(child):
    child.stdin.write("go\n")
    child.stdin.flush()


def test_kill_9_in_the_middle_of_put_file_then_restart(store, tmp_path):
    data = os.urandom(8 << 20)
    slow = tmp_path / "slow"
    os.mkfifo(slow)
    with start_putting(store, slow) as child:
        go(child)
        with slow.open("wb", buffering=0) as feed:
            feed.write(data[: 4 << 20])  # returns once the child has read nearly all of it: it is in the middle
            child.send_signal(signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL
    left = [name for name in blobs(store) if name.endswith(TEMPORARY_SUFFIX)]
    assert len(left) == 1
    assert blobs(store) == left, "no half blob under a digest"

    again = Store(store.root)
    (tmp_path / "file").write_bytes(data)
    entry = again.put_file(tmp_path / "file", "file")
    assert again.verify(entry).read_bytes() == data
    os.utime(store.root / "blobs" / left[0], (0, 0))
    assert blobs(Store(store.root)) == [hex_of(entry.sha256)], "what the dead process left is swept"


def test_two_processes_putting_the_same_blob_at_once_agree(store, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20))
    children = [start_putting(store, path, times=20) for _ in range(2)]
    for child in children:
        go(child)
    outputs = [child.communicate(timeout=60)[0].split() for child in children]
    digest = sha256_of(path.read_bytes())
    assert outputs == [[digest] * 20] * 2
    assert blobs(store) == [hex_of(digest)]
    assert store.get_bytes(digest, 1 << 20) == path.read_bytes()
