"""Small real data for the registry's tests: pictures, tars, samples, surveys."""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
from PIL import Image

from paris.registry.catalogue import Catalogue
from paris.registry.features import Survey, survey, unit_rows
from paris.registry.sources import Sample

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (90, 90, 90)}


def picture(colour: str = "red", side: int = 8, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(out, kind)
    return out.getvalue()


def tar_bytes(members: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def member_pair(key: str, caption: str | None = "a red square", **fields: object) -> list[tuple[str, bytes]]:
    known = fields if caption is None else {"caption": caption, **fields}
    return [(f"{key}.json", json.dumps(known).encode()), (f"{key}.png", picture())]


def sample(key: str, caption: str = "a red square", group: str | None = None, colour: str = "red") -> Sample:
    return Sample(key, picture(colour), "png", caption, key if group is None else group, {"license": "CC0-1.0"})


class ColourFeatures:
    """Features that need no encoder: the words of the caption that are colours."""

    name = "colour"

    def __init__(self) -> None:
        self.rows: list[np.ndarray] = []
        self.means = {}

    def see(self, group: int, sample: Sample, catalogue: Catalogue) -> None:
        if group == len(self.rows):
            self.rows.append(np.array([float(word in sample.caption) for word in COLOURS]) + 1e-3)

    def vectors(self, catalogue, progress):
        return unit_rows(np.stack(self.rows))


def coloured(count: int, styles: int = 2) -> list[Sample]:
    """`count` things of each colour, each drawn in some styles: one group a thing."""
    return [
        sample(
            f"{style}-{colour}-{number:03d}", f"{colour} thing {number}, style {style}", f"{colour}-{number}", colour
        )
        for style in range(styles)
        for colour in COLOURS
        for number in range(count)
    ]


def survey_of(samples: list[Sample]) -> Survey:
    return survey(samples, ColourFeatures())
