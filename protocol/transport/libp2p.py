"""The one place that imports hivemind, which is untyped and talkative.

Its log level is read from the environment at import, so quiet is asked for before; whoever sets the variables gets
what they set.
"""

from __future__ import annotations

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
    from hivemind.p2p.p2p_daemon_bindings.utils import ControlFailure, P2PDaemonError, P2PHandlerError
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
    "P2PHandlerError",
    "PeerID",
    "RecordValidatorBase",
]
