"""The released Paris layout: opened strictly as the pipeline we have, and written from one.

    config.json, model_index.json {_class_name: DDMPipeline, num_experts, ...}
    expert_<k>/config.json + diffusion_pytorch_model.safetensors
    router/config.json + pytorch_model.safetensors        sees the noised latents and the time, no text
    vae/ (AutoencoderKL, sd-vae-ft-mse)   text_encoder/ + tokenizer/ (CLIP ViT-L/14, 77 tokens)

Sources: the release's config.json files, and the tensor names by which a public port of it to other hardware loads its
weights (the paper, arXiv 2510.03434, has neither). The weights themselves were out of our reach, so two things stay
unproved until somebody opens them: that they hold these tensors and no others, which opening checks, and two choices
no tensor tells: the router's head has exact GELUs here and tanh-approximated ones in the port, and token norms divide
by the root of the variance plus 1e-6 here and 1e-5 in the port. Experts see 999 t, as the papers say; the port gives
them the scheduler's 1000 t.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from paris.models.blocks import LARGEST
from paris.models.checkpoints import CheckpointError, check_shapes, check_tensors
from paris.models.dit import DiT
from paris.models.ensemble import Ensemble
from paris.models.experts import ExpertPool
from paris.models.filenames import CONFIG, WEIGHTS
from paris.models.files import write_json, write_tensors
from paris.models.latents import Autoencoder, Codec, open_codec
from paris.models.networks import read_config
from paris.models.renaming import (
    BATCHED,
    JOINED,
    KERNEL,
    PIXELS,
    TOKEN,
    LayoutError,
    Row,
    linear,
    rows_of,
    to_ours,
    to_theirs,
)
from paris.models.router import Router
from paris.models.text import TextEncoder
from paris.models.text_networks import Clip

if TYPE_CHECKING:
    from paris.models.pipeline import ParisPipeline

INDEX, RELEASED = "model_index.json", "DDMPipeline"
ROUTER_WEIGHTS = "pytorch_model.safetensors"
CODEC, TEXT_TOKENS = "autoencoder-kl", 77


def _attention(theirs: str, ours: str) -> tuple[Row, ...]:
    joined = [Row((f"{theirs}.in_proj_{p}",), (f"{ours}.q.{p}", f"{ours}.kv.{p}"), JOINED) for p in ("weight", "bias")]
    return (*joined, *linear(f"{theirs}.out_proj", f"{ours}.out"))


TABLE: tuple[Row, ...] = (
    Row(("patch_embed.weight",), ("patch_in.weight",), KERNEL),
    Row(("patch_embed.bias",), ("patch_in.bias",)),
    Row(("pos_embed",), ("pos_embed",), BATCHED),
    Row(("cls_token",), ("cls_token",), TOKEN),
    *linear("time_embed.mlp.0", "time.hidden"),
    *linear("time_embed.mlp.2", "time.out"),
    *linear("t_block.1", "time_to_modulation"),
    *linear("text_proj", "text_in"),
    Row(("layers.{n}.scale_shift_table",), ("blocks.{n}.scale_shift_table",)),
    *linear("layers.{n}.adaLN_modulation.1", "blocks.{n}.modulation"),
    *_attention("layers.{n}.attn", "blocks.{n}.attention"),
    *_attention("layers.{n}.cross_attn", "blocks.{n}.cross_attention"),
    *linear("layers.{n}.mlp.0", "blocks.{n}.mlp.0"),
    *linear("layers.{n}.mlp.2", "blocks.{n}.mlp.2"),
    Row(("final_layer.scale_shift_table",), ("final_scale_shift_table",)),
    Row(("final_layer.linear.weight",), ("patch_out.weight",), PIXELS),
    Row(("final_layer.linear.bias",), ("patch_out.bias",), PIXELS),
    *linear("head.0", "head.0"),
    *linear("head.2", "head.2"),
    *linear("head.4", "head.4"),
)
"""Every tensor of an expert and of the router. A network has those rows whose tensors it has."""

SIZES = {
    "width": "hidden_size",
    "depth": "num_layers",
    "heads": "num_heads",
    "patch": "patch_size",
    "channels": "in_channels",
}
"""What the release's config.json files call our arguments, in experts and router alike."""

EXPERT_FACTS = {
    "model_type": "dit_expert",
    "architecture": "dit",
    "use_text_conditioning": True,
    "use_class_conditioning": False,
    "use_dit_time_embed": True,
    "use_adaln_single": True,
}
ROUTER_FACTS = {"model_type": "router", "architecture": "dit", "use_dit_time_embed": True}
"""What a config.json of the release says of its wiring; another wiring is not this layout."""


def is_released(folder: Path) -> bool:
    """Return whether a folder says of itself that it is in the released layout."""
    try:
        return read_config(folder, INDEX).get("_class_name") == RELEASED
    except CheckpointError:
        return False


