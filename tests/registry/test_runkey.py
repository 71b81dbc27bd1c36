"""Run keys: what people paste, and what they paste by mistake."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paris.protocol.errors import UsageError
from paris.protocol.identity import Identity
from paris.registry.runkey import RunKey

HEX = "0123456789abcdef" * 4
digits = st.text("0123456789abcdef", min_size=64, max_size=64)
PEER = "/p2p/" + Identity.from_seed(b"7" * 32).peer_id
places = st.text(st.characters(exclude_categories=["Cs"]))
addresses = st.lists(places.map(lambda place: "".join(place.split()) + PEER), max_size=4).map(tuple)


@given(digits, addresses)
def test_a_key_survives_printing(hexadecimal, peers):
    key = RunKey("sha256:" + hexadecimal, peers)
    assert RunKey.parse(str(key)) == key


def test_a_key_reads_as_documented():
    peers = ("/ip4/1.2.3.4/tcp/4001" + PEER, "/dns4/a.example/tcp/1" + PEER)
    text = f"paris://{HEX}?peer=/ip4/1.2.3.4/tcp/4001{PEER}&peer=/dns4/a.example/tcp/1{PEER}"
    assert RunKey.parse(text) == RunKey("sha256:" + HEX, peers)
    assert str(RunKey("sha256:" + HEX, peers)) == text
    assert str(RunKey("sha256:" + HEX)) == f"paris://{HEX}"
    with_hub = RunKey("sha256:" + HEX, peers[:1], "team/run.1")
    assert str(with_hub) == f"paris://{HEX}?peer={peers[0]}&hub=team/run.1"
    assert RunKey.parse(str(with_hub)) == with_hub
    assert with_hub.with_peers(()).hub == "team/run.1"


@pytest.mark.parametrize("hub", ["run", "a/b/c", "a/", "/b", "../x", "-a/b", "a/" + "b" * 97, "a/%00", "é/b"])
def test_a_hint_that_is_no_repository_is_a_typing_mistake(hub):
    with pytest.raises(UsageError, match="is not the name of a repository"):
        RunKey.parse(f"paris://{HEX}?hub={hub}")


@pytest.mark.parametrize(
    "typed",
    [
        HEX,
        f"  paris://{HEX}\n",
        f"paris://{HEX}/",
        f"PARIS://{HEX}",
        f"paris://{HEX}?",
        f"paris://{HEX[:9]}\r\n {HEX[9:]}",
    ],
)
def test_what_mail_and_shells_do_to_a_key_is_forgiven(typed):
    assert RunKey.parse(typed) == RunKey("sha256:" + HEX)


def test_unknown_hints_are_passed_over():
    peer = "/ip4/1.1.1.1/tcp/1" + PEER
    assert RunKey.parse(f"paris://{HEX}?colour=red&peer={peer}").peers == (peer,)


@pytest.mark.parametrize(
    "hint", ["/ip4/1.2.3.4/tcp/80", "/ip4/1.2.3.4/tcp/80/p2p/", "/ip4/1.2.3.4/tcp/80/p2p/12D3KooWabc", "x", PEER + "x"]
)
def test_a_hint_that_ends_at_no_peer_is_a_typing_mistake_and_no_attack(hint):
    with pytest.raises(UsageError, match="is not the address of a peer") as caught:
        RunKey.parse(f"paris://{HEX}?peer={hint}")
    assert caught.value.exit_code == 2
    assert "/p2p/" in caught.value.hint


@pytest.mark.parametrize(
    "typed",
    [
        "", "paris://", "paris:", HEX[:-1], HEX + "0", f"paris://{HEX[:-1]}", f"paris://{HEX[:-1]}g", f"http://{HEX}",
        f"paris://{HEX.upper()}", f"sha256:{HEX}", f"paris://{HEX}:80", f"paris://me@{HEX}", "paris://[::1", "//[",
        f"paris://{HEX[:-1]}\u2100", "./demo-out", "ipfs://bafy", f"?peer=/ip4/1.1.1.1&{HEX}",
    ],
)  # fmt: skip
def test_what_is_no_key_is_refused_in_words(typed):
    with pytest.raises(UsageError, match="is not a run key") as caught:
        RunKey.parse(typed)
    assert caught.value.exit_code == 2
    assert "64 hexadecimal digits" in str(caught.value)
    assert "paris-node run create" in caught.value.hint


def test_a_truncated_key_is_told_its_length():
    with pytest.raises(UsageError, match="this one has 60 characters"):
        RunKey.parse(f"paris://{HEX[:60]}?peer=/ip4/1.1.1.1/tcp/1")


@given(st.text() | st.text("paris:/?&=[]@%#0", max_size=30).map(lambda text: "paris://" + text))
def test_no_text_crashes_the_parser(text):
    try:
        key = RunKey.parse(text)
    except UsageError:
        return
    assert len(key.hex) == 64


def test_hints_change_and_the_run_stays():
    key = RunKey("sha256:" + HEX, ("/ip4/1.1.1.1/tcp/1",))
    assert key.with_peers(("/ip4/2.2.2.2/tcp/2",)) == RunKey("sha256:" + HEX, ("/ip4/2.2.2.2/tcp/2",))
    assert key.hex == HEX
