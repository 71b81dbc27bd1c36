"""Training and sampling beside bare PyTorch loops over the same networks, and beside diffusers' of equal size."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch
from diffusers import DPMSolverMultistepScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.contenders import (
    CONTENDERS,
    OF_CLIPS,
    PRECISION,
    bare_call,
    pixart_config,
    random_cache,
    random_text,
)
from benchmarks.measure import Row, compare, in_turns
from paris.models.ensemble import Ensemble
from paris.models.kinds import expert_of, router_of
from paris.models.networks import load_network, save_network
from paris.models.objectives import VelocityObjective
from paris.models.presets import Preset
from paris.models.recipe import Recipe
from paris.models.router import Router
from paris.models.routing import Routing
from paris.models.sampling import sample
from paris.models.schedulers import make_scheduler
from paris.models.snapshots import BackgroundWriter
from paris.models.text import TextBatch
from paris.models.training import Trainer
from paris.models.video_presets import EVERY_PRESET

Network = TypeVar("Network", bound=torch.nn.Module)
EXPERTS = 4
GUIDANCE = 3.0
STEPS = 4
THREADS = 1
PAIRS = (("ours", "bare"), ("ours", "careful"), ("ours", "pixart"), ("ours", "dit"), ("ours as dit", "dit"))
"""Which contenders stand beside each other. diffusers' DiT attends to no text: ours does so with and without."""
TARGETS = {("ours", "bare"): 0.9, ("ours", "pixart"): 1.0, ("ours as dit", "dit"): 1.0}
PUBLISH_EVERY_STEPS = 1000
"""Steps between checkpoints in the default plan of the CPU presets."""


def run(*, quick: bool) -> list[Row]:
    """Measure everything of this module, on one thread: two that wait for each other measure the neighbours' load."""
    small, clips = (EVERY_PRESET[name] for name in (("micro", "video-nano") if quick else ("tiny", "video-tiny")))
    repeats, pictures = (1, 2) if quick else (7, 16)
    with _threads(THREADS), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = training(small, batch=2 if quick else 64, repeats=repeats, peaks=not quick)
        rows += training(clips, batch=2 if quick else 32, repeats=repeats, peaks=not quick, names=OF_CLIPS)
        if not quick:
            rows += training(EVERY_PRESET["dit-b-2"], batch=1, repeats=5, peaks=True)
        return [
            *rows,
            *sampling(small, pictures, 3 * repeats),
            *sampling(clips, pictures, 3 * repeats),
            drawing(small, pictures, repeats),
            first_image(small, folder, repeats),
            checkpoint(small, folder, repeats),
            checkpoint_cost(small, folder, batch=2 if quick else 64, steps=2 if quick else 8, repeats=repeats),
        ]


def training(
    preset: Preset, batch: int, repeats: int, *, peaks: bool, names: Sequence[str] = tuple(CONTENDERS)
) -> list[Row]:
    """`Trainer` beside bare loops over the same network, and diffusers' networks in diffusers' training style."""
    contenders = {name: CONTENDERS[name](preset, batch) for name in names}
    seconds = in_turns({name: contender.step for name, contender in contenders.items()}, repeats)
    memory = {name: _peak_bytes(name, preset, batch) / 1e6 for name in (contenders if peaks else ("ours",))}
    rows = []
    for mine, other in PAIRS:
        if other not in contenders:
            continue
        both = contenders[mine], contenders[other]
        mfu = (both[0].mfu(batch, median(seconds[mine])), both[1].mfu(batch, median(seconds[other])))
        size = f"{both[0].parameters / 1e6:.1f} and {both[1].parameters / 1e6:.1f} M parameters"
        work = f"{both[0].flops / 1e9:.3g} and {both[1].flops / 1e9:.3g} GFLOPs a sample"
        rows.append(
            Row(
                f"train an expert{' in the wiring of DiT' if mine == 'ours as dit' else ''}, {preset.name}",
                both[1].words,
                batch,
                _unit(preset),
                seconds[mine],
                seconds[other],
                target=TARGETS.get((mine, other)),
                note=f"batch {batch}, {PRECISION}, {THREADS} thread, in-memory batches; {size}; {work}; "
                "MFU of bare products",
                also={"MFU": mfu, **({"peak MB": (memory[mine], memory[other])} if peaks else {})},
            )
        )
    return rows


