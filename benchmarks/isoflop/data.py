"""The pictures or clips of the study: latents of every view, captions as vectors, and who is trained on, chosen on,
tested on.

A split never cuts a group (all drawings of one emoji): test groups are those that the registry holds out, validation
groups one in twenty of the others. Validation decides when a training is stopped, test is what results are told on.
Letters: P pictures, V views of pictures (rows), N distinct captions, E text width. Wherever it says C H W, a clip has
its frames too: C F H W.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from paris.models.cache import LatentCache
from paris.models.decoding import spread_frames
from paris.models.files import write_tensors
from paris.models.latents import open_codec
from paris.models.presets import PRESETS
from paris.models.text import TextBatch, open_text_encoder
from paris.models.videocodec import open_video_codec
from paris.registry.shards import is_holdout
from paris.registry.sources import open_source, read_samples

PRESET = PRESETS["tiny"]
ENCODE_BATCH = 256
TRAIN, VALIDATION, TEST = range(3)
SPLITS = ("train", "validation", "test")
VALIDATION_ONE_IN = 20
PLAIN, MIRRORED = 0, 1
VIEW_TENSORS = ("latents", "picture", "view")
PICTURE_TENSORS = ("pixels", "split", "text_index", "tokens", "pooled")


@dataclass(frozen=True)
class Pictures:
    """Everything that is known of the pictures.

    Attributes:
        latents_VCHW: of every view, float16.
        picture_V: which picture a view shows.
        view_V: `PLAIN` or `MIRRORED`.
        pixels_P3HW: uint8.
        split_P: `TRAIN`, `VALIDATION` or `TEST`.
        text_P: row of a picture's caption among the texts.
        texts: of one token each, the mean of a caption's tokens; row 0 is the null text.
        captions, groups, styles: of every picture (P).
    """

    latents_VCHW: Tensor
    picture_V: Tensor
    view_V: Tensor
    pixels_P3HW: Tensor
    split_P: Tensor
    text_P: Tensor
    texts: TextBatch
    captions: tuple[str, ...]
    groups: tuple[str, ...]
    styles: tuple[str, ...]

    def rows(self, split: int, *, views: int = PLAIN, wanted_P: Tensor | None = None) -> Tensor:
        """Return the views of a split's pictures: those up to `views`, of the wanted pictures only."""
        keeps = (self.split_P == split) if wanted_P is None else (self.split_P == split) & wanted_P
        return (keeps[self.picture_V] & (self.view_V <= views)).nonzero().flatten()

    def cache(self, rows: Tensor, labels_P: Tensor | None = None) -> LatentCache:
        """Return some views as a data set, labelled with their pictures' clusters."""
        pictures = self.picture_V[rows]
        labels = torch.full_like(pictures, -1) if labels_P is None else labels_P[pictures]
        return LatentCache(self.latents_VCHW[rows], self.text_P[pictures], labels, self.texts)


def split_of(group: str) -> int:
    """Say which split a group belongs to, for ever the same."""
    if is_holdout(group):
        return TEST
    digest = hashlib.sha256(f"validation:{group}".encode()).digest()
    return VALIDATION if int.from_bytes(digest[:4], "big") % VALIDATION_ONE_IN == 0 else TRAIN


def ingest(where: str, frames: int | None, out: Path) -> Pictures:
    """Read and encode a source once, so many frames of each clip; a second call opens what the first wrote."""
    if not out.exists():
        _encode(where, frames, out)
    return open_pictures(out)


def open_pictures(path: Path) -> Pictures:
    """Open what `ingest` wrote."""
    with safe_open(path, framework="pt") as file:
        parts = {name: file.get_tensor(name) for name in (*VIEW_TENSORS, *PICTURE_TENSORS)}
        note = json.loads(file.metadata()["note"])
    tokens_N1E = parts["tokens"].float()
    texts = TextBatch(tokens_N1E, torch.ones(len(tokens_N1E), 1, dtype=torch.bool), parts["pooled"].float())
    return Pictures(
        parts["latents"], parts["picture"], parts["view"], parts["pixels"], parts["split"], parts["text_index"], texts,
        *(tuple(note[name]) for name in ("captions", "groups", "styles")),
    )  # fmt: skip


def _encode(where: str, frames: int | None, out: Path) -> None:
    samples = sorted(read_samples(open_source(where, split_key="codepoint")), key=lambda sample: sample.key)
    codec = open_codec(PRESET.codec) if frames is None else open_video_codec(PRESET.codec)
    latents, picture, view = [], [], []
    pixels = [_pixels(sample.picture, frames) for sample in samples]
    splits = [split_of(sample.group) for sample in samples]
    todo = [(number, kind, seen) for number, plain in enumerate(pixels) for kind, seen in _views(plain, splits[number])]
    at_once = ENCODE_BATCH // (frames or 1)
    for start in range(0, len(todo), at_once):
        part = todo[start : start + at_once]
        latents.append(codec.encode(torch.stack([seen.float() / 127.5 - 1 for *_, seen in part])).half())
        picture += [number for number, *_ in part]
        view += [kind for _, kind, _ in part]
    captions = [sample.caption for sample in samples]
    distinct = ["", *sorted(set(captions) - {""})]
    row_of = {caption: row for row, caption in enumerate(distinct)}
    encoded = open_text_encoder("minilm", "minilm", PRESET.text_tokens).encode(distinct)
    mask_NL1 = encoded.mask_BL[..., None].float()
    # A pooled DiT sees the mean of the projected tokens, which is the projected mean: one token says the same. Experts
    # of clips attend to the text, and have the one token to attend to, which spares them a third of their arithmetic.
    mean_N1E = (encoded.tokens_BLE * mask_NL1).sum(1, keepdim=True) / mask_NL1.sum(1, keepdim=True)
    tensors = {
        "latents": torch.cat(latents),
        "picture": torch.tensor(picture),
        "view": torch.tensor(view),
        "pixels": torch.stack(pixels),
        "split": torch.tensor(splits),
        "text_index": torch.tensor([row_of[caption] for caption in captions]),
        "tokens": mean_N1E.half(),
        "pooled": encoded.pooled_BE.half(),
    }
    note = {
        "captions": captions,
        "groups": [sample.group for sample in samples],
        "styles": [sample.fields.get("style", "") for sample in samples],
    }
    write_tensors(tensors, out, note)


def _pixels(data: bytes, frames: int | None) -> Tensor:
    """Return a picture (3, H, W) or so many frames of a clip (3, F, H, W), uint8."""
    size = (PRESET.picture_px, PRESET.picture_px)
    images = spread_frames(data, frames or 1)
    small = [image if image.size == size else image.resize(size, Image.Resampling.BOX) for image in images]
    pixels_3FHW = torch.from_numpy(np.stack([np.asarray(image) for image in small]).transpose(3, 0, 1, 2).copy())
    return pixels_3FHW[:, 0] if frames is None else pixels_3FHW


def _views(pixels: Tensor, split: int) -> Iterator[tuple[int, Tensor]]:
    """Yield what is seen of a picture: itself and, in training, its mirror image."""
    yield PLAIN, pixels
    if split == TRAIN:
        yield MIRRORED, pixels.flip(-1)
