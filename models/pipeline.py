"""`ParisPipeline`: a folder of experts, router and codec in, pictures or clips out, with who drew which step.

Folder layout: model_index.json {experts, codec, and where they are known: objectives, top_k, router_temperature; and
absent: the numbers of experts whose folders are missing on purpose},
expert_<k>/ and router/ (config.json + diffusion_pytorch_model.safetensors), vae/ (a diffusers autoencoder; absent in
pixel space), text_encoder.json {kind, name, tokens, sha256}, scheduler/, and centroids/ for routing without a router.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from paris.models.blocks import LARGEST
from paris.models.centroids import CENTROIDS, Centroids
from paris.models.conditions import first_frames
from paris.models.conversion import Prediction
from paris.models.ensemble import Ensemble
from paris.models.experts import ExpertPool
from paris.models.files import write_json
from paris.models.images import to_images
from paris.models.index import INDEX, TEXT, write_index
from paris.models.kinds import ROUTERS, kind_in, latent_shape
from paris.models.latents import Autoencoder, Codec, CodecError
from paris.models.networks import load_network, network_config, save_network
from paris.models.paris_layout import is_released, open_released
from paris.models.routing import Routing
from paris.models.sampling import OnStep, Start, sample
from paris.models.schedulers import open_scheduler
from paris.models.text import Remembering, TextBatch, TextEncoder, open_text_encoder
from paris.models.trace import Trace
from paris.models.videocodec import latent_frames, open_codec_of

USUAL_TOP_K = 2
PROBE_PX = 64

StepCallback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor] | None]
"""diffusers' `callback_on_step_end`: (pipeline, step from 0, timestep, {"latents": ...}) -> the same, changed."""


class PipelineError(ValueError):
    """A pipeline folder is incomplete, or a call asks for something impossible."""


@dataclass(frozen=True)
class ParisOutput:
    """Pictures, and who drew them: `routing[i]` lists picture i's experts, busiest first.

    Experts of clips make `clips`, the frames of each, and `images` are their first frames.
    """

    images: list[Image.Image]
    routing: Trace
    clips: list[list[Image.Image]] = field(default_factory=list)


