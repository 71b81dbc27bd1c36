"""What the files of a network are called, in folders, in manifests and on the Hub."""

from __future__ import annotations

from typing import Final

CONFIG: Final = "config.json"
WEIGHTS: Final = "diffusion_pytorch_model.safetensors"
"""As diffusers calls them."""

STATE: Final = "state.safetensors"
STATE_NOTE: Final = "state.json"
"""The full training state."""
