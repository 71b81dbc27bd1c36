"""What was drawn, as pictures of PIL. Letters: B pictures, H x W pixels."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def to_images(pictures_B3HW: Tensor) -> list[Image.Image]:
    """Turn pictures in [-1, 1] into PIL images."""
    levels = ((pictures_B3HW + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in levels]