def sampling(preset: Preset, pictures: int, repeats: int) -> list[Row]:
    """One guided step of the ensemble beside as many bare passes over the whole batch, and the router's.

    Guidance with exact weights asks the router twice, with the text and without, so the reference does, too.
    """
    experts, router, x, text, null = _drawing_parts(preset, pictures)
    t_B = torch.rand(pictures)
    rows = []
    for strategy, k in (("top-k", 1), ("top-k", 2), ("full", EXPERTS)):
        ensemble = Ensemble(experts, router, Routing(strategy, k))
        used = len(ensemble.weights(x, t_B, text).sum(0).nonzero())
        rows.append(
            compare(
                f"sampling step, {preset.name}, {f'top-{k}' if strategy == 'top-k' else 'all experts'}",
                partial(ensemble.velocity, x, t_B, text, null, GUIDANCE),
                partial(_bare_step, experts[:k], router, x, t_B, text, null),
                against=f"{k} bare passes + router",
                work=pictures,
                unit=_unit(preset),
                target=0.95,
                repeats=repeats,
                note=f"{pictures} {_unit(preset)} spread over {used} of {EXPERTS} experts, guided, fp32",
            )
        )
    return rows


def drawing(preset: Preset, pictures: int, repeats: int) -> Row:
    """A whole drawing, from noise to latents, beside diffusers' pipeline over one network of an expert's size."""
    experts, router, _, text, null = _drawing_parts(preset, pictures)
    ensemble = Ensemble(experts, router, Routing("top-k", 1))
    return compare(
        f"draw {pictures} pictures, top-1",
        partial(_draw, ensemble, preset, text, null),
        _pixart_drawing(_random(PixArtTransformer2DModel(**pixart_config(preset))), preset, text, null),
        against="diffusers PixArtAlphaPipeline",
        work=pictures,
        unit="images",
        repeats=repeats,
        note=f"preset {preset.name}, {STEPS} guided steps to latents; ours runs the router, too",
    )


def first_image(preset: Preset, folder: Path, repeats: int) -> Row:
    """From files that are in no cache to one picture's latents: experts are opened when they are first needed."""
    experts, router, _, text, null = _drawing_parts(preset, 1)
    for number, expert in enumerate(experts):
        save_network(expert, folder / f"expert_{number}")
    save_network(router, folder / "router")
    PixArtTransformer2DModel(**pixart_config(preset)).save_pretrained(folder / "pixart")

    def ours() -> None:
        folders = [folder / f"expert_{number}" for number in range(EXPERTS)]
        ensemble = Ensemble(folders, load_network(Router, folder / "router"), Routing("top-k", 1))
        _draw(ensemble, preset, text, null)

    def theirs() -> None:
        network = PixArtTransformer2DModel.from_pretrained(folder / "pixart", local_files_only=True)
        _pixart_drawing(network, preset, text, null)()

    return compare(
        "first image from cold files, top-1",
        ours,
        theirs,
        against="diffusers PixArtAlphaPipeline",
        repeats=repeats,
        note=f"preset {preset.name}, {STEPS} guided steps; ours opens the router and every expert a step asks for",
        before=partial(_forget, folder),
    )


def checkpoint(preset: Preset, folder: Path, repeats: int) -> Row:
    """A whole training state on disk beside the same tensors written plainly."""
    trainer = _trainer(preset, batch=2)
    trainer.train(1)
    groups = trainer.snapshot().groups
    plain = {f"{group}.{name}": tensor for group, named in groups.items() for name, tensor in named.items()}

    def write_plainly() -> None:
        path = folder / "plain.safetensors"
        save_file(plain, path)
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    size_bytes = sum(tensor.nbytes for tensor in plain.values())
    return compare(
        "save a training state: checked, atomic",
        lambda: trainer.save(folder / "state"),
        write_plainly,
        against="safetensors save_file + fsync",
        work=size_bytes / 1e6,
        unit="MB",
        repeats=repeats,
        note=f"preset {preset.name}: weights, average and both moments, {size_bytes / 1e6:.0f} MB",
    )


