"""Data as they are found: annotations beside pictures, Excel's tables, folders nobody may read, hostile tars."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from registry_support import member_pair, picture, tar_bytes

from paris.models.shards import HEADER_BYTES, ShardError, read_shard
from paris.registry.sources import FIELDS_BYTES, Rejects, open_source, read_samples

COCO = {"info": {}, "images": [{"id": 1, "file_name": "1.png"}], "annotations": [{"image_id": 1, "caption": "a dog"}]}


def read(where: Path):
    rejects = Rejects()
    samples = [(sample.key, sample.caption) for sample in read_samples(open_source(str(where)), rejects)]
    return samples, {reject.key: reject.reason for reject in rejects.entries}


def lay(folder: Path, **files: bytes) -> Path:
    """Write files; a double underscore in a name is a folder's slash, a single one its dot."""
    for name, data in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


# Folders.


@pytest.mark.parametrize(
    "beside",
    [
        json.dumps(COCO).encode(),
        b'{"caption": 7}',
        b'{"caption": " "}',
        b"not json",
        b'{"caption": "x"}' + b" " * FIELDS_BYTES,
    ],
    ids=["annotations", "no text", "blank", "broken", "too large"],
)
def test_annotations_beside_a_folder_do_not_make_its_pictures_one_clip(tmp_path, beside):
    pictures = {"train__1_png": picture(side=8), "train__1_txt": b"a dog", "train__2_png": picture(side=9)}
    samples, rejects = read(lay(tmp_path, train_json=beside, **pictures))
    assert samples == [("train/1", "a dog")]
    assert rejects == {"train/2": "missing caption"}


def test_a_table_says_of_a_folder_that_it_is_a_clip_only_with_a_caption(tmp_path):
    frames = {f"{name}__{number}_png": picture() for name in ("a", "b") for number in range(2)}
    lay(tmp_path, captions_csv=b"file_name,caption\na,it moves\nb,\n", **frames)
    samples, rejects = read(tmp_path)
    assert samples == [("a", "it moves")]
    assert set(rejects) == {"b/0", "b/1"}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_of_excel_with_a_byte_order_mark_loses_no_row(tmp_path, kind):
    rows = {"csv": "file_name,caption\na.png,grün\n", "jsonl": '{"file_name": "a.png", "caption": "grün"}\n'}
    table = {f"captions_{kind}": rows[kind].encode("utf-8-sig")}
    assert read(lay(tmp_path, a_png=picture(), **table)) == ([("a", "grün")], {})


@pytest.mark.parametrize(
    "table",
    [
        {"captions_csv": b"file_name;caption\na.png;a dog\n"},
        {"metadata_csv": b"image,caption\na.png,a dog\n"},
        {"captions_csv": b""},
        {"metadata_jsonl": b'{"image": "a.png", "caption": "a dog"}\n'},
    ],
    ids=["semicolons", "another column", "empty", "jsonl"],
)
def test_a_table_without_file_names_is_named(tmp_path, table):
    samples, rejects = read(lay(tmp_path, a_png=picture(), a_txt=b"beside it", **table))
    assert samples == [("a", "beside it")]
    (name, reason), *others = rejects.items()
    assert (name, others) == (next(iter(table)).replace("_", "."), [])
    assert reason.startswith("caption table without file_name")


def test_a_folder_nobody_may_read_is_named_and_the_others_are_read(tmp_path, monkeypatch):
    for name in "abc":
        lay(tmp_path / name, x_png=picture(), x_txt=name.encode())
    scandir = os.scandir

    def refusing(path):
        if Path(path).name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    samples, rejects = read(tmp_path)
    assert samples == [("a/x", "a"), ("c/x", "c")]
    assert list(rejects) == ["b"]
    assert "Permission denied" in rejects["b"]


