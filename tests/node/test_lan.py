"""Nodes of one run on one network, by multicast DNS on loopback."""

from __future__ import annotations

import asyncio
import logging

import pytest
from zeroconf import InterfaceChoice, IPVersion, ServiceInfo
from zeroconf.asyncio import AsyncZeroconf

from paris.node import lan
from paris.protocol.errors import NetworkError
from paris.protocol.identity import Identity

RUN, OTHER_RUN = "sha256:" + "ab" * 32, "sha256:" + "cd" * 32
LISTEN = "/ip4/127.0.0.1/tcp/0"
HEARD_S = 30.0
UNHEARD_S = 1.0


def name(number: int) -> str:
    return Identity.from_seed(number.to_bytes(32, "big")).peer_id


def place(number: int, host: str = "127.0.0.1", port: int = 4001) -> str:
    return f"/ip4/{host}/tcp/{port}/p2p/{name(number)}"


def test_a_node_of_the_run_is_heard_at_once_and_others_are_not() -> None:
    async def scene() -> tuple[str, ...]:
        addrs = [place(1), place(1, "192.0.2.1")]
        async with lan.beacon(RUN, name(1), addrs, LISTEN), lan.beacon(OTHER_RUN, name(2), [place(2)], LISTEN):
            return await lan.look(RUN, LISTEN, limit_s=HEARD_S)

    assert set(asyncio.run(scene())) == {place(1), place(1, "192.0.2.1")}


def test_nobody_there_is_nobody_named() -> None:
    async def scene() -> tuple[str, ...]:
        async with lan.beacon(RUN, name(1), [place(1)], LISTEN):
            return await lan.look(RUN, LISTEN, own=name(1), limit_s=UNHEARD_S)

    assert asyncio.run(scene()) == ()


HOSTILE = (
    {}, {"run": "ab" * 8}, {"addr": place(3)}, {"run": "ab" * 8, "addr": place(9)}, {"run": "ab" * 8, "addr": "x"},
    {"run": "cd" * 8, "addr": place(6)},
)  # fmt: skip


def test_a_neighbour_may_say_anything_and_name_nobody_but_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing, no address, no run, somebody else's address, nonsense, another run: all are heard, none believed."""
    believed: dict[str, tuple[str, ...]] = {}
    all_heard = asyncio.Event()
    address = lan._address

    async def noted(zeroconf: AsyncZeroconf, instance: str, run: str, own: str) -> tuple[str, ...]:
        believed[instance] = await address(zeroconf, instance, run, own)
        if len(believed) == len(HOSTILE):
            all_heard.set()
        return believed[instance]

    monkeypatch.setattr(lan, "_address", noted)

    async def scene() -> None:
        hostile = AsyncZeroconf(["127.0.0.1"], ip_version=IPVersion.V4Only)
        looking = asyncio.create_task(lan.look(RUN, LISTEN, limit_s=HEARD_S))
        try:
            for number, said in enumerate(HOSTILE, start=1):
                instance, server = f"{name(number)}.{lan.SERVICE}", f"{name(number)}.local."
                info = ServiceInfo(
                    lan.SERVICE, instance, port=1, properties=said, server=server, parsed_addresses=["127.0.0.1"]
                )
                await hostile.async_register_service(info, cooperating_responders=True)
            await asyncio.wait_for(all_heard.wait(), HEARD_S)
        finally:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await hostile.async_close()

    asyncio.run(scene())
    assert set(believed.values()) == {()}


def no_multicast(*_: object, **__: object) -> None:
    raise OSError(19, "No such device")


def test_where_there_is_no_multicast_a_node_goes_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lan, "AsyncZeroconf", no_multicast)
    inside = []

    async def scene() -> None:
        async with lan.beacon(RUN, name(1), [place(1)], LISTEN):
            inside.append(True)
        await lan.look(RUN, LISTEN)

    with caplog.at_level(logging.INFO), pytest.raises(NetworkError, match="no multicast here"):
        asyncio.run(scene())
    assert inside
    assert "No such device" in caplog.text


@pytest.mark.parametrize(
    ("listen", "interfaces"),
    [
        ("/ip4/127.0.0.1/tcp/0", ["127.0.0.1"]),
        ("/ip4/0.0.0.0/tcp/4001", InterfaceChoice.All),
        ("/ip6/::/tcp/0", InterfaceChoice.All),
    ],
)
def test_it_speaks_only_where_the_node_listens(
    listen: str, interfaces: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def remembered(interfaces: object, **_: object) -> None:
        asked.append(interfaces)
        no_multicast()

    monkeypatch.setattr(lan, "AsyncZeroconf", remembered)
    with pytest.raises(NetworkError):
        asyncio.run(lan.look(RUN, listen))
    assert asked == [interfaces]
