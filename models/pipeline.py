"""`ParisPipeline`: a folder of experts, router and codec in, pictures out, with who drew which step.

Folder layout: model_index.json, expert_<k>/ and router/ (config.json + diffusion_pytorch_model.safetensors), vae/ (a
diffusers autoencoder; absent in pixel space), text_encoder.json {kind, name, tokens, sha256}, scheduler/.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor

from paris.models.ensemble import Ensemble
from paris.models.files import write_json
from paris.models.latents import Autoencoder, Codec, open_codec
from paris.models.networks import load_network, read_config
from paris.models.router import Router
from paris.models.sampling import Trace, sample
from paris.models.text import TextBatch, TextEncoder, open_text_encoder

INDEX = "model_index.json"
TEXT = "text_encoder.json"


class PipelineError(ValueError):
    """A pipeline folder is incomplete, or a call asks for something impossible."""


@dataclass(frozen=True)
class Drawn:
    """One expert's part in one picture: it had weight in `steps` steps, `weight` on average over all steps."""

    expert: int
    steps: int
    weight: float


@dataclass(frozen=True)
class ParisOutput:
    """Pictures, and for each the experts that drew it, busiest first."""

    images: list[Image.Image]
    routing: list[list[Drawn]]


class ParisPipeline(DiffusionPipeline):
    """Draw pictures from prompts with a routed ensemble of experts.

    Args:
        ensemble: experts and router.
        codec: latents to pictures.
        text_encoder: captions to numbers.
        scheduler: a flow-matching scheduler of diffusers.
        shape: latent shape (C, H, W).
    """

    def __init__(
        self, ensemble: Ensemble, codec: Codec, text_encoder: TextEncoder, scheduler: Any, shape: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.register_modules(scheduler=scheduler, router=ensemble.router)
        self.ensemble, self.codec, self.text, self.shape = ensemble, codec, text_encoder, shape

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> ParisPipeline:
        """Open a local pipeline folder. The only option is `torch_dtype`, the precision of experts and router.

        Raises:
            PipelineError: naming the part that is missing.
        """
        root, dtype = Path(folder), options.pop("torch_dtype", torch.float32)
        if options:
            raise PipelineError(f"ParisPipeline.from_pretrained knows torch_dtype only, not {', '.join(options)}.")
        index = _read_json(root / INDEX, experts=int, codec=str)
        text = _read_json(root / TEXT, kind=str, name=str, tokens=int)
        folders = [root / f"expert_{k}" for k in range(index["experts"])]
        if not folders:
            raise PipelineError(f"{root} is not a whole pipeline: {INDEX} names no experts. Fetch it again.")
        for part in (*folders, root / "router"):
            if not (part / "config.json").is_file():
                raise PipelineError(
                    f"{root} is not a whole pipeline: {part.name}/config.json is missing. Fetch it again."
                )
        config = read_config(folders[0])
        return cls(
            Ensemble(folders, load_network(Router, root / "router", dtype), dtype=dtype),
            open_codec(index["codec"], root / "vae" if (root / "vae").is_dir() else None),
            _open_text(text),
            FlowMatchEulerDiscreteScheduler.from_pretrained(root / "scheduler", local_files_only=True),
            (config["channels"], config["height"], config["height"]),
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder `from_pretrained` reads."""
        root = Path(folder)
        for index in range(len(self.ensemble)):
            self.ensemble.expert(index).save_pretrained(root / f"expert_{index}")
        self.ensemble.router.save_pretrained(root / "router")
        if isinstance(self.codec, Autoencoder):
            self.codec.model.save_pretrained(root / "vae")
        text = {**self.text.identity(), "tokens": self.text.tokens}
        write_index(root, len(self.ensemble), self.codec.kind, text)
        self.scheduler.save_pretrained(root / "scheduler")

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str = "",
        num_inference_steps: int = 30,
        guidance_scale: float = 3.0,
        top_k: int = 2,
        *,
        seed: int | Sequence[int] = 0,
        strategy: str = "top-k",
        callback: Callable[[int, Tensor], None] | None = None,
    ) -> ParisOutput:
        """Draw one picture a prompt.

        Args:
            prompt: one or several captions.
            negative_prompt: what guidance leads away from.
            num_inference_steps: scheduler steps.
            guidance_scale: 1 for none.
            top_k: experts a step; at most the number of experts.
            seed: one for all prompts (counted up from picture to picture) or one a prompt.
            strategy: "top-k" or "full".
            callback: called after each step with (step number from 1, latents).

        Raises:
            PipelineError: where prompts and seeds do not pair.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        seeds = [seed + i for i in range(len(prompts))] if isinstance(seed, int) else list(seed)
        if not prompts or len(seeds) != len(prompts):
            raise PipelineError(f"{len(prompts)} prompts and {len(seeds)} seeds do not pair. Give one seed a prompt.")
        self.ensemble.strategy, self.ensemble.k = strategy, min(top_k, len(self.ensemble))
        encoded = self.text.encode([*prompts, negative_prompt])
        text = TextBatch(*(part[:-1] for part in encoded.parts()))
        null = TextBatch(*(part[-1:] for part in encoded.parts())).repeat(len(prompts))
        latents, trace = sample(
            self.ensemble,
            text,
            null,
            self.shape,
            self.scheduler,
            steps=num_inference_steps,
            guidance=guidance_scale,
            seeds=seeds,
            on_step=callback,
        )
        return ParisOutput(to_images(self.codec.decode(latents)), drawn_by(trace))


def write_index(folder: Path, experts: int, codec: str, text: dict[str, Any], *, scheduler: bool = False) -> None:
    """Write model_index.json and text_encoder.json, and the default scheduler where asked: all but the weights.

    Args:
        folder: the pipeline folder.
        experts: number of expert_<k> folders.
        codec: kind of codec.
        text: kind, name, sha256 and tokens of the text encoder.
        scheduler: also write scheduler/scheduler_config.json.
    """
    write_json({"_class_name": "ParisPipeline", "experts": experts, "codec": codec}, folder / INDEX)
    write_json(text, folder / TEXT)
    if scheduler:
        FlowMatchEulerDiscreteScheduler().save_pretrained(folder / "scheduler")


def to_images(pictures_B3HW: Tensor) -> list[Image.Image]:
    """Turn pictures in [-1, 1] into PIL images."""
    levels = ((pictures_B3HW + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in levels]


def drawn_by(trace: Trace) -> list[list[Drawn]]:
    """Summarise a routing trace a picture."""
    return [
        sorted(
            (Drawn(k, int(n), round(float(w), 4)) for k, (n, w) in enumerate(zip(steps, weights, strict=True)) if n),
            key=lambda part: (-part.steps, -part.weight, part.expert),
        )
        for steps, weights in zip(trace.steps_drawn(), trace.mean_weights(), strict=True)
    ]


def _open_text(text: dict[str, Any]) -> TextEncoder:
    encoder = open_text_encoder(text["kind"], text["name"], text["tokens"])
    found = encoder.identity()["sha256"]
    if text.get("sha256", found) != found:
        raise PipelineError(
            f"The text encoder {text['name']} on this machine is not the one the experts were trained with: its "
            f"weights have {found}, expected {text['sha256']}. Install the version the run names."
        )
    return encoder


def _read_json(path: Path, **parts: type) -> dict[str, Any]:
    """Read an object that has these parts."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PipelineError(f"{path.parent} is not a whole pipeline: {path.name} cannot be read ({error}).") from error
    for name, kind in parts.items():
        if not isinstance(value, dict) or not isinstance(value.get(name), kind):
            raise PipelineError(f"{path.parent} is not a whole pipeline: {path.name} lacks {name!r}. Fetch it again.")
    return dict(value)
