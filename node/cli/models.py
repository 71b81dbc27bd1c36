"""`paris-node models`: every preset, what it needs and what it is for; and what other people's layouts become here."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from paris.node.cli.options import JsonOption
from paris.node.console import emit, err, errors_to_exit_codes, out
from paris.protocol.errors import UsageError

app = typer.Typer(invoke_without_command=True)

BatchOption = Annotated[int, typer.Option("--batch", min=1, help="Samples that are in memory at once in training.")]
CODEC_HINTS = {
    "autoencoder-kl": "--codec FOLDER, an AutoencoderKL as diffusers saves it, such as stabilityai/sd-vae-ft-mse",
    "autoencoder-kl-hunyuan-video": "--codec FOLDER, an AutoencoderKLHunyuanVideo as diffusers saves it",
}
NO_TEXT = "T5-v1.1-XXL and CLIP ViT-L/14 together, which this version has no text encoder for"


@app.callback()
def models(context: typer.Context, batch: BatchOption = 1, json: JsonOption = False) -> None:
    """List every preset: parameters, memory for weights and for training, picture size, and what it is for."""
    if context.invoked_subcommand is not None:
        return
    with errors_to_exit_codes(as_json=json):
        rows = catalogue(batch)
        if json:
            emit(rows)
            return
        out.print(models_table(rows))
        err.print(f"weights: bf16. training: all state, fp32. a batch: activations of {batch} in bf16.", markup=False)
        for need in dict.fromkeys(need for row in rows for need in row["needs"]):
            names = ", ".join(row["name"] for row in rows if need in row["needs"])
            err.print(f"{names} need {need}", markup=False)


@app.command()
def init(
    source: Annotated[
        Path, typer.Argument(help="Weights of a class-conditional DiT, by its own names, as safetensors.")
    ],
    folder: Annotated[Path, typer.Argument(help="Where to write the start.")],
    model: Annotated[str, typer.Option("--model", help="Preset the experts are to have.")] = "dit-xl-2",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is new.")] = 0,
    json: JsonOption = False,
) -> None:
    """Make a start for `run create --start` from a diffusion transformer that was trained on ImageNet.

    Patch embedding, positions and blocks are kept; text projection, cross-attention and head are new. The published
    checkpoints, and whatever starts from them, may be used for non-commercial purposes only.
    """
    with errors_to_exit_codes(as_json=json):
        from paris.models.initialisation import initialise
        from paris.models.presets import PRESETS

        if model not in PRESETS:
            raise UsageError(f"there is no preset {model!r} with experts", hint=f"Choose one of {', '.join(PRESETS)}.")
        begun = initialise(source, PRESETS[model].expert, seed=seed)
        begun.save(folder)
        report = begun.report()
        if json:
            emit({"folder": str(folder), "model": model, **report})
            return
        for part, count in report["parameters"].items():
            err.print(f"  {part}: {count / 1e6:.2f} M parameters in {len(report[part])} tensors", markup=False)
        err.print(f"  left behind: {', '.join(report['left'])}", markup=False)
        err.print(f"Begin with it: paris-node run create DATA --model {model} --start {folder}", markup=False)
        out.print(str(folder), markup=False)


def catalogue(batch: int = 1) -> list[dict[str, Any]]:
    """Every preset, and every router that belongs to none, with what it needs for training on a batch."""
    from paris.models.presets import ROUTERS
    from paris.models.video_presets import EVERY_PRESET

    experts = [_expert_row(preset, batch) for preset in EVERY_PRESET.values()]
    return experts + [_router_row(name, arguments, batch) for name, arguments in ROUTERS.items()]


def _expert_row(preset: Any, batch: int) -> dict[str, Any]:
    import torch

    from paris.models.footprint import footprint
    from paris.models.kinds import expert_of
    from paris.models.presets import TEXT_ENCODERS
    from paris.registry.recipes import PLANS

    width = preset.expert["text_dim"]
    words = torch.empty(1, preset.text_tokens, width)
    sample = [torch.empty(1, *preset.shape), torch.empty(1), words, torch.ones(1, preset.text_tokens).bool()]
    if "frames" in preset.expert:
        sample.append(torch.empty(1, preset.expert["pooled_dim"]))
    kind, name = TEXT_ENCODERS.get(width, (None, ""))
    needs = [CODEC_HINTS[preset.codec]] if preset.codec in CODEC_HINTS else []
    if kind != "minilm":
        needs.append(f"the text encoder {name}, which is fetched from the Hugging Face Hub once" if kind else NO_TEXT)
    return {
        "name": preset.name,
        "kind": "expert",
        **_needs(footprint(expert_of(preset.expert), preset.expert, tuple(sample)), batch),
        "for": preset.purpose,
        "run_create": preset.name in PLANS,
        "needs": needs,
        "latent": list(preset.shape),
        "picture_px": preset.picture_px,
        "frames": _frames(preset),
        "codec": preset.codec,
        "text": {"kind": kind, "name": name, "tokens": preset.text_tokens, "width": width},
        "network": preset.expert,
        "router": _router_needs({**preset.router, "clusters": 8}, batch),
    }


def _frames(preset: Any) -> int | None:
    """Frames of a clip in pixels; None of a picture. One kind of autoencoder makes several of a latent."""
    from paris.models.videocodec import HUNYUAN

    latents: int | None = preset.expert.get("frames")
    return 4 * latents - 3 if latents and preset.codec == HUNYUAN else latents


def _router_row(name: str, arguments: dict[str, Any], batch: int) -> dict[str, Any]:
    from paris.models.kinds import latent_shape
    from paris.models.presets import RELEASED_CLUSTERS

    arguments = {**arguments, "clusters": RELEASED_CLUSTERS}
    return {
        "name": name,
        "kind": "router",
        **_router_needs(arguments, batch),
        "for": "the Paris release; runs have routers that hear text",
        "run_create": False,
        "needs": [],
        "latent": list(latent_shape(arguments)),
        "network": arguments,
    }


def _router_needs(arguments: dict[str, Any], batch: int) -> dict[str, Any]:
    return _needs(_router_footprint(tuple(sorted(arguments.items()))), batch)


@functools.cache
def _router_footprint(arguments: tuple[tuple[str, Any], ...]) -> Any:
    """Counted once: presets share routers."""
    import torch

    from paris.models.footprint import footprint
    from paris.models.kinds import latent_shape, router_of

    named = dict(arguments)
    sample = torch.empty(1, *latent_shape(named)), torch.empty(1), torch.empty(1, named["text_dim"])
    return footprint(router_of(named), named, sample)


def _needs(found: Any, batch: int) -> dict[str, Any]:
    kept, checkpointed = batch * found.activations_bytes, batch * found.checkpointed_bytes
    return {
        "parameters": found.parameters,
        "weights_bytes": found.weights_bytes,
        "training_bytes": {**found.training_bytes, "total": sum(found.training_bytes.values())},
        "batch": batch,
        "activations_bytes": {"fp32": kept, "bf16": kept // 2},
        "checkpointed_activations_bytes": {"fp32": checkpointed, "bf16": checkpointed // 2},
        "flops_a_sample": found.flops,
    }


def models_table(rows: list[dict[str, Any]]) -> Table:
    """The catalogue for people, one row a network."""
    table = Table(box=None, pad_edge=False)
    for column in ("name", "parameters", "weights", "training", "a batch", "picture", "for"):
        table.add_column(column, justify="left" if column in {"name", "for"} else "right", no_wrap=column != "for")
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['parameters'] / 1e6:.2f} M",
            size(row["weights_bytes"]["bf16"]),
            size(row["training_bytes"]["total"]),
            size(row["activations_bytes"]["bf16"]),
            _picture(row),
            row["for"],
        )
    return table


def _picture(row: dict[str, Any]) -> str:
    frames = f" x {row['frames']}" if row.get("frames") else ""
    return f"{row['picture_px']} px{frames}" if "picture_px" in row else ""


def size(count_bytes: int) -> str:
    """A number of bytes for people, in decimal units."""
    return f"{count_bytes / 1e9:.2f} GB" if count_bytes >= 1e9 else f"{count_bytes / 1e6:.1f} MB"
