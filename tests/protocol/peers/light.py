"""The light client in a process that never imports hivemind. Usage: light.py TASKS, a JSON list; prints what it says.

A task has addresses, provider, and any of: run (reads its `tip` records of two clusters, and the node's clock), entry
and partial (fetches a file), protocol (tries to open that stream).
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from paris.protocol.errors import ParisError
from paris.protocol.identity import Identity
from paris.protocol.manifest import FileEntry
from paris.protocol.transport.fetch import fetch_file
from paris.protocol.transport.light import open_host
from paris.protocol.transport.records import RecordStream, skew_beside


async def carry_out(task: dict) -> dict:
    said: dict = {}
    async with open_host(Identity.from_seed(b"light client in a test".ljust(32)), task["addresses"]) as host:
        provider = task["provider"]
        if "run" in task:
            async with await RecordStream.open(host, provider) as stream:
                slots = ["cluster-0", "cluster-1"]
                said["envelopes"] = [envelope.hex() for envelope in await stream.ask("tip", task["run"], slots)]
            skew = await skew_beside(host, [provider])
            said["offset_s"] = skew and skew.offset_s
        if "entry" in task:
            said["sha256"] = await fetch_file(host, FileEntry.parse(task["entry"]), [provider], Path(task["partial"]))
        if "protocol" in task:
            _, writer = await host.stream(provider, task["protocol"])
            writer.close()
    return said


def main() -> None:
    said = []
    for task in json.loads(sys.argv[1]):
        try:
            said.append(asyncio.run(carry_out(task)))
        except ParisError as error:
            said.append({"error": type(error).__name__, "message": str(error)})
    print(json.dumps({"said": said, "hivemind": "hivemind" in sys.modules}))  # noqa: T201


main()