class ParisPipeline(DiffusionPipeline):
    """Draw pictures from prompts with a routed ensemble of experts.

    Args:
        ensemble: experts and router.
        codec: latents to pictures.
        text_encoder: captions to numbers.
        scheduler: one of `paris.models.schedulers`; assign another to `pipeline.scheduler` at will.
        shape: latent shape (C, H, W) the experts were trained at, of clips (C, F, H, W).
        top_k: experts a step unless a call says otherwise; a measured property of a run.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        codec: Codec,
        text_encoder: TextEncoder,
        scheduler: Any,
        shape: tuple[int, ...],
        *,
        top_k: int = USUAL_TOP_K,
    ) -> None:
        super().__init__()
        self.register_modules(scheduler=scheduler, router=ensemble.router)
        self.ensemble, self.codec, self.text, self.shape, self.top_k = ensemble, codec, text_encoder, shape, top_k
        self._captions = Remembering(text_encoder)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> ParisPipeline:
        """Open a local pipeline folder.

        Args:
            folder: what `save_pretrained` or a fetch wrote, or a release, see `paris.models.paris_layout`.
            options: `torch_dtype` (precision of experts and router), `memory_bytes` (cap on loaded experts' weights)
                and `offload` (keep experts that leave an accelerator in the host's memory).

        Raises:
            PipelineError: naming the part that is missing.
        """
        root, dtype = Path(folder), options.pop("torch_dtype", torch.float32)
        memory_bytes, offload = options.pop("memory_bytes", None), options.pop("offload", False)
        if options:
            known = "torch_dtype, memory_bytes and offload"
            raise PipelineError(f"ParisPipeline.from_pretrained knows {known}, not {', '.join(options)}.")
        if is_released(root):
            return cls(*open_released(root, dtype=dtype, memory_bytes=memory_bytes, offload=offload))
        index = _read_json(root / INDEX, experts=int, codec=str)
        text = _read_json(root / TEXT, kind=str, name=str, tokens=int)
        absent = index.get("absent", [])
        folders = _expert_folders(root, index["experts"], absent)
        pool = ExpertPool(folders, dtype=dtype, memory_bytes=memory_bytes, offload=offload)
        ensemble = Ensemble(
            pool,
            load_network(kind_in(root / "router", ROUTERS), root / "router", dtype),
            predictions=_predictions(root, index),
            centroids=Centroids.open(root / CENTROIDS) if (root / CENTROIDS).is_dir() else None,
            router_temperature=float(index.get("router_temperature", 1.0)),
            absent=absent,
        )
        shape = latent_shape(network_config(folders[ensemble.present[0]]))
        return cls(
            ensemble,
            open_codec_of(shape, index["codec"], root / "vae" if (root / "vae").is_dir() else None),
            _open_text(text),
            open_scheduler(root / "scheduler"),
            shape,
            top_k=min(int(index.get("top_k", USUAL_TOP_K)), len(ensemble.present)),
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder `from_pretrained` reads."""
        root, ensemble = Path(folder), self.ensemble
        for index in ensemble.present:
            save_network(ensemble.expert(index), root / f"expert_{index}")
        save_network(ensemble.router, root / "router")
        if isinstance(self.codec, Autoencoder):
            self.codec.model.save_pretrained(root / "vae")
        if ensemble.centroids is not None:
            ensemble.centroids.save(root / CENTROIDS)
        text = {**self.text.identity(), "tokens": self.text.tokens}
        measured: dict[str, Any] = {"top_k": self.top_k, "router_temperature": ensemble.router_temperature}
        names = [prediction.names() for prediction in ensemble.predictions]
        absent = sorted({*range(len(ensemble))} - {*ensemble.present})
        write_index(root, len(ensemble), self.codec.kind, text, objectives=names, measured=measured, absent=absent)
        self.scheduler.save_pretrained(root / "scheduler")

    @property
    def device(self) -> torch.device:
        """Where experts and router compute."""
        return self.ensemble.experts.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of experts and router."""
        return self.ensemble.experts.dtype

    @property
    def makes_clips(self) -> bool:
        """Whether the experts make clips, not pictures."""
        return len(self.shape) == 4

    def to(self, *where: Any, **named: Any) -> ParisPipeline:
        """Move experts, router and codec: `to(device)`, `to(dtype)`, `to(device, dtype)`, or by name."""
        dtypes = [part for part in (*where, named.get("dtype")) if isinstance(part, torch.dtype)]
        devices = [part for part in (*where, named.get("device")) if isinstance(part, str | int | torch.device)]
        device = torch.device(devices[0]) if devices else self.device
        self.ensemble.to(device, dtypes[0] if dtypes else self.dtype)
        if isinstance(self.codec, Autoencoder):
            self.codec.to(device)
        return self

    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] = "",
        num_inference_steps: int = 30,
        guidance_scale: float = 3.0,
        top_k: int | None = None,
        *,
        seed: int | Sequence[int] = 0,
        strategy: str = "top-k",
        routing: Routing | None = None,
        cluster: int | Sequence[int] | None = None,
        image: Image.Image | Sequence[Image.Image] | None = None,
        strength: float = 0.6,
        height: int | None = None,
        width: int | None = None,
        frames: int | None = None,
        callback_on_step_end: StepCallback | None = None,
    ) -> ParisOutput:
        """Draw one picture a prompt, or make one clip.

        Args:
            prompt: one or several captions.
            negative_prompt: what guidance leads away from, for all or for each.
            num_inference_steps: scheduler steps.
            guidance_scale: 1 for none.
            top_k: experts a step, the pipeline's own number if None; at most the number of experts.
            seed: one for all prompts (counted up from picture to picture) or one a prompt.
            strategy: a name of `paris.models.routing.STRATEGIES`.
            routing: all of the routing, instead of `top_k` and `strategy`.
            cluster: whose expert draws, for the strategy "oracle"; for all or for each.
            image: pictures to start from, one for all or one a prompt; of a clip it is the first frame.
            strength: how far they are taken back to noise, above 0 to 1; clips do not go by it.
            height: of the picture in pixels, where the experts' positions allow another than they were trained at.
            width: likewise.
            frames: of the clip, where experts make clips; as many as they were trained at if None.
            callback_on_step_end: called after each evaluation, may replace the latents.

        Raises:
            PipelineError: where prompts and what belongs to each do not pair, or the size is impossible.
            routing.RoutingError: the routing asks for what this ensemble does not have.
            schedulers.SchedulerError: strength leaves no step.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        counted = [seed + i for i in range(len(prompts))] if isinstance(seed, int) else seed
        seeds = _one_each(counted, len(prompts), "seeds")
        negatives = _one_each(negative_prompt, len(prompts), "negative prompts")
        labels_B = None if cluster is None else torch.tensor(_one_each(cluster, len(prompts), "clusters"))
        self.ensemble.routing = routing or Routing(strategy, min(top_k or self.top_k, len(self.ensemble)))
        shape = self._latent_shape(height, width, frames)
        encoded = self._captions.encode([*prompts, *negatives]).to(self.device)
        text, null = (TextBatch(*(part.chunk(2)[half] for part in encoded.parts())) for half in (0, 1))
        start, first = None, None
        if image is not None:
            pictures = self._encode(_one_each(image, len(prompts), "images"), shape)
            if self.makes_clips:
                self._require_first_frame()
                first = first_frames(pictures, torch.ones(len(prompts), device=self.device))
            else:
                start = Start(pictures, strength)
        with self.progress_bar(total=num_inference_steps) as bar:
            latents, trace = sample(
                self.ensemble,
                text,
                null,
                shape,
                self.scheduler,
                steps=num_inference_steps,
                guidance=guidance_scale,
                seeds=seeds,
                start=start,
                labels_B=labels_B,
                on_step=self._watch(bar, callback_on_step_end),
                first_BQHW=first,
            )
        decoded = self.codec.decode(latents)
        if not self.makes_clips:
            return ParisOutput(to_images(decoded), trace)
        clips = [to_images(clip_3FHW.transpose(0, 1)) for clip_3FHW in decoded]
        return ParisOutput([clip[0] for clip in clips], trace, clips)

    def _watch(self, bar: Any, callback: StepCallback | None) -> OnStep:
        def on_step(number: int, timestep: Tensor, latents: Tensor) -> Tensor | None:
            bar.update()
            changed = callback(self, number, timestep, {"latents": latents}) if callback else None
            return (changed or {}).get("latents")

        return on_step

    def _latent_shape(self, height: int | None, width: int | None, frames: int | None) -> tuple[int, ...]:
        *others, rows, columns = self.shape
        if frames is not None:
            others = [others[0], self._latent_frames(frames)]
        if height is None and width is None:
            return *others, rows, columns
        factor = self._pixels_a_latent()
        height, width = height or rows * factor, width or columns * factor
        if (height, width) == (rows * factor, columns * factor):
            return *others, rows, columns
        config = self.ensemble.expert(self.ensemble.present[0]).config
        grain = factor * int(config["patch"])
        if not self.makes_clips and config.get("positions", "learned") != "rotary":
            raise PipelineError(
                f"These experts draw {columns * factor} x {rows * factor} pixels and nothing else: their positions "
                f"are for that size. {width} x {height} needs experts with rotary positions."
            )
        if height % grain or width % grain:
            raise PipelineError(f"{width} x {height} pixels cannot be drawn: both must be multiples of {grain}.")
        return *others, height // factor, width // factor

    def _latent_frames(self, frames: int) -> int:
        if not self.makes_clips:
            raise PipelineError(f"These experts draw pictures: they cannot make clips of {frames} frames.")
        try:
            count = latent_frames(self.codec, frames)
        except CodecError as error:
            raise PipelineError(str(error)) from error
        grain = int(self.ensemble.expert(self.ensemble.present[0]).config["patch_frames"])
        if count % grain:
            raise PipelineError(f"{frames} frames are {count} of latents, which must be a multiple of {grain}.")
        return count

    def _require_first_frame(self) -> None:
        for index in self.ensemble.present:
            if not self.ensemble.expert(index).config["first_frame"]:
                raise PipelineError(f"Expert {index} makes clips of text alone: it cannot begin with a picture.")

    def _pixels_a_latent(self) -> int:
        probe = torch.zeros(1, 3, *[1] * self.makes_clips, PROBE_PX, PROBE_PX, device=self.device)
        return PROBE_PX // int(self.codec.encode(probe).shape[-1])

    def _encode(self, images: list[Image.Image], shape: tuple[int, ...]) -> Tensor:
        factor = self._pixels_a_latent()
        size = shape[-1] * factor, shape[-2] * factor
        pixels = [np.asarray(image.convert("RGB").resize(size, Image.Resampling.LANCZOS)) for image in images]
        pictures = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(self.device) / 127.5 - 1
        return self.codec.encode(pictures[:, :, None] if self.makes_clips else pictures)


def remember(folder: Path, **measured: Any) -> None:
    """Write what was measured of an ensemble, `top_k` or `router_temperature`, into its folder.

    Raises:
        PipelineError: the folder holds no ensemble.
    """
    index = _read_json(folder / INDEX, experts=int, codec=str)
    write_json({**index, **measured}, folder / INDEX)


def _one_each(values: Any, prompts: int, name: str) -> list[Any]:
    """Return one value a prompt: a list as it is, anything else repeated."""
    each = list(values) if isinstance(values, list | tuple) else [values] * prompts
    if not prompts or len(each) != prompts:
        raise PipelineError(f"{prompts} prompts and {len(each)} {name} do not pair. Give one a prompt, or one for all.")
    return each


def _expert_folders(root: Path, experts: int, absent: Any) -> list[Path]:
    if experts > LARGEST["clusters"]:
        raise PipelineError(f"{root} is no pipeline: {INDEX} names {experts} experts, and no ensemble has so many.")
    if not isinstance(absent, list) or not all(type(k) is int and 0 <= k < experts for k in absent):
        raise PipelineError(f"{root} is not a whole pipeline: {INDEX} names absent experts oddly. Fetch it again.")
    folders = [root / f"expert_{k}" for k in range(experts)]
    present = [folder for k, folder in enumerate(folders) if k not in absent]
    if not present:
        raise PipelineError(f"{root} is not a whole pipeline: {INDEX} names no experts. Fetch it again.")
    for part in (*present, root / "router"):
        if not (part / "config.json").is_file():
            raise PipelineError(f"{root} is not a whole pipeline: {part.name}/config.json is missing. Fetch it again.")
    return folders


def _predictions(root: Path, index: Mapping[str, Any]) -> list[Prediction] | None:
    objectives = index.get("objectives")
    if objectives is None:
        return None
    if not isinstance(objectives, list) or len(objectives) != index["experts"]:
        raise PipelineError(f"{root} is not a whole pipeline: {INDEX} needs one objective an expert. Fetch it again.")
    return [Prediction.of(names if isinstance(names, dict) else {"objective": str(names)}) for names in objectives]


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
