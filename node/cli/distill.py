"""`paris-node distill`: an ensemble's experts teach one network of an expert's size, which draws without a router."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from paris.node.cli.corpus import cached
from paris.node.cli.options import JsonOption
from paris.node.console import emit, err, errors_to_exit_codes, progress_bar
from paris.protocol.errors import UsageError


def distill(
    source: Annotated[Path, typer.Argument(metavar="FOLDER", help="An ensemble, as `fetch` lays it out.")],
    shards: Annotated[
        list[Path], typer.Argument(metavar="SHARD...", help="Training shards of its run, as webdataset tars.")
    ],
    folder: Annotated[Path, typer.Option("--out", "-o", help="Folder of the student; `generate` draws with it.")],
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimiser steps.")] = 2000,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Samples a step.")] = 64,
    rate: Annotated[float, typer.Option("--lr", help="Peak learning rate.")] = 1e-4,
    save_every: Annotated[int, typer.Option("--save-every", min=1, help="Steps between saved states.")] = 500,
    json: JsonOption = False,
) -> None:
    """Teach one network what an ensemble's experts know, each on the samples of its own cluster.

    The student begins as a copy of the first expert. Stopped, it goes on from its last saved state when called again.
    """
    with errors_to_exit_codes(as_json=json):
        from paris.models.distillation import as_pipeline, new_student_trainer
        from paris.models.distributed import local_device
        from paris.models.pipeline import ParisPipeline
        from paris.models.precision import affordable
        from paris.models.recipe import Recipe

        if not source.is_dir():
            raise UsageError(f"{source} is no folder", hint="Name the ensemble's folder first, then its shards.")
        teacher, device = ParisPipeline.from_pretrained(source), local_device()
        cache = cached(shards, teacher, folder)
        teacher.to(device)
        precision = affordable("bf16", device)
        recipe = Recipe(steps, batch, rate, warmup_steps=min(100, steps // 5), precision=precision)
        trainer = new_student_trainer(teacher, cache, recipe)
        state = folder / "state"
        if state.is_dir():
            trainer.load(state)
        else:
            trainer.fit_memory()
        with progress_bar() as bar:
            task = bar.add_task("distilling", total=steps, completed=trainer.step, unit="steps")
            while trainer.step < steps:
                until = min(steps, trainer.step + save_every)
                trainer.train(until, lambda report: bar.update(task, completed=report.step))
                trainer.save(state)
        loss = trainer.evaluate(cache, 256)
        as_pipeline(teacher, trainer).save_pretrained(folder)
        if json:
            emit({"folder": str(folder), "steps": trainer.step, "loss": loss, "samples": len(cache)})
        else:
            err.print(f"{folder} holds the student of {len(teacher.ensemble)} experts; its loss to them is {loss:.4f}")
