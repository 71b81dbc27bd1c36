"""Commands of paris-node as processes of their own that have imported everything before they begin: forks of this one.

Takes lines {"arguments": [...], "said": FILE} on stdin, one command after the other; prints {"pid"} when it begins and
{"code"} when it has ended, negative after a signal. Ends with stdin.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

from paris.node.cli.app import app

for module in (
    *("paris.node.light", "paris.node.peer", "paris.registry.assemble", "paris.registry.selection"),
    *("paris.models.inspect", "paris.models.dit", "paris.models.router"),
    "diffusers.schedulers.scheduling_flow_match_euler_discrete",
):
    importlib.import_module(module)


def run(arguments: list[str], said: str) -> int:
    pid = os.fork()
    if pid == 0:
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(0)
        app(arguments)
    tell({"pid": pid})
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def tell(answer: dict[str, int]) -> None:
    print(json.dumps(answer), flush=True)  # noqa: T201


for line in sys.stdin:
    asked = json.loads(line)
    tell({"code": run(asked["arguments"], asked["said"])})
