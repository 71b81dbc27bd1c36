"""Which class a network is, of pictures or of clips: by the name in its config.json, or by its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from paris.models.dit import DiT
from paris.models.networks import read_config
from paris.models.router import Router
from paris.models.video import VideoExpert
from paris.models.video_router import VideoRouter

EXPERTS: Final[dict[str, Any]] = {"DiT": DiT, "VideoExpert": VideoExpert}
ROUTERS: Final[dict[str, Any]] = {"Router": Router, "VideoRouter": VideoRouter}


def kind_in(folder: Path, kinds: Mapping[str, Any]) -> Any:
    """Return the class that a folder's config.json names, the first of these where it names none of them.

    Raises:
        checkpoints.CheckpointError: where config.json is missing or no JSON object.
    """
    return kinds.get(str(read_config(folder).get("_class_name")), next(iter(kinds.values())))


def expert_of(architecture: Mapping[str, Any]) -> Any:
    """Return the class of an expert with these keyword arguments: one that says how many frames is a clip's."""
    return VideoExpert if "frames" in architecture else DiT


def router_of(architecture: Mapping[str, Any]) -> Any:
    """Return the class of a router with these keyword arguments, likewise."""
    return VideoRouter if "frames" in architecture else Router


def latent_shape(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of what an expert makes: (C, H, W) of a picture or (C, F, H, W) of a clip."""
    time = (config["frames"],) if "frames" in config else ()
    return config["channels"], *time, config["height"], config["height"]
