"""The one place that imports hivemind, which is untyped and talkative.

Its log level is read from the environment at import, so quiet is asked for before; whoever sets the variables gets
what they set.
"""

from __future__ import annotations

import asyncio
import os
import warnings

os.environ.setdefault("HIVEMIND_LOGLEVEL", "CRITICAL")
os.environ.setdefault("GOLOG_LOG_LEVEL", "fatal")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # its unused layers call torch.jit.script
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
    from hivemind.proto import p2pd_pb2
    from hivemind.utils import MSGPackSerializer
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
    "open_stream",
]


async def open_stream(p2p: P2P, peer: PeerID, protocol: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a raw stream. hivemind's own call leaves its socket open where the peer cannot be reached.

    Raises:
        P2PDaemonError: The peer cannot be reached or does not speak the protocol.
    """
    reader, writer = await p2p._client.control.daemon_connector.open_connection()  # noqa: SLF001 - see above
    try:
        wanted = p2pd_pb2.StreamOpenRequest(peer=peer.to_bytes(), proto=[protocol])
        await write_pbmsg(writer, p2pd_pb2.Request(type=p2pd_pb2.Request.STREAM_OPEN, streamOpen=wanted))
        response = p2pd_pb2.Response()
        await read_pbmsg_safe(reader, response)
        raise_if_failed(response)
    except BaseException:
        writer.close()
        raise
    return reader, writer
