"""What a person sees: progress on stderr, data on stdout, errors as sentences, exit codes by kind of error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from paris.protocol.errors import ParisError, ResourceError

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
        raise _told(error, type(error), as_json=as_json) from None
    except BrokenPipeError:
        raise  # whoever read our output has gone; there is nobody to tell
    except OSError as error:
        raise _told(_in_words(error), ResourceError, as_json=as_json) from None
    except ValueError as error:
        if not type(error).__module__.startswith("paris.models"):
            raise
        raise _told(ParisError(str(error)), type(error), as_json=as_json) from None
    except KeyboardInterrupt:
        err.print("stopped; whatever was complete is kept")
        raise typer.Exit(1) from None


def _told(error: ParisError, kind: type[Exception], *, as_json: bool) -> typer.Exit:
    if as_json:
        emit({"error": kind.__name__, "message": str(error), "exit_code": error.exit_code})
    err.print(printable(error.what), style="bold red", markup=False)
    if error.why:
        err.print(f"  why:  {printable(error.why)}", markup=False)
    if error.hint:
        err.print(f"  next: {printable(error.hint)}", markup=False)
    return typer.Exit(error.exit_code)


def _in_words(error: OSError) -> ResourceError:
    """What the operating system refused. Full disks have a sentence of their own, see `paris.registry.atomic`."""
    where = f"{error.filename} cannot be used" if error.filename else "the operating system refused something"
    return ResourceError(
        where, error.strerror or str(error), "Check that the path exists and is yours to read and write"
    )


def printable(text: str) -> str:
    """Somebody else's text without what moves cursors, rings bells or turns lines around."""
    return "".join(char if char.isprintable() else " " for char in text)


def plain(text: str) -> str:
    """Somebody else's text for a place where markup is read: it shows as it was written, and does nothing."""
    return escape(printable(text))


def tell_doing(doing: str) -> None:
    """Tell people what is being done."""
    err.print(f"{printable(doing)} …", markup=False)


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
