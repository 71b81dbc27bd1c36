"""`paris-node generate`: pictures from prompts, and which expert drew them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from paris.node.cli.options import HomeOption, JsonOption, ListenOption, PeerOption
from paris.node.console import emit, err, errors_to_exit_codes, out, printable
from paris.node.settings import Settings
from paris.protocol.errors import NetworkError, UsageError
from paris.registry.runkey import RunKey


def generate(
    source: Annotated[str, typer.Argument(metavar="RUN|FOLDER", help="A run key, or a folder `fetch` made.")],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What to draw; one picture each.")],
    file: Annotated[Path, typer.Option("--out", "-o", help="PNG to write: one picture, or a captioned grid.")] = Path(
        "paris.png"
    ),
    top_k: Annotated[
        int | None, typer.Option("--top-k", min=1, help="Experts that draw each step of each picture (default 2).")
    ] = None,
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
        if file.is_dir():
            raise UsageError(f"{file} is a folder", hint="Give --out the name of a PNG file.")
        result = draw(
            ensemble_folder(source, settings), prompts, file, top_k=top_k, steps=steps, guidance=guidance, seed=seed
        )
        if json:
            emit(result)
            return
        for picture in result["pictures"]:
            shares = ", ".join(f"expert {e['expert']}: {e['steps']} steps" for e in picture["experts"])
            err.print(f"  {picture['prompt']}: {shares}", markup=False)
        out.print(str(file), markup=False)


def draw(
    folder: Path, prompts: list[str], file: Path, *, top_k: int | None, steps: int, guidance: float, seed: int
) -> dict[str, Any]:
    """Draw one picture a prompt into a PNG and return who drew what; two experts a step where there are two."""
    from paris.models.pipeline import ParisPipeline
    from paris.node.grid import captioned_grid, save_png

    pipeline = ParisPipeline.from_pretrained(folder)
    experts = len(pipeline.ensemble)
    if top_k is not None and top_k > experts:
        raise UsageError(f"--top-k {top_k} asks for more experts than there are", hint=f"This ensemble has {experts}.")
    output = pipeline(
        prompts,
        num_inference_steps=steps,
        guidance_scale=guidance,
        top_k=top_k or min(2, experts),
        seed=seed,
    )
    save_png(captioned_grid(output.images, prompts), file)
    pictures = [
        {"prompt": prompt, "seed": seed + i, "experts": [asdict(part) for part in routing]}
        for i, (prompt, routing) in enumerate(zip(prompts, output.routing, strict=True))
    ]
    return {"file": str(file), "pictures": pictures}


def ensemble_folder(source: str, settings: Settings) -> Path:
    """The folder a person named, or that of the run they named: fetched now, or earlier where nobody answers.

    Raises:
        UsageError: it is neither.
        NetworkError: nobody answers, and the run was never fetched.
    """
    from paris.node.cli.fetch import fetch_run

    if (Path(source) / "model_index.json").exists():
        return Path(source)
    key = _run_key(source)
    folder = settings.home / "ensembles" / key.hex[:16]
    try:
        asyncio.run(fetch_run(key, settings, folder))
    except NetworkError as error:
        if not (folder / "model_index.json").exists():
            raise
        err.print(f"drawing with the ensemble fetched earlier: {printable(error.what)}", markup=False)
    return folder


def _run_key(source: str) -> RunKey:
    try:
        return RunKey.parse(source)
    except UsageError:
        if source.lower().startswith("paris:"):
            raise
        raise UsageError(
            f"{source!r} is neither a run key nor a folder with an ensemble",
            hint="Fetch one first: paris-node fetch paris://… --to FOLDER",
        ) from None
