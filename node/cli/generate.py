"""`paris-node generate`: pictures from prompts, and which expert drew them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from paris.node.cli.options import HomeOption, JsonOption, ListenOption, PeerOption
from paris.node.console import emit, err, errors_to_exit_codes, out
from paris.node.settings import Settings
from paris.protocol.errors import UsageError
from paris.registry.runkey import RunKey


def generate(
    source: Annotated[str, typer.Argument(metavar="RUN|FOLDER", help="A run key, or a folder `fetch` made.")],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What to draw; one picture each.")],
    file: Annotated[Path, typer.Option("--out", "-o", help="PNG to write: one picture, or a captioned grid.")] = Path(
        "paris.png"
    ),
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Experts that draw each step of each picture.")] = 2,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Denoising steps.")] = 30,
    guidance: Annotated[float, typer.Option("--guidance", help="Classifier-free guidance scale; 1 is none.")] = 3.0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the first picture; the others count up.")] = 0,
    home: HomeOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    json: JsonOption = False,
) -> None:
    """Draw pictures with a fetched ensemble (a run key fetches it first)."""
    with errors_to_exit_codes(as_json=json):
        settings = Settings.load(home=home, peers=peer, listen=listen)
        result = draw(_folder(source, settings), prompts, file, top_k=top_k, steps=steps, guidance=guidance, seed=seed)
        if json:
            emit(result)
            return
        for picture in result["pictures"]:
            shares = ", ".join(f"expert {e['expert']}: {e['steps']} steps" for e in picture["experts"])
            err.print(f"  {picture['prompt']}: {shares}", markup=False)
        out.print(str(file))


def draw(
    folder: Path, prompts: list[str], file: Path, *, top_k: int, steps: int, guidance: float, seed: int
) -> dict[str, Any]:
    """Draw one picture a prompt into a PNG and return who drew what."""
    from paris.models.pipeline import ParisPipeline
    from paris.node.grid import captioned_grid, save_png

    pipeline = ParisPipeline.from_pretrained(folder)
    if top_k > len(pipeline.ensemble):
        raise UsageError(
            f"--top-k {top_k} asks for more experts than there are", hint=f"This ensemble has {len(pipeline.ensemble)}."
        )
    output = pipeline(
        prompts,
        num_inference_steps=steps,
        guidance_scale=guidance,
        top_k=top_k,
        seed=seed,
    )
    save_png(captioned_grid(output.images, prompts), file)
    pictures = [
        {"prompt": prompt, "seed": seed + i, "experts": [asdict(part) for part in routing]}
        for i, (prompt, routing) in enumerate(zip(prompts, output.routing, strict=True))
    ]
    return {"file": str(file), "pictures": pictures}


def _folder(source: str, settings: Settings) -> Path:
    from paris.node.cli.fetch import fetch_run

    if (Path(source) / "model_index.json").exists():
        return Path(source)
    if not source.startswith("paris://"):
        raise UsageError(
            f"{source!r} is neither a run key nor a folder with an ensemble",
            hint="Fetch one first: paris-node fetch paris://… --to FOLDER",
        )
    key = RunKey.parse(source)
    folder = settings.home / "ensembles" / key.hex[:16]
    asyncio.run(fetch_run(key, settings, folder))
    return folder
