"""The guard on what a peer returns, looked at directly: hivemind's search sees what the entries say."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import msgpack
import pytest
from protocol_support import NOW_S, digest_of, make_claim, person, signed

from paris.protocol.book import RecordBook
from paris.protocol.records import record_key
from paris.protocol.transport.guard import Guard
from paris.protocol.transport.libp2p import DHTID, DHTRecord, DictionaryDHTValue, MSGPackSerializer

KEY = DHTID.generate(record_key("claim", digest_of("run"), "cluster-0"))
EXP = NOW_S + 600


@dataclass
class Found:
    """As hivemind's ValueWithExpiration."""

    value: object
    expiration_time: float


class Network:
    """A protocol whose one peer returns what a test wants."""

    node_id = DHTID.generate("the asker")

    def __init__(self, value, expiration, nearest=None) -> None:
        self.answer = {KEY: (value if value is None else Found(value, expiration), nearest or {})}
        Guard(RecordBook(), clock=lambda: NOW_S).attach(self)

    async def call_find(self, _peer, keys):
        found = self.answer and {key: self.answer[key] for key in keys}
        for item, _ in (found or {}).values():
            if item and not self._validate_dictionary(KEY.to_bytes(), item.value):
                return None
        return found


def slot(*numbers: int, maxsize=None, junk: bool = False) -> DictionaryDHTValue:
    value = DictionaryDHTValue(maxsize)
    value.frozen = True
    for number in numbers:
        who = person(number)
        value.store(who.public_key, MSGPackSerializer.dumps(signed(make_claim(who), who)), EXP)
    if junk:
        value.store(b"x", b"y", 1e308)
    value.latest_expiration_time = math.inf
    return value


def find(run_async, value, expiration=math.inf):
    async def ask():
        network = Network(value, expiration)
        return (await network.call_find(None, [KEY]))[KEY][0]

    return run_async(ask())


def test_an_expiration_of_infinity_becomes_that_of_the_entries(run_async):
    found = find(run_async, slot(1, 2))
    assert found.expiration_time == EXP
    assert found.value.latest_expiration_time == EXP


@pytest.mark.parametrize("maxsize", [1, -1, "x", math.nan])
def test_a_bound_set_by_the_peer_evicts_nobody(run_async, maxsize):
    found = find(run_async, slot(1, 2, 3, maxsize=maxsize))
    assert found.value.maxsize == math.inf
    assert len(found.value.data) == 3


def test_junk_is_dropped_and_the_rest_kept(run_async):
    assert set(find(run_async, slot(1, 2, junk=True)).value.data) == {person(1).public_key, person(2).public_key}


def test_a_slot_of_nothing_but_junk_is_nothing(run_async):
    assert find(run_async, slot(junk=True)) is None
    assert find(run_async, slot()) is None
    assert find(run_async, None) is None


def test_only_so_many_entries_of_one_answer_are_looked_at(run_async, monkeypatch):
    from paris.protocol.transport import guard

    monkeypatch.setattr(guard, "LIMITS", dataclasses.replace(guard.LIMITS, signers_per_slot=1))
    assert len(find(run_async, slot(1, 2, 3)).value.data) == 2


def nested(code: int, depth: int) -> bytes:
    """Extension values inside each other, as a hostile peer packs them; two kilobytes are enough for hundreds."""
    data = msgpack.packb([])
    for _ in range(depth):
        inner = msgpack.ExtType(code, data)
        data = msgpack.packb([None, 0.0, [[b"k", inner, 1.0]]] if code == SLOT else [inner])
    return msgpack.packb(msgpack.ExtType(code, data))


SLOT, TUPLE = 0x50, 0x40


@pytest.mark.parametrize("code", [SLOT, TUPLE])
@pytest.mark.parametrize("depth", [2, 200, 2000])
def test_a_value_nested_deep_enough_to_end_the_process_is_refused(code, depth):
    """hivemind unpacks it recursively in C: 200 levels overflow the stack, long before any validator is asked."""
    with pytest.raises(ValueError, match="type"):
        MSGPackSerializer.loads(nested(code, depth))


def test_a_slot_survives_packing():
    slot = DictionaryDHTValue()
    slot.store(b"key", b"value", NOW_S + 10.0)
    found = MSGPackSerializer.loads(MSGPackSerializer.dumps(slot))
    assert found.latest_expiration_time == NOW_S + 10.0
    assert dict(found.items())[b"key"].value == b"value"


def test_a_peer_that_names_the_asker_as_nearest_to_a_key(run_async):
    """hivemind would fail at an assertion of its own, in the middle of a store."""

    async def ask():
        other = DHTID.generate("somebody else")
        network = Network(None, 0.0, {Network.node_id: "asker", other: "other"})
        return (await network.call_find(None, [KEY]))[KEY]

    item, nearest = run_async(ask())
    assert item is None
    assert list(nearest.values()) == ["other"]


def test_a_record_is_verified_once_and_still_refused_when_newer_ones_or_other_rules_come(monkeypatch):
    from paris.protocol.curation import Admission
    from paris.protocol.transport import guard
    from paris.protocol.validation import RunRules

    looks = []
    monkeypatch.setattr(guard, "check_record", lambda *given, look=guard.check_record: looks.append(1) or look(*given))
    who, now = person(1), [NOW_S]
    watching = Guard(RecordBook(), clock=lambda: now[0])

    def entry(**changes) -> DHTRecord:
        made = make_claim(who, **changes)
        value, subkey = MSGPackSerializer.dumps(signed(made, who)), MSGPackSerializer.dumps(who.public_key)
        return DHTRecord(KEY.to_bytes(), subkey, value, float(made.exp))

    old, new = entry(seq=1), entry(seq=2, exp=EXP + 1)
    assert all(watching.validate(old) for _ in range(5))
    assert len(looks) == 1
    assert watching.validate(new)
    assert not watching.validate(old)
    watching.book.know(digest_of("run"), RunRules(Admission(policy="list", keys=(person(2).peer_id,))))
    assert not watching.validate(new)
    assert "not admitted" in watching.refusals[-1]
    watching.book.know(digest_of("run"), RunRules(Admission(policy="open")))
    assert watching.validate(new)
    now[0] = EXP + 1
    assert not watching.validate(new)
    assert "expired" in watching.refusals[-1]
