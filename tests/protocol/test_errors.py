"""Errors read as sentences and carry the exit codes the documentation promises."""

from __future__ import annotations

import pytest

from paris.protocol import errors
from paris.protocol.digests import check, hex_of, is_digest, sha256_of


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.ParisError, 1),
        (errors.UsageError, 2),
        (errors.EnvelopeError, 3),
        (errors.SignatureError, 3),
        (errors.RecordError, 3),
        (errors.DigestError, 3),
        (errors.LineageError, 3),
        (errors.BootstrapError, 4),
        (errors.UnavailableError, 4),
        (errors.ResourceError, 5),
    ],
)
def test_exit_codes(kind, code):
    assert kind("it failed").exit_code == code


def test_the_parts_become_sentences():
    assert (
        str(errors.ParisError("it failed", "the disk is full", "make room"))
        == "it failed. the disk is full. make room."
    )
    assert str(errors.ParisError("it failed!", "", "try again?")) == "it failed! try again?"


def test_digests_have_one_form():
    digest = sha256_of(b"")
    assert is_digest(digest)
    assert hex_of(digest) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    for wrong in (digest.upper(), digest[:-1], digest + "\n", digest + "0", "md5:" + "0" * 64, None, 5):
        assert not is_digest(wrong)
    with pytest.raises(errors.DigestError, match="64 lower-case hex"):
        hex_of("sha256:xyz")


def test_a_wrong_byte_is_named():
    check(b"data", sha256_of(b"data"))
    with pytest.raises(errors.DigestError, match="the shard does not match"):
        check(b"date", sha256_of(b"data"), "the shard")
