"""The child that draws for the page: a job on stdin, on stdout what it does, one event a line (`paris.node.jobs`)."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from paris.node.cli.drawing import Choice, Drawing, draw
from paris.node.jobs import Event
from paris.protocol.errors import ParisError


def main() -> int:
    """Draw one picture or clip into the working directory, giving way to whatever else this machine does."""
    os.nice(10)
    job = json.load(sys.stdin)
    trace = Path("trace.json")
    try:
        wish = Drawing(
            Choice(top_k=job["top_k"]), steps=job["steps"], guidance=job["guidance"], seed=job["seed"], trace=trace
        )
        drawn = draw(
            Path(job["folder"]),
            [job["prompt"]],
            None,
            wish,
            quiet=True,
            told=lambda number: _say("step", step=number + 1),
        )
    except ParisError as error:
        _say("failed", what=error.what, why=error.why, hint=error.hint)
        return error.exit_code
    except (OSError, ValueError, MemoryError) as error:
        _say("failed", what=str(error) or "there is too little memory", why="", hint="")
        return 1
    routing = json.loads(trace.read_text())
    _say("drawn", file=drawn["file"], experts=routing["experts"], steps=routing["pictures"][0]["steps"])
    return 0


def _say(kind: str, **fields: Any) -> None:
    sys.stdout.write(Event(kind, fields).line() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
