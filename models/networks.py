"""Building and loading networks from a folder of config.json + safetensors, every tensor accounted for.

diffusers' own loader only warns about missing or unknown tensors and fills the gaps with random numbers; weights that
come from strangers need the strict way.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch

from paris.models.checkpoints import CheckpointError, load_export, write_network
from paris.models.filenames import CONFIG
from paris.models.published import as_ours, form_in

Network = TypeVar("Network", bound=torch.nn.Module)


def read_config(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """Return a folder's config.json, or another file like it.

    Raises:
        CheckpointError: where it is missing or no JSON object.
    """
    path = folder / name
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Fetch the folder again.") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} holds no JSON object. Fetch the folder again.")
    return settings


def network_config(folder: Path) -> dict[str, Any]:
    """Return what a folder's config.json says of its network, by our class and its arguments.

    Raises:
        CheckpointError: where it is missing, no JSON object, or of a network that ours is not.
    """
    try:
        return as_ours(read_config(folder))
    except ValueError as error:
        raise CheckpointError(f"{folder / CONFIG} describes no network of ours: {error}.") from error


def load_network(
    kind: type[Network], folder: Path, dtype: torch.dtype = torch.float32, *, names: Callable[[str], str] = str
) -> Network:
    """Build a network from a folder's config and load its weights strictly.

    The network is built without memory and then given the tensors of the mapped file: where the precision is the
    file's, nothing is read before it is used, but for tensors that diffusers' class lays out otherwise; else one tensor
    after the other is converted. Never two networks at once.

    Args:
        kind: class of the network.
        folder: config.json and weights.
        dtype: precision of the result.
        names: what the network calls a tensor of the file, where that may differ.

    Raises:
        CheckpointError: where the config is of another class, or a tensor is missing, unknown or misshapen.
    """
    settings = network_config(folder)
    if settings.get("_class_name") != kind.__name__:
        raise CheckpointError(
            f"{folder} holds a {settings.get('_class_name')}, not a {kind.__name__}. Check which folder was meant."
        )
    known = inspect.signature(kind.__init__).parameters
    try:
        with torch.device("meta"):
            network = kind(**{name: value for name, value in settings.items() if name in known})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG} does not describe a {kind.__name__}: {error}") from error
    form = form_in(read_config(folder), getattr(network, "config", {}))
    weights = load_export(folder, form, {name: p.shape for name, p in network.state_dict().items()}, names)
    network.load_state_dict(weights, assign=True)
    del weights  # or every tensor would be kept beside its conversion
    torch.nn.Module.to(network, dtype)  # diffusers' own `to` warns about a casting rule that we do not have
    return network.eval().requires_grad_(False)


def save_network(network: Any, folder: Path) -> None:
    """Write what `load_network` reads, in the network's precision, as it is published.

    Raises:
        CheckpointError: where a tensor is not finite; nothing is written then.
    """
    write_network(folder, json.loads(network.to_json_string()), network.state_dict())
