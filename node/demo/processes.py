"""The demo's peers: real processes with their own homes and keys, started and ended like any other."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from paris.protocol.errors import ParisError

COMMAND = (sys.executable, "-m", "paris.node")
END_GRACE_S = 30.0


class NodeProcess:
    """One `paris-node start`, its events read line by line, its log kept beside its home."""

    def __init__(self, name: str, home: Path, log: Path) -> None:
        self.name, self.home, self.log = name, home, log
        self.peer_id = ""
        self.addrs: tuple[str, ...] = ()
        self.last: dict[str, Any] = {}
        self._ready = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None

    async def start(self, run: str, *options: str) -> None:
        """Start the node on loopback; return at once, `ready` waits for it."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *COMMAND, "start", run, "--home", str(self.home), "--listen", "/ip4/127.0.0.1/tcp/0", "--json",
                "--name", self.name, *options, stdout=asyncio.subprocess.PIPE, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._reader = asyncio.create_task(self._read())

    async def ready(self, timeout_s: float = 180.0) -> None:
        """Wait until the node has joined.

        Raises:
            ParisError: it ended, or did not join in time.
        """
        assert self._reader is not None
        waiting = asyncio.create_task(self._ready.wait())
        await asyncio.wait({waiting, self._reader}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not self._ready.is_set():
            raise ParisError(f"{self.name} did not join the network", why=f"see {self.log}")

    @property
    def group(self) -> int:
        """The process group: the node and its training child."""
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.returncode is None

    def kill(self) -> None:
        """End the process the hard way, as a power cut would: no checkpoint, no good-bye."""
        if self._process and self.alive:
            self._process.send_signal(signal.SIGKILL)

    async def end(self) -> None:
        """Ask the node to leave, and make sure that it does."""
        if self._process and self.alive:
            with suppress(ProcessLookupError):
                self._process.terminate()
            try:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), END_GRACE_S)
            finally:
                self.kill()
                await self._process.wait()
        if self._reader:
            await self._reader

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            with suppress(ValueError):
                self._note(json.loads(line))

    def _note(self, event: dict[str, Any]) -> None:
        self.last = event
        if event.get("event") == "ready":
            self.peer_id, self.addrs = event["peer_id"], tuple(event["addrs"])
            self._ready.set()


async def run_command(*arguments: str, log: Path, accepted: Collection[int] = (0,)) -> dict[str, Any]:
    """Run another `paris-node` command as a person would, and return its JSON. It ends with whoever waits for it.

    Raises:
        ParisError: it exited with a code that is not accepted; the error has its exit code and its words.
    """
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            *COMMAND, *arguments, "--json", stdout=asyncio.subprocess.PIPE, stderr=errors
        )
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    lines = out.decode().strip().splitlines()
    result: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if process.returncode not in accepted:
        message = result.get("message") or f"see {log}"
        raise ParisError(f"paris-node {arguments[0]} exited with code {process.returncode}", why=str(message))
    return result
