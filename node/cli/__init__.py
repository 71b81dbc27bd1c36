"""The command line: a file a command. Data on stdout, progress on stderr, `--json` on everything."""

from __future__ import annotations

from paris.node.cli.app import main

__all__ = ["main"]
