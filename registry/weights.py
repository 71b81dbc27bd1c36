"""Which files of a stranger's checkpoint people use, and how large they can be: known before a byte is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from paris.models.checkpoints import CONFIG, WEIGHTS
from paris.models.inspect import largest_bytes
from paris.protocol.errors import RecordError
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import Manifest
from paris.protocol.records import Genesis

CONFIG_BYTES: Final = LIMITS.record_bytes


def network_of(genesis: Genesis, unit: str) -> tuple[Literal["expert", "router"], Mapping[str, Any]]:
    """What kind of network a unit is, and its keyword arguments as signed."""
    return ("router", genesis.model.router) if unit == "router" else ("expert", genesis.model.expert)


def model_files(manifest: Manifest, genesis: Genesis, unit: str) -> Manifest:
    """The config and the weights in a checkpoint's manifest.

    Raises:
        RecordError: one is missing, or larger than the signed architecture can need.
    """
    kind, architecture = network_of(genesis, unit)
    try:
        limits_bytes = {CONFIG: CONFIG_BYTES, WEIGHTS: largest_bytes(dict(architecture), kind)}
    except (TypeError, ValueError) as error:
        raise RecordError(f"the genesis describes no {kind} that can be built", str(error)) from error
    for name, limit_bytes in limits_bytes.items():
        size_bytes = manifest.entry(name).size
        if size_bytes > limit_bytes:
            why = f"it has {size_bytes:,} bytes, the signed architecture needs {limit_bytes:,} at most"
            raise RecordError(f"{name} of {unit} is too large", why, "It was not fetched")
    return manifest.select(lambda entry: entry.name in limits_bytes)
