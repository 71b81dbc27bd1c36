"""The video expert: a dual- and single-stream transformer over causal video latents, as FLUX and HunyuanVideo are.

Paris 2.0 (arXiv 2605.26064) names a FLUX-style MM-DiT and its inputs and no wiring of its own, so the network is
diffusers' `HunyuanVideoTransformer3DModel` (arXiv 2412.03603, section 4.2): text and clip first in streams of their own
with attention over both (MM-DiT, arXiv 2403.03206), then in one; rotary places over time, rows and columns; time and
pooled text modulate every block. Ours are the sizes, the start, the first frame as a condition, and factorised
attention. Letters besides those of `blocks.py`: F frames of latents, S picture tokens a frame, P width of pooled text.

* "full": every token of a clip attends to all others, as the papers do it.
* "factorised": the kept blocks see each frame alone, with a stream of text a frame, and after each comes attention over
  time alone (arXiv 2204.03458, section 3). Its last layer starts at zero, so a new network treats frames as pictures.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import torch
from diffusers import HunyuanVideoTransformer3DModel
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from paris.models.blocks import require_bounded
from paris.models.conditions import beside
from paris.models.hunyuan_video import TOLD, settings_of
from paris.models.layers import Attention, initialise_linear
from paris.models.positions import rotation

FULL: Final = "full"
FACTORISED: Final = "factorised"
TIME_SCALE = 1000.0
"""These networks see 1000 t, as FLUX and HunyuanVideo do, where DiT sees 999 t."""

HEAD_GRAIN = 32
"""A head's width is a multiple of it: an eighth turns with time, the rest half with the row, half with the column, as
HunyuanVideo's 16 + 56 + 56, and each part in pairs."""


