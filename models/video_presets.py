"""Named sizes of expert, router and clip.

Paris 2.0 (arXiv 2605.26064) says 11 B an expert and a router of about 100 M, 256 x 256 pixels, and neither frames nor
widths. FLUX.1's 19 dual and 38 single blocks of width 3072, whose weights it starts from, count 11.84 B in the kept
class, and with the refiner of the text (0.31 B), time, text, patches and head 12.20 B, 24.4 GB in bf16; training them
keeps 20 bytes a parameter (weights, gradients, two moments and an average in fp32), 244 GB, before activations. Its
clips here are 33 frames, 9 in causal latents: our choice. The router is a DiT-B with a modulation in every block.
"""

from __future__ import annotations

from paris.models.presets import PRESETS, Preset

_MINILM = {"text_dim": 384}
_WORDS = {"text_dim": 384, "pooled_dim": 384}
_NANO = {"channels": 3, "height": 16, "frames": 4, "patch": 8, "patch_frames": 2}
_CLIP_PIXELS = {"channels": 3, "height": 32, "frames": 16, "patch": 4, "patch_frames": 2}
_CLIP_LATENTS = {"channels": 8, "height": 8, "frames": 16, "patch": 2, "patch_frames": 4}
_CAUSAL_LATENTS = {"channels": 16, "height": 32, "frames": 9, "patch": 2}
_MICRO = {"width": 128, "dual": 2, "single": 4, "heads": 4, "refiners": 1, "first_frame": True}
_SMALL_ROUTER = {"width": 128, "depth": 3, "heads": 2}
_DIT_B = {"width": 768, "depth": 12, "heads": 12, "text_dim": 768}
_LARGE = {"text_dim": 4096, "pooled_dim": 768, "first_frame": True}

VIDEO_PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="video-nano",
            expert={
                **_NANO,
                **_WORDS,
                "width": 32,
                "dual": 1,
                "single": 1,
                "heads": 1,
                "refiners": 1,
                "first_frame": True,
            },
            router={**_NANO, **_MINILM, "width": 32, "depth": 1, "heads": 2},
            shape=(3, 4, 16, 16),
            picture_px=16,
            codec="pixels",
            text_tokens=16,
            purpose="tests",
        ),
        Preset(
            name="video-micro",
            expert={**_CLIP_PIXELS, **_WORDS, **_MICRO},
            router={**_CLIP_PIXELS, **_MINILM, **_SMALL_ROUTER, "patch": 8, "first_frame": True},
            shape=(3, 16, 32, 32),
            picture_px=32,
            codec="pixels",
            text_tokens=16,
            purpose="a CPU, no autoencoder",
        ),
        Preset(
            name="video-tiny",
            expert={**_CLIP_LATENTS, **_WORDS, **_MICRO, "dual": 1, "single": 5},
            router={**_CLIP_LATENTS, **_MINILM, **_SMALL_ROUTER, "first_frame": True},
            shape=(8, 16, 8, 8),
            picture_px=32,
            codec="autoencoder-tiny",
            text_tokens=16,
            purpose="a CPU; each frame through the packaged autoencoder",
        ),
        Preset(
            name="video-s",
            expert={**_CAUSAL_LATENTS, **_LARGE, "width": 768, "dual": 4, "single": 8, "heads": 6},
            router={**_CAUSAL_LATENTS, **_DIT_B, "depth": 6, "first_frame": True},
            shape=(16, 9, 32, 32),
            picture_px=256,
            codec="autoencoder-kl-hunyuan-video",
            text_tokens=256,
            purpose="a GPU",
        ),
        Preset(
            name="video-11b",
            expert={
                **_CAUSAL_LATENTS,
                **_LARGE,
                "width": 3072,
                "dual": 19,
                "single": 38,
                "heads": 24,
                "guidance": 4,
                "rotary_base": 10000,
            },
            router={**_CAUSAL_LATENTS, **_DIT_B, "first_frame": True},
            shape=(16, 9, 32, 32),
            picture_px=256,
            codec="autoencoder-kl-hunyuan-video",
            text_tokens=256,
            purpose="several large GPUs; Paris 2.0's experts",
        ),
    )
}
"""Every preset of clips by name."""

EVERY_PRESET: dict[str, Preset] = {**PRESETS, **VIDEO_PRESETS}
"""Every preset of pictures and of clips by name."""
