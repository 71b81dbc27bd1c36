"""The one place that imports hivemind, which is untyped and talkative.

Its log level is read from the environment at import, so quiet is asked for before; whoever sets the variables gets
what they set. Of hivemind we need the DHT and the daemon's client. Its packages import its trainers as well, and with
them torch and scipy: 3 s and 250 MB of every node. So these are put off until somebody wants them.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

os.environ.setdefault("HIVEMIND_LOGLEVEL", "CRITICAL")
os.environ.setdefault("GOLOG_LOG_LEVEL", "fatal")

import msgpack


@contextmanager
def _parts_of(*names: str) -> Iterator[None]:
    """Import parts of packages for the length of a block, and nothing that the packages themselves import.

    They do that later, should anybody ask one of them for more than its parts.
    """
    packages = {}
    for name in [name for name in names if name not in sys.modules]:
        spec = find_spec(name)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.modules[name] = packages[name] = module_from_spec(spec)
    yield
    for name, package in packages.items():
        package.__getattr__ = partial(_load, package)  # type: ignore[method-assign]
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, package)


def _load(package: ModuleType, attribute: str) -> Any:
    del package.__getattr__
    assert package.__spec__
    assert package.__spec__.loader
    package.__spec__.loader.exec_module(package)
    return getattr(package, attribute)


with _parts_of("hivemind", "hivemind.dht", "hivemind.utils"):
    from hivemind import utils
    from hivemind.utils.logging import get_logger
    from hivemind.utils.serializer import MSGPackSerializer, SerializerBase
    from hivemind.utils.timed_storage import get_dht_time

    # What the parts below take from this package, and not from its parts.
    utils.get_logger, utils.get_dht_time = get_logger, get_dht_time
    utils.MSGPackSerializer, utils.SerializerBase = MSGPackSerializer, SerializerBase

    from hivemind.dht.node import DHTNode
    from hivemind.dht.routing import DHTID
    from hivemind.dht.storage import DictionaryDHTValue
    from hivemind.dht.validation import DHTRecord, RecordValidatorBase
    from hivemind.p2p import P2P, PeerID
    from hivemind.p2p.p2p_daemon_bindings.utils import (
        ControlFailure,
        P2PDaemonError,
        raise_if_failed,
        read_pbmsg_safe,
        write_pbmsg,
    )
    from hivemind.proto import dht_pb2, p2pd_pb2
    from hivemind.utils.multiaddr import Multiaddr

__all__ = [
    "DHTID",
    "P2P",
    "ControlFailure",
    "DHTNode",
    "DHTRecord",
    "DictionaryDHTValue",
    "MSGPackSerializer",
    "Multiaddr",
    "P2PDaemonError",
    "PeerID",
    "RecordValidatorBase",
    "connect",
    "connected_peers",
    "open_stream",
    "ping_request",
]


_SLOT_CODE = 0x50  # what hivemind registers `DictionaryDHTValue` under


def _unpack_slot(code: int, data: bytes) -> DictionaryDHTValue:
    """A slot with its entries, and nothing inside it that needs unpacking again."""
    if code != _SLOT_CODE:
        raise ValueError(f"a DHT value holds something of type {code}, which is no slot")
    maxsize, latest_s, entries = msgpack.loads(data, ext_hook=_refuse)
    slot = DictionaryDHTValue(maxsize)
    with slot.freeze():
        for subkey, value, expiration_s in entries:
            slot.store(subkey, value, expiration_s)
        slot.latest_expiration_time = latest_s
    return slot


def _refuse(code: int, _data: bytes) -> Any:
    raise ValueError(f"a DHT slot holds something of type {code}; its entries are plain bytes")


def _loads(buf: bytes) -> Any:
    """Read a DHT value without recursion.

    hivemind unpacks tuples in tuples and slots in slots as deep as a stranger nests them, in C: two kilobytes overflow
    the stack and end the process. Nothing on our wire is nested.
    """
    return msgpack.loads(buf, ext_hook=_unpack_slot, raw=False)


MSGPackSerializer.loads = staticmethod(_loads)


async def open_stream(p2p: P2P, peer: PeerID, protocol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a raw stream.

    Raises:
        P2PDaemonError: The peer cannot be reached or does not speak the protocol.
    """
    wanted = p2pd_pb2.StreamOpenRequest(peer=peer.to_bytes(), proto=[protocol])
    _, reader, writer = await _ask(p2p, p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_OPEN, streamOpen=wanted))
    return reader, writer


async def connect(p2p: P2P, peer: PeerID, *places: Multiaddr) -> None:
    """Connect to a peer at one of its places, or, without any, wherever the network finds it.

    Raises:
        ControlFailure: It is not reached.
    """
    wanted = p2pd_pb2.ConnectRequest(peer=peer.to_bytes(), addrs=[place.to_bytes() for place in places])
    _, _, writer = await _ask(p2p, p2pd_pb2.Request(type=p2pd_pb2.Request.CONNECT, connect=wanted))
    writer.close()


async def connected_peers(p2p: P2P) -> list[PeerID]:
    """The peers the daemon has connections to now.

    Raises:
        P2PDaemonError: The daemon refuses.
    """
    response, _, writer = await _ask(p2p, p2pd_pb2.Request(type=p2pd_pb2.Request.LIST_PEERS))
    writer.close()
    return [PeerID(peer.id) for peer in response.peers]


def ping_request() -> Any:
    """A DHT ping of somebody who wants an answer and no place in a routing table."""
    return dht_pb2.PingRequest()


async def _ask(p2p: P2P, request: Any) -> tuple[Any, asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask the daemon on a fresh connection. hivemind's own calls leave theirs open where no answer comes."""
    reader, writer = await p2p._client.control.daemon_connector.open_connection()  # noqa: SLF001 - see above
    try:
        await write_pbmsg(writer, request)
        response = p2pd_pb2.Response()
        await read_pbmsg_safe(reader, response)
        raise_if_failed(response)
    except BaseException:
        writer.close()
        raise
    return response, reader, writer
