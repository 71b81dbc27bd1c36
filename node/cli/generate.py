"""`paris-node generate`: pictures or clips from prompts, and which expert drew them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from paris.node.cli.drawing import (
    SCHEDULERS,
    STRATEGIES,
    USUAL_FPS,
    USUAL_STRENGTH,
    Choice,
    Drawing,
    draw,
    read_picture,
    size_bytes,
)
from paris.node.cli.options import (
    HomeOption,
    JsonOption,
    ListenOption,
    OfflineOption,
    PeerOption,
    PolicyOption,
    refuse_network_offline,
    stay_off_the_hub,
)
from paris.node.console import emit, err, errors_to_exit_codes, out, printable
from paris.node.settings import Settings
from paris.protocol.errors import NetworkError, UsageError
from paris.registry.runkey import RunKey


def generate(
    source: Annotated[str, typer.Argument(metavar="RUN|FOLDER", help="A run key, or a folder `fetch` made.")],
    prompts: Annotated[list[str], typer.Argument(metavar="PROMPT...", help="What to draw; one picture or clip each.")],
    file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="File to write, one picture or a captioned grid: .png; of clips .mp4, .gif or .webp "
            "(default paris.png or paris.webp).",
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k", min=1, help="Experts that draw each step of each picture (default: the run's, else 2)."
        ),
    ] = None,
    strategy: Annotated[
        str | None, typer.Option("--strategy", help=f"How experts are chosen: {', '.join(STRATEGIES)} (default top-k).")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", help="Draw with every expert at least this probable.")
    ] = None,
    mass: Annotated[
        float | None, typer.Option("--mass", help="Draw with the fewest experts that reach this probability together.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Evens routing out above 1, sharpens it below.")
    ] = None,
    expert: Annotated[int | None, typer.Option("--expert", help="Draw with this expert alone, counted from 0.")] = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Denoising steps.")] = 30,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help=f"{', '.join(SCHEDULERS)} (default: the ensemble's own, euler).")
    ] = None,
    guidance: Annotated[float, typer.Option("--guidance", help="Classifier-free guidance scale; 1 is none.")] = 3.0,
    guidance_weights: Annotated[
        str | None,
        typer.Option("--guidance-weights", help="Experts of guidance's other half: exact, shared or auto (default)."),
    ] = None,
    negative: Annotated[str, typer.Option("--negative", help="What guidance leads away from.")] = "",
    image: Annotated[
        Path | None, typer.Option("--image", help="A picture to start from; of clips it is the first frame.")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option("--strength", help=f"How far that picture is changed, 0 to 1 (default {USUAL_STRENGTH})."),
    ] = None,
    width: Annotated[int | None, typer.Option("--width", min=1, help="Pixels, where the experts allow it.")] = None,
    height: Annotated[int | None, typer.Option("--height", min=1, help="Pixels, where the experts allow it.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the first picture; the others count up.")] = 0,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, help="Frames of a clip (default: what the experts trained at).")
    ] = None,
    fps: Annotated[
        float | None, typer.Option("--fps", help=f"Frames a second a clip is shown at (default {USUAL_FPS:g}).")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option("--sheet", help="Also write frames of every clip side by side (.png).")
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", help="Also write who drew which step: a picture (.png) or numbers (.json)."),
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="Cap on loaded experts, such as 800MB or 12GB (default: all stay).")
    ] = None,
    policy: PolicyOption = None,
    home: HomeOption = None,
    peer: PeerOption = None,
    listen: ListenOption = None,
    offline: OfflineOption = False,
    json: JsonOption = False,
) -> None:
    """Draw pictures or clips with a fetched ensemble (a run key fetches it first)."""
    with errors_to_exit_codes(as_json=json):
        settings = Settings.load(home=home, peers=peer, listen=listen)
        if offline:
            refuse_network_offline(peer=peer, listen=listen)
            stay_off_the_hub()
        for written in (file, trace, sheet):
            if written is not None and written.is_dir():
                raise UsageError(f"{written} is a folder", hint="Give --out, --trace and --sheet the name of a file.")
        drawing = Drawing(
            Choice(strategy, top_k, threshold, mass, temperature, expert, guidance_weights),
            steps, scheduler, guidance, negative, seed, image, strength, width, height, size_bytes(memory), trace,
            frames, fps, sheet,
        )  # fmt: skip
        picture = read_picture(image) if image else None
        ensemble = ensemble_folder(source, settings, policy or "", offline=offline)
        result = draw(ensemble, prompts, file, drawing, picture, quiet=json)
        if json:
            emit(result)
            return
        for drawn in result["pictures"]:
            shares = ", ".join(f"expert {e['expert']}: {e['steps']} steps" for e in drawn["experts"])
            err.print(f"  {drawn['prompt']}: {shares}", markup=False)
        out.print(result["file"], markup=False)


def ensemble_folder(source: str, settings: Settings, policy: str = "", *, offline: bool = False) -> Path:
    """The folder a person named, or that of the run they named: fetched now, or earlier where nobody answers.

    Raises:
        UsageError: it is neither, or a folder's checkpoints should be chosen by a policy: they are chosen.
        NetworkError: nobody answers, and the run was never fetched, or a policy is to choose.
    """
    from paris.node.cli.fetch import fetch_run
    from paris.registry.selection import Wish

    if (Path(source) / "model_index.json").exists():
        if policy:
            raise UsageError("--policy chooses among a run's checkpoints", f"{source} is a folder", "Give the run key.")
        return Path(source)
    key = _run_key(source)
    folder = settings.home / "ensembles" / key.hex[:16]
    try:
        asyncio.run(fetch_run(key, settings, folder, Wish(policy, offline=offline)))
    except NetworkError as error:
        if policy or not (folder / "model_index.json").exists():
            raise
        err.print(f"taking the ensemble fetched earlier: {printable(error.what)}", markup=False)
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
