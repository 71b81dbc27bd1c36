"""An expert that starts from a class-conditional diffusion transformer trained on ImageNet, as Paris's experts did.

Sources: Heterogeneous Decentralized Diffusion Models (arXiv 2603.06741) keeps such a network's patch and position
embeddings and its blocks, and makes head and text projection anew; DiT (arXiv 2212.09748) is that network, and its
tensors' names are those of the published checkpoints; PixArt-alpha (arXiv 2310.00426, section 2.3) turns a projection
of the condition in every block into one for all and a table a block. What becomes of each part here:

* kept, the same numbers: patch embedding, positions (interpolated to another grid), attention and perceptrons, the time
  embedding's weights, and with per-block modulation the projections of the condition;
* fitted, computed from the source's: the row of the class table that stands for "no class" is added to the time
  embedding's last bias, so that blocks see the condition they saw in unconditional training; with AdaLN-Single the
  shared projection is the mean of the blocks' own, and each table what its block lacks at step 500, where the
  modulation is then exactly the source's;
* new: text projection, cross-attention (its last layer zero, so that the first picture is the source's unconditional
  trunk), final table, and the head, which is zero;
* left behind: the other classes and the head, which predicts noise and its variance.

The objective is not carried over. The source predicted noise on a variance-preserving path with linear betas; a new
head learns whatever the recipe asks. For `ddpm-noise` on the `linear` schedule everything else is as it was: the times
are DiT's 0 to 999 and the inputs have its noise levels. For `velocity` the same time means another noise level, and the
inputs (1-t) x0 + t eps are up to 1 / sqrt 2 shorter; the trunk has to get used to both.

The published checkpoints may be used for non-commercial purposes only, and so may whatever starts from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from paris.models.checkpoints import CheckpointError, check_tensors
from paris.models.dit import DiT
from paris.models.files import write_json
from paris.models.layers import TIME_SCALE, TimeEmbedding
from paris.models.networks import save_network
from paris.models.positions import resized
from paris.models.renaming import BATCHED, JOINED, KERNEL, Row, linear, rows_of, to_ours, to_theirs

FITTED_AT_STEP = 500
REPORT = "initialisation.json"

TABLE: tuple[Row, ...] = (
    Row(("x_embedder.proj.weight",), ("patch_in.weight",), KERNEL),
    Row(("x_embedder.proj.bias",), ("patch_in.bias",)),
    Row(("pos_embed",), ("pos_embed",), BATCHED),
    *linear("t_embedder.mlp.0", "time.hidden"),
    *linear("t_embedder.mlp.2", "time.out"),
    *linear("blocks.{n}.adaLN_modulation.1", "blocks.{n}.modulation"),
    *(
        Row(
            (f"blocks.{{n}}.attn.qkv.{p}",), (f"blocks.{{n}}.attention.q.{p}", f"blocks.{{n}}.attention.kv.{p}"), JOINED
        )
        for p in ("weight", "bias")
    ),
    *linear("blocks.{n}.attn.proj", "blocks.{n}.attention.out"),
    *linear("blocks.{n}.mlp.fc1", "blocks.{n}.mlp.0"),
    *linear("blocks.{n}.mlp.fc2", "blocks.{n}.mlp.2"),
)
"""What the source's tensors are here."""

CLASSES = "y_embedder.embedding_table.weight"
MODULATION = "blocks.{n}.adaLN_modulation.1.{part}"
HEAD = ("final_layer.linear.weight", "final_layer.linear.bias")
FINAL = ("final_layer.adaLN_modulation.1.weight", "final_layer.adaLN_modulation.1.bias")


@dataclass(frozen=True)
class Initialisation:
    """An expert to begin training with, and where its numbers are from.

    Attributes:
        network: the expert.
        kept: its tensors that are the source's.
        fitted: its tensors that were computed from the source's.
        new: its tensors that know nothing of the source.
        left: the source's tensors that nothing was made of.
    """

    network: ModelMixin
    kept: tuple[str, ...]
    fitted: tuple[str, ...]
    new: tuple[str, ...]
    left: tuple[str, ...]

    def report(self) -> dict[str, Any]:
        """Return the names, and how many parameters each part has, for JSON."""
        state = self.network.state_dict()
        parts = {"kept": self.kept, "fitted": self.fitted, "new": self.new}
        return {
            "parameters": {part: sum(state[name].numel() for name in names) for part, names in parts.items()},
            **{part: list(names) for part, names in parts.items()},
            "left": list(self.left),
        }

    def save(self, folder: Path) -> None:
        """Write the expert as a start for `paris-node run create --start`, and the report beside it."""
        save_network(self.network, folder)
        write_json(self.report(), folder / REPORT)


