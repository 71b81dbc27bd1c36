"""A page to look at before anybody trains: contact sheet, size and words of every cluster, and a map of the groups.

The map shows the first two principal components of the features; a sheet shows pictures spread evenly over a cluster.
`report.html` needs no other file and no network; `report.png` shows the map and the sheets.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from paris.models.decoding import DecodeError, first_frame
from paris.registry import atomic
from paris.registry.choice import Row
from paris.registry.clusters import Clustering
from paris.registry.features import Survey
from paris.registry.samples import Rejects, Sample

REPORT, PICTURE = "report.html", "report.png"
SHEET_PICTURES = 24
SHEET_COLUMNS = 12
THUMB_PX = 56
MAP_PX = 480
MAP_GROUPS = 5000
MOST_SHEETS = 64
"""In the PNG; the page has all."""
_INK, _PAPER = "#1b1f24", "#ffffff"
_COLUMNS: Final = {
    "clusters": "K",
    "inertia": "inertia",
    "silhouette": "silhouette",
    "size_ratio": "largest : smallest",
    "moved": "moved by balance",
    "separability": "told by caption",
    "chance": "by chance",
}


class Sheets:
    """Collects pictures of every cluster while the samples pass by."""

    def __init__(self, found: Survey, clustering: Clustering) -> None:
        self._found, self._labels = found, clustering.labels_G
        self._every = [max(1, cluster.samples // SHEET_PICTURES) for cluster in clustering.clusters]
        self._seen = [0] * len(clustering.clusters)
        self.pictures: list[list[Image.Image]] = [[] for _ in clustering.clusters]

    def watch(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Yield the surveyed samples on, in their order, and keep some of them small."""
        assert self._found.catalogue is not None
        for sample, row in zip(samples, self._found.catalogue.rows(), strict=False):
            cluster = int(self._labels[row.group])
            if self._seen[cluster] % self._every[cluster] == 0 and len(self.pictures[cluster]) < SHEET_PICTURES:
                self.pictures[cluster].append(_small(sample.picture))
            self._seen[cluster] += 1
            yield sample


