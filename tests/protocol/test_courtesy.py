"""Manners towards peers that are asked for small blobs."""

from __future__ import annotations

import asyncio

import pytest

from paris.protocol.errors import NetworkError
from paris.protocol.transport import courtesy
from paris.protocol.transport.courtesy import AT_ONCE, Courtesy
from paris.protocol.transport.streams import StalledError


async def stall(manners: Courtesy, peer_id: str) -> None:
    with pytest.raises(StalledError), manners.minding(peer_id):
        raise StalledError("stalled")


def test_who_stalled_is_left_alone_while_others_are_left(run_async):
    async def scene():
        manners = Courtesy()
        await stall(manners, "ann")
        assert manners.choose(["ann", "ben", "eve"]) == ["ben", "eve"]
        await stall(manners, "ben")
        assert manners.choose(["ann", "ben"]) == ["ann", "ben"]
        assert manners.choose([]) == []

    run_async(scene())


def test_other_faults_are_not_held_against_a_peer(run_async):
    async def scene():
        manners = Courtesy()
        with pytest.raises(NetworkError), manners.minding("ann"):
            raise NetworkError("it does not have it")
        assert manners.choose(["ann", "ben"]) == ["ann", "ben"]

    run_async(scene())


def test_it_is_forgotten_after_a_while(run_async, monkeypatch):
    monkeypatch.setattr(courtesy, "LEFT_ALONE_S", 0.0)

    async def scene():
        manners = Courtesy()
        await stall(manners, "ann")
        assert manners.choose(["ann", "ben"]) == ["ann", "ben"]

    run_async(scene())


def test_no_peer_gets_more_requests_at_once_than_it_has_streams_for(run_async):
    async def scene():
        manners, inside, most = Courtesy(), 0, 0

        async def ask():
            nonlocal inside, most
            async with manners.room("ann"):
                inside += 1
                most = max(most, inside)
                await asyncio.sleep(0)
                inside -= 1

        await asyncio.gather(*(ask() for _ in range(50)))
        assert most == AT_ONCE

    run_async(scene())
