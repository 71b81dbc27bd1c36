"""Writing files whole or not at all: temporary name, fsync, rename."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor


def write_tensors(tensors: dict[str, Tensor], out: Path, note: dict[str, Any]) -> None:
    """Write a safetensors file atomically, equal bytes for equal input.

    The note is one JSON string, and an empty note the "format" that diffusers writes: safetensors puts several metadata
    entries in random order.
    """
    temporary = _temporary(out)
    metadata = {"note": json.dumps(note, sort_keys=True)} if note else {"format": "pt"}
    packed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(packed, temporary, metadata=metadata)
    _settle(temporary, out)


def write_json(value: dict[str, Any], out: Path) -> None:
    """Write a JSON file atomically, indented for people."""
    temporary = _temporary(out)
    temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    _settle(temporary, out)


def _temporary(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.with_name(f".{out.name}.{os.getpid()}.tmp")


def _settle(temporary: Path, out: Path) -> None:
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(out)
    folder = os.open(out.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
