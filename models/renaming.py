"""Other people's names for the tensors of our networks, and how they lay out the same numbers: tables, read both ways.

Letters: C channels, D width, T picture tokens, p patch, n counts blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


class LayoutError(ValueError):
    """A file or folder is not in the layout it should be in, or cannot be written in it."""


@dataclass(frozen=True)
class Form:
    """How they and we hold the same numbers. Both ways only move them.

    Attributes:
        ours: one of their tensors, and the patch, to ours.
        theirs: our tensors, and the patch, to theirs.
    """

    ours: Callable[[Tensor, int], Sequence[Tensor]]
    theirs: Callable[[Sequence[Tensor], int], Tensor]


SAME = Form(lambda theirs, _: [theirs], lambda ours, _: ours[0])
BATCHED = Form(lambda theirs, _: [theirs[0]], lambda ours, _: ours[0][None])
"""(1, T, D) there, (T, D) here."""

TOKEN = Form(lambda theirs, _: [theirs[0, 0]], lambda ours, _: ours[0][None, None])
"""(1, 1, D) there, (D) here."""

KERNEL = Form(lambda theirs, _: [theirs.flatten(1)], lambda ours, patch: ours[0].unflatten(1, (-1, patch, patch)))
"""A convolution (D, C, p, p) there, a linear layer on patches (D, C p p) here."""

JOINED = Form(
    lambda theirs, _: [theirs[: len(theirs) // 3], theirs[len(theirs) // 3 :]],
    lambda ours, _: torch.cat(list(ours)),
)
"""Queries, keys and values in one (3D, ...) there; queries, and keys with values, here."""

PIXELS = Form(
    lambda theirs, patch: [theirs.unflatten(0, (patch, patch, -1)).movedim(2, 0).flatten(0, 2)],
    lambda ours, patch: ours[0].unflatten(0, (-1, patch, patch)).movedim(0, 2).flatten(0, 2),
)
"""A patch's numbers pixel by pixel (p p C, ...) there, channel by channel (C p p, ...) here."""


@dataclass(frozen=True)
class Row:
    """One of their tensors and what it is here; `{n}` stands for the number of a block."""

    theirs: str
    ours: tuple[str, ...]
    form: Form = SAME


def linear(theirs: str, ours: str) -> tuple[Row, ...]:
    """Return the rows of a layer that is the same there and here."""
    return tuple(Row(f"{theirs}.{part}", (f"{ours}.{part}",)) for part in ("weight", "bias"))


def rows_of(table: Sequence[Row], ours: Mapping[str, object], depth: int) -> list[Row]:
    """Return those rows of a table whose tensors a network has, blocks counted out."""
    numbered = [
        Row(row.theirs.format(n=n), tuple(name.format(n=n) for name in row.ours), row.form)
        for row in table
        for n in (range(depth) if "{n}" in row.theirs else (0,))
    ]
    return [row for row in numbered if all(name in ours for name in row.ours)]


def to_ours(rows: Sequence[Row], theirs: Mapping[str, Tensor], patch: int) -> dict[str, Tensor]:
    """Return their tensors by our names."""
    ours: dict[str, Tensor] = {}
    for row in rows:
        ours.update(zip(row.ours, row.form.ours(theirs[row.theirs], patch), strict=True))
    return ours


def to_theirs(rows: Sequence[Row], ours: Mapping[str, Tensor], patch: int) -> dict[str, Tensor]:
    """Return our tensors by their names; of tensors without memory, names and shapes."""
    return {row.theirs: row.form.theirs([ours[name] for name in row.ours], patch) for row in rows}
