"""Which files of a stranger's checkpoint are used, how large they can be, and whether they hold what they should.

The first two are known before a byte is fetched. Whoever serves peers asks from a thread: the first question imports
torch and the class of the network, which takes seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from paris.models.filenames import CONFIG, STATE, STATE_NOTE, WEIGHTS
from paris.protocol.errors import RecordError
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import Manifest
from paris.protocol.records import Genesis

CONFIG_BYTES: Final = LIMITS.record_bytes
NOTE_BYTES: Final = 2**20
METRICS: Final = "metrics.json"
STATE_GROUPS: Final = 4
"""Weights, average and two moments: a full training state holds the network this many times."""


def network_of(genesis: Genesis, unit: str) -> tuple[Literal["expert", "router"], Mapping[str, Any]]:
    """What kind of network a unit is, and its keyword arguments as signed."""
    return ("router", genesis.model.router) if unit == "router" else ("expert", genesis.model.expert)


def model_files(manifest: Manifest, genesis: Genesis, unit: str) -> Manifest:
    """The config and the weights in a checkpoint's manifest.

    Raises:
        RecordError: one is missing, or larger than the signed architecture can need.
    """
    return _bounded(manifest, unit, {CONFIG: CONFIG_BYTES, WEIGHTS: _network_bytes(genesis, unit)})


def checkpoint_files(manifest: Manifest, genesis: Genesis, unit: str) -> Manifest:
    """All files of a checkpoint, its full training state included: what a copy or a takeover needs, and nothing else.

    Raises:
        RecordError: one is missing, or larger than the signed architecture can need.
    """
    network_bytes = _network_bytes(genesis, unit)
    notes = {CONFIG: CONFIG_BYTES, METRICS: NOTE_BYTES, STATE_NOTE: NOTE_BYTES}
    return _bounded(manifest, unit, {**notes, WEIGHTS: network_bytes, STATE: STATE_GROUPS * network_bytes})


def state_file(manifest: Manifest, genesis: Genesis, unit: str) -> Manifest:
    """The full training state alone.

    Raises:
        RecordError: there is none, or it is larger than the signed architecture can need.
    """
    return _bounded(manifest, unit, {STATE: STATE_GROUPS * _network_bytes(genesis, unit)})


def get_ready(genesis: Genesis) -> None:
    """Import now what the first question of a run's checkpoints needs: it may come when somebody waits to leave."""
    for unit in ("router", genesis.units()[0]):
        _network_bytes(genesis, unit)


def weight_faults(config: Path, weights: Path, genesis: Genesis, unit: str) -> list[str]:
    """What keeps the network in these files from being the signed one, a sentence a fault. Reads every number."""
    from paris.models.inspect import check_config, check_weights  # noqa: PLC0415 - torch, which few peers need at once

    kind, architecture = network_of(genesis, unit)
    try:
        settings = json.loads(config.read_bytes())
    except (ValueError, RecursionError):
        settings = None
    return [
        *check_config(settings, dict(architecture), kind),
        *check_weights(weights, dict(architecture), kind),
    ]


def _network_bytes(genesis: Genesis, unit: str) -> int:
    from paris.models.inspect import largest_bytes  # noqa: PLC0415 - as above

    kind, architecture = network_of(genesis, unit)
    try:
        return largest_bytes(dict(architecture), kind)
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise RecordError(f"the genesis describes no {kind} that can be built", str(error)) from error


def _bounded(manifest: Manifest, unit: str, limits_bytes: Mapping[str, int]) -> Manifest:
    for name, limit_bytes in limits_bytes.items():
        size_bytes = manifest.entry(name).size
        if size_bytes > limit_bytes:
            why = f"it has {size_bytes:,} bytes, the signed architecture needs {limit_bytes:,} at most"
            raise RecordError(f"{name} of {unit} is too large", why, "It was not fetched")
    return manifest.select(lambda entry: entry.name in limits_bytes)
