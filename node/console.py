"""What a person sees: progress on stderr, data on stdout, errors as sentences, exit codes by kind of error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from paris.protocol.errors import ParisError

err = Console(stderr=True, highlight=False, soft_wrap=True)
out = Console(highlight=False, soft_wrap=True)


def emit(data: Any) -> None:
    """Print one JSON value on stdout, whole and at once, so that a pipe can read it line by line."""
    sys.stdout.write(json.dumps(data, ensure_ascii=False) + "\n")
    sys.stdout.flush()


@contextmanager
def errors_to_exit_codes(*, as_json: bool = False) -> Iterator[None]:
    """Turn what went wrong into a sentence and an exit code: the error's own, see `paris.protocol.errors`."""
    try:
        yield
    except ParisError as error:
        if as_json:
            emit({"error": type(error).__name__, "message": str(error), "exit_code": error.exit_code})
        err.print(error.what, style="bold red", markup=False)
        if error.why:
            err.print(f"  why:  {error.why}", markup=False)
        if error.hint:
            err.print(f"  next: {error.hint}", markup=False)
        raise typer.Exit(error.exit_code) from None
    except ValueError as error:
        if not type(error).__module__.startswith("paris.models"):
            raise
        if as_json:
            emit({"error": type(error).__name__, "message": str(error), "exit_code": ParisError.exit_code})
        err.print(str(error), style="bold red", markup=False)
        raise typer.Exit(ParisError.exit_code) from None
    except KeyboardInterrupt:
        err.print("stopped; whatever was complete is kept")
        raise typer.Exit(1) from None


def progress_bar() -> Progress:
    """A bar with rate and time left, on stderr."""
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
    )


def short(name: str) -> str:
    """The end of a peer id or the start of a digest: enough for people to tell two apart."""
    return name.removeprefix("sha256:")[:10] if name.startswith("sha256:") else name[-8:]
