"""Features: groups stay whole, texts are encoded once, equal data have equal digests."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from registry_support import coloured, sample, survey_of

from paris.models.text import TextBatch
from paris.protocol.errors import UsageError
from paris.registry.features import (
    CombinedFeatures,
    PixelFeatures,
    TextFeatures,
    fingerprint,
    open_features,
    parse_features,
    survey,
    unit_rows,
)


class LetterEncoder:
    """A real, tiny text encoder: letter counts. It remembers what it was asked."""

    dim, tokens = 26, 1

    def __init__(self):
        self.asked = []

    def encode(self, captions):
        self.asked += captions
        rows = [[float(caption.count(chr(97 + letter))) + 0.01 for letter in range(26)] for caption in captions]
        pooled_BE = torch.tensor(rows)
        return TextBatch(pooled_BE[:, None], torch.ones(len(rows), 1, dtype=torch.bool), pooled_BE)

    def identity(self):
        return {"kind": "letters", "name": "letters", "sha256": ""}


STYLES = [
    sample("flat-1", "sailboat, flat style: boat, sea", "1", "blue"),
    sample("3d-1", "sailboat, 3d style: boat, sea", "1", "red"),
    sample("flat-2", "cat, flat style: animal", "2", "red"),
    sample("noto-1", "sailboat, noto style: boat, resort, sea", "1", "blue"),
    sample("alone", "a dog", "3", "green"),
]


def texts_of(samples):
    return list(survey(samples, PixelFeatures()).texts)


def test_captions_of_a_group_keep_the_words_they_share():
    assert texts_of(STYLES) == ["sailboat, style: boat, sea", "cat, flat style: animal", "a dog"]


def test_captions_that_share_nothing_fall_back_to_the_first():
    samples = [sample("a", "un chat", "1"), sample("b", "a cat", "1"), sample("c", "un", "1")]
    assert texts_of(samples[:2]) == texts_of(samples) == ["un chat"]


def test_equal_texts_are_encoded_once():
    encoder = LetterEncoder()
    samples = [sample(f"k{number}", f"thing {'ab'[number % 2]}") for number in range(50)]
    found = survey(samples, TextFeatures(encoder))
    assert sorted(encoder.asked) == ["thing a", "thing b"]
    assert found.vectors.shape == (50, 26)
    np.testing.assert_array_equal(found.vectors[0], found.vectors[2])
    assert not np.allclose(found.vectors[0], found.vectors[1])


def test_a_survey_counts_groups_in_order_of_appearance():
    found = survey(STYLES, TextFeatures(LetterEncoder()))
    assert list(found.groups) == ["1", "2", "3"]
    assert found.samples.tolist() == [3, 1, 1]
    assert found.texts[2] == "a dog"
    assert found.features == "text"


@pytest.mark.parametrize("name", ["text", "pixels", "text+pixels"])
def test_all_features_are_unit_rows_and_know_their_name(name):
    found = survey(STYLES, open_features(name, LetterEncoder()))
    assert found.features == name
    assert found.vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)


def test_unknown_features_are_a_usage_error():
    with pytest.raises(UsageError, match="dino"):
        open_features("dino", LetterEncoder())


@pytest.mark.parametrize(
    ("spec", "weights"),
    [
        ("text", {"text": 1}),
        ("text+pixels", {"text": 0.9, "pixels": 0.1}),
        ("dinov2+text:0.3", {"dinov2": 0.7, "text": 0.3}),
        ("dinov2+clip+text:.5", {"dinov2": 0.25, "clip": 0.25, "text": 0.5}),
        ("pixels:0.5+mobilenet:0.5", {"pixels": 0.5, "mobilenet": 0.5}),
    ],
)
def test_weights_that_are_not_given_share_what_is_left(spec, weights):
    assert parse_features(spec) == pytest.approx(weights)


@pytest.mark.parametrize(
    "spec", ["", "text+", "text+text", "text:2", "text:-1", "text:0.5", "text:0.6+pixels:0.6", "text:1+dinov2", "Text"]
)
def test_features_that_make_no_sense_are_a_usage_error(spec):
    with pytest.raises(UsageError) as caught:
        parse_features(spec)
    assert caught.value.hint


def test_pixels_tell_colours_apart_and_average_a_group():
    samples = [sample(f"{colour}{number}", colour=colour) for colour in ("red", "blue") for number in range(3)]
    vectors = survey(samples, PixelFeatures()).vectors
    similarity = vectors @ vectors.T
    assert similarity[:3, :3].min() > 0.99
    assert similarity[:3, 3:].max() < 0
    mixed = [sample("a", group="g", colour="red"), sample("b", group="g", colour="blue"), sample("c", colour="red")]
    assert survey(mixed, PixelFeatures()).vectors.shape == (2, 384)


def test_combined_distances_add_up_with_their_weights():
    parts = TextFeatures(LetterEncoder()), PixelFeatures()
    text, pixels = (survey(STYLES, part).vectors for part in (TextFeatures(LetterEncoder()), PixelFeatures()))
    both = survey(STYLES, CombinedFeatures([(parts[0], 0.7), (parts[1], 0.3)])).vectors
    np.testing.assert_allclose(both @ both.T, 0.7 * text @ text.T + 0.3 * pixels @ pixels.T, atol=1e-5)


def test_equal_rows_of_pixels_do_not_divide_by_zero():
    assert np.isfinite(survey([sample("a"), sample("b")], PixelFeatures()).vectors).all()
    assert unit_rows(np.zeros((2, 3))).tolist() == [[0, 0, 0]] * 2


def test_no_sample_is_a_usage_error():
    with pytest.raises(UsageError, match="no usable sample"):
        survey([], PixelFeatures())


@pytest.mark.parametrize(
    "change",
    [{"key": "other"}, {"picture": b"other"}, {"suffix": "jpg"}, {"caption": "b"}, {"group": "b"}, {"fields": {}}],
)
def test_the_digest_changes_with_anything_that_goes_into_a_shard(change):
    one = sample("a")
    assert fingerprint(dataclasses.replace(one, **change)) != fingerprint(one)
    assert fingerprint(dataclasses.replace(one)) == fingerprint(one)


def test_equal_data_give_equal_surveys_and_order_counts():
    one, two = survey_of(coloured(5)), survey_of(coloured(5))
    assert one.digest_hex == two.digest_hex
    np.testing.assert_array_equal(one.vectors, two.vectors)
    assert survey_of(coloured(5)[::-1]).digest_hex != one.digest_hex


def test_progress_tells_both_stages():
    told = []
    survey(coloured(40, styles=4), TextFeatures(LetterEncoder()), lambda *now: told.append(now))
    assert {stage for stage, _, _ in told} == {"read", "encode"}
    assert told[0] == ("read", 0, 0)
    assert ("read", 640, 640) in told
    assert told[-1] == ("encode", 160, 160)
