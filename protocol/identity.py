"""Who a node is: one Ed25519 key, at once its libp2p peer id and its signing key.

A peer id is the base58 text of the identity multihash of the libp2p public key protobuf, so the public key can be read
back from the name (libp2p specs, peer-ids). The key file is the libp2p private key protobuf, the form p2pd reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import CryptoSigner, SSlibKey

from paris.protocol.errors import SignatureError, UsageError

SEED_BYTES = 32
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PEER_ID_CHARS = 52
# identity multihash of 36 bytes, then protobuf PublicKey{type: Ed25519, data: 32 bytes}
_PEER_ID_PREFIX = bytes([0x00, 0x24, 0x08, 0x01, 0x12, 0x20])
# protobuf PrivateKey{type: Ed25519, data: 32 bytes seed + 32 bytes public key}
_PRIVATE_PREFIX = bytes([0x08, 0x01, 0x12, 0x40])

_PRIME = 2**255 - 19
_ORDER_8_Y = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
# The y of every point whose order divides 8: under such a key, signatures verify that nobody's secret made.
_WEAK_Y = frozenset({0, 1, _PRIME - 1, _ORDER_8_Y, _PRIME - _ORDER_8_Y})


@dataclass(frozen=True, repr=False)
class Identity:
    """A node's key pair.

    Attributes:
        seed: The 32 secret bytes everything follows from (RFC 8032).
    """

    seed: bytes

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """Identity of 32 secret random bytes.

        Raises:
            UsageError: `seed` has another length.
        """
        if len(seed) != SEED_BYTES:
            raise UsageError(f"an identity needs {SEED_BYTES} secret bytes", f"got {len(seed)}")
        return cls(bytes(seed))

    @classmethod
    def from_libp2p(cls, data: bytes) -> Identity:
        """Identity from the content of a key file.

        Raises:
            UsageError: It is no Ed25519 libp2p private key, or its halves do not belong together.
        """
        hint = "paris-node writes Ed25519 keys only; import the right file or make a new key"
        body = data.removeprefix(_PRIVATE_PREFIX)
        if len(data) != len(_PRIVATE_PREFIX) + 2 * SEED_BYTES or len(body) == len(data):
            raise UsageError("this is no Ed25519 libp2p private key", "its form is another", hint)
        identity = cls.from_seed(body[:SEED_BYTES])
        if identity.public_key != body[SEED_BYTES:]:
            raise UsageError("this key is damaged", "its public half does not belong to its secret half", hint)
        return identity

    def to_libp2p(self) -> bytes:
        """Content of a key file, readable by p2pd. Secret."""
        return _PRIVATE_PREFIX + self.seed + self.public_key

    @cached_property
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @cached_property
    def public_key(self) -> bytes:
        """The 32 public bytes."""
        return self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @cached_property
    def peer_id(self) -> str:
        """The node's name, `12D3KooW...`."""
        return peer_id_of(self.public_key)

    @cached_property
    def signer(self) -> CryptoSigner:
        """The securesystemslib signer; its keyid is the peer id."""
        return CryptoSigner(self._private, verification_key(self.peer_id))

    def __repr__(self) -> str:
        return f"Identity({self.peer_id})"


def verification_key(peer_id: str) -> SSlibKey:
    """The securesystemslib key that a peer id names.

    Raises:
        SignatureError: `peer_id` names no Ed25519 key.
    """
    public = Ed25519PublicKey.from_public_bytes(public_key_of(peer_id))
    return SSlibKey.from_crypto(public, keyid=peer_id)


def peer_id_of(public_key: bytes) -> str:
    """Peer id of 32 public bytes."""
    number = int.from_bytes(_PEER_ID_PREFIX + public_key, "big")
    text = ""
    while number:
        number, digit = divmod(number, len(_BASE58))
        text = _BASE58[digit] + text
    return "1" + text  # base58 writes the leading zero byte as a 1


def public_key_of(peer_id: str) -> bytes:
    """The 32 public bytes a peer id holds.

    Raises:
        SignatureError: `peer_id` is no Ed25519 peer id in its one canonical spelling, or anybody could sign under it.
    """
    wrong = SignatureError(f"{peer_id[:80]!r} is no Ed25519 peer id", "it should read 12D3KooW and 44 more characters")
    if len(peer_id) != _PEER_ID_CHARS or any(char not in _BASE58 for char in peer_id):
        raise wrong
    number = 0
    for char in peer_id:
        number = number * len(_BASE58) + _BASE58.index(char)
    size = len(_PEER_ID_PREFIX) + SEED_BYTES
    if number >= 1 << (8 * size):
        raise wrong
    data = number.to_bytes(size, "big")
    public_key = data[len(_PEER_ID_PREFIX) :]
    if not data.startswith(_PEER_ID_PREFIX) or peer_id_of(public_key) != peer_id:
        raise wrong
    y = int.from_bytes(public_key, "little") % 2**255
    if y >= _PRIME or y in _WEAK_Y:
        raise SignatureError(f"{peer_id} names a weak key", "anybody could sign under this name", "make a new key")
    return public_key