class Parts(NamedTuple):
    """What a `ParisPipeline` is made of, in the order of its arguments."""

    ensemble: Ensemble
    codec: Codec
    text_encoder: TextEncoder
    scheduler: Any
    shape: tuple[int, int, int]


def open_released(
    folder: str | Path, *, dtype: torch.dtype = torch.float32, memory_bytes: int | None = None, offload: bool = False
) -> Parts:
    """Open a whole release: what `ParisPipeline.from_pretrained` does with such a folder.

    Every tensor is accounted for now, from the files' headers; the experts' numbers are read when first needed.

    Args:
        folder: with config.json, model_index.json and the parts named above.
        dtype: precision of experts and router.
        memory_bytes: cap on loaded experts' weights.
        offload: keep experts that leave an accelerator in the host's memory.

    Raises:
        LayoutError: the parts are not in this layout, or do not fit each other.
        checkpoints.CheckpointError: a file of it cannot be read, or a tensor is missing, unknown or misshapen.
        latents.CodecError, text.TextEncoderError: likewise in vae/ or text_encoder/.
    """
    root = Path(folder)
    count, overall = read_config(root, INDEX).get("num_experts"), read_config(root)
    side, channels = overall.get("image_size"), overall.get("num_channels")
    if not isinstance(count, int) or not 1 <= count <= LARGEST["clusters"]:
        raise LayoutError(f"{root / INDEX} names {count!r:.40} experts; the released layout has at least one.")
    if not isinstance(side, int) or not isinstance(channels, int):
        raise LayoutError(f"{root / CONFIG} does not say the latents' image_size and num_channels. Fetch it again.")
    folders = [root / f"expert_{k}" for k in range(count)]
    for expert in folders:
        arguments = expert_arguments(expert, side)
        network = _on_meta(DiT, arguments, expert)
        check_shapes(expert / WEIGHTS, _shapes_in(expert / WEIGHTS), _expected(network))
        if arguments["channels"] != channels:
            raise LayoutError(
                f"{expert} draws {arguments['channels']} channels where the others have {channels!r:.40}."
            )
    router = load_router(root / "router", side, dtype)
    if router.config["clusters"] != count:
        raise LayoutError(f"The router of {root} knows {router.config['clusters']} experts, and there are {count}.")
    if not (root / "text_encoder" / CONFIG).is_file():
        raise LayoutError(f"{root} lacks text_encoder/{CONFIG}, so it is no whole release. Fetch it again.")
    text, codec = Clip(str(root), root, TEXT_TOKENS), open_codec(CODEC, root / "vae")
    if text.dim != arguments["text_dim"]:
        raise LayoutError(f"The text encoder of {root} has width {text.dim}; experts want {arguments['text_dim']}.")
    pool = ExpertPool(
        folders,
        dtype=dtype,
        memory_bytes=memory_bytes,
        offload=offload,
        load=functools.partial(load_expert, height=side),
    )
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000)
    return Parts(Ensemble(pool, router), codec, text, scheduler, (channels, side, side))


def load_expert(folder: Path, dtype: torch.dtype, *, height: int) -> DiT:
    """Load one expert strictly, on the CPU.

    Args:
        folder: with config.json and weights.
        dtype: precision of the result.
        height: of the latents, which only the release's own config.json says.

    Raises:
        LayoutError: its wiring is not the release's.
        checkpoints.CheckpointError: a tensor is missing, unknown, misshapen or not finite.
    """
    return _load(_on_meta(DiT, expert_arguments(folder, height), folder), folder / WEIGHTS, dtype)


def load_router(folder: Path, height: int, dtype: torch.dtype = torch.float32) -> Router:
    """Load the router strictly, on the CPU; arguments and errors as of `load_expert`."""
    return _load(_on_meta(Router, router_arguments(folder, height), folder), folder / ROUTER_WEIGHTS, dtype)


def expert_arguments(folder: Path, height: Any) -> dict[str, Any]:
    """Return the keyword arguments of `DiT` that an expert's config.json means.

    Raises:
        LayoutError: it describes another wiring.
    """
    config = _config(folder, EXPERT_FACTS)
    if config.get("out_channels") != config.get("in_channels"):
        raise LayoutError(f"{folder / CONFIG} has other channels out than in, as no flow expert has.")
    sizes = {ours: config.get(theirs) for ours, theirs in SIZES.items()}
    return {**sizes, "height": height, "mlp_ratio": config.get("mlp_ratio"), "text_dim": config.get("text_embed_dim")}


def router_arguments(folder: Path, height: Any) -> dict[str, Any]:
    """Return the keyword arguments of `Router` that the router's config.json means.

    Raises:
        LayoutError: it describes another wiring.
    """
    config = _config(folder, ROUTER_FACTS)
    sizes = {ours: config.get(theirs) for ours, theirs in SIZES.items()}
    return {**sizes, "height": height, "clusters": config.get("num_clusters"), "text_dim": 0}