def test_a_link_to_a_folder_above_it_ends_and_is_named(tmp_path):
    lay(tmp_path / "data", a__x_png=picture(), a__x_txt=b"seen once")
    (tmp_path / "data" / "a" / "back").symlink_to(tmp_path / "data")
    samples, rejects = read(tmp_path / "data")
    assert samples == [("a/x", "seen once")]
    assert list(rejects) == ["a/back"]


def test_a_link_to_itself_hides_nothing_beside_it(tmp_path):
    lay(tmp_path, a_png=picture(), a_txt=b"a dog")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert read(tmp_path) == ([("a", "a dog")], {})


# Tars whose headers are the bomb.


def header(kind: bytes, size_bytes: int) -> bytes:
    """One block of a tar, of any type, that says that so many bytes follow."""
    info = tarfile.TarInfo("././@extended")
    info.type, info.size = kind, size_bytes
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(size_bytes: int) -> bytes:
    """An extended header of so many bytes (a multiple of 512) that say nothing."""
    said = b"%d comment=" % size_bytes
    return header(tarfile.XHDTYPE, size_bytes) + said + b"x" * (size_bytes - len(said) - 1) + b"\n"


def long_name(kind: bytes) -> bytes:
    return header(kind, 2 * HEADER_BYTES) + b"x" * 2 * HEADER_BYTES


def negative_by_pax() -> bytes:
    """An extended header that gives the member after it less than no bytes: behind it comes this header again."""
    said = b"14 size=-1536\n"
    return header(tarfile.XHDTYPE, len(said)) + said.ljust(512, b"\0")


def endless_map() -> bytes:
    """A sparse member of the newest kind whose map goes on for megabytes."""
    said = b"".join(b"%d %s\n" % (len(line) + 4, line) for line in (b"GNU.sparse.major=1", b"GNU.sparse.minor=0"))
    numbers = b"%d\n" % 2**20 + b"0\n" * 2**21
    return header(tarfile.XHDTYPE, len(said)) + said.ljust(512, b"\0") + header(tarfile.REGTYPE, len(numbers)) + numbers


BOMBS = {
    "one extended header": pax(2 * HEADER_BYTES),
    "many extended headers": pax(HEADER_BYTES // 4) * 8,
    "global header": header(tarfile.XGLTYPE, 2 * HEADER_BYTES) + bytes(2 * HEADER_BYTES),
    "long name": long_name(tarfile.GNUTYPE_LONGNAME),
    "long link": long_name(tarfile.GNUTYPE_LONGLINK),
    "old sparse map": header(tarfile.GNUTYPE_SPARSE, 0),
    "new sparse map": endless_map(),
    "negative size": header(tarfile.REGTYPE, -512),
    "negative size by extended header": negative_by_pax() + header(tarfile.REGTYPE, 0),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("packed", [True, False], ids=["gz", "plain"])
def test_a_header_that_unfolds_without_end_is_refused_before_it_is_read(tmp_path, bomb, packed):
    good, after = tar_bytes(member_pair("a")), tar_bytes(member_pair("z"))
    data = good[: 4 * tarfile.BLOCKSIZE] + BOMBS[bomb] + after
    path = tmp_path / ("s.tar.gz" if packed else "s.tar")
    path.write_bytes(gzip.compress(data, 1) if packed else data)
    samples, rejects = read(path)
    assert [key for key, _ in samples] == ["a"], "what came before it counts, what comes after it is not looked for"
    assert list(rejects) == [path.name]
    if not packed:
        with pytest.raises(ShardError, match="is not a whole tar"):
            list(read_shard(path))


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "gnu"])
def test_long_names_and_extended_headers_of_honest_length_are_read(tmp_path, kind):
    with tarfile.open(tmp_path / "s.tar", "w", format=kind) as tar:
        for name, data in member_pair("folder/" * 25 + "a"):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(data), {"comment": "x" * 9000}
            tar.addfile(info, io.BytesIO(data))
    samples, rejects = read(tmp_path / "s.tar")
    assert len(samples) == 1
    assert rejects == {}
    assert len(list(read_shard(tmp_path / "s.tar"))) == 1