def checkpoint_cost(preset: Preset, folder: Path, batch: int, steps: int, repeats: int) -> Row:
    """What one checkpoint, written while training goes on, costs the steps up to the next one."""
    trainer, writer = _trainer(preset, batch), BackgroundWriter()

    def with_one() -> None:
        snapshot = trainer.snapshot()
        writer.submit(lambda: (snapshot.save(folder / "cost"), snapshot.export(folder / "cost"))[0])
        trainer.train(trainer.step + steps)
        writer.wait()

    taken = in_turns({"with": with_one, "without": lambda: trainer.train(trainer.step + steps)}, repeats)
    interval_s = PUBLISH_EVERY_STEPS * median(taken["without"]) / steps
    extra_s = tuple(with_s - without_s for with_s, without_s in zip(taken["with"], taken["without"], strict=True))
    return Row(
        f"{PUBLISH_EVERY_STEPS} steps with a checkpoint",
        "without one",
        PUBLISH_EVERY_STEPS * batch,
        "images",
        tuple(interval_s + extra for extra in extra_s),
        (interval_s,) * repeats,
        target=0.98,
        note=f"preset {preset.name}, batch {batch}: measured over {steps} steps, told for a default publish interval",
        also={"seconds": (median(extra_s), 0.0)},
    )


def _trainer(preset: Preset, batch: int) -> Trainer:
    recipe = Recipe(steps=1_000_000, batch=batch, lr=1e-4, precision=PRECISION)
    network = expert_of(preset.expert)(**preset.expert)
    return Trainer(network, VelocityObjective(), random_cache(preset, 4 * batch), recipe, ("benchmark",))


def _unit(preset: Preset) -> str:
    return "clips" if "frames" in preset.expert else "images"


def _drawing_parts(preset: Preset, pictures: int) -> tuple[list[Any], Any, Tensor, TextBatch, TextBatch]:
    torch.manual_seed(2)
    experts = [_random(expert_of(preset.expert)(**preset.expert)) for _ in range(EXPERTS)]
    router = _random(router_of(preset.router)(**preset.router, clusters=EXPERTS))
    return experts, router, torch.randn(pictures, *preset.shape), *(random_text(preset, pictures) for _ in range(2))


def _draw(ensemble: Ensemble, preset: Preset, text: TextBatch, null: TextBatch) -> None:
    scheduler, seeds = make_scheduler("euler"), range(len(text.mask_BL))
    sample(ensemble, text, null, preset.shape, scheduler, steps=STEPS, guidance=GUIDANCE, seeds=seeds)


def _pixart_drawing(network: Any, preset: Preset, text: TextBatch, null: TextBatch) -> Callable[[], object]:
    pipeline = PixArtAlphaPipeline(None, None, None, network.eval(), DPMSolverMultistepScheduler())
    pipeline.set_progress_bar_config(disable=True)
    side_px = pipeline.vae_scale_factor * preset.shape[1]
    return partial(
        pipeline,
        negative_prompt=None,
        prompt_embeds=text.tokens_BLE,
        prompt_attention_mask=text.mask_BL.long(),
        negative_prompt_embeds=null.tokens_BLE,
        negative_prompt_attention_mask=null.mask_BL.long(),
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        height=side_px,
        width=side_px,
        use_resolution_binning=False,
        output_type="latent",
    )


@torch.no_grad()
def _bare_step(experts: list[Any], router: Any, x: Tensor, t_B: Tensor, text: TextBatch, null: TextBatch) -> None:
    for half in (text, null):
        router(x, t_B, half.pooled_BE).softmax(-1)
    both = TextBatch(*(torch.cat(parts) for parts in zip(text.parts(), null.parts(), strict=True)))
    for expert in experts:
        bare_call(expert)(torch.cat([x, x]), t_B.repeat(2), both)


def _peak_bytes(name: str, preset: Preset, batch: int) -> int:
    command = [sys.executable, "-m", "benchmarks.contenders", name, preset.name, str(batch)]
    root = Path(__file__).parent.parent
    return int(subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split()[-1])


def _forget(folder: Path) -> None:
    """Ask the system to drop files from its cache."""
    for path in folder.rglob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _random(network: Network) -> Network:
    """Fill every parameter: a new network's zero head would send all pictures to one expert."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.08)
    return network.eval()


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
