"""What somebody gets who has diffusers and nothing of ours: a process that never imports it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

ALONE = """
import sys
import torch
from diffusers import PixArtTransformer2DModel
from safetensors.torch import load_file, save_file
network = PixArtTransformer2DModel.from_pretrained(sys.argv[1], **({"subfolder": sys.argv[2]} if sys.argv[2] else {}))
asked = load_file(sys.argv[3])
with torch.no_grad():
    v = network(asked["x"], asked["text"], timestep=999 * asked["t"], encoder_attention_mask=asked["mask"]).sample
assert not [name for name in sys.modules if name.split(".")[0] == "paris"]
save_file({"v": v}, sys.argv[4])
"""
STILL_GIVEN = "The `local_dir_use_symlinks` argument"
"""By diffusers, to whoever loads from the Hub."""


def velocity_by_diffusers_alone(
    where: str | Path,
    asked: Mapping[str, Tensor],
    work: Path,
    *,
    subfolder: str = "",
    env: dict[str, str] | None = None,
) -> Tensor:
    """What a published expert answers.

    Args:
        where: Its folder, or the name of a repository on the Hub.
        asked: x (B, C, H, W), t (B,), text (B, T, D) and mask (B, T).
        work: A folder for what goes to the process and comes back.
        subfolder: In which it lies there.
        env: Environment of the process; None: this one's.
    """
    save_file(dict(asked), work / "asked.safetensors")
    told = [str(where), subfolder, str(work / "asked.safetensors"), str(work / "answered.safetensors")]
    warnings = ("-W", "error::UserWarning", "-W", f"ignore:{STILL_GIVEN}:UserWarning")
    command = [sys.executable, *warnings, "-c", ALONE, *told]
    subprocess.run(command, check=True, env=env, timeout=300)
    return load_file(work / "answered.safetensors")["v"]
