"""Every bound of the protocol in one place. Bounds come before parsing: nothing of unknown size is ever read whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

_HOUR_S = 3600
_LIFE_S = MappingProxyType(
    {
        "peer": 2 * _HOUR_S,
        "claim": _HOUR_S // 2,
        "tip": 48 * _HOUR_S,
        "verdict": 48 * _HOUR_S,
        "head": 24 * _HOUR_S,
    }
)


@dataclass(frozen=True)
class Limits:
    """Bounds with their units.

    Attributes:
        record_bytes: Largest envelope that may lie in the DHT.
        blob_bytes: Largest blob that is read whole into memory (genesis, manifest, checkpoint statement).
        piece_bytes: Size of the pieces a file is hashed and fetched in; the last one may be shorter.
        write_bytes: Size of one write to a blob stream.
        request_bytes: Largest request on a blob stream.
        manifest_files: Most files in one manifest.
        name_chars: Longest file name in a manifest.
        json_depth: Deepest nesting of a JSON payload; the payload itself is depth 1.
        integer: Largest absolute value of a JSON integer, exact in every JSON library.
        skew_s: How far another clock may be ahead of ours.
        signers_per_slot: Most signers remembered under one record key.
        records: Most records one node remembers.
        stranger_records: Most of them that may be of runs it does not know.
        lineage_checkpoints: Longest chain of checkpoints followed.
        genesis_versions: Most versions of one genesis followed.
        credentials: Most delegations and rotations between a signer and the name it acts under.
        delegation_s: Longest life of a delegation.
        life_s: Longest `exp - iat` by record kind.
    """

    record_bytes: int = 16 * 2**10
    blob_bytes: int = 4 * 2**20
    piece_bytes: int = 4 * 2**20
    write_bytes: int = 256 * 2**10
    request_bytes: int = 4 * 2**10
    manifest_files: int = 4096
    name_chars: int = 255
    json_depth: int = 16
    integer: int = 2**53
    skew_s: int = 120
    signers_per_slot: int = 64
    records: int = 16384
    stranger_records: int = 4096
    lineage_checkpoints: int = 4096
    genesis_versions: int = 256
    credentials: int = 4
    delegation_s: int = 366 * 24 * _HOUR_S
    life_s: Mapping[str, int] = field(default_factory=lambda: _LIFE_S)


LIMITS = Limits()
