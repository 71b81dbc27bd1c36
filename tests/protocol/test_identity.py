"""Names and keys, against the vectors of the libp2p specification."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_support import person

from paris.protocol.errors import SignatureError, UsageError
from paris.protocol.identity import Identity, peer_id_of, public_key_of

# libp2p/specs, peer-ids.md, test vectors for Ed25519
SPEC_PRIVATE = bytes.fromhex(
    "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
    "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
)
SPEC_PUBLIC = bytes.fromhex("1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e")


def test_the_key_file_is_the_one_of_the_libp2p_specification():
    identity = Identity.from_libp2p(SPEC_PRIVATE)
    assert identity.public_key == SPEC_PUBLIC
    assert identity.to_libp2p() == SPEC_PRIVATE


def test_the_peer_id_is_the_one_libp2p_computes():
    from paris.protocol.transport.libp2p import PeerID

    identity = person(5)
    assert PeerID.from_base58(identity.peer_id).to_bytes().endswith(identity.public_key)
    assert PeerID.from_base58(identity.peer_id).to_base58() == identity.peer_id
    assert identity.peer_id.startswith("12D3KooW")


@given(st.binary(min_size=32, max_size=32).map(lambda seed: Identity.from_seed(seed).public_key))
def test_a_name_gives_its_key_back(public_key):
    assert public_key_of(peer_id_of(public_key)) == public_key


PRIME = 2**255 - 19
CURVE_D = -121665 * pow(121666, -1, PRIME) % PRIME


def doubled(x: int, y: int) -> tuple[int, int]:
    """Twice a point of edwards25519 (RFC 8032, section 5.1)."""
    t = CURVE_D * x * x * y * y % PRIME
    return 2 * x * y * pow(1 + t, -1, PRIME) % PRIME, (y * y + x * x) * pow(1 - t, -1, PRIME) % PRIME


def x_of(y: int) -> int | None:
    """An x with which `y` is on the curve, if there is one (RFC 8032, section 5.1.3)."""
    square = (y * y - 1) * pow(CURVE_D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    for root in (x, x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME):
        if root * root % PRIME == square:
            return root
    return None


def test_the_weak_keys_are_exactly_the_points_of_small_order():
    from paris.protocol.identity import _WEAK_Y

    for y in _WEAK_Y:
        point = (x_of(y), y)
        for _ in range(3):
            point = doubled(*point)
        assert point == (0, 1), hex(y)
    assert len(_WEAK_Y) == 5, "eight points: two each for three of the y, one each for 1 and -1"


def test_spellings_of_a_point_beyond_the_prime_name_nobody():
    for y in range(PRIME, 2**255):
        for sign in (0, 1 << 255):
            with pytest.raises(SignatureError, match="weak key"):
                public_key_of(peer_id_of((y | sign).to_bytes(32, "little")))


@pytest.mark.parametrize(
    "name",
    ["", "x", "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "0" * 52, "z" * 52, "1" * 52, "12D3KooW" + "z" * 44],
)
def test_what_is_no_ed25519_name_is_refused(name):
    with pytest.raises(SignatureError, match="no Ed25519 peer id"):
        public_key_of(name)


@given(st.binary(max_size=80) | st.binary(min_size=68, max_size=68))
def test_a_damaged_key_file_is_refused_whatever_it_holds(data):
    with pytest.raises(UsageError):
        Identity.from_libp2p(data)


def test_a_key_file_whose_halves_do_not_match_is_refused():
    mixed = person(1).to_libp2p()[:36] + person(2).to_libp2p()[36:]
    with pytest.raises(UsageError, match="damaged"):
        Identity.from_libp2p(mixed)


def test_a_seed_of_another_length_is_refused():
    with pytest.raises(UsageError, match="32"):
        Identity.from_seed(b"short")


def test_the_secret_is_not_printed():
    assert person(1).seed.hex() not in repr(person(1))
    assert person(1).peer_id in repr(person(1))