def save_released(
    pipeline: ParisPipeline, folder: str | Path, *, router: Router | None = None, about: Mapping[str, str] | None = None
) -> None:
    """Write an ensemble as a release, in the precision it is loaded in.

    The release's router sees no text and its readers know velocity experts alone; what cannot be said in the layout is
    refused, and a calibrated temperature goes into the router's last layer.

    Args:
        pipeline: the ensemble with its codec, an AutoencoderKL, and its text encoder, CLIP.
        folder: where to write.
        router: one that sees no text, instead of the pipeline's own.
        about: what config.json says beside sizes: model_name, dataset_name and the like.

    Raises:
        LayoutError: the ensemble cannot be written in this layout.
    """
    root, ensemble = Path(folder), pipeline.ensemble
    codec, text, router = pipeline.codec, pipeline.text, router or ensemble.router
    if not isinstance(codec, Autoencoder) or codec.kind != CODEC or not isinstance(text, Clip):
        raise LayoutError("The released Paris layout has an AutoencoderKL and CLIP; this ensemble has others.")
    for k, prediction in enumerate(ensemble.predictions):
        if prediction.objective != "velocity":
            raise LayoutError(f"Expert {k} predicts {prediction.objective}, and the layout cannot say so.")
    _require_wiring(router, text_dim=0, positions="learned", qk_norm=False)
    for k in range(len(ensemble)):
        _save_expert(ensemble.expert(k), k, root / f"expert_{k}")
    _save_router(router, ensemble.router_temperature, root / "router")
    codec.model.save_pretrained(root / "vae")
    text.model.save_pretrained(root / "text_encoder")
    text.tokenizer.save_pretrained(root / "tokenizer")
    channels, side, _ = pipeline.shape
    kinds = {"expert_architecture": "dit", "router_architecture": "dit"}
    sizes = {"num_experts": len(ensemble), "image_size": side, "num_channels": channels, "use_latents": True}
    write_json({**sizes, **kinds, **(about or {})}, root / CONFIG)
    parts = {
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    write_json({"_class_name": RELEASED, "num_experts": len(ensemble), **kinds, **parts}, root / INDEX)


def _save_expert(network: Any, number: int, folder: Path) -> None:
    _require_wiring(network, modulation="single", text="cross", text_layers=1, positions="learned", qk_norm=False)
    config = network.config
    said = {
        "expert_id": number,
        "out_channels": config["channels"],
        "mlp_ratio": config["mlp_ratio"],
        "text_embed_dim": config["text_dim"],
        "num_classes": 1000,
        "cfg_dropout_prob": 0.1,
    }
    write_json({**EXPERT_FACTS, **_sizes(config), **said}, folder / CONFIG)
    write_tensors(_theirs(network), folder / WEIGHTS, {})


def _save_router(network: Any, temperature: float, folder: Path) -> None:
    tensors = _theirs(network)
    for name in ("head.4.weight", "head.4.bias"):
        tensors[name] = tensors[name] / temperature
    write_json({**ROUTER_FACTS, **_sizes(network.config), "num_clusters": network.config["clusters"]}, folder / CONFIG)
    write_tensors(tensors, folder / ROUTER_WEIGHTS, {})


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    return {theirs: config[ours] for ours, theirs in SIZES.items()}


def _require_wiring(network: Any, **wiring: Any) -> None:
    for name, value in wiring.items():
        if network.config[name] != value:
            raise LayoutError(
                f"The released Paris layout has a {type(network).__name__} with {name} {value!r}, and this one has "
                f"{network.config[name]!r}: readers of the layout would misread it."
            )


def _config(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    config = read_config(folder)
    for name, value in facts.items():
        if config.get(name) != value:
            raise LayoutError(
                f"{folder / CONFIG} says {name} {config.get(name)!r:.40} where the released Paris layout has {value!r}."
            )
    return config


def _on_meta(kind: Any, arguments: Mapping[str, Any], folder: Path) -> Any:
    try:
        with torch.device("meta"):
            return kind(**arguments)
    except (TypeError, ValueError) as error:
        raise LayoutError(f"{folder / CONFIG} does not describe a {kind.__name__}: {error}") from error


def _load(network: Any, file: Path, dtype: torch.dtype) -> Any:
    try:
        theirs = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"The weights {file} cannot be read ({error}). Fetch them again.") from error
    check_tensors(file, theirs, _expected(network))
    network.load_state_dict(to_ours(_rows(network), theirs, network.patch), assign=True)
    torch.nn.Module.to(network, dtype)
    return network.eval().requires_grad_(False)


def _shapes_in(file: Path) -> dict[str, torch.Size]:
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: torch.Size(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"The weights {file} cannot be read ({error}). Fetch them again.") from error


def _expected(network: Any) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in _theirs(network).items()}


def _theirs(network: Any) -> dict[str, Tensor]:
    return to_theirs(_rows(network), network.state_dict(), network.patch)


def _rows(network: Any) -> list[Row]:
    return rows_of(TABLE, network.state_dict(), len(network.blocks))
