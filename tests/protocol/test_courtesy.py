"""Manners towards peers that are asked for small blobs, and when the next one is asked."""

from __future__ import annotations

import asyncio
from typing import ClassVar

import pytest

from paris.protocol.digests import sha256_of
from paris.protocol.errors import NetworkError
from paris.protocol.transport import courtesy, fetch
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


class Slow:
    """A peer whose answer begins and then comes slowly; of all others nothing comes at all."""

    began: ClassVar[asyncio.Event]
    ended: ClassVar[asyncio.Event]
    asked: ClassVar[list[str]]

    def __init__(self, peer_id: str) -> None:
        self.peer_id = peer_id

    @classmethod
    async def open(cls, _streams, peer_id, _down):
        cls.asked.append(peer_id)
        return cls(peer_id)

    async def read(self, _digest, _offset, _length, _stall_s, answered):
        if self.peer_id != "slow":
            await asyncio.Event().wait()
        answered()
        self.began.set()
        await self.ended.wait()
        return b"a statement"

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        pass


class Nobody:
    peer_id = "me"


def test_an_answer_that_has_begun_is_waited_for_and_shares_its_line_with_no_copy(run_async, monkeypatch):
    monkeypatch.setattr(fetch, "BlobStream", Slow)
    monkeypatch.setattr(fetch, "HEDGE_S", 0.01)

    async def scene():
        Slow.began, Slow.ended, Slow.asked = asyncio.Event(), asyncio.Event(), []
        peers = ["silent", "slow", "third", "fourth", "me"]
        fetching = asyncio.create_task(fetch.fetch_blob(Nobody(), sha256_of(b"a statement"), peers))
        await Slow.began.wait()
        asked = list(Slow.asked)
        assert asked[:2] == ["silent", "slow"]
        await asyncio.sleep(20 * fetch.HEDGE_S)
        assert Slow.asked == asked
        Slow.ended.set()
        assert await fetching == b"a statement"

    run_async(scene())
