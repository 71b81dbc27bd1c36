"""Writing files whole or not at all: temporary name, fsync, rename."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

_CODES = {
    torch.bool: "BOOL",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
}


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


@dataclass(frozen=True)
class Rows:
    """A tensor that comes in pieces along its first dimension, because the whole would not fit into memory."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    pieces: Iterable[Tensor]


def write_rows(tensors: dict[str, Rows], out: Path, note: dict[str, Any]) -> None:
    """Write a safetensors file atomically from tensors in pieces, in the order given: equal bytes for equal input.

    The format (https://huggingface.co/docs/safetensors): the header's length in 8 bytes, a JSON header, the numbers.
    Tensors of wide types should come first, so that all are aligned.

    Raises:
        ValueError: pieces do not add up to their shape.
    """
    temporary, end = _temporary(out), 0
    header: dict[str, Any] = {"__metadata__": {"note": json.dumps(note, sort_keys=True)}}
    for name, rows in tensors.items():
        begin, end = end, end + prod(rows.shape) * rows.dtype.itemsize
        header[name] = {"dtype": _CODES[rows.dtype], "shape": list(rows.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    try:
        with temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name, rows in tensors.items():
                for piece in rows.pieces:
                    file.write(piece.to(rows.dtype).contiguous().flatten().view(torch.uint8).numpy().data)
                if file.tell() != 8 + len(text) + header[name]["data_offsets"][1]:
                    raise ValueError(f"the pieces of {name} do not add up to {rows.shape}")
        _settle(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(data: bytes, out: Path) -> None:
    """Write a file of any kind atomically."""
    temporary = _temporary(out)
    temporary.write_bytes(data)
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
