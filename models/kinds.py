"""Which class a network is, of pictures or of clips: by the name in its config.json, or by its arguments.

A network brings diffusers with it, seconds of imports; so classes are looked up here when one is built or inspected.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, Final

from paris.models.networks import network_config

EXPERTS: Final = {"DiT": "paris.models.dit", "VideoExpert": "paris.models.video"}
ROUTERS: Final = {"Router": "paris.models.router", "VideoRouter": "paris.models.video_router"}
"""Module of every class."""

_importing = Lock()
"""diffusers puts another module in its own place when its import ends: who came meanwhile, from another thread, is left
with one in which nothing is found."""


def kind_in(folder: Path, kinds: Mapping[str, str]) -> Any:
    """Return the class that a folder's config.json names, the first of these where it names none of them.

    Raises:
        checkpoints.CheckpointError: where config.json is missing, no JSON object, or of a network that ours is not.
    """
    named = str(network_config(folder).get("_class_name"))
    return _class(named if named in kinds else next(iter(kinds)), kinds)


def expert_of(architecture: Mapping[str, Any]) -> Any:
    """Return the class of an expert with these keyword arguments: one that says how many frames is a clip's."""
    return _class("VideoExpert" if "frames" in architecture else "DiT", EXPERTS)


def router_of(architecture: Mapping[str, Any]) -> Any:
    """Return the class of a router with these keyword arguments, likewise."""
    return _class("VideoRouter" if "frames" in architecture else "Router", ROUTERS)


def latent_shape(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of what an expert makes: (C, H, W) of a picture or (C, F, H, W) of a clip."""
    time = (config["frames"],) if "frames" in config else ()
    return config["channels"], *time, config["height"], config["height"]


def _class(name: str, kinds: Mapping[str, str]) -> Any:
    with _importing:
        return getattr(import_module(kinds[name]), name)
