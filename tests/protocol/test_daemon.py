"""A node and its libp2p daemon: signals to one or the other, on loopback with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from protocol_support import digest_of, fresh, make_claim, person, signed, swarm_of

from paris.protocol.errors import NetworkError
from paris.protocol.transport.dht import Swarm

PUBLISHER = Path(__file__).parent / "peers" / "publisher.py"
RUN = digest_of("run")
SHORT_S = 1.0


@asynccontextmanager
async def publisher(address: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A node in a process group of its own, and the process id of its daemon."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, PUBLISHER, "2", address), stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    assert process.stdout is not None
    try:
        yield process, int(await process.stdout.readline())
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def every_operation_fails(swarm: Swarm, peer_id: str) -> None:
    claim = signed(fresh(make_claim, person(2)), person(2))
    for operation in (
        swarm.publish(claim),
        swarm.records("claim", RUN, "cluster-0"),
        swarm.neighbours(),
        swarm.stream(peer_id, "/nothing"),
    ):
        with pytest.raises(NetworkError):
            await operation


def daemon_of(swarm: Swarm) -> int:
    return swarm.p2p._child.pid


@pytest.mark.slow
def test_ctrl_c_reaches_the_process_group_and_the_node_still_publishes(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1) as (first,):
            async with publisher(first.addrs[0]) as (process, daemon):
                assert os.getpgid(daemon) == os.getsid(daemon) == daemon
                os.killpg(process.pid, signal.SIGINT)
                out, _ = await process.communicate()
                assert (out, process.returncode) == (b"published\n", 0)
            found = await first.records("claim", RUN, "cluster-0")
            assert [record.signer for record in found] == [person(2).peer_id]

    run_async(scene())


@pytest.mark.slow
def test_a_node_killed_hard_takes_its_daemon_along(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1) as (first,), publisher(first.addrs[0]) as (process, daemon):
            ended = os.pidfd_open(daemon)
            gone = asyncio.Event()
            asyncio.get_running_loop().add_reader(ended, gone.set)
            process.kill()
            await gone.wait()
            asyncio.get_running_loop().remove_reader(ended)
            os.close(ended)

    run_async(scene())


def test_a_daemon_killed_hard_is_named_by_every_operation(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (first, second):
            second.patience_s = SHORT_S
            os.kill(daemon_of(second), signal.SIGKILL)
            await every_operation_fails(second, first.peer_id)
            await second.p2p._child.wait()
            for operation in (second.records("claim", RUN, "cluster-0"), second.connect(first.addrs), second.company()):
                with pytest.raises(NetworkError, match="daemon ended with code -9"):
                    await operation

    run_async(scene())


@pytest.mark.slow
def test_a_daemon_that_hangs_is_waited_for_no_longer_than_agreed(tmp_path, run_async):
    async def scene():
        async with swarm_of(tmp_path, 1, 2) as (first, second):
            second.patience_s = SHORT_S
            os.kill(daemon_of(second), signal.SIGSTOP)
            await every_operation_fails(second, first.peer_id)

    run_async(scene())
