"""Do a stranger's weights and config hold what they should? Names, shapes, dtypes, finiteness; nothing is run.

What they should hold is the form in which an honest export publishes the network, see `published.py`.
"""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paris.models.checkpoints import ACCEPTED_DTYPES, file_shapes
from paris.models.kinds import expert_of, router_of
from paris.models.published import UNREAD, as_ours, counterpart_of, form_of

HEADER_BYTES = 2**20


def check_weights(file: Path, config: dict[str, Any], kind: str) -> list[str]:
    """Return what is wrong with a weights file, one sentence a fault; an empty list means it fits.

    Args:
        file: a safetensors file.
        config: the network's config.json, or its keyword arguments.
        kind: "expert" or "router".
    """
    try:
        shapes = _expected_shapes(as_ours(config), kind)
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
        network = _on_meta(arguments, kind)
    except (TypeError, ValueError) as error:
        return [f"The config does not describe a {kind}: {error}."]
    ours: dict[str, Any] = json.loads(network.to_json_string())
    expected = form_of(ours).config
    if expected["_class_name"] == ours["_class_name"]:
        settings = {**_defaults(type(network)), **settings}
    names = sorted((settings.keys() | expected.keys()) - UNREAD | {"_class_name"})
    return [
        f"config.json says {name} is {settings.get(name)!r:.80} where {expected.get(name)!r} is expected."
        for name in names
        if name not in settings or name not in expected or settings[name] != expected[name]
    ]


def opened_by(arguments: dict[str, Any], kind: str) -> tuple[str, str]:
    """Return module and name of the class that opens an honest export of the network with `from_pretrained`."""
    network = expert_of(arguments) if kind == "expert" else router_of(arguments)
    counterpart = counterpart_of({**_defaults(network), **arguments})
    return ("diffusers", counterpart.theirs) if counterpart else (network.__module__, network.__name__)


def largest_bytes(arguments: dict[str, Any], kind: str) -> int:
    """Return how large a weights file of a network can be, in the widest accepted dtype and with a long header.

    Raises:
        TypeError, ValueError: no network has these arguments.
    """
    shapes = _expected_shapes(arguments, kind).values()
    return HEADER_BYTES + sum(shape.numel() for shape in shapes) * max(dtype.itemsize for dtype in ACCEPTED_DTYPES)


def _expected_shapes(config: dict[str, Any], kind: str) -> dict[str, torch.Size]:
    """Return the shapes of the file's tensors."""
    network = _on_meta(config, kind)
    form = form_of(network.config)
    return file_shapes(form, {name: parameter.shape for name, parameter in network.state_dict().items()})


def _defaults(network: Any) -> dict[str, Any]:
    """Return the arguments that a network need not be given."""
    parameters = inspect.signature(network.__init__).parameters.items()
    return {name: parameter.default for name, parameter in parameters if parameter.default is not parameter.empty}


def _on_meta(config: dict[str, Any], kind: str) -> Any:
    """Build a network without memory for its numbers."""
    network = expert_of(config) if kind == "expert" else router_of(config)
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
