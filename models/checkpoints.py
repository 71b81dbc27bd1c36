"""Training state and exported weights on disk: safetensors and JSON, atomic, checked on the way in."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from paris.models.filenames import CONFIG, STATE, STATE_NOTE, WEIGHTS
from paris.models.files import write_json, write_tensors
from paris.models.published import Form, form_of

ACCEPTED_DTYPES = frozenset({torch.bfloat16, torch.float16, torch.float32})
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's running means, by their names in torch."""

EXTRA_AVERAGE = re.compile(r"average-\d{1,9}")
"""Groups of averages of other half-lives than the recipe's, which whoever trains alone may keep."""


class CheckpointError(ValueError):
    """A training state or weights file is missing, damaged, or of another network."""


def save_state(
    folder: Path, groups: Mapping[str, Mapping[str, Tensor]], note: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    """Write a training state. The note travels inside the tensor file, so one rename decides; state.json repeats it.

    Raises:
        CheckpointError: where a tensor is not finite; nothing is written then.
    """
    tensors = _flat(groups)
    check_tensors(folder / STATE, tensors, {name: tensor.shape for name, tensor in tensors.items()})
    write_tensors(tensors, folder / STATE, dict(note))
    write_json({**note, **about, "torch": torch.__version__, "threads": torch.get_num_threads()}, folder / STATE_NOTE)


def state_digest(groups: Mapping[str, Mapping[str, Tensor]], note: Mapping[str, Any]) -> str:
    """Return "sha256:<hex>" over the note and every tensor's name, shape and bytes, in the order of names."""
    digest = hashlib.sha256(json.dumps(dict(note), sort_keys=True).encode())
    for name, tensor in sorted(_flat(groups).items()):
        digest.update(f"\0{name}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{digest.hexdigest()}"


def load_state(folder: Path, shapes: Mapping[str, torch.Size]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read a training state back, which may come from a stranger: its groups of tensors by name, and its note.

    Raises:
        CheckpointError: where the file is not whole, its tensors are not those of a network with these shapes, or
            training on from them could not stay finite.
    """
    groups: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(folder / STATE, framework="pt") as file:
            note = json.loads(file.metadata()["note"])
            for name in file.keys():  # noqa: SIM118 (a safetensors file is no mapping)
                group, _, parameter = name.partition(".")
                groups.setdefault(group, {})[parameter] = file.get_tensor(name)
        step = _checked_step(note)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"The training state {folder / STATE} cannot be read ({error}). It is damaged or was never finished. "
            "Fetch the unit's last published checkpoint again."
        ) from error
    needed = {"weights", "average", *(MOMENTS if step else ())}
    for group in needed | groups.keys():
        if group not in needed and not EXTRA_AVERAGE.fullmatch(group):
            raise CheckpointError(f"{folder / STATE} holds {group!r}, which no training state has. Fetch it again.")
        check_tensors(folder / STATE, groups.get(group, {}), shapes)
    if any(bool((square < 0).any()) for square in groups.get(MOMENTS[1], {}).values()):
        raise CheckpointError(f"{folder / STATE} holds negative squares: the next step would destroy the weights.")
    return groups, note


def load_export(
    folder: Path, form: Form, shapes: Mapping[str, torch.Size], names: Callable[[str], str] = str
) -> dict[str, Tensor]:
    """Read exported weights of a network with these shapes, by its own names.

    Args:
        folder: where the file is.
        form: how such a network lies in files.
        shapes: of the network's tensors.
        names: what the file should call a tensor of it.

    Raises:
        CheckpointError: where the file is not whole or of another network.
    """
    try:
        found = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"The weights {folder / WEIGHTS} cannot be read ({error}). Fetch them again.") from error
    weights: dict[str, Tensor] = {names(name): tensor for name, tensor in found.items()}
    if len(weights) < len(found):
        raise CheckpointError(f"{folder / WEIGHTS} holds one tensor under two names. Fetch it from somebody else.")
    check_tensors(folder / WEIGHTS, weights, file_shapes(form, shapes))
    return form.from_file(weights)


def file_shapes(form: Form, shapes: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
    """Return the shapes of the file's tensors of a network with these shapes."""
    without_memory = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    return {name: tensor.shape for name, tensor in form.to_file(without_memory).items()}


def export(folder: Path, network: Any, average: Mapping[str, Tensor]) -> None:
    """Write config.json and the averaged weights in bf16, as diffusers opens them. Nothing non-finite gets out."""
    export_as(folder, json.loads(network.to_json_string()), average)


def export_as(folder: Path, config: Mapping[str, Any], average: Mapping[str, Tensor]) -> None:
    """Do what `export` does, for a network of this config."""
    write_network(folder, config, {name: tensor.detach().to("cpu", torch.bfloat16) for name, tensor in average.items()})


def write_network(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write config.json and weights of a network of this config as they are published, in the precision they have.

    Raises:
        CheckpointError: where a tensor is not finite; nothing is written then.
    """
    form = form_of(config)
    weights = form.to_file(tensors)
    check_tensors(folder / WEIGHTS, weights, {name: tensor.shape for name, tensor in weights.items()})
    write_json(dict(form.config), folder / CONFIG)
    write_tensors(weights, folder / WEIGHTS, {})


def _flat(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {
        f"{group}.{name}": tensor.detach().cpu().contiguous()
        for group, named in groups.items()
        for name, tensor in named.items()
    }


def _checked_step(note: dict[str, Any]) -> int:
    key, step, updates, size, scaling = (note[n] for n in ("key", "step", "updates", "micro_batch", "loss_scale"))
    whole_numbers = all(type(number) is int for number in (step, updates, size))
    if not isinstance(key, list) or not isinstance(scaling, dict) or not whole_numbers:
        raise ValueError("its note is not that of a training state")
    if not 0 <= updates <= step or size < 1:
        raise ValueError(f"no training has done {updates} updates in {step} steps with micro-batches of {size}")
    return int(step)


def check_tensors(path: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> None:
    """Refuse tensors that are not exactly those of a network with these shapes, or hold numbers no weights have.

    Raises:
        CheckpointError: naming the first tensor that is missing, unknown, misshapen, of a foreign dtype or not finite.
    """
    check_shapes(path, {name: tensor.shape for name, tensor in tensors.items()}, shapes)
    foreign = sorted(name for name, tensor in tensors.items() if tensor.dtype not in ACCEPTED_DTYPES)
    if foreign:
        raise CheckpointError(
            f"{path} does not fit this network: {len(foreign)} tensors hold numbers that weights never are, the first "
            f"is {foreign[0]!r} in {tensors[foreign[0]].dtype}. Whoever made it means harm. Take an earlier checkpoint."
        )
    poisoned = sorted(name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all()))
    if poisoned:
        raise CheckpointError(
            f"{path} is poisoned: {len(poisoned)} tensors are not finite, the first is {poisoned[0]!r}. "
            "Whoever made it trained past a failure or means harm. Take an earlier checkpoint."
        )


def check_shapes(path: Path, found: Mapping[str, torch.Size], shapes: Mapping[str, torch.Size]) -> None:
    """Refuse a file whose tensors are not exactly those of a network with these shapes.

    Raises:
        CheckpointError: naming the first tensor that is missing, unknown or of another shape.
    """
    wrong = sorted(name for name in {*found, *shapes} if found.get(name) != shapes.get(name))
    if wrong:
        first = f"{wrong[0]!r} is missing"
        if wrong[0] not in shapes:
            first = f"{wrong[0]!r} is unknown"
        elif wrong[0] in found:
            first = f"{wrong[0]!r} is {tuple(found[wrong[0]])} instead of {tuple(shapes[wrong[0]])}"
        raise CheckpointError(
            f"{path} does not fit this network: {len(wrong)} tensors are missing, unknown or of another shape, "
            f"beginning with: {first}. It was made with another preset."
        )
