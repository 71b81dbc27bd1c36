"""Puts the commands together. Each command imports what it needs when it runs, so that `--help` answers at once."""

from __future__ import annotations

import logging
import os
import warnings

import typer
from rich.logging import RichHandler

from paris.node.cli import (
    audit,
    calibrate,
    credentials,
    dashboard,
    data,
    demo,
    distill,
    doctor,
    export,
    fetch,
    generate,
    hub,
    key,
    models,
    run,
    start,
    status,
)
from paris.node.console import err

app = typer.Typer(
    name="paris-node",
    help="Train one diffusion model together, without a cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 ok, 1 failed, 2 usage, 3 verification failed, 4 network, 5 resources.",
)
app.command("demo")(demo.demo)
app.add_typer(run.app, name="run")
app.command("start")(start.start)
app.command("status")(status.status)
app.command("dashboard")(dashboard.dashboard)
app.command("fetch")(fetch.fetch)
app.command("generate")(generate.generate)
app.command("export")(export.export)
app.command("distill")(distill.distill)
app.command("calibrate")(calibrate.calibrate)
app.add_typer(data.app, name="data")
app.command("audit")(audit.audit)
for command in (credentials.delegate, credentials.rotate, credentials.accept):
    key.app.command()(command)
app.add_typer(key.app, name="key")
app.add_typer(hub.app, name="hub")
app.add_typer(models.app, name="models")
app.command("doctor")(doctor.doctor)


@app.callback()
def _prepare(verbose: bool = typer.Option(False, "--verbose", "-v", help="Show what happens inside.")) -> None:
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(
        level=level, format="%(message)s", handlers=[RichHandler(console=err, show_path=False)], force=True
    )
    for library in ("diffusers", "transformers", "httpx", "hivemind"):
        logging.getLogger(library).setLevel(logging.INFO if verbose else logging.ERROR)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not verbose:
        warnings.simplefilter("ignore")


def main() -> None:
    """Run the command line."""
    app()
