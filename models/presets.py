"""Named sizes of expert, router and picture. A genesis names one; config.json files carry the numbers themselves.

Parameters of the large ones, as tests/models/test_presets.py counts them: dit-xl-2 605.97 M and router-b-2 129.14 M
are those of the released Paris weights. A DiT-B/2 of the same wiring (one projection of the time for all blocks,
cross-attention on text) has 118.57 M, and that is `dit-b-2`. The paper gives its DiT-B/2 experts 129 M, 1.03 B for
eight, without their wiring. DiT's own comes to that: a projection of the condition in every block, no cross-attention,
one text vector (here the mean of the tokens) added to the time: 129.14 M, eight of them 1.033 B. That is
`dit-b-2-pooled`; that it is what the paper trained is our guess. With both, cross-attention and a projection a block,
it would be 157.49 M.

The small ones have PixArt's wiring, so that plain diffusers opens what they publish (`published.py`): fixed places, and
two layers for the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """One consistent choice of networks for one picture shape.

    Attributes:
        name: as written in a genesis.
        expert: keyword arguments of `DiT`, of clips of `VideoExpert`.
        router: keyword arguments of `Router` or `VideoRouter`, without `clusters`.
        shape: latent shape (C, H, W), of clips (C, F, H, W).
        picture_px: side of the picture a codec makes of it.
        codec: kind of codec, see `paris.models.latents`.
        text_tokens: text tokens L that cross-attention sees.
        purpose: what it is for, in a few words.
    """

    name: str
    expert: dict[str, Any]
    router: dict[str, Any]
    shape: tuple[int, ...]
    picture_px: int
    codec: str
    text_tokens: int
    purpose: str


_MINILM = {"text_dim": 384}
_CLIP_L = {"text_dim": 768}
_PIXELS = {"channels": 3, "height": 32}
_SMALL_LATENTS = {"channels": 8, "height": 8}
_SD_LATENTS = {"channels": 4, "height": 32}
_DIT_S = {"patch": 2, "width": 384, "depth": 12, "heads": 6}
_DIT_B = {"patch": 2, "width": 768, "depth": 12, "heads": 12}
_DIT_XL = {"patch": 2, "width": 1152, "depth": 28, "heads": 16}
_PIXART = {"positions": "sinusoidal", "text_layers": 2}
_SMALL_ROUTER = {"width": 128, "depth": 3, "heads": 2}

TEXT_ENCODERS = {384: ("minilm", "all-MiniLM-L6-v2"), 768: ("clip", "openai/clip-vit-large-patch14")}
"""Kind and name of the text encoder of each text width."""

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="micro",
            expert={**_PIXELS, **_MINILM, **_PIXART, "patch": 8, "width": 32, "depth": 2, "heads": 2},
            router={**_PIXELS, **_MINILM, "patch": 8, "width": 32, "depth": 1, "heads": 2},
            shape=(3, 32, 32),
            picture_px=32,
            codec="pixels",
            text_tokens=16,
            purpose="tests",
        ),
        Preset(
            name="tiny",
            expert={**_SMALL_LATENTS, **_MINILM, **_PIXART, "patch": 2, "width": 256, "depth": 4, "heads": 4},
            router={**_SMALL_LATENTS, **_MINILM, "patch": 2, **_SMALL_ROUTER},
            shape=(8, 8, 8),
            picture_px=32,
            codec="autoencoder-tiny",
            text_tokens=16,
            purpose="a CPU; brings all it needs",
        ),
        Preset(
            name="tiny-pixels",
            expert={**_PIXELS, **_MINILM, **_PIXART, "patch": 4, "width": 192, "depth": 5, "heads": 3},
            router={**_PIXELS, **_MINILM, "patch": 8, **_SMALL_ROUTER},
            shape=(3, 32, 32),
            picture_px=32,
            codec="pixels",
            text_tokens=16,
            purpose="a CPU, no autoencoder",
        ),
        Preset(
            name="dit-s-2",
            expert={**_SD_LATENTS, **_CLIP_L, **_DIT_S},
            router={**_SD_LATENTS, **_CLIP_L, **_DIT_S},
            shape=(4, 32, 32),
            picture_px=256,
            codec="autoencoder-kl",
            text_tokens=77,
            purpose="a small GPU",
        ),
        Preset(
            name="dit-b-2",
            expert={**_SD_LATENTS, **_CLIP_L, **_DIT_B},
            router={**_SD_LATENTS, **_CLIP_L, **_DIT_B},
            shape=(4, 32, 32),
            picture_px=256,
            codec="autoencoder-kl",
            text_tokens=77,
            purpose="a GPU",
        ),
        Preset(
            name="dit-b-2-pooled",
            expert={**_SD_LATENTS, **_CLIP_L, **_DIT_B, "modulation": "per-block", "text": "pooled"},
            router={**_SD_LATENTS, **_CLIP_L, **_DIT_B},
            shape=(4, 32, 32),
            picture_px=256,
            codec="autoencoder-kl",
            text_tokens=77,
            purpose="a GPU; the paper's 129 M",
        ),
        Preset(
            name="dit-xl-2",
            expert={**_SD_LATENTS, **_CLIP_L, **_DIT_XL},
            router={**_SD_LATENTS, **_CLIP_L, **_DIT_B},
            shape=(4, 32, 32),
            picture_px=256,
            codec="autoencoder-kl",
            text_tokens=77,
            purpose="a large GPU; Paris's experts",
        ),
    )
}
"""Every preset by name."""

ROUTERS: dict[str, dict[str, Any]] = {"router-b-2": {**_SD_LATENTS, **_DIT_B, "text_dim": 0}}
"""Routers of no preset, as keyword arguments of `Router` without `clusters`. router-b-2, with 8 clusters, is the
released Paris router, which sees no text; a run's own router does."""

RELEASED_CLUSTERS = 8
"""Experts of the Paris release, and rows of its router's head."""
