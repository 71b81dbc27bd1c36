"""Looks: remembered by content, resumed batch by batch, the same whatever was there before."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from registry_support import picture

from paris.registry import looks
from paris.registry.encoders import Pixels
from paris.registry.looks import WHOLE, LookCache, Looker, batches, looked_at
from paris.registry.samples import Candidate


def noisy(number: int) -> bytes:
    digest = hashlib.sha256(str(number).encode()).digest()
    return picture(colour=f"#{digest.hex()[:6]}", side=4 + number % 3)


def candidates(numbers) -> list[Candidate]:
    return [Candidate(f"k{number}", noisy(number), {"caption": f"picture {number}"}) for number in numbers]


class Counting(Pixels):
    """Pixels that remember how many pictures they were shown."""

    def __init__(self) -> None:
        self.shown = 0

    def prepare(self, frames, data):
        self.shown += 1
        return super().prepare(frames, data)


def look(encoder, cache, found):
    return list(looked_at(Looker((encoder,), cache), batches(found)))


@pytest.fixture
def cache(tmp_path):
    return LookCache(tmp_path / "cache")


def test_every_candidate_gets_its_own_look_in_order(cache):
    found = candidates(range(300))
    found[7] = dataclasses.replace(found[7], picture=None)
    found[8] = dataclasses.replace(found[8], picture=b"no picture")
    seen = look(Pixels(), cache, found)
    assert [candidate for candidate, _ in seen] == found
    assert seen[7][1] is None
    assert seen[8][1].problem.startswith("broken picture")
    assert not seen[8][1].vectors["pixels"].any()
    for number in (0, 6, 9, 299):
        one = seen[number][1]
        assert (one.suffix, one.problem, one.width, one.height) == ("png", "", 4 + number % 3, 4 + number % 3)
        expected = Pixels().encode([Pixels().prepare(looks.frames_of(noisy(number)), noisy(number))])[0]
        np.testing.assert_array_equal(one.vectors["pixels"], expected)


def test_what_was_seen_is_not_decoded_again(cache, monkeypatch):
    first = look(Pixels(), cache, candidates(range(300)))
    monkeypatch.setattr(looks, "frames_of", lambda _picture: pytest.fail("decoded again"))
    again = look(Pixels(), cache, candidates(range(300)))
    for (_, one), (_, two) in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.vectors["pixels"], two.vectors["pixels"])
        assert dataclasses.replace(one, vectors={}) == dataclasses.replace(two, vectors={})


def test_a_picture_more_changes_one_batch_and_not_all_that_follow(cache):
    look(Counting(), cache, candidates(range(1000)))
    encoder = Counting()
    look(encoder, cache, candidates([5000, *range(1000)]))
    assert 0 < encoder.shown <= 2 * looks.BATCH_PICTURES
    assert len({batch.digest for batch in batches(candidates(range(1000)))}) > 4


def test_batches_follow_from_the_pictures_alone():
    captions = [dataclasses.replace(one, key="x" + one.key, fields={}) for one in candidates(range(400))]
    assert [b.digest for b in batches(captions)] == [b.digest for b in batches(candidates(range(400)))]


def test_a_batch_stays_small_whatever_the_pictures(monkeypatch):
    monkeypatch.setattr(looks, "BATCH_BYTES", 300)
    assert max(len(batch.candidates) for batch in batches(candidates(range(50)))) < 8
    monkeypatch.setattr(looks, "BORDER_ONE_IN", 10**9)
    monkeypatch.setattr(looks, "BATCH_BYTES", 10**9)
    assert [len(batch.candidates) for batch in batches(candidates(range(600)))] == [256, 256, 88]


@pytest.mark.parametrize("damage", [b"", b"junk", None], ids=["empty", "junk", "cut"])
def test_a_damaged_memory_is_seen_anew(cache, damage):
    look(Pixels(), cache, candidates(range(5)))
    for file in cache.folder.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:-9] if damage is None else damage)
    encoder = Counting()
    assert [one.suffix for _, one in look(encoder, cache, candidates(range(5)))] == ["png"] * 5
    assert encoder.shown == 5


def test_another_encoder_looks_and_the_others_memory_stays(cache):
    encoder = Counting()
    look(encoder, cache, candidates(range(5)))
    other = Counting()
    other.name, other.identity = "other", "other-1"
    found = list(looked_at(Looker((encoder, other), cache), batches(candidates(range(5)))))
    assert (encoder.shown, other.shown) == (5, 5)
    assert set(found[0][1].vectors) == {"pixels", "other"}
    assert {path.name for path in cache.folder.iterdir()} == {WHOLE, "pixels-1", "other-1"}


def test_an_error_while_looking_reaches_who_asked(cache):
    class Failing(Pixels):
        def encode(self, prepared):
            raise MemoryError("too large")

    with pytest.raises(MemoryError, match="too large"):
        look(Failing(), cache, candidates(range(3)))
    assert not list(cache.folder.rglob("*.safetensors")) if cache.folder.exists() else True
