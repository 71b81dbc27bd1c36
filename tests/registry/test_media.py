"""Clips as samples: every way they come, what they become, and what is refused."""

from __future__ import annotations

import io
import itertools
import json
import sys
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from registry_support import picture, tar_bytes

from paris.models import decoding
from paris.models.decoding import DecodeError, count_frames, first_frame, frames, spread_frames, suffix_of
from paris.models.video_files import write_clip
from paris.registry import media
from paris.registry.features import PixelFeatures, survey
from paris.registry.media import SUFFIXES, checked_suffix, joined, thumbnails
from paris.registry.sources import Rejects, Sample, open_source, read_samples

KINDS = ("mp4", "gif", "webp", "webm", "png")


def levels(count: int) -> list[Image.Image]:
    """Frames that tell their number by their grey."""
    return [Image.new("RGB", (16, 16), (20 * i, 20 * i, 20 * i)) for i in range(count)]


def number(frame: Image.Image) -> int:
    return round(float(np.asarray(frame).mean()) / 20)


def clip(kind: str, count: int = 8) -> bytes:
    out = io.BytesIO()
    if kind == "webm":
        av = pytest.importorskip("av")
        with av.open(out, "w", format="webm") as file:
            stream = file.add_stream("libvpx-vp9", rate=8)
            stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
            for frame in levels(count):
                file.mux(stream.encode(av.VideoFrame.from_image(frame)))
            file.mux(stream.encode(None))
        return out.getvalue()
    levels(count)[0].save(out, kind, save_all=True, append_images=levels(count)[1:], duration=125)
    return out.getvalue()


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("clips")
    write_clip(levels(8), 8, folder / "clip.mp4")
    return {"mp4": (folder / "clip.mp4").read_bytes()} | {kind: clip(kind) for kind in KINDS[1:]}


