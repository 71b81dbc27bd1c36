"""The peers file on the Hub, read with the Hub's own client from a real server on loopback: down, hostile, or right."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from hub_support import PATH, Hub, point_at
from node_support import COMMAND, LOOPBACK

from paris.node.hubpeers import FILE_BYTES, MOST_RECORDS, _bounded, peers_file, peers_in, read_peers
from paris.protocol import strict_json
from paris.protocol.envelope import sign
from paris.protocol.errors import EnvelopeError, NetworkError, ParisError
from paris.protocol.identity import Identity
from paris.protocol.records import Claim
from paris.protocol.records import Peer as PeerRecord
from paris.registry.runkey import RunKey

NOW_S = int(time.time())
RUN = "sha256:" + "ab" * 32


def person(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


def place(number: int, port: int = 9) -> str:
    return f"/ip4/127.0.0.1/tcp/{port}/p2p/{person(number).peer_id}"


def record(number: int, **changes: Any) -> bytes:
    who = person(number)
    fields = {
        "run": RUN, "signer": who.peer_id, "seq": 1, "iat": NOW_S, "exp": NOW_S + 600, "addrs": (place(number),),
        "agent": "paris-node/0", "abilities": (),
    }  # fmt: skip
    return sign("peer", PeerRecord(**(fields | changes)), who)


def read(limit_s: float = 30.0, repository: str = "team/run") -> tuple[str, ...]:
    return asyncio.run(read_peers(repository, RUN, NOW_S, limit_s))


def test_signed_peers_of_the_run_are_found_longest_valid_first(hub: Hub) -> None:
    hub.body = peers_file([record(1), record(2, exp=NOW_S + 900)])
    assert read() == (place(2), place(1))
    assert hub.asked[0][0] == PATH
    assert hub.asked[0][1]["user-agent"].startswith("paris-node")


def test_a_file_written_by_hand_with_spaces_is_read_too(hub: Hub) -> None:
    hub.body = json.dumps(json.loads(peers_file([record(1)])), indent=4).encode()
    assert read() == (place(1),)


@pytest.mark.parametrize("status", [404, 401, 403, 429, 500, 502, 503])
def test_hub_down_or_without_the_file_is_said_with_its_answer(hub: Hub, status: int) -> None:
    hub.status = status
    with pytest.raises(NetworkError, match=str(status)):
        read()


def test_a_repository_that_does_not_exist_is_said(hub: Hub) -> None:
    with pytest.raises(NetworkError, match="404"):
        read(repository="nobody/nothing")


def test_hub_unreachable_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    point_at("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(NetworkError, match="cannot be reached"):
        read()


def test_offline_mode_asks_nobody(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(NetworkError, match="HF_HUB_OFFLINE"):
        read()
    assert not hub.asked


def test_a_hub_that_says_nothing_is_not_waited_for(hub: Hub) -> None:
    hub.silent = True
    with pytest.raises(NetworkError):
        read(limit_s=0.3)


def test_a_hub_that_drips_is_given_up_at_the_deadline() -> None:
    with pytest.raises(NetworkError, match="too slowly"):
        _bounded(iter([b"x"]), time.monotonic() - 1)
    assert _bounded(iter([b"x", b"y"]), time.monotonic() + 60) == b"xy"


def test_endless_data_is_cut_off(hub: Hub) -> None:
    hub.endless = True
    with pytest.raises(EnvelopeError, match="too big"):
        read()


def test_a_gzip_bomb_is_not_unpacked(hub: Hub) -> None:
    hub.body = gzip.compress(b" " * (16 * FILE_BYTES))
    hub.headers = {"content-encoding": "gzip"}
    with pytest.raises(EnvelopeError):
        read()
    assert hub.asked[0][1]["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    "garbage",
    [
        b"", b"<html>", b"[]", b"\xff", b'{"v":1}', b'{"peers":{},"v":1}', b'{"peers":[],"v":2}', b"{" * 9999,
        b'{"peers":[],"peers":[],"v":1}', b" " * (FILE_BYTES + 1),
    ],
)  # fmt: skip
def test_garbage_is_refused(hub: Hub, garbage: bytes) -> None:
    hub.body = garbage
    with pytest.raises(EnvelopeError):
        read()


def forged() -> bytes:
    """A record of 1 with the addresses of an attacker."""
    changed = strict_json.loads(record(1), FILE_BYTES)
    changed["payload"] = strict_json.loads(record(2), FILE_BYTES)["payload"]
    return strict_json.dumps(changed)


def claim() -> bytes:
    who = person(1)
    fields = {"run": RUN, "signer": who.peer_id, "seq": 1, "iat": NOW_S, "exp": NOW_S + 60, "unit": "router", "step": 0}
    return sign("claim", Claim(**fields), who)


@pytest.mark.parametrize(
    "records",
    [
        [], [forged()], [record(1, iat=NOW_S - 900, exp=NOW_S - 1)], [record(1, iat=NOW_S + 500, exp=NOW_S + 900)],
        [record(1, run="sha256:" + "cd" * 32)], [record(1, addrs=(place(2),))], [record(1, addrs=())], [claim()],
        [b"{}"],
    ],
)  # fmt: skip
def test_a_hostile_hub_can_at_worst_name_nobody(records: list[bytes]) -> None:
    with pytest.raises(NetworkError, match="none of its"):
        peers_in(peers_file(records), RUN, NOW_S)
    assert peers_in(peers_file([*records, record(3)]), RUN, NOW_S) == (place(3),)


def test_more_records_than_anybody_needs_are_not_looked_at() -> None:
    file = {"v": 1, "peers": [{}] * MOST_RECORDS + [strict_json.loads(record(1), FILE_BYTES)]}
    with pytest.raises(ParisError, match="none of its"):
        peers_in(strict_json.dumps(file), RUN, NOW_S)


@pytest.mark.slow
def test_a_command_reads_the_hub_named_by_its_environment_and_says_what_came_of_it(hub: Hub, tmp_path: Path) -> None:
    """A real process, HF_ENDPOINT, a run key that names the repository, and a peer in the file that is off."""
    hub.body = peers_file([record(1)])
    done = subprocess.run(
        [*COMMAND, "status", str(RunKey(RUN, hub="team/run")), "--home", tmp_path, "--listen", LOOPBACK],
        env={**os.environ, "HF_ENDPOINT": hub.endpoint},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "none of the 1 known peers answered" in done.stderr
    assert f"Hub team/run/peers.json: {place(1)} (refused" in done.stderr