def _small(picture: bytes) -> Image.Image:
    try:
        image = first_frame(picture)
    except DecodeError:  # it was whole a moment ago
        return Image.new("RGB", (THUMB_PX, THUMB_PX), "white")
    image.thumbnail((THUMB_PX, THUMB_PX), Image.Resampling.LANCZOS)
    square = Image.new("RGB", (THUMB_PX, THUMB_PX), "white")
    square.paste(image, ((THUMB_PX - image.width) // 2, (THUMB_PX - image.height) // 2))
    return square


def write_report(
    folder: Path,
    title: str,
    found: Survey,
    clustering: Clustering,
    sheets: Sheets,
    rejects: Rejects | None = None,
    rows: Sequence[Row] = (),
) -> Path:
    """Write `report.html` and `report.png` into a folder and return the page.

    Args:
        folder: where.
        title: what the data are called.
        found: the survey.
        clustering: of it.
        sheets: that watched the samples pass.
        rejects: what was left out.
        rows: the table of Ks, where there is one.
    """
    colours = [_colour(k, len(clustering.clusters)) for k in range(len(clustering.clusters))]
    plan = _map(found, clustering, colours)
    strips = [_sheet(pictures) for pictures in sheets.pictures]
    page = _page(title, found, clustering, colours, plan, strips, rejects, rows)
    atomic.write_bytes(folder / PICTURE, _encoded(_poster(clustering, colours, plan, strips)))
    atomic.write_bytes(folder / REPORT, page.encode())
    return folder / REPORT


def _colour(k: int, count: int) -> tuple[int, int, int]:
    """Hues as far apart as they come, every second one darker."""
    hue = Image.new("HSV", (1, 1), (int(255 * k / max(1, count)), 200, 170 if k % 2 else 225)).convert("RGB")
    red, green, blue = np.asarray(hue)[0, 0].tolist()
    return red, green, blue


def _map(found: Survey, clustering: Clustering, colours: Sequence[tuple[int, int, int]]) -> Image.Image:
    groups = len(clustering.labels_G)
    chosen = np.unique(np.linspace(0, groups - 1, min(MAP_GROUPS, groups)).astype(np.int64))
    points_SD = np.asarray(found.vectors[chosen], dtype=np.float64)
    points_SD -= points_SD.mean(axis=0)
    axes_DD = np.linalg.eigh(points_SD.T @ points_SD)[1]
    axes_D2 = axes_DD[:, ::-1][:, :2]
    axes_D2 *= np.sign(axes_D2[np.abs(axes_D2).argmax(axis=0), [0, 1][: axes_D2.shape[1]]])
    flat_S2 = points_SD @ axes_D2
    low, high = np.quantile(flat_S2, 0.005, axis=0), np.quantile(flat_S2, 0.995, axis=0)
    places_S2 = np.clip((flat_S2 - low) / np.maximum(high - low, 1e-9), 0, 1) * (MAP_PX - 24) + 12
    image = Image.new("RGB", (MAP_PX, MAP_PX), _PAPER)
    draw = ImageDraw.Draw(image)
    for (x, y), label in zip(places_S2.tolist(), clustering.labels_G[chosen].tolist(), strict=True):
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=colours[label])
    for label in range(len(clustering.clusters)):
        mine = places_S2[clustering.labels_G[chosen] == label]
        if len(mine):
            x, y = np.median(mine, axis=0).tolist()
            draw.text((x, y), str(label), fill=_INK, anchor="mm", font_size=20, stroke_width=3, stroke_fill=_PAPER)
    return image


def _sheet(pictures: Sequence[Image.Image]) -> Image.Image:
    rows = max(1, -(-len(pictures) // SHEET_COLUMNS))
    sheet = Image.new("RGB", (SHEET_COLUMNS * THUMB_PX, rows * THUMB_PX), _PAPER)
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % SHEET_COLUMNS * THUMB_PX, place // SHEET_COLUMNS * THUMB_PX))
    return sheet


def _poster(
    clustering: Clustering,
    colours: Sequence[tuple[int, int, int]],
    plan: Image.Image,
    strips: Sequence[Image.Image],
) -> Image.Image:
    """The map on the left, the sheets on the right."""
    line, shown = 26, list(zip(clustering.clusters, colours, strips, strict=True))[:MOST_SHEETS]
    height = max(MAP_PX, sum(strip.height + line for *_, strip in shown)) + 20
    poster = Image.new("RGB", (MAP_PX + SHEET_COLUMNS * THUMB_PX + 30, height), _PAPER)
    poster.paste(plan, (10, 10))
    draw, y = ImageDraw.Draw(poster), 10
    for cluster, colour, strip in shown:
        words = ", ".join(_plain(word) for word in cluster.words[:8])
        draw.rectangle((MAP_PX + 20, y + 4, MAP_PX + 34, y + 18), fill=colour)
        draw.text((MAP_PX + 42, y + 3), f"{cluster.id}  {cluster.samples:,} samples  {words}", fill=_INK, font_size=14)
        poster.paste(strip, (MAP_PX + 20, y + line))
        y += strip.height + line
    return poster


def _plain(word: str) -> str:
    """The default font knows Latin letters only."""
    return word if word.isascii() else word.encode("ascii", "replace").decode()


def _encoded(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _inline(image: Image.Image, what: str) -> str:
    out = io.BytesIO()
    image.save(out, "WEBP", quality=85)
    data = base64.b64encode(out.getvalue()).decode()
    return f'<img alt="{html.escape(what)}" width="{image.width}" src="data:image/webp;base64,{data}">'


def _page(
    title: str,
    found: Survey,
    clustering: Clustering,
    colours: Sequence[tuple[int, int, int]],
    plan: Image.Image,
    strips: Sequence[Image.Image],
    rejects: Rejects | None,
    rows: Sequence[Row],
) -> str:
    total = sum(cluster.samples for cluster in clustering.clusters)
    clusters = "".join(
        f'<section><h2><i style="background:rgb{colour}"></i>{cluster.id}: {cluster.samples:,} samples, '
        f'{cluster.samples / total:.1%}</h2><div class=bar style="width:{100 * cluster.samples / total:.2f}%;'
        f'background:rgb{colour}"></div><p>{html.escape(", ".join(cluster.words))}</p>'
        f"{_inline(strip, f'pictures of cluster {cluster.id}')}</section>"
        for cluster, colour, strip in zip(clustering.clusters, colours, strips, strict=True)
    )
    facts = f"{total:,} samples in {len(clustering.labels_G):,} groups, clustered by {html.escape(found.features)}."
    if price := clustering.price:
        facts += (
            f" Balance keeps {price.moved:.1%} of the samples out of the cluster they are most similar to; mean"
            f" similarity to the own cluster {price.similarity:.3f}, without it {price.free_similarity:.3f}."
        )
    if rejects is not None:
        left = f": {html.escape(rejects.summary())}; all are listed in rejects.jsonl" if len(rejects) else ""
        facts += f" Left out: {len(rejects):,}{left}."
    return _FRAME.format(
        title=html.escape(title),
        facts=facts,
        table=_table(rows),
        plan=_inline(plan, "map of the groups"),
        clusters=clusters,
    )


def _table(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS.values())
    body = "".join(
        f"<tr><td>{row.clusters}</td><td colspan={len(_COLUMNS) - 1}>{html.escape(row.problem)}</td></tr>"
        if row.problem
        else "<tr>" + "".join(f"<td>{asdict(row)[name]:g}</td>" for name in _COLUMNS) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><meta name="viewport" content="width=device-width">
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; color: #1b1f24; max-width: 72rem; margin: 2rem auto; padding: 0 1rem }}
h1 {{ font-size: 1.5rem }} h2 {{ font-size: 1.05rem; margin: 0 }} section {{ margin: 0 0 1.4rem }}
h2 i {{ display: inline-block; width: .8em; height: .8em; margin-right: .5em; border-radius: 2px }}
p {{ margin: .2rem 0 .4rem }} img {{ max-width: 100%; height: auto }} .bar {{ height: 4px; margin: .25rem 0 }}
table {{ border-collapse: collapse; margin: 1rem 0 }} th, td {{ padding: .2rem .7rem; text-align: right }}
th {{ border-bottom: 1px solid #999; font-weight: 600 }}
.two {{ display: grid; grid-template-columns: minmax(280px, 480px) 1fr; gap: 2rem; align-items: start }}
@media (max-width: 60rem) {{ .two {{ grid-template-columns: 1fr }} }}
</style></head><body>
<h1>{title}</h1><p>{facts}</p>{table}
<div class="two"><div>{plan}<p>First two principal components of the features; a point a group.</p></div>
<div>{clusters}</div></div>
</body></html>
"""
