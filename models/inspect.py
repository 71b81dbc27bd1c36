"""Does a weights file hold what its config says? Names, shapes, dtypes, finiteness, without running or trusting it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from paris.models.dit import DiT
from paris.models.router import Router

_KINDS: dict[str, type[DiT | Router]] = {"expert": DiT, "router": Router}
ACCEPTED_DTYPES = frozenset({torch.bfloat16, torch.float16, torch.float32})


def check_weights(file: Path, config: dict[str, Any], kind: str) -> list[str]:
    """Return what is wrong with a weights file, one sentence a fault; an empty list means it fits.

    Args:
        file: a safetensors file.
        config: the network's config.json, or its keyword arguments.
        kind: "expert" or "router".
    """
    try:
        shapes = _expected_shapes(_KINDS[kind], config)
    except (TypeError, ValueError) as error:
        return [f"The config does not describe a {kind}: {error}."]
    try:
        with safe_open(file, framework="pt") as weights:
            names = set(weights.keys())
            problems = [f"The tensor {name} is missing." for name in sorted(shapes.keys() - names)]
            problems += [f"The tensor {name} is not part of this {kind}." for name in sorted(names - shapes.keys())]
            for name in sorted(names & shapes.keys()):
                problems += _faults(name, weights.get_tensor(name), shapes[name])
    except (OSError, SafetensorError) as error:
        return [f"{file.name} is not a readable safetensors file: {error}."]
    return problems


def _expected_shapes(network: type[DiT | Router], config: dict[str, Any]) -> dict[str, torch.Size]:
    arguments = {name: value for name, value in config.items() if not name.startswith("_")}
    with torch.device("meta"):
        return {name: parameter.shape for name, parameter in network(**arguments).state_dict().items()}


def _faults(name: str, tensor: Tensor, shape: torch.Size) -> list[str]:
    if tensor.shape != shape:
        return [f"The tensor {name} has shape {tuple(tensor.shape)} where {tuple(shape)} is expected."]
    if tensor.dtype not in ACCEPTED_DTYPES:
        return [f"The tensor {name} has dtype {tensor.dtype}, which weights never have."]
    if not torch.isfinite(tensor).all():
        return [f"The tensor {name} holds values that are not finite."]
    if tensor.ndim > 1 and bool((tensor == tensor.flatten()[0]).all()):
        return [f"The tensor {name} is constant, as if it was never trained."]
    return []
