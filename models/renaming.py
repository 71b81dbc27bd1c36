"""Other people's names for the tensors of our networks, and how they lay out the same numbers: tables, read both ways.

Letters: C channels, D width, T picture tokens, p patch, n counts blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


class LayoutError(ValueError):
    """A file or folder is not in the layout it should be in, or cannot be written in it."""


@dataclass(frozen=True)
class Form:
    """How they and we hold the same numbers. Both ways only move them.

    Attributes:
        ours: their tensors, and the patch, to ours.
        theirs: our tensors, and the patch, to theirs.
    """

    ours: Callable[[Sequence[Tensor], int], Sequence[Tensor]]
    theirs: Callable[[Sequence[Tensor], int], Sequence[Tensor]]


SAME = Form(lambda theirs, _: theirs, lambda ours, _: ours)
BATCHED = Form(lambda theirs, _: [theirs[0][0]], lambda ours, _: [ours[0][None]])
"""(1, T, D) there, (T, D) here."""

TOKEN = Form(lambda theirs, _: [theirs[0][0, 0]], lambda ours, _: [ours[0][None, None]])
"""(1, 1, D) there, (D) here."""

KERNEL = Form(lambda theirs, _: [theirs[0].flatten(1)], lambda ours, patch: [ours[0].unflatten(1, (-1, patch, patch))])
"""A convolution (D, C, p, p) there, a linear layer on patches (D, C p p) here."""

JOINED = Form(
    lambda theirs, _: [theirs[0][: len(theirs[0]) // 3], theirs[0][len(theirs[0]) // 3 :]],
    lambda ours, _: [torch.cat(list(ours))],
)
"""Queries, keys and values in one (3D, ...) there; queries, and keys with values, here."""

PARTED = Form(lambda theirs, _: [torch.cat(list(theirs))], lambda ours, _: ours[0].chunk(2))
"""Keys (D, ...) and values (D, ...) there; keys with values (2D, ...) here."""

PIXELS = Form(
    lambda theirs, patch: [theirs[0].unflatten(0, (patch, patch, -1)).movedim(2, 0).flatten(0, 2)],
    lambda ours, patch: [ours[0].unflatten(0, (-1, patch, patch)).movedim(0, 2).flatten(0, 2)],
)
"""A patch's numbers pixel by pixel (p p C, ...) there, channel by channel (C p p, ...) here."""


@dataclass(frozen=True)
class Row:
    """Tensors of theirs and what they are here; `{n}` stands for the number of a block."""

    theirs: tuple[str, ...]
    ours: tuple[str, ...]
    form: Form = SAME


@dataclass(frozen=True)
class Counterpart:
    """A class of diffusers that computes what a wiring of ours computes, with its own config.json and tensors.

    Attributes:
        theirs: name of their class.
        ours: name of our class.
        sizes: what their config.json has whole numbers for.
        fits: whether it computes our network of a whole config.
        settings: its arguments, every one, of our network's config.
        arguments: our network's arguments of its own, whose `sizes` are whole numbers; ValueError where one is missing.
        to_theirs: our tensors, of a network of that config, by its names.
        to_ours: its tensors by ours.
    """

    theirs: str
    ours: str
    sizes: tuple[str, ...]
    fits: Callable[[Mapping[str, Any]], bool]
    settings: Callable[[Mapping[str, Any]], dict[str, Any]]
    arguments: Callable[[Mapping[str, Any]], dict[str, Any]]
    to_theirs: Callable[[Mapping[str, Any], Mapping[str, Tensor]], dict[str, Tensor]]
    to_ours: Callable[[Mapping[str, Any], Mapping[str, Tensor]], dict[str, Tensor]]


def linear(theirs: str, ours: str) -> tuple[Row, ...]:
    """Return the rows of a layer that is the same there and here."""
    return tuple(Row((f"{theirs}.{part}",), (f"{ours}.{part}",)) for part in ("weight", "bias"))


def numbered(table: Sequence[Row], depth: int) -> list[Row]:
    """Return the rows of a table, blocks counted out."""
    return [
        Row(tuple(name.format(n=n) for name in row.theirs), tuple(name.format(n=n) for name in row.ours), row.form)
        for row in table
        for n in (range(depth) if "{n}" in row.theirs[0] else (0,))
    ]


def rows_of(table: Sequence[Row], ours: Mapping[str, object], depth: int) -> list[Row]:
    """Return those rows of a table whose tensors a network has, blocks counted out."""
    return [row for row in numbered(table, depth) if all(name in ours for name in row.ours)]


def to_ours(rows: Sequence[Row], theirs: Mapping[str, Tensor], patch: int) -> dict[str, Tensor]:
    """Return their tensors by our names."""
    ours: dict[str, Tensor] = {}
    for row in rows:
        ours.update(zip(row.ours, row.form.ours([theirs[name] for name in row.theirs], patch), strict=True))
    return ours


def to_theirs(rows: Sequence[Row], ours: Mapping[str, Tensor], patch: int) -> dict[str, Tensor]:
    """Return our tensors by their names; of tensors without memory, names and shapes."""
    theirs: dict[str, Tensor] = {}
    for row in rows:
        theirs.update(zip(row.theirs, row.form.theirs([ours[name] for name in row.ours], patch), strict=True))
    return theirs
