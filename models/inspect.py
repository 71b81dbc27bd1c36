"""Do a stranger's weights and config hold what they should? Names, shapes, dtypes, finiteness; nothing is run."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paris.models.checkpoints import ACCEPTED_DTYPES
from paris.models.kinds import expert_of, router_of

HEADER_BYTES = 2**20


def check_weights(file: Path, config: dict[str, Any], kind: str) -> list[str]:
    """Return what is wrong with a weights file, one sentence a fault; an empty list means it fits.

    Args:
        file: a safetensors file.
        config: the network's config.json, or its keyword arguments.
        kind: "expert" or "router".
    """
    try:
        shapes = _expected_shapes(_kind(kind, config), config)
    except (TypeError, ValueError) as error:
        return [f"The config does not describe a {kind}: {error}."]
    try:
        with safe_open(file, framework="pt") as weights:
            names = set(weights.keys())
            problems = [f"The tensor {name} is missing." for name in sorted(shapes.keys() - names)]
            problems += [f"The tensor {name} is not part of this {kind}." for name in sorted(names - shapes.keys())]
            trained = False
            for name in sorted(names & shapes.keys()):
                tensor = weights.get_tensor(name)
                problems += _faults(name, tensor, shapes[name])
                trained |= tensor.ndim > 1 and bool(tensor.any())
            if not trained:
                problems.append("Every matrix is zero, as if it was never trained.")
    except (OSError, SafetensorError) as error:
        return [f"{file.name} is not a readable safetensors file: {error}."]
    return problems


def check_config(settings: object, arguments: dict[str, Any], kind: str) -> list[str]:
    """Return what differs between a config.json and the one an honest export of the network has, a sentence a fault.

    An argument that a config leaves out has its default, as it has when the network is loaded.

    Args:
        settings: the parsed config.json of a stranger.
        arguments: keyword arguments of the network that is expected.
        kind: "expert" or "router".
    """
    if not isinstance(settings, dict):
        return ["config.json holds no JSON object."]
    try:
        expected: dict[str, Any] = json.loads(_on_meta(_kind(kind, arguments), arguments).to_json_string())
    except (TypeError, ValueError) as error:
        return [f"The config does not describe a {kind}: {error}."]
    defaults = inspect.signature(_kind(kind, arguments).__init__).parameters.items()
    settings = {**{name: p.default for name, p in defaults if p.default is not p.empty}, **settings}
    names = sorted(n for n in settings.keys() | expected.keys() if n == "_class_name" or not n.startswith("_"))
    return [
        f"config.json says {name} is {settings.get(name)!r:.80} where {expected.get(name)!r} is expected."
        for name in names
        if name not in settings or name not in expected or settings[name] != expected[name]
    ]


def largest_bytes(arguments: dict[str, Any], kind: str) -> int:
    """Return how large a weights file of a network can be, in the widest accepted dtype and with a long header.

    Raises:
        TypeError, ValueError: no network has these arguments.
    """
    shapes = _expected_shapes(_kind(kind, arguments), arguments).values()
    return HEADER_BYTES + sum(shape.numel() for shape in shapes) * max(dtype.itemsize for dtype in ACCEPTED_DTYPES)


def _kind(unit: str, config: dict[str, Any]) -> Any:
    return expert_of(config) if unit == "expert" else router_of(config)


def _expected_shapes(network: Any, config: dict[str, Any]) -> dict[str, torch.Size]:
    return {name: parameter.shape for name, parameter in _on_meta(network, config).state_dict().items()}


def _on_meta(network: Any, config: dict[str, Any]) -> Any:
    """Build a network without memory for its numbers."""
    with torch.device("meta"):
        return network(**{name: value for name, value in config.items() if not name.startswith("_")})


def _faults(name: str, tensor: Tensor, shape: torch.Size) -> list[str]:
    if tensor.shape != shape:
        return [f"The tensor {name} has shape {tuple(tensor.shape)} where {tuple(shape)} is expected."]
    if tensor.dtype not in ACCEPTED_DTYPES:
        return [f"The tensor {name} has dtype {tensor.dtype}, which weights never have."]
    low, high = (float(end) for end in tensor.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        return [f"The tensor {name} holds values that are not finite."]
    # Some matrices begin as zeros and stay so for a few steps: one of them alone is no fault.
    if tensor.ndim > 1 and low == high != 0:
        return [f"The tensor {name} is constant, as if it was never trained."]
    return []