def initialise(file: Path, arguments: Mapping[str, Any], *, seed: int = 0) -> Initialisation:
    """Make an expert from a class-conditional transformer's safetensors file.

    Args:
        file: the source, by DiT's names, none missing and none unknown.
        arguments: of `DiT`, such as a preset's; width, depth, patch, channels and mlp_ratio must be the source's.
        seed: of what is new.

    Raises:
        checkpoints.CheckpointError: the file cannot be read, or a tensor is missing, unknown, misshapen or not finite.
        ValueError: no network has these arguments.
    """
    with torch.device("meta"):
        shape = DiT(**arguments)
    source = _read(file, shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = DiT(**arguments)
    state = {name: tensor.detach() for name, tensor in network.state_dict().items()}
    rows = rows_of(TABLE, state, len(network.blocks))
    kept = to_ours(rows, source, network.patch)
    if network.pos_embed is not None:
        side = network.config["height"] // network.patch
        kept["pos_embed"] = resized(kept["pos_embed"], side, side)
    fitted = {"time.out.bias": kept.pop("time.out.bias") + source[CLASSES][-1]}
    if network.time_to_modulation is not None:
        fitted |= _shared_modulation(source, {**kept, **fitted}, len(network.blocks))
    last = "text_in.weight" if network.config["text_layers"] == 1 else "text_in.2.weight"
    new = {last: torch.zeros_like(state[last])} if network.config["text"] == "pooled" else {}
    network.load_state_dict({**state, **new, **kept, **fitted})
    used = {name for row in rows for name in row.theirs} | {CLASSES}
    if network.time_to_modulation is not None:
        used |= {name for name in source if ".adaLN_modulation." in name and name not in FINAL}
    return Initialisation(
        network.eval(),
        tuple(sorted(kept)),
        tuple(sorted(fitted)),
        tuple(sorted(state.keys() - kept.keys() - fitted.keys())),
        tuple(sorted(source.keys() - used)),
    )


def _read(file: Path, network: DiT) -> dict[str, Tensor]:
    try:
        source: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{file} cannot be read as safetensors ({error}). A pickled .pt file has to be converted by whoever trusts "
            "it: nothing here opens one."
        ) from error
    check_tensors(file, source, source_shapes(network, {name: tensor.shape for name, tensor in source.items()}))
    return {name: tensor.float() for name, tensor in source.items()}


def source_shapes(network: DiT, found: Mapping[str, torch.Size]) -> dict[str, torch.Size]:
    """Return the source's tensors by name that would fit a network, which may be without memory.

    Args:
        network: the expert.
        found: the source's own shapes, for what the network does not decide: classes, channels out, and the grid.
    """
    state, depth, width = network.state_dict(), len(network.blocks), int(network.config["width"])
    expected = {n: t.shape for n, t in to_theirs(rows_of(TABLE, state, depth), state, network.patch).items()}
    for n in range(depth):
        expected[MODULATION.format(n=n, part="weight")] = torch.Size((6 * width, width))
        expected[MODULATION.format(n=n, part="bias")] = torch.Size((6 * width,))
    classes, out, places = (_length(found, name) for name in (CLASSES, HEAD[0], "pos_embed"))
    expected |= {CLASSES: torch.Size((classes, width)), "pos_embed": torch.Size((1, places, width))}
    expected |= {HEAD[0]: torch.Size((out, width)), HEAD[1]: torch.Size((out,))}
    return expected | {FINAL[0]: torch.Size((2 * width, width)), FINAL[1]: torch.Size((2 * width,))}


def _length(found: Mapping[str, torch.Size], name: str) -> int:
    """Return the free side of a source's tensor: rows, or places; 1 where there is none that could be taken."""
    shape = found.get(name, torch.Size(()))
    sides = shape[1:2] if name == "pos_embed" else shape[:1]
    length = int(sides[0]) if sides else 1
    return length if name != "pos_embed" or round(length**0.5) ** 2 == length else 1


def _shared_modulation(source: Mapping[str, Tensor], ours: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Return one projection for all blocks and the tables that make up for it at `FITTED_AT_STEP`.

    Block n of the source is modulated by S_n(t) = W_n silu(c(t)) + b_n. Here it is by S(t) + E_n, with S the mean of
    the S_n, which is nearest to all of them in the mean of squares, and E_n = S_n - S at that step.
    """
    weights, biases = (
        torch.stack([source[MODULATION.format(n=n, part=part)] for n in range(depth)]) for part in ("weight", "bias")
    )
    condition_D = functional.silu(_condition(ours, FITTED_AT_STEP / TIME_SCALE))
    shared_weight, shared_bias = weights.mean(0), biases.mean(0)
    lacking = (weights - shared_weight) @ condition_D + biases - shared_bias
    tables = {f"blocks.{n}.scale_shift_table": lacking[n].reshape(6, -1) for n in range(depth)}
    return {"time_to_modulation.weight": shared_weight, "time_to_modulation.bias": shared_bias, **tables}


def _condition(ours: Mapping[str, Tensor], time: float) -> Tensor:
    """Return the time embedding (D) that these weights compute."""
    with torch.device("meta"):
        embedding = TimeEmbedding(len(ours["time.out.bias"]))
    embedding.load_state_dict({name[5:]: ours[name] for name in ours if name.startswith("time.")}, assign=True)
    return embedding(torch.tensor([time]))[0].detach()
