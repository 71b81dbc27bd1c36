"""What a curator leaves out: sizes, captions, near-duplicates; each listed with its file and the reason."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from registry_support import picture

from paris.protocol.errors import UsageError
from paris.registry.encoders import PerceptualHash
from paris.registry.judging import Duplicates, Filters
from paris.registry.looks import Looker
from paris.registry.samples import Rejects
from paris.registry.sources import FolderSource, read_samples


def image(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(out, "PNG")
    return out.getvalue()


def scene(seed: int, shift: int = 0, kind: str = "PNG") -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 240, (6, 6, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse + np.uint8(shift)).resize((64, 64), Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()


def folder_of(folder, pictures, captions=None):
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
        caption = (captions or {}).get(name, "a red square")
        (folder / name).with_suffix(".txt").write_text(caption, encoding="utf-8")
    return FolderSource(folder)


def kept(source, filters, rejects=None):
    looker = Looker((PerceptualHash(),)) if filters.dedupe is not None else Looker()
    return [sample.key for sample in read_samples(source, rejects, looker, filters)]


def test_small_and_elongated_pictures_are_left_out_with_their_size(tmp_path):
    source = folder_of(tmp_path, {"a.png": image(64, 64), "b.png": image(63, 200), "c.png": image(64, 193)})
    rejects = Rejects()
    assert kept(source, Filters(min_px=64, max_aspect=3), rejects) == ["a"]
    assert [tuple(reject) for reject in rejects.entries] == [
        ("b", "small picture: 63x200", "b.png"),
        ("c", "elongated picture: 64x193", "c.png"),
    ]
    assert rejects.summary() == "1 x small picture, 1 x elongated picture"
    assert kept(source, Filters()) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("filters", "caption", "reason"),
    [
        (Filters(min_caption=5), "cat", "short caption: 3 characters"),
        (Filters(max_caption=5), "a long one", "long caption: 10 characters"),
        (Filters(letters=0.7), "IMG_20240101_1234.JPG", "odd caption: only 29% of it are letters"),
    ],
)
def test_captions_that_say_nothing_are_left_out(tmp_path, filters, caption, reason):
    source, rejects = folder_of(tmp_path, {"a.png": picture(), "b.png": picture()}, {"a.png": caption}), Rejects()
    assert kept(source, Filters(filters.min_caption, letters=0.6), Rejects()) != []
    captions = {"b.png": "fünf!"}
    (tmp_path / "b.txt").write_text(captions["b.png"], encoding="utf-8")
    assert kept(source, filters, rejects) == ["b"]
    assert rejects.entries[0].reason == reason


def test_the_first_of_near_duplicates_stays_and_the_others_name_it(tmp_path):
    pictures = {"a.png": scene(1), "b.jpg": scene(1, kind="JPEG"), "c.png": scene(1, shift=9), "d.png": scene(2)}
    rejects = Rejects()
    assert kept(folder_of(tmp_path, pictures), Filters(dedupe=3), rejects) == ["a", "d"]
    assert [reject.file for reject in rejects.entries] == ["b.jpg", "c.png"]
    assert all(reject.reason.startswith("near duplicate: of a, ") for reject in rejects.entries)
    assert kept(FolderSource(tmp_path), Filters()) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("distance", [0, 1, 2, 3])
def test_hashes_up_to_the_distance_are_found_wherever_they_differ(distance):
    base = np.random.default_rng(3).integers(0, 2, 64, dtype=np.uint8)
    for seed in range(100):
        flipped = base.copy()
        flipped[np.random.default_rng(seed).choice(64, distance + seed % 2, replace=False)] ^= 1
        known = Duplicates(distance)
        known.refuse("first", np.packbits(base).tobytes())
        if seed % 2:
            known.refuse("second", np.packbits(flipped).tobytes())
        else:
            with pytest.raises(ValueError, match=f"of first, {distance} bits"):
                known.refuse("second", np.packbits(flipped).tobytes())


@pytest.mark.parametrize("distance", [-1, 4, 64])
def test_a_distance_that_cannot_be_looked_up_is_a_usage_error(distance):
    with pytest.raises(UsageError, match="3 bits") as caught:
        Filters(dedupe=distance)
    assert "--dedupe" in caught.value.hint


def test_all_rejects_are_listed_on_disk_and_few_stay_in_memory(tmp_path):
    path = tmp_path / "rejects.jsonl"
    with Rejects(path) as rejects:
        for number in range(1500):
            rejects.add(f"key {number}", "missing caption", "größe.parquet\n, row 7")
        assert not path.exists()
    assert (len(rejects), len(rejects.entries)) == (1500, 1000)
    listed = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(listed) == 1500
    assert listed[7] == {"key": "key 7", "reason": "missing caption", "file": "größe.parquet\n, row 7"}
    assert rejects.summary() == "1500 x missing caption"


def test_a_corrupted_file_is_reported_by_its_name(tmp_path):
    source = folder_of(tmp_path, {"good.png": scene(1), "damaged photo.png": scene(2)[:100]})
    rejects = Rejects()
    assert kept(source, Filters(), rejects) == ["good"]
    assert "damaged photo.png" in str(rejects.entries[0])
    assert "broken picture" in str(rejects.entries[0])
