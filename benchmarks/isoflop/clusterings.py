"""Who trains on what: every picture's cluster, by what the captions say, by what the pictures show, or by chance."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmarks.isoflop.data import Pictures
from paris.models.randomness import Stream
from paris.registry.clusters import cluster
from paris.registry.features import Survey, Vectors, unit_rows

VISUAL_WEIGHT = 0.3


def labels_of(features: str, count: int, pictures: Pictures, shown_PF: Vectors | None = None) -> Tensor:
    """Return the cluster of every picture (P).

    Args:
        features: "text" (what the captions of a group say), "visual" (what a picture shows), "both", "style" (where a
            picture was drawn), or "random" (groups dealt out by chance).
        count: number of clusters.
        pictures: of all splits.
        shown_PF: features of what the pictures show, for "visual" and "both".

    Raises:
        ValueError: there are no such features, or not so many styles.
    """
    match features:
        case "text":
            return _by_group(pictures, _clustered(_text_by_group(pictures), _group_sizes(pictures), count))
        case "random":
            chance_G = Stream.of("isoflop", "random clusters", str(count)).at(0).permutation(len(_groups(pictures)))
            return _by_group(pictures, torch.from_numpy(chance_G % count))
        case "visual" | "both":
            assert shown_PF is not None
            vectors = unit_rows(shown_PF - shown_PF.mean(axis=0))
            if features == "both":
                said = _by_group_rows(pictures, _text_by_group(pictures))
                vectors = unit_rows(np.hstack([(1 - VISUAL_WEIGHT) ** 0.5 * said, VISUAL_WEIGHT**0.5 * vectors]))
            return _clustered(vectors, [1] * len(vectors), count)
        case "style":
            styles = sorted(set(pictures.styles))
            if len(styles) != count:
                raise ValueError(f"There are {len(styles)} styles, not {count}: {', '.join(styles)}.")
            return torch.tensor([styles.index(style) for style in pictures.styles])
    raise ValueError(f"There are no features called {features!r}.")


def _groups(pictures: Pictures) -> list[str]:
    return sorted(set(pictures.groups))


def _places(pictures: Pictures) -> Tensor:
    """Return the number of every picture's group."""
    number_of = {group: number for number, group in enumerate(_groups(pictures))}
    return torch.tensor([number_of[group] for group in pictures.groups])


def _group_sizes(pictures: Pictures) -> list[int]:
    sizes: list[int] = torch.bincount(_places(pictures)).tolist()
    return sizes


def _text_by_group(pictures: Pictures) -> Vectors:
    """Return the mean sentence vector of a group's captions: what styles add is nearly the same everywhere."""
    said_PE = pictures.texts.pooled_BE[pictures.text_P]
    sums_GE = torch.zeros(len(_groups(pictures)), said_PE.shape[1]).index_add(0, _places(pictures), said_PE)
    return unit_rows(sums_GE.numpy())


def _clustered(vectors: Vectors, sizes: list[int], count: int) -> Tensor:
    names = tuple(f"{number:06d}" for number in range(len(vectors)))
    survey = Survey(names, tuple(sizes), ("",) * len(names), vectors, "", "")
    found = cluster(survey, count)
    return torch.tensor([found.cluster_of[name] for name in names])


def _by_group(pictures: Pictures, labels_G: Tensor) -> Tensor:
    return labels_G[_places(pictures)]


def _by_group_rows(pictures: Pictures, rows_GE: Vectors) -> Vectors:
    rows: Vectors = rows_GE[_places(pictures).numpy()]
    return rows
