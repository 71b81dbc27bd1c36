"""An expert of clips that starts as an expert of pictures, as Paris 2.0's start from FLUX.1-dev (arXiv 2605.26064).

The kept class of `video.py` has FLUX's blocks under FLUX's names, so their weights are taken over as they are. What
FLUX lacks starts so that it does nothing: the refiner of the text has gates of zero, attention over time ends in zeros,
the channels of a first frame are weighed by zeros, and a patch of several frames shares the picture's weights
out among them. Hence, with rotary_base 10000 and where every text token counts:

* one frame is predicted as FLUX predicts the picture;
* with factorised attention so is every frame of a clip, whatever the others hold;
* with patches of several frames so is a clip that stands still.

Where text tokens are padding, FLUX looks at them and this network does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from paris.models.checkpoints import CheckpointError, check_tensors
from paris.models.initialisation import Initialisation
from paris.models.video import FACTORISED, VideoExpert

KERNEL, HEAD, HEAD_BIAS = "x_embedder.proj.weight", "proj_out.weight", "proj_out.bias"
FROM_FLUX = {
    "x_embedder.weight": KERNEL,
    "x_embedder.bias": "x_embedder.proj.bias",
    "context_embedder.weight": "context_embedder.proj_in.weight",
    "context_embedder.bias": "context_embedder.proj_in.bias",
}
"""FLUX's names of what the kept class calls otherwise."""


def initialise_clips(files: Sequence[Path], arguments: Mapping[str, Any], *, seed: int = 0) -> Initialisation:
    """Make an expert of clips from the weights of one of pictures.

    Args:
        files: the source, a `FluxTransformer2DModel` or a `VideoExpert` of one frame a patch and without a place for a
            first frame, in one or several safetensors files, none of its tensors missing and none unknown.
        arguments: of `VideoExpert`; widths, blocks, heads, patch, text and channels must be the source's.
        seed: of what is new.

    Raises:
        checkpoints.CheckpointError: a file cannot be read, or a tensor is missing, unknown, misshapen or not finite.
        ValueError: no network has these arguments.
    """
    source = _read(files)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = VideoExpert(**arguments)
    state = {name.removeprefix("transformer."): tensor for name, tensor in network.state_dict().items()}
    ours = {_kept_name(name, network): name for name in state}
    wanted = {theirs: state[name].shape for theirs, name in ours.items() if not _is_new(name, source)}
    frames, channels = network.patches[0], int(arguments["channels"])
    patch = network.patches[1]
    wanted[KERNEL] = torch.Size((wanted[KERNEL][0], channels, 1, patch, patch))
    wanted[HEAD], wanted[HEAD_BIAS] = (
        torch.Size((channels * patch * patch, *wanted[name][1:])) for name in (HEAD, HEAD_BIAS)
    )
    if source.get(KERNEL, torch.empty(0)).shape[1:] == (channels * patch * patch,):
        source[KERNEL] = source[KERNEL].reshape(-1, channels, 1, patch, patch)
    check_tensors(files[0], source, wanted)
    made = {ours[theirs]: tensor.float() for theirs, tensor in source.items()}
    changed = [KERNEL] * (frames > 1 or state[KERNEL].shape[1] > channels) + [HEAD, HEAD_BIAS] * (frames > 1)
    kernel = torch.zeros_like(state[KERNEL])
    kernel[:, :channels] = made[KERNEL] / frames
    made[KERNEL] = kernel
    for name in (HEAD, HEAD_BIAS):
        made[name] = _for_every_frame(made[name], channels, frames, patch)
    network.load_state_dict({f"transformer.{name}": made.get(name, tensor) for name, tensor in state.items()})
    kept, fitted, new = (
        tuple(sorted(f"transformer.{name}" for name in names))
        for names in (made.keys() - {*changed}, changed, state.keys() - made.keys())
    )
    return Initialisation(network.eval(), kept, fitted, new, left=())


def _read(files: Sequence[Path]) -> dict[str, Tensor]:
    source: dict[str, Tensor] = {}
    for file in files:
        try:
            part = load_file(file)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{file} cannot be read as safetensors ({error}). Fetch it again.") from error
        source |= {FROM_FLUX.get(short := name.removeprefix("transformer."), short): t for name, t in part.items()}
    return source


def _kept_name(name: str, network: VideoExpert) -> str:
    """Return what a tensor is called in the network without attention over time."""
    factorised = network.config["attention"] == FACTORISED
    return name.replace(".block.", ".") if factorised and "transformer_blocks." in name else name


def _is_new(name: str, source: Mapping[str, Tensor]) -> bool:
    """Tell whether pictures do without: attention over time, and the refiner of the text where the source has none."""
    if ".over_time." in name or ".time_norm." in name:
        return True
    refines = name.startswith("context_embedder.") and ".proj_in." not in name
    return refines and not any(theirs.startswith("context_embedder.token_refiner.") for theirs in source)


def _for_every_frame(rows: Tensor, channels: int, frames: int, patch: int) -> Tensor:
    """Repeat the head's rows, which are channels x patch x patch, for every frame of a patch."""
    each = rows.reshape(channels, 1, patch * patch, *rows.shape[1:])
    return each.expand(channels, frames, *each.shape[2:]).reshape(-1, *rows.shape[1:])
