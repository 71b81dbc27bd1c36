"""Whatever lies in a file or comes through a pipe, its reader answers with what it read or an error in words."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from paris.models.checkpoints import CheckpointError, load_state
from paris.models.dit import DiT
from paris.models.filenames import CONFIG, STATE, WEIGHTS
from paris.models.inspect import check_config, check_weights
from paris.models.networks import load_network
from paris.models.presets import PRESETS
from paris.node.hubpeers import peers_file, peers_in
from paris.node.jobs import Event
from paris.node.peercache import PeerCache
from paris.node.settings import Settings
from paris.protocol import envelope
from paris.protocol.digests import sha256_of
from paris.protocol.errors import NetworkError, ParisError, UsageError
from paris.protocol.identity import Identity
from paris.protocol.records import Peer
from paris.registry.runkey import RunKey

NOW_S = 1_800_000_000
RUN = sha256_of(b"run")
WHO = Identity.from_seed(bytes(32))
GREETING = envelope.sign(
    "peer",
    Peer(
        run=RUN, signer=WHO.peer_id, seq=1, iat=NOW_S, exp=NOW_S + 600, agent="a", abilities=(),
        addrs=(f"/ip4/192.0.2.7/tcp/4001/p2p/{WHO.peer_id}",),
    ),
    WHO,
)  # fmt: skip
ARCHITECTURE = dict(PRESETS["micro"].expert)
SHAPES = {name: p.shape for name, p in DiT(**ARCHITECTURE).state_dict().items()}

text = st.text(max_size=20)
numbers = st.integers() | st.floats() | st.booleans() | st.none()
json_values = st.recursive(
    numbers | text, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=6
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def bent(data: bytes):
    """Bytes near to good ones: a slice replaced by something else."""
    return st.tuples(st.integers(0, len(data)), st.integers(0, 12), st.binary(max_size=12)).map(
        lambda cut: data[: cut[0]] + cut[2] + data[cut[0] + cut[1] :]
    )


lines_of_toml = st.lists(
    st.sampled_from(
        ["name", "listen", "peers", "announce", "up", "down", "lan", "threads", "sharded", "hub", "home", "asked_peers"]
    ).flatmap(lambda name: (json_values.map(json.dumps) | text).map(lambda value: f"{name} = {value}"))
    | text,
    max_size=4,
).map(lambda lines: "\n".join(lines).encode(errors="surrogatepass"))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | lines_of_toml)
@example(b"up = nan")
@example(b"down = -1")
@example(b"threads = 1e400")
@example(b"a = " + b"[" * 5000)
@example(b'name = "a\\u0000b"')
def test_config_toml(folder, data):
    (folder / "config.toml").write_bytes(data)
    with contextlib.suppress(UsageError):
        loaded = Settings.load({}, home=folder)
        assert loaded.up >= 0
        assert loaded.down >= 0


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["PARIS_UP", "PARIS_LAN", "PARIS_THREADS", "PARIS_PEERS", "PARIS_HUB"]), text))
def test_the_environment(folder, environ):
    (folder / "config.toml").unlink(missing_ok=True)
    with contextlib.suppress(UsageError):
        Settings.load(environ, home=folder)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | json_values.map(lambda v: json.dumps(v).encode()) | bent(peers_file([GREETING])))
@example(b'{"peers":[1,null,[],{}],"v":1}')
@example(b'{"peers":' + b"[" * 2000)
def test_a_peers_file(data):
    with contextlib.suppress(ParisError):
        assert all(place.endswith(WHO.peer_id) for place in peers_in(data, RUN, NOW_S))


def test_the_seeds_of_the_peers_file_are_good():
    assert len(peers_in(peers_file([GREETING]), RUN, NOW_S)) == 1
    with pytest.raises(NetworkError):
        peers_in(peers_file([GREETING]), RUN, NOW_S + 601)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | json_values.map(lambda v: json.dumps(v).encode()))
def test_a_cache_of_peers(folder, data):
    (folder / "peers.json").write_bytes(data)
    assert PeerCache(folder / "peers.json").addresses(NOW_S) == ()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | json_values.map(lambda v: json.dumps(v).encode()))
@example(b'{"event":"step"}')
@example(b'{"event":{}}')
@example(b"[" * 100_000)
@example(b"9" * 5000)
def test_a_line_of_the_training_child(line):
    event = Event.parse(line)
    if event is not None:
        assert Event.parse(event.line().encode()) is not None


@settings(max_examples=300, deadline=None)
@given(text | text.map(lambda tail: "paris://" + "0" * 64 + tail))
def test_a_run_key(key):
    with contextlib.suppress(UsageError):
        assert RunKey.parse(str(RunKey.parse(key))) == RunKey.parse(key)


entries = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "I64", "BOOL", "F8_E4M3"]) | json_values,
        "shape": st.lists(st.integers(-(2**65), 2**65), max_size=4) | json_values,
        "data_offsets": st.lists(st.integers(-(2**65), 2**65), min_size=2, max_size=2) | json_values,
    },
)
headers = st.dictionaries(
    st.sampled_from(sorted(SHAPES)[:3]) | st.sampled_from(["__metadata__", "weights.x"]) | text,
    entries | json_values,
    max_size=3,
).map(lambda header: json.dumps(header).encode())
tensor_files = st.binary(max_size=60) | st.tuples(
    headers | st.binary(max_size=80), st.integers(-8, 8) | st.integers(0, 2**64 - 1), st.binary(max_size=64)
).map(lambda parts: struct.pack("<Q", (len(parts[0]) + parts[1]) % 2**64) + parts[0] + parts[2])


@settings(max_examples=300, deadline=None)
@given(tensor_files)
def test_a_file_of_tensors(folder, data):
    """Through everything that opens a stranger's: the audit's look, the weights' loader, the training states'."""
    for name in (WEIGHTS, STATE):
        (folder / name).write_bytes(data)
    (folder / CONFIG).write_text(json.dumps({"_class_name": "DiT", **ARCHITECTURE}))
    assert check_weights(folder / WEIGHTS, ARCHITECTURE, "expert")
    with pytest.raises(CheckpointError):
        load_network(DiT, folder)
    with pytest.raises(CheckpointError):
        load_state(folder, SHAPES)


@settings(max_examples=200, deadline=None)
@given(
    json_values
    | st.dictionaries(st.sampled_from([*ARCHITECTURE, "_class_name"]), json_values, max_size=4).map(
        lambda changes: {"_class_name": "DiT", **ARCHITECTURE, **changes}
    )
)
@example({"_class_name": "DiT", **ARCHITECTURE, "depth": 10**9})
@example({"_class_name": "DiT", **ARCHITECTURE, "width": 2**40})
@example({"_class_name": "DiT", **ARCHITECTURE, "heads": 0})
@example({"_class_name": "PixArtTransformer2DModel", "num_layers": 10**9})
def test_a_config_of_a_network(settings_of_network):
    """It is compared with the signed one before anything is built from it, whatever it says."""
    faults = check_config(settings_of_network, ARCHITECTURE, "expert")
    assert all(isinstance(fault, str) for fault in faults)
