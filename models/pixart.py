"""An expert of PixArt's wiring as diffusers' own class has it: its config.json and its tensors, read both ways.

Source: `PixArtTransformer2DModel` of diffusers (PixArt-alpha, arXiv 2310.00426). It takes 999 t as its timestep and
returns our velocity. Nothing here needs diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from paris.models.renaming import KERNEL, PARTED, PIXELS, Counterpart, Row, linear, numbered, to_ours, to_theirs

WIRING: Final = {
    "modulation": "single",
    "text": "cross",
    "text_layers": 2,
    "positions": "sinusoidal",
    "qk_norm": False,
    "mlp_ratio": 4.0,
}
"""What an expert is that this class computes too."""

SIZES: Final = {
    "channels": "in_channels",
    "height": "sample_size",
    "patch": "patch_size",
    "depth": "num_layers",
    "heads": "num_attention_heads",
    "text_dim": "caption_channels",
}
"""What its config.json calls our arguments; the width is that of a head times their number."""

LARGEST_UNIT_SIDE: Final = 64


def _attention(theirs: str, ours: str) -> tuple[Row, ...]:
    parted = [
        Row((f"{theirs}.to_k.{part}", f"{theirs}.to_v.{part}"), (f"{ours}.kv.{part}",), PARTED)
        for part in ("weight", "bias")
    ]
    return (*linear(f"{theirs}.to_q", f"{ours}.q"), *parted, *linear(f"{theirs}.to_out.0", f"{ours}.out"))


TABLE: Final[tuple[Row, ...]] = (
    Row(("pos_embed.proj.weight",), ("patch_in.weight",), KERNEL),
    Row(("pos_embed.proj.bias",), ("patch_in.bias",)),
    *linear("adaln_single.emb.timestep_embedder.linear_1", "time.hidden"),
    *linear("adaln_single.emb.timestep_embedder.linear_2", "time.out"),
    *linear("adaln_single.linear", "time_to_modulation"),
    *linear("caption_projection.linear_1", "text_in.0"),
    *linear("caption_projection.linear_2", "text_in.2"),
    Row(("transformer_blocks.{n}.scale_shift_table",), ("blocks.{n}.scale_shift_table",)),
    *_attention("transformer_blocks.{n}.attn1", "blocks.{n}.attention"),
    *_attention("transformer_blocks.{n}.attn2", "blocks.{n}.cross_attention"),
    *linear("transformer_blocks.{n}.ff.net.0.proj", "blocks.{n}.mlp.0"),
    *linear("transformer_blocks.{n}.ff.net.2", "blocks.{n}.mlp.2"),
    Row(("scale_shift_table",), ("final_scale_shift_table",)),
    Row(("proj_out.weight",), ("patch_out.weight",), PIXELS),
    Row(("proj_out.bias",), ("patch_out.bias",), PIXELS),
)
"""Every tensor of it."""


def fits(config: Mapping[str, Any]) -> bool:
    """Return whether our network of this whole config is one that the class computes."""
    return all(config.get(name) == value for name, value in WIRING.items())


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the class's own arguments, every one, of our network's."""
    width = config["width"]
    return {
        **{theirs: config[ours] for ours, theirs in SIZES.items()},
        "attention_head_dim": width // config["heads"],
        "out_channels": config["channels"],
        "cross_attention_dim": width,
        "interpolation_scale": interpolation_scale(config["height"]),
        "use_additional_conditions": False,
        "norm_type": "ada_norm_single",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "norm_num_groups": 32,
        "num_embeds_ada_norm": 1000,
        "attention_bias": True,
        "attention_type": "default",
        "upcast_attention": False,
        "activation_fn": "gelu-approximate",
        "dropout": 0.0,
    }


def interpolation_scale(side: int) -> int:
    """Return what places are divided by for latents of a side, so that large ones span what smaller ones do."""
    return max(side // LARGEST_UNIT_SIDE, 1)


def arguments_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of our network that computes what the class does with these sizes."""
    width = settings["num_attention_heads"] * settings["attention_head_dim"]
    return {**{ours: settings[theirs] for ours, theirs in SIZES.items()}, "width": width, **WIRING}


def _to_theirs(config: Mapping[str, Any], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return to_theirs(numbered(TABLE, config["depth"]), ours, config["patch"])


def _to_ours(config: Mapping[str, Any], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return to_ours(numbered(TABLE, config["depth"]), theirs, config["patch"])


PIXART: Final = Counterpart(
    theirs="PixArtTransformer2DModel",
    ours="DiT",
    sizes=(*SIZES.values(), "attention_head_dim"),
    fits=fits,
    settings=settings_of,
    arguments=arguments_of,
    to_theirs=_to_theirs,
    to_ours=_to_ours,
)