def read(where: object):
    rejects = Rejects()
    return list(read_samples(open_source(str(where)), rejects)), rejects


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_clip_is_read_frame_by_frame(clips, kind):
    data = clips[kind]
    assert suffix_of(data) == checked_suffix(data) == kind
    assert count_frames(data) == 8
    assert [number(frame) for frame in frames(data)] == list(range(8))
    assert number(first_frame(data)) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("count", "numbers"), [(1, [0]), (4, [0, 2, 4, 6]), (3, [0, 2, 5]), (16, [n // 2 for n in range(16)])]
)
def test_frames_are_spread_over_the_whole_clip(clips, kind, count, numbers):
    assert [number(frame) for frame in spread_frames(clips[kind], count)] == numbers


def test_a_picture_is_a_clip_that_stands_still():
    assert [frame.size for frame in spread_frames(picture(), 3)] == [(8, 8)] * 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_cut_short_is_left_out_with_its_reason(tmp_path, clips, kind):
    for name, data in (("a", clips[kind][: len(clips[kind]) // 2]), ("b", clips[kind])):
        (tmp_path / f"{name}.{kind}").write_bytes(data)
        (tmp_path / f"{name}.txt").write_text("a square that brightens")
    samples, rejects = read(tmp_path)
    assert [(sample.key, sample.suffix) for sample in samples] == [("b", kind)]
    assert [(key, reason.partition(":")[0]) for key, reason, _ in rejects.entries] == [("a", "broken picture")]


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_damage_anywhere_is_refused_or_read_and_never_anything_else(clips, data, kind):
    damaged = bytearray(clips[kind])
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=4)):
        damaged[at] ^= data.draw(st.integers(1, 255))
    with suppress(ValueError):
        assert checked_suffix(bytes(damaged)) in SUFFIXES


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_cut_anywhere_is_refused_or_read_and_never_anything_else(clips, kind):
    for cut in range(0, len(clips[kind]), 1 if kind == "gif" else 13):
        for look in (checked_suffix, count_frames):
            with suppress(ValueError):
                look(clips[kind][:cut])


def test_a_codec_nobody_knows_is_a_broken_picture(clips):
    with pytest.raises(ValueError, match="broken picture"):
        checked_suffix(clips["mp4"].replace(b"avc1", b"zzzz").replace(b"avcC", b"zzzC"))


def test_a_clip_of_too_many_pixels_is_refused(clips, monkeypatch):
    monkeypatch.setattr(decoding, "CLIP_PIXELS", 8 * 256 - 1)
    with pytest.raises(ValueError, match="2,047 pixels together"):
        checked_suffix(clips["gif"])
    monkeypatch.setattr(decoding, "FRAME_PIXELS", 255)
    for kind in KINDS:
        with pytest.raises(ValueError, match="16x16 is more than 255 pixels"):
            checked_suffix(clips[kind])


def test_a_playlist_that_names_other_files_is_no_clip(tmp_path):
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    for text in (f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/secret.mp4\n", f"ffconcat version 1.0\nfile {tmp_path}/secret.mp4"):
        with pytest.raises(DecodeError):
            list(frames(text.encode()))


def test_a_codec_that_is_not_on_the_list_is_not_even_tried(tmp_path):
    av = pytest.importorskip("av")
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("mjpeg", rate=8)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuvj420p"
        file.mux(stream.encode(av.VideoFrame.from_image(levels(1)[0])))
        file.mux(stream.encode(None))
    with pytest.raises(ValueError, match="broken picture"):
        checked_suffix(out.getvalue())


def test_without_pyav_a_person_learns_how_to_get_it(clips, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"paris-node\[video\]"):
        checked_suffix(clips["mp4"])
    assert checked_suffix(clips["webp"]) == "webp"


def encoded(frame: Image.Image) -> bytes:
    out = io.BytesIO()
    frame.save(out, "PNG")
    return out.getvalue()


def test_frames_that_lie_apart_in_a_shard_are_one_clip_without_loss(tmp_path):
    shard = tmp_path / "data-0.tar"
    apart = [(f"a.{i:03d}.png", encoded(frame)) for i, frame in enumerate(levels(12))]
    shard.write_bytes(tar_bytes([("a.json", json.dumps({"caption": "it brightens"}).encode()), *apart]))
    samples, rejects = read(shard)
    assert not len(rejects)
    assert [(sample.key, sample.suffix) for sample in samples] == [("a", "webp")]
    assert [np.asarray(f).tolist() for f in frames(samples[0].picture)] == [np.asarray(f).tolist() for f in levels(12)]


def test_a_folder_with_a_caption_is_one_clip_and_one_without_holds_pictures(tmp_path):
    for name in ("clip", "pictures"):
        (tmp_path / name).mkdir()
        for i, frame in enumerate(levels(3)):
            frame.save(tmp_path / name / f"{i}.png")
    (tmp_path / "clip.txt").write_text("it brightens")
    (tmp_path / "pictures" / "1.txt").write_text("a picture")
    samples, rejects = read(tmp_path)
    assert [(sample.key, count_frames(sample.picture)) for sample in samples] == [("clip", 3), ("pictures/1", 1)]
    assert sorted(reject[:2] for reject in rejects.entries) == [
        ("pictures/0", "missing caption"),
        ("pictures/2", "missing caption"),
    ]


def test_frames_of_several_sizes_are_no_clip(tmp_path):
    shard = tmp_path / "data-0.tar"
    members = [("a.json", b'{"caption": "x"}'), ("a.0.png", picture(side=8)), ("a.1.png", picture(side=9))]
    shard.write_bytes(tar_bytes(members))
    samples, rejects = read(shard)
    assert samples == []
    assert [reject[:2] for reject in rejects.entries] == [("a", "broken clip: frames of 8x8 and of 9x9")]
    with pytest.raises(ValueError, match="broken frame"):
        joined([b"no picture"])


def endless(*sides: int):
    """Yield pictures of these sides, and of the last one for ever: who takes them all never ends."""
    for side in itertools.chain(sides, itertools.repeat(sides[-1])):
        yield picture(side=side)


@pytest.mark.timeout(60)
def test_a_folder_of_other_pictures_is_no_clip_from_the_second_one_on():
    with pytest.raises(ValueError, match="frames of 8x8 and of 9x9"):
        joined(endless(8, 9))


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("limit", "most"), [("MOST_APART", 3), ("APART_PIXELS", 3 * 64)])
def test_frames_that_go_on_and_on_are_not_all_decoded(monkeypatch, limit, most):
    monkeypatch.setattr(media, limit, most)
    assert count_frames(joined([picture(side=8), picture("blue", side=8), picture(side=8)])) == 3
    with pytest.raises(ValueError, match="broken clip: more than"):
        joined(endless(8))


def test_thumbnails_show_what_a_clip_looks_like_and_that_it_moves():
    still, moving = thumbnails(joined([encoded(levels(4)[2])] * 4), 8), thumbnails(joined(map(encoded, levels(4))), 8)
    np.testing.assert_allclose(still[0], 40)
    np.testing.assert_allclose(moving[0], 30)
    assert not still[1].any()
    np.testing.assert_allclose(moving[1], 15)


def test_clips_of_equal_colours_are_told_apart_by_their_motion():
    def sample(key: str, order: list[int]) -> Sample:
        return Sample(key, joined([encoded(levels(4)[i]) for i in order]), "webp", "a square", key)

    slow, fast = [0, 0, 1, 1, 2, 2, 3, 3], [0, 3, 1, 2, 0, 3, 1, 2]
    seen = survey([sample("a", slow), sample("b", fast), sample("c", slow)], PixelFeatures()).vectors
    assert seen[0] @ seen[2] > 0.99 > 0 > seen[0] @ seen[1]
