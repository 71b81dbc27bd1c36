"""What `generate` is asked to draw, checked as far as words go, and the drawing itself."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paris.node.console import err
from paris.protocol.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from paris.models.pipeline import ParisOutput, ParisPipeline
    from paris.models.routing import Routing

STRATEGIES = ("top-k", "threshold", "nucleus", "sample", "full", "oracle", "router-free")
SCHEDULERS = ("euler", "heun", "unipc", "dpm++")
UNITS = {"MB": 10**6, "GB": 10**9, "MIB": 2**20, "GIB": 2**30}
TRACE_KINDS = (".png", ".json")
MOST_FPS = 240
USUAL_STRENGTH = 0.6
USUAL_FPS = 8.0


@dataclass(frozen=True)
class Choice:
    """How experts are chosen, as typed: None where nothing was."""

    strategy: str | None = None
    top_k: int | None = None
    threshold: float | None = None
    mass: float | None = None
    temperature: float | None = None
    expert: int | None = None
    guidance_weights: str | None = None

    OWNERS = {  # noqa: RUF012 (a constant, not a field)
        "top_k": ("top-k", "sample", "router-free"),
        "threshold": ("threshold",),
        "mass": ("nucleus", "sample"),
        "expert": ("oracle",),
        "temperature": tuple(name for name in STRATEGIES if name != "oracle"),
    }

    def name(self) -> str:
        """The strategy, named or implied by the one option that belongs to a single strategy.

        Raises:
            UsageError: options and strategy do not go together.
        """
        implied = [owners[0] for option, owners in self.OWNERS.items() if self._given(option) and len(owners) == 1]
        implied += ["nucleus"] if self.mass is not None and not implied else []
        strategy = self.strategy or (implied[0] if implied else "top-k")
        if strategy not in STRATEGIES:
            raise UsageError(f"there is no strategy {strategy!r}", hint=f"Choose one of {', '.join(STRATEGIES)}.")
        for option, owners in self.OWNERS.items():
            if self._given(option) and strategy not in owners:
                raise UsageError(
                    f"--{option.replace('_', '-')} says nothing to the strategy {strategy}",
                    why=f"it belongs to {', '.join(owners)}",
                    hint="Leave one of the two out.",
                )
        if strategy == "oracle" and self.expert is None:
            raise UsageError("the oracle has to be told an expert", hint="Add --expert N, counted from 0.")
        return strategy

    def routing(self, experts: int, usual_top_k: int) -> Routing:
        """The routing these options mean for an ensemble of so many experts.

        Raises:
            UsageError: they are impossible, or impossible here.
        """
        from paris.models.routing import Routing, RoutingError

        strategy, top_k = self.name(), self.top_k or min(usual_top_k, experts)
        if top_k > experts:
            raise UsageError(
                f"--top-k {top_k} asks for more experts than there are", hint=f"This ensemble has {experts}."
            )
        if self.expert is not None and not 0 <= self.expert < experts:
            raise UsageError(f"there is no expert {self.expert}", hint=f"This ensemble has experts 0 to {experts - 1}.")
        chosen = {
            "threshold": self.threshold,
            "temperature": self.temperature,
            "guidance_weights": self.guidance_weights,
        }
        given: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
        try:
            return Routing(strategy, top_k, mass=self.mass, **given)
        except RoutingError as error:
            raise UsageError(str(error)) from error

    def _given(self, option: str) -> bool:
        return getattr(self, option) is not None


@dataclass(frozen=True)
class Drawing:
    """What to draw and how, checked as far as it can be without the ensemble.

    Raises:
        UsageError: options contradict each other.
    """

    choice: Choice = Choice()
    steps: int = 30
    scheduler: str | None = None
    guidance: float = 3.0
    negative: str = ""
    seed: int = 0
    image: Path | None = None
    strength: float | None = None
    width: int | None = None
    height: int | None = None
    memory_bytes: int | None = None
    trace: Path | None = None
    frames: int | None = None
    fps: float | None = None
    sheet: Path | None = None

    def __post_init__(self) -> None:
        self.choice.name()
        if self.scheduler is not None and self.scheduler not in SCHEDULERS:
            raise UsageError(
                f"there is no scheduler {self.scheduler!r}", hint=f"Choose one of {', '.join(SCHEDULERS)}."
            )
        if not math.isfinite(self.guidance):
            raise UsageError(f"--guidance {self.guidance} is no number to scale by", hint="Usual values are 1 to 10.")
        if self.guidance == 1 and (self.negative or self.choice.guidance_weights):
            raise UsageError(
                "without guidance there is nothing to lead away from",
                why="--guidance 1 is no guidance, and --negative and --guidance-weights are about guidance",
                hint="Raise --guidance, or leave them out.",
            )
        if self.strength is not None and self.image is None:
            raise UsageError("--strength is how far a picture is changed, and there is none", hint="Add --image FILE.")
        if self.strength is not None and not 0 < self.strength <= 1:
            raise UsageError(f"--strength {self.strength} is impossible", hint="It lies above 0 and up to 1.")
        if self.trace is not None and self.trace.suffix.lower() not in TRACE_KINDS:
            raise UsageError(f"a trace cannot be written as {self.trace.name}", hint="End its name in .png or .json.")
        if self.fps is not None and not 0 < self.fps <= MOST_FPS:
            raise UsageError(f"--fps {self.fps:g} is impossible", hint=f"It lies above 0 and up to {MOST_FPS}.")
        if self.sheet is not None and self.sheet.suffix.lower() != ".png":
            raise UsageError(f"a sheet cannot be written as {self.sheet.name}", hint="End its name in .png.")

    def settle(self, file: Path | None, *, clips: bool) -> Path:
        """Hold the options against what the ensemble makes, and return the file to write.

        Args:
            file: as typed.
            clips: whether the ensemble makes clips.

        Raises:
            UsageError: an option, or the file's ending, is for the other kind.
        """
        from paris.models.video_files import KINDS, ClipFileError, require_writable

        file = file or Path("paris.webp" if clips else "paris.png")
        if clips and self.strength is not None:
            raise UsageError("--strength says nothing to clips", "their picture is the first frame", "Leave it out.")
        if not clips and (self.fps is not None or self.sheet is not None):
            raise UsageError("--fps and --sheet are about clips", "these experts draw pictures", "Leave them out.")
        if not clips and file.suffix.lower() in KINDS:
            raise UsageError(f"{file.name} would be a clip", "these experts draw pictures", "End its name in .png.")
        try:
            if clips:
                require_writable(file)
        except ClipFileError as error:
            raise UsageError(str(error)) from error
        return file


def draw(
    folder: Path,
    prompts: list[str],
    file: Path | None,
    drawing: Drawing,
    image: Image.Image | None = None,
    *,
    quiet: bool,
    told: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Draw one picture or clip a prompt into a file, and the trace where asked; return who drew what.

    `told`, where given, hears of every evaluation by its number, counted from 0.

    Raises:
        UsageError: the options ask for what this ensemble does not have.
    """
    from paris.models.pipeline import ParisPipeline
    from paris.node.grid import save_png

    pipeline = ParisPipeline.from_pretrained(folder, memory_bytes=drawing.memory_bytes)
    pipeline.set_progress_bar_config(disable=quiet or not err.is_terminal, leave=False)
    file = drawing.settle(file, clips=pipeline.makes_clips)
    routing = drawing.choice.routing(len(pipeline.ensemble), pipeline.top_k)
    output = _called(pipeline, prompts, drawing, routing, image, told)
    written = _save(output, prompts, file, drawing)
    if drawing.trace is not None:
        if drawing.trace.suffix.lower() == ".json":
            output.routing.save(drawing.trace)
        else:
            save_png(output.routing.picture(prompts), drawing.trace)
        written["trace"] = str(drawing.trace)
    pictures = [
        {"prompt": prompt, "seed": drawing.seed + i, "experts": [asdict(part) for part in parts]}
        for i, (prompt, parts) in enumerate(zip(prompts, output.routing, strict=True))
    ]
    return {"file": str(file), "pictures": pictures, **written}


