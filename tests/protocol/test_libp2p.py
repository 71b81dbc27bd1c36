"""hivemind in parts: what is put off comes when it is asked for, and is made of the same parts."""

from __future__ import annotations

import subprocess
import sys

import pytest

CODE = """
import sys
from paris.protocol.transport import libp2p
assert not {"torch", "scipy"} & sys.modules.keys()
import warnings
warnings.simplefilter("ignore")
import hivemind
from hivemind.utils import nested_map
from hivemind.dht import DHT
assert hivemind.DHT is DHT and "torch" in sys.modules
assert hivemind.dht.node.DHTNode is hivemind.dht.DHTNode is libp2p.DHTNode
assert hivemind.p2p.P2P is libp2p.P2P
assert hivemind.utils.MSGPackSerializer is libp2p.MSGPackSerializer
"""


@pytest.mark.slow
def test_whoever_wants_hivemind_whole_gets_it_afterwards():
    subprocess.run([sys.executable, "-W", "error", "-c", CODE], check=True, timeout=120)