class VideoExpert(ModelMixin, ConfigMixin):
    """Predict the flow velocity of noised video latents, given time, text and, where it was built for it, a picture.

    Args:
        channels: latent channels C, in and out.
        height: latent height H of the clips trained on; places are rotary, so any other works.
        frames: latent frames F trained on; likewise.
        patch: side of a patch.
        patch_frames: latent frames of a patch.
        width: model width D.
        dual: blocks of two streams.
        single: blocks of one stream.
        heads: attention heads, each of a width that 32 divides.
        refiners: blocks that see the text tokens alone first.
        mlp_ratio: hidden width of the perceptrons over D.
        text_dim: width E of the text tokens.
        pooled_dim: width P of the pooled text.
        attention: "full" or "factorised".
        first_frame: whether it can be told a clip's first frame.
        guidance: a scale the network is told, always the same, as FLUX.1-dev and Open-Sora are; 0 has no place for it.
        rotary_base: of the rotary places: 256 for HunyuanVideo, 10000 for FLUX.

    Raises:
        ValueError: no network has such sizes or such a wiring; said before anything is built.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = [
        "HunyuanVideoTransformerBlock",
        "HunyuanVideoSingleTransformerBlock",
        "SpaceTimeBlock",
    ]
    _repeated_blocks: ClassVar[list[str]] = ["HunyuanVideoTransformerBlock", "HunyuanVideoSingleTransformerBlock"]

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        *,
        channels: int,
        height: int,
        frames: int,
        patch: int,
        width: int,
        dual: int,
        single: int,
        heads: int,
        patch_frames: int = 1,
        refiners: int = 2,
        mlp_ratio: float = 4.0,
        text_dim: int = 4096,
        pooled_dim: int = 768,
        attention: str = FULL,
        first_frame: bool = False,  # noqa: ARG002 - read from the config
        guidance: float = 0.0,
        rotary_base: float = 256.0,
    ) -> None:
        super().__init__()
        require_bounded(
            "VideoExpert", channels=channels, height=height, frames=frames, patch=patch, patch_frames=patch_frames,
            width=width, dual=dual, single=single, heads=heads, refiners=refiners, mlp_ratio=mlp_ratio,
            text_dim=text_dim, pooled_dim=pooled_dim, guidance=guidance, rotary_base=rotary_base,
        )  # fmt: skip
        if height % patch or frames % patch_frames or width % (HEAD_GRAIN * heads) or attention not in ATTENTIONS:
            raise ValueError(
                f"A VideoExpert of height {height}, {frames} frames, patch {patch} x {patch} x {patch_frames} frames, "
                f"width {width}, {heads} heads and {attention!r} attention cannot be built: patches must divide height "
                f"and frames, {HEAD_GRAIN} the width of a head, and attention is {' or '.join(ATTENTIONS)}. Correct "
                "the preset or config.json."
            )
        self.guidance, self.patches = guidance, (patch_frames, patch, patch)
        settings = {name: value for name, value in settings_of(self.config).items() if name != TOLD}
        self.transformer = HunyuanVideoTransformer3DModel(**settings)
        if attention == FACTORISED:
            for blocks in (self.transformer.transformer_blocks, self.transformer.single_transformer_blocks):
                for number, block in enumerate(blocks):
                    blocks[number] = SpaceTimeBlock(block, width, heads)
        self._initialise()

    def _initialise(self) -> None:
        """Let every block begin as the identity and the prediction as zero, as DiT does (arXiv 2212.09748, 3.2)."""
        self.apply(initialise_linear)
        for name, module in self.named_modules():
            gates = isinstance(module, nn.Linear) and ".norm" in name
            if gates or name == "transformer.proj_out" or name.endswith("over_time.out"):
                nn.init.zeros_(module.weight)

    def forward(
        self,
        x_BCFHW: Tensor,
        t_B: Tensor,
        text_BLE: Tensor,
        mask_BL: Tensor,
        pooled_BP: Tensor,
        first_BQHW: Tensor | None = None,
    ) -> Tensor:
        """Return the velocity v = eps - x0, shaped like x.

        Args:
            x_BCFHW: latents (1-t) x0 + t eps, of any length and size the patches divide.
            t_B: times in [0, 1], 0 data, 1 noise.
            text_BLE: text tokens.
            mask_BL: True where a text token counts; those of a text come first, and there is at least one.
            pooled_BP: one vector a text.
            first_BQHW: clean latents of first frames from `conditions.first_frames`; None where there are none.

        Raises:
            ValueError: patches do not divide the latents; or a first frame is given to a network built without.
        """
        require_divided(x_BCFHW, self.patches)
        if self.config["first_frame"]:
            x_BCFHW = beside(x_BCFHW, first_BQHW)
        elif first_BQHW is not None:
            raise ValueError("This network was built without a place for a first frame: it makes clips of text alone.")
        guidance_B = torch.full_like(t_B, TIME_SCALE * self.guidance) if self.guidance else None
        out: Tensor = self.transformer(
            x_BCFHW, TIME_SCALE * t_B, text_BLE, mask_BL, pooled_BP, guidance=guidance_B, return_dict=False
        )[0]
        return out


class SpaceTimeBlock(nn.Module):
    """One kept block on each frame alone, then attention of every place over time. It is called like the kept block."""

    def __init__(self, block: nn.Module, width: int, heads: int) -> None:
        super().__init__()
        self.block, self.head_width = block, width // heads
        self.time_norm = nn.LayerNorm(width, eps=1e-6)
        self.over_time = Attention(width, heads, qk_norm=True)

    def forward(
        self, x_BTD: Tensor, text: Tensor, condition_BD: Tensor, mask_B11T: Tensor, places: Any, _: Any, S: int
    ) -> tuple[Tensor, Tensor]:
        """Refine the tokens of F frames; text comes as (B, L, D), and goes as (B F, L, D) from block to block."""
        B, T, D = x_BTD.shape
        F, L = T // S, text.shape[1]
        if len(text) == B:
            text = text.repeat_interleave(F, dim=0)
        x, text = self.block(
            x_BTD.reshape(B * F, S, D),
            text,
            condition_BD.repeat_interleave(F, dim=0),
            mask_B11T[..., -(S + L) :].repeat_interleave(F, dim=0),
            tuple(angles[:S] for angles in places),  # those of the first frame: where in the picture, not when
        )
        x_PFD = x.reshape(B, F, S, D).transpose(1, 2).reshape(B * S, F, D)
        x_PFD = x_PFD + self.over_time(self.time_norm(x_PFD), rotation=rotation(F, 1, self.head_width, x.device))
        return x_PFD.reshape(B, S, F, D).transpose(1, 2).reshape(B, T, D), text


ATTENTIONS: Final = (FULL, FACTORISED)


def require_divided(x_BCFHW: Tensor, patches: tuple[int, int, int]) -> None:
    """Refuse latents that cannot be cut into patches.

    Raises:
        ValueError: a side is no multiple of the patch's.
    """
    sides = tuple(x_BCFHW.shape[-3:])
    if x_BCFHW.ndim != 5 or any(side % patch for side, patch in zip(sides, patches, strict=True)):
        raise ValueError(f"Latents of {sides} frames, rows and columns cannot be cut into patches of {patches}.")
