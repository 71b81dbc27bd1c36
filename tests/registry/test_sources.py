"""Sources: good samples come through untouched, bad ones are listed with the reason and never fatal."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from registry_support import member_pair, picture, tar_bytes

from paris.models import decoding
from paris.protocol.errors import UsageError
from paris.registry import sources, tars
from paris.registry.media import checked_suffix
from paris.registry.sources import FolderSource, Rejects, WebdatasetSource, open_source, read_samples


def read(source):
    rejects = Rejects()
    return list(read_samples(source, rejects)), rejects


def pairs(rejects):
    return [(reject.key, reject.reason) for reject in rejects.entries]


def read_tar(path, data, **options):
    path.write_bytes(data)
    return read(open_source(str(path), **options))


@pytest.fixture
def tar(tmp_path):
    return tmp_path / "shard-000.tar"


def test_the_packaged_sample_is_whole_and_carries_its_licences():
    source = open_source("sample:emoji")
    samples, rejects = read(source)
    assert len(samples) == 8486
    assert len(rejects) == 0
    assert len({sample.group for sample in samples}) == 1900
    assert source.split_key == "codepoint"
    assert {sample.fields["license"] for sample in samples} == set(source.license.split(" AND "))
    assert all(sample.group == sample.fields["codepoint"] for sample in samples)
    assert {sample.suffix for sample in samples} == {"webp"}


def test_the_notices_of_the_packaged_art_are_beside_it():
    notices = (sources.SAMPLE_FOLDER / "LICENSES.md").read_text(encoding="utf-8")
    for line in (
        "Copyright Google LLC",
        "Copyright Twitter, Inc and other contributors",
        "Copyright (c) Microsoft Corporation",
    ):
        assert line in notices
    for licence in (
        "Apache License, Version 2.0",
        "creativecommons.org/licenses/by/4.0",
        "Permission is hereby granted",
    ):
        assert licence in notices


def test_a_shard_gives_its_samples_in_order_and_untouched(tar):
    members = member_pair("b/2", "two", codepoint="2") + member_pair("a/1", "  one\n thing ", codepoint="1")
    samples, rejects = read_tar(tar, tar_bytes(members), split_key="codepoint")
    assert [(s.key, s.caption, s.group, s.suffix) for s in samples] == [
        ("b/2", "two", "2", "png"),
        ("a/1", "one thing", "1", "png"),
    ]
    assert samples[0].picture == picture()
    assert not rejects.entries


def test_a_gzipped_shard_reads_the_same(tmp_path):
    data = tar_bytes(member_pair("a"))
    plain, _ = read_tar(tmp_path / "s.tar", data)
    packed, _ = read_tar(tmp_path / "s.tar.gz", gzip.compress(data))
    assert packed == plain


@pytest.mark.parametrize("cut", [512 * 3 + 100, 512 * 5, 512 * 5 + 200, 512 * 8], ids=["data", "edge", "header", "end"])
def test_a_truncated_shard_keeps_what_is_good_and_is_named(tar, cut):
    data = tar_bytes([pair for key in ("a", "b", "c") for pair in member_pair(key)])
    samples, rejects = read_tar(tar, data[:cut])
    assert len(samples) < 3
    assert ("shard-000.tar", "truncated shard") in [(key, reason.partition(":")[0]) for key, reason in pairs(rejects)]
    assert samples == read_tar(tar, data)[0][: len(samples)]


def test_a_truncated_gzipped_shard_is_named(tmp_path):
    data = gzip.compress(tar_bytes([pair for key in "abcdef" for pair in member_pair(key)]))
    _, rejects = read_tar(tmp_path / "s.tar.gz", data[: len(data) // 2])
    assert "truncated shard" in rejects.summary()


def test_a_member_too_large_for_memory_is_named_and_the_others_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tars, "MEMBER_BYTES", 2000)
    huge = [("huge.webp", bytes(2001)), ("huge.json", b"{}")]
    samples, rejects = read_tar(tmp_path / "s.tar.gz", gzip.compress(tar_bytes([*huge, *member_pair("a")])))
    assert [sample.key for sample in samples] == ["a"]
    assert "huge" in str(rejects.entries)


def test_a_gzipped_shard_damaged_anywhere_is_read_or_named_and_never_fatal(tmp_path):
    data = gzip.compress(tar_bytes(member_pair("a") + member_pair("b")))
    for at in range(0, len(data), 3):
        damaged = bytearray(data)
        damaged[at] ^= 0x5A
        samples, _ = read_tar(tmp_path / "s.tar.gz", bytes(damaged))
        assert {sample.key for sample in samples} <= {"a", "b"}


def test_a_header_broken_in_the_middle_does_not_end_the_shard_in_silence(tar):
    data = bytearray(tar_bytes([pair for key in ("a", "b") for pair in member_pair(key)]))
    data[4 * 512 + 10] ^= 0xFF
    samples, rejects = read_tar(tar, bytes(data))
    assert [sample.key for sample in samples] == ["a"]
    assert "truncated shard" in rejects.summary()


def test_what_is_no_tar_at_all_is_listed(tar):
    samples, rejects = read_tar(tar, b"this is no tar, whatever its name says" * 100)
    assert samples == []
    assert len(rejects) == 1


BROKEN_PICTURES = {
    "empty": b"",
    "text": b"hello",
    "cut short": picture(side=64, colour="blue", kind="JPEG")[:300],
    "half a png": picture(side=64)[:60],
    "bmp": picture(kind="BMP"),
    "html": b"<html>404 not found</html>",
}


@pytest.mark.parametrize("name", BROKEN_PICTURES)
def test_a_broken_picture_is_left_out_with_its_reason(tar, name):
    members = [("a.json", b'{"caption": "x"}'), ("a.png", BROKEN_PICTURES[name]), *member_pair("b")]
    samples, rejects = read_tar(tar, tar_bytes(members))
    assert [sample.key for sample in samples] == ["b"]
    assert [(key, reason.partition(":")[0]) for key, reason in pairs(rejects)] == [("a", "broken picture")]


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tar, monkeypatch):
    monkeypatch.setattr(decoding, "FRAME_PIXELS", 63)
    samples, rejects = read_tar(tar, tar_bytes(member_pair("a")))
    assert samples == []
    assert "8x8 is more than 63 pixels" in rejects.entries[0][1]


def test_a_bomb_that_pillow_itself_refuses_is_listed_too(tar):
    header = b"IHDR" + (60000).to_bytes(4, "big") * 2 + b"\x08\x02\x00\x00\x00"
    bomb = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    samples, rejects = read_tar(tar, tar_bytes([("a.json", b'{"caption": "x"}'), ("a.png", bomb)]))
    assert samples == []
    assert "broken picture" in rejects.summary()


def test_the_suffix_follows_the_content_not_the_name(tar):
    samples, _ = read_tar(tar, tar_bytes([("a.json", b'{"caption": "x"}'), ("a.jpeg", picture(kind="WEBP"))]))
    assert samples[0].suffix == "webp"


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (b"{}", "missing caption"),
        (b'{"caption": "  "}', "missing caption"),
        (b'{"caption": 7}', "missing caption"),
        (b"not json", "missing caption"),
        (b"[1]", "missing caption"),
        (b"\xff\xfe", "missing caption"),
        (b'{"caption": "\\ud800"}', "missing caption"),
        (b"[" * 100_000, "missing caption"),
    ],
)
def test_a_missing_caption_is_left_out(tar, metadata, reason):
    samples, rejects = read_tar(
        tar, tar_bytes([("a.json", metadata[:50_000]), ("a.png", picture()), *member_pair("b")])
    )
    assert [sample.key for sample in samples] == ["b"]
    assert pairs(rejects) == [("a", reason)]


def test_a_caption_in_a_text_member_counts(tar):
    samples, _ = read_tar(tar, tar_bytes([("a.txt", "grün".encode()), ("a.png", picture())]))
    assert samples[0].caption == "grün"


def test_a_missing_picture_and_a_missing_group_are_left_out(tar):
    members = [("a.json", b'{"caption": "x", "thing": "1"}'), *member_pair("b"), *member_pair("c", thing=3)]
    samples, rejects = read_tar(tar, tar_bytes(members), split_key="thing")
    assert samples == []
    assert [key for key, _ in pairs(rejects)] == ["a", "b", "c"]
    assert rejects.summary() == "2 x missing group, 1 x missing picture"


def test_a_duplicate_key_keeps_the_first(tar):
    members = [*member_pair("a", "first"), *member_pair("b"), *member_pair("a", "second")]
    samples, rejects = read_tar(tar, tar_bytes(members))
    assert [(sample.key, sample.caption) for sample in samples] == [("a", "first"), ("b", "a red square")]
    assert pairs(rejects) == [("a", "duplicate key")]


def test_a_member_twice_in_one_sample_is_listed(tar):
    samples, rejects = read_tar(tar, tar_bytes([*member_pair("a", "first"), ("a.json", b'{"caption": "second"}')]))
    assert samples[0].caption == "first"
    assert pairs(rejects) == [("a.json", "duplicate member")]


@pytest.mark.parametrize(
    "key", ["../../etc/cron", "/etc/passwd", "a/../../b", "a\\..\\b", "a//b", "x" * 300, "con", "a\nb"]
)
def test_a_key_that_leaves_its_folder_is_refused(tar, key):
    samples, rejects = read_tar(tar, tar_bytes([*member_pair(key), *member_pair("good")]))
    assert [sample.key for sample in samples] == ["good"]
    assert len(rejects) == 1


def test_links_and_folders_in_a_tar_are_not_followed(tar):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as writer:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("a.json", tarfile.LNKTYPE), ("dir", tarfile.DIRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            writer.addfile(info)
    samples, _ = read_tar(tar, out.getvalue())
    assert samples == []


def test_fields_of_text_are_kept_and_ours_cannot_be_forged(tar):
    members = member_pair("a", license="CC0-1.0", cluster="7", group="x", size=3, nested={"deep": 1}, **{"\ud800": "x"})
    samples, _ = read_tar(tar, tar_bytes(members))
    assert samples[0].fields == {"license": "CC0-1.0"}
    assert samples[0].group == "a"


@settings(max_examples=60)
@given(noise=st.binary(max_size=3000), cut=st.integers(0, 12_000))
@example(noise=b"", cut=0)
def test_no_bytes_whatever_make_reading_fail(tmp_path_factory, noise, cut):
    data = tar_bytes([*member_pair("a"), ("b.json", noise), ("b.png", noise), *member_pair("c")])
    path = tmp_path_factory.mktemp("noise") / "s.tar"
    path.write_bytes(data[:cut] + noise + data[cut + len(noise) :])
    samples, _ = read(WebdatasetSource("noise", (path,)))
    assert {sample.key for sample in samples} <= {"a", "b", "c"}


def image_folder(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def test_a_folder_of_pictures_with_captions_beside_them(tmp_path):
    folder = image_folder(
        tmp_path / "cats",
        {
            "b.png": picture(),
            "b.txt": b"a red square",
            "sub/a.JPG": picture(kind="JPEG"),
            "sub/a.json": b'{"caption": "another", "license": "CC0-1.0"}',
            "my.cat.webp": picture(kind="WEBP"),
            "my.cat.txt": b"dotted",
            "notes.md": b"no picture",
            "lonely.png": picture(),
        },
    )
    source = open_source(str(folder), license_id="CC0-1.0")
    samples, rejects = read(source)
    assert [(s.key, s.caption, s.suffix, s.group) for s in samples] == [
        ("b", "a red square", "png", "b"),
        ("my-cat", "dotted", "webp", "my-cat"),
        ("sub/a", "another", "jpg", "sub/a"),
    ]
    assert pairs(rejects) == [("lonely", "missing caption")]
    assert (source.name, source.license, source.split_key) == ("cats", "CC0-1.0", "key")


TABLES = {
    "captions.csv": "file_name,caption,thing\na.png,from a table,t1\nsub/b.png,second,t1\n",
    "metadata.csv": 'file_name,text,thing\r\na.png,from a table,t1\r\nsub/b.png,"second",t1\r\n',
    "captions.jsonl": '{"file_name": "a.png", "caption": "from a table", "thing": "t1"}\n\n'
    '{"file_name": "sub/b.png", "text": "second", "thing": "t1"}\n',
    "metadata.jsonl": '{"file_name": "a.png", "text": "from a table", "thing": "t1"}\n'
    '{"file_name": "sub/b.png", "text": "second", "thing": "t1"}\n',
}


@pytest.mark.parametrize("table", TABLES)
def test_a_folder_with_a_table_of_captions(tmp_path, table):
    files = {table: TABLES[table].encode(), "a.png": picture(), "sub/b.png": picture(), "c.png": picture()}
    samples, rejects = read(open_source(str(image_folder(tmp_path / "data", files)), split_key="thing"))
    assert [(s.key, s.caption, s.group) for s in samples] == [("a", "from a table", "t1"), ("sub/b", "second", "t1")]
    assert [key for key, _ in pairs(rejects)] == ["c"]


def test_broken_lines_of_a_table_are_listed_and_the_others_count(tmp_path):
    table = b'{"file_name": "a.png", "caption": "good"}\nnot json\n[1]\n{"no": "name"}\n'
    samples, rejects = read(FolderSource(image_folder(tmp_path, {"captions.jsonl": table, "a.png": picture()})))
    assert [sample.caption for sample in samples] == ["good"]
    assert [key for key, _ in pairs(rejects)] == ["captions.jsonl, line 2", "captions.jsonl, line 3"]


def test_a_table_in_another_encoding_is_listed_not_fatal(tmp_path):
    files = {"captions.csv": "file_name,caption\na.png,gr\xfcn\n".encode("latin-1"), "a.png": picture(), "a.txt": b"x"}
    samples, rejects = read(FolderSource(image_folder(tmp_path, files)))
    assert [sample.caption for sample in samples] == ["x"]
    assert rejects.entries[0][0] == "captions.csv"


def test_a_table_that_is_no_csv_is_listed_not_fatal(tmp_path):
    files = {"captions.csv": b"file_name,caption\n" + b"x" * 200_000, "a.png": picture(), "a.txt": b"x"}
    samples, rejects = read(FolderSource(image_folder(tmp_path, files)))
    assert len(samples) == 1
    assert "unreadable caption table" in rejects.summary()


@pytest.mark.parametrize("pattern", ["s-{000..002}.tar", "s-*.tar", ""], ids=["braces", "glob", "folder"])
def test_a_pattern_names_its_shards_in_order(tmp_path, pattern):
    for number in (2, 0, 1):
        (tmp_path / f"s-00{number}.tar").write_bytes(tar_bytes(member_pair(f"k{number}")))
    samples, _ = read(open_source(f"{tmp_path}/{pattern}"))
    assert [sample.key for sample in samples] == ["k0", "k1", "k2"]


@pytest.mark.parametrize(
    "where",
    ["", "nothing/here", "s-{000..001}.tar", "*.tar", "sample:cats", "sample:../x", "pipe:echo hacked.tar", "a.zip"],
)
def test_data_that_is_not_there_is_a_usage_error_with_a_hint(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s-000.tar").write_bytes(tar_bytes(member_pair("a")))
    (tmp_path / "s-000.tar").rename(tmp_path / ("s-000.tar" if "{" in where else "other"))
    if where == "":
        (tmp_path / "other").unlink()
        where = str(tmp_path / "gone")
    with pytest.raises(UsageError) as caught:
        open_source(where)
    assert caught.value.exit_code == 2
    assert caught.value.hint


def test_reading_twice_gives_the_same(tar):
    tar.write_bytes(tar_bytes([pair for key in "dbca" for pair in member_pair(key)]))
    source = open_source(str(tar))
    assert read(source)[0] == read(source)[0]


def test_pictures_are_decoded_wholly_when_judged():
    data = bytearray(picture(side=64, kind="PNG"))
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (64, 64), "the header alone is fine"
    data[-30] ^= 0xFF
    with pytest.raises(ValueError, match="broken picture"):
        checked_suffix(bytes(data))


def test_samples_round_trip_through_json_fields(tar):
    fields = {"label": "café", "license": "MIT"}
    samples, _ = read_tar(tar, tar_bytes(member_pair("a", "c", **fields)))
    assert json.loads(json.dumps(dict(samples[0].fields))) == fields
