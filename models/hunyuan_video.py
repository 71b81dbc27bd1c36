"""An expert of clips as diffusers' own class has it: its config.json and its tensors, read both ways.

Source: `HunyuanVideoTransformer3DModel` of diffusers (arXiv 2412.03603), which the expert holds as it is where its
attention is full. It takes 1000 t as its timestep and, where it was built for them, a first frame's channels beside
the latents, as HunyuanVideo's image-to-video does. Nothing here needs diffusers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from paris.models.renaming import Counterpart

PREFIX: Final = "transformer."
"""What our names have before those of the class."""

SIZES: Final = {
    "channels": "out_channels",
    "patch": "patch_size",
    "patch_frames": "patch_size_t",
    "dual": "num_layers",
    "single": "num_single_layers",
    "refiners": "num_refiner_layers",
    "heads": "num_attention_heads",
    "text_dim": "text_embed_dim",
    "pooled_dim": "pooled_projection_dim",
}
"""What its config.json calls our arguments; the width is that of a head times their number."""

NUMBERS: Final = {"mlp_ratio": "mlp_ratio", "rotary_base": "rope_theta"}
TOLD: Final = "_paris"
"""Where config.json says what the class has no argument for; it does not read names that begin so."""


def fits(config: Mapping[str, Any]) -> bool:
    """Return whether our network of this whole config is one that the class computes."""
    return "dual" in config and config.get("attention") == "full"


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the class's own arguments, every one, of our network's, and what it has none for."""
    head, channels = config["width"] // config["heads"], config["channels"]
    return {
        **{theirs: config[ours] for ours, theirs in (SIZES | NUMBERS).items()},
        "attention_head_dim": head,
        "in_channels": 2 * channels + 1 if config["first_frame"] else channels,
        "guidance_embeds": config["guidance"] > 0,
        "rope_axes_dim": [head // 8, head * 7 // 16, head * 7 // 16],
        "qk_norm": "rms_norm",
        "image_condition_type": None,
        TOLD: {name: config[name] for name in ("height", "frames", "guidance")},
    }


def arguments_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of our network that computes what the class does with these sizes.

    Raises:
        ValueError: what the class has no argument for is missing.
    """
    told = settings.get(TOLD)
    if not isinstance(told, dict) or type(told.get("guidance")) not in {int, float}:
        raise ValueError(f"it lacks {TOLD}: height and frames of the training's clips, and the guidance that is told")
    return {
        **{ours: settings.get(theirs) for ours, theirs in (SIZES | NUMBERS).items()},
        "width": settings["num_attention_heads"] * settings["attention_head_dim"],
        "attention": "full",
        "first_frame": settings["in_channels"] != settings["out_channels"],
        **{name: told.get(name) for name in ("height", "frames", "guidance")},
    }


def _to_theirs(_: Mapping[str, Any], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(PREFIX): tensor for name, tensor in ours.items()}


def _to_ours(_: Mapping[str, Any], theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {PREFIX + name: tensor for name, tensor in theirs.items()}


HUNYUAN_VIDEO: Final = Counterpart(
    theirs="HunyuanVideoTransformer3DModel",
    ours="VideoExpert",
    sizes=(*SIZES.values(), "attention_head_dim", "in_channels"),
    fits=fits,
    settings=settings_of,
    arguments=arguments_of,
    to_theirs=_to_theirs,
    to_ours=_to_ours,
)