def _save(output: ParisOutput, prompts: list[str], file: Path, drawing: Drawing) -> dict[str, Any]:
    """Write the grid of pictures or clips; return what there is to say of clips."""
    from paris.models.video_files import write_clip
    from paris.node.grid import captioned_grid, captioned_grids, contact_sheet, save_png

    if not output.clips:
        save_png(captioned_grid(output.images, prompts), file)
        return {}
    fps = drawing.fps or USUAL_FPS
    write_clip(captioned_grids(output.clips, prompts), fps, file)
    clips: dict[str, Any] = {"frames": len(output.clips[0]), "fps": fps}
    if drawing.sheet is not None:
        save_png(contact_sheet(output.clips, prompts), drawing.sheet)
        clips["sheet"] = str(drawing.sheet)
    return clips


def _called(
    pipeline: ParisPipeline,
    prompts: list[str],
    drawing: Drawing,
    routing: Routing,
    image: Image.Image | None,
    told: Callable[[int], None] | None,
) -> Any:
    from paris.models.experts import MemoryCapError
    from paris.models.pipeline import PipelineError
    from paris.models.routing import RoutingError
    from paris.models.schedulers import SchedulerError, make_scheduler, shift_of

    if drawing.scheduler:
        pipeline.scheduler = make_scheduler(drawing.scheduler, shift_of(pipeline.scheduler))
    try:
        return pipeline(
            prompts,
            drawing.negative,
            drawing.steps,
            drawing.guidance,
            routing=routing,
            cluster=drawing.choice.expert,
            seed=drawing.seed,
            width=drawing.width,
            height=drawing.height,
            image=image,
            strength=drawing.strength or USUAL_STRENGTH,
            frames=drawing.frames,
            callback_on_step_end=None if told is None else lambda _pipe, number, _time, _latents: told(number),
        )
    except (MemoryCapError, PipelineError, RoutingError, SchedulerError) as error:
        raise UsageError(str(error)) from error


def size_bytes(text: str | None) -> int | None:
    """Read a size such as 800MB or 1.5GiB.

    Raises:
        UsageError: it is none.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(MB|GB|MiB|GiB)", text.strip(), re.IGNORECASE)
    if not match:
        raise UsageError(f"{text!r} is no size", hint="Write a number and MB, GB, MiB or GiB, such as 800MB.")
    return int(float(match[1]) * UNITS[match[2].upper()])


def read_picture(file: Path) -> Image.Image:
    """Read a picture whole.

    Raises:
        UsageError: there is none that can be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file).convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(
            f"{file} is no picture that can be read", why=str(error), hint="Give a PNG or JPEG."
        ) from error
