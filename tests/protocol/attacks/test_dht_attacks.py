"""A hostile process without any validator joins the real DHT of eight honest nodes. Each test is one attack.

After each, and after one honest node has said something new meanwhile, every honest node must see of every slot exactly
what honest nodes said. `make attacks` prints the table of attempts and results.
"""

from __future__ import annotations

import time

import pytest
from battlefield import LISTED, OPEN, PEOPLE, entry, stores
from protocol_support import digest_of, make_claim, make_peer, make_tip, person, signed

from paris.protocol.limits import LIMITS
from paris.protocol.records import record_key
from paris.protocol.transport.libp2p import DHTID

VICTIM, THIEF = PEOPLE[0], person(66)
KEY = record_key("claim", OPEN, "cluster-0")
KEYS = [
    record_key(kind, run, slot)
    for run in (OPEN, LISTED)
    for kind, slot in (("claim", "cluster-0"), ("tip", "cluster-0"), ("peer", ""))
]
NOT_FOUND, REGULAR, DICTIONARY = 0, 1, 2
FLOOD = 150
SYBILS = 12
MOST_STORED = 2 * len(PEOPLE) * LIMITS.signers_per_slot  # each node has a storage and a cache

pytestmark = pytest.mark.slow


def now() -> int:
    return int(time.time())


def nothing_stored(outcome) -> bool:
    return outcome.stored == 0


def test_wipe(fight):
    """hivemind alone loses every signed subkey to one plain store with a later expiration."""

    async def attack(field, outcome):
        plain = [entry(b"wiped", expires, None, key) for key in KEYS for expires in (now() + 10**6, 1e308, "inf")]
        slots = [
            entry(b"", expires, None, key, slot=[None, expires, entries])
            for key in KEYS
            for expires in (now() + 10**6, 1e308)
            for entries in ([], [[VICTIM.public_key.hex(), b"wiped".hex(), 1e308]])
        ]
        await field.attack(outcome, plain + slots)

    assert nothing_stored(fight(attack))


def test_forge(fight):
    """Signed by somebody else, bent after signing, under another's subkey, in another slot, with another expiration."""

    async def attack(field, outcome):
        newer = make_claim(VICTIM, run=OPEN, seq=10**6, iat=now(), exp=now() + 1700)
        good, key, exp = signed(newer, VICTIM), VICTIM.public_key, newer.exp
        await field.attack(
            outcome,
            [
                entry(signed(newer, THIEF), exp, key, KEY),
                entry(signed(newer, VICTIM, THIEF), exp, key, KEY),
                entry(good.replace(b"A", b"B", 1), exp, key, KEY),
                entry(good[:-1], exp, key, KEY),
                entry(good + b"\n", exp, key, KEY),
                entry(good, exp, THIEF.public_key, KEY),
                entry(good, exp + 1, key, KEY),
                entry(good, 1e308, key, KEY),
                entry(good, "nan", key, KEY),
                entry(good, exp, None, KEY),
                entry(good, exp, key, record_key("claim", OPEN, "cluster-1")),
                entry(good, exp, key, record_key("tip", OPEN, "cluster-0")),
                entry(good, exp, key, record_key("claim", LISTED, "cluster-0")),
                entry(good, exp, key, "claim"),
                entry(b"junk", exp, key, KEY),
                entry(b"", exp, key, KEY),
                entry(b"\xc1\xff", exp, key, KEY, raw=True),
                entry(b"", exp, key, KEY, raw=True),
            ],
        )

    assert nothing_stored(fight(attack))


def test_replay(fight):
    """What somebody did sign, once more: an older one, in another run, as another kind, after its time."""

    async def attack(field, outcome):
        old = make_claim(VICTIM, run=OPEN, seq=0, iat=now(), exp=now() + 299)
        late = make_claim(VICTIM, run=OPEN, seq=0, iat=now(), exp=now() + 1799)
        gone = make_claim(VICTIM, run=OPEN, seq=10**6, iat=now() - 900, exp=now() - 1)
        replayed = stores(VICTIM, old, late, gone)
        tip = make_tip(VICTIM, run=OPEN, seq=10**6, iat=now(), exp=now() + 1000)
        misplaced = [store | {"key": KEY} for store in stores(VICTIM, tip)]
        misplaced += [store | {"key": record_key("tip", LISTED, "cluster-0")} for store in stores(VICTIM, tip)]
        await field.attack(outcome, replayed + misplaced)

    assert nothing_stored(fight(attack))


def test_far_future(fight):
    """Records that live for years, that begin tomorrow, or a clock ten minutes ahead."""

    async def attack(field, outcome):
        await field.attack(
            outcome,
            [
                store
                for make, life_s in ((make_claim, 1800), (make_tip, 48 * 3600), (make_peer, 2 * 3600))
                for store in stores(
                    THIEF,
                    make(THIEF, run=OPEN, iat=now(), exp=now() + 365 * 86_400),
                    make(THIEF, run=OPEN, iat=now(), exp=now() + life_s + 60),
                    make(THIEF, run=OPEN, iat=now(), exp=2**53),
                    make(THIEF, run=OPEN, iat=now() + 86_400, exp=now() + 86_400 + 300),
                    make(THIEF, run=OPEN, iat=now() + 600, exp=now() + 900),
                )
            ],
        )

    assert nothing_stored(fight(attack))


def test_oversize(fight):
    async def attack(field, outcome):
        big = make_peer(THIEF, run=OPEN, iat=now(), exp=now() + 300, addrs=("x" * 1000,) * 13)
        sizes = (LIMITS.record_bytes + 1, 2**20, 3_900_000)
        junk = [entry(b"x" * size, now() + 300, key, KEY) for size in sizes for key in (None, THIEF.public_key)]
        await field.attack(outcome, stores(THIEF, big) + junk)

    assert nothing_stored(fight(attack))


def test_flood_of_signers_into_one_slot_of_an_open_run(fight):
    async def attack(field, outcome):
        crowd = [person(10_000 + number) for number in range(FLOOD)]
        field.tolerate(*crowd)
        claims = [store for who in crowd for store in stores(who, make_claim(who, run=OPEN, iat=now(), exp=now() + 60))]
        await field.attack(outcome, claims, 50)
        outcome.why_stored = f"anybody may claim in an open run; a slot keeps {LIMITS.signers_per_slot} signers"

    assert 0 < fight(attack).stored <= MOST_STORED


def test_flood_of_signers_into_one_slot_of_a_run_with_a_list(fight):
    async def attack(field, outcome):
        crowd = [person(20_000 + number) for number in range(FLOOD)]
        claims = [
            store for who in crowd for store in stores(who, make_claim(who, run=LISTED, iat=now(), exp=now() + 60))
        ]
        await field.attack(outcome, claims, 50)

    assert nothing_stored(fight(attack))


def test_flood_of_mirrors_into_one_slot_of_a_run_with_a_list(fight):
    async def attack(field, outcome):
        crowd = [person(30_000 + number) for number in range(FLOOD)]
        field.tolerate(*crowd)
        tips = [store for who in crowd for store in stores(who, make_tip(who, run=LISTED, iat=now(), exp=now() + 60))]
        await field.attack(outcome, tips, 50)
        outcome.why_stored = f"anybody may mirror; a slot keeps {LIMITS.signers_per_slot} signers, listed ones first"

    assert 0 < fight(attack).stored <= MOST_STORED


def test_flood_of_slots(fight):
    """One record in each of hundreds of runs that nobody knows."""

    async def attack(field, outcome):
        claims = [
            store
            for number in range(FLOOD)
            for store in stores(THIEF, make_claim(THIEF, run=digest_of(f"run {number}"), iat=now(), exp=now() + 60))
        ]
        await field.attack(outcome, claims, 50)
        outcome.why_stored = f"a node keeps {LIMITS.records} records of anybody, then no more"

    fight(attack)


def test_equivocation(fight):
    """Two records under one sequence number: whoever saw both uses neither."""

    async def attack(field, outcome):
        one = make_claim(THIEF, run=OPEN, iat=now(), exp=now() + 300, step=0)
        two = make_claim(THIEF, run=OPEN, iat=now(), exp=now() + 301, step=9)
        await field.attack(outcome, stores(THIEF, one, two))
        outcome.why_stored = "the first of the two was good when it came; the second convicts"

    fight(attack)


def honest_slot(field) -> list[list]:
    """The entries of the attacked slot, as an honest replica would return them."""
    return [[store["subkey"], store["value"], store["expiration"]] for store in field.said("claim", OPEN, "cluster-0")]


@pytest.mark.parametrize("latest", ["inf", 1e308, "nan", "-inf"])
def test_poisoned_answer_with_a_false_expiration(fight, latest):
    """A replica reports "infinity" to end every search at once, with only its own choice of entries."""

    async def attack(field, outcome):
        slots = [[size, latest, entries] for size in (None, 1) for entries in ([], honest_slot(field)[:1])]
        lies = [{"type": DICTIONARY, "slot": slot, "expiration": latest} for slot in slots]
        await field.lie("answer", KEY, lies)

    fight(attack)


@pytest.mark.parametrize("how", ["asker", "nobody", "myself", "stolen"])
def test_lying_about_the_nearest_peers(fight, how):
    async def attack(field, outcome):
        await field.lie("near", how, KEY)

    fight(attack)


def test_stolen_node_ids(fight):
    """The attacker says to everybody that it has the place in the DHT of each honest node."""

    async def attack(field, outcome):
        ids = [node_id for node_id, _ in await field.order("peers")]
        outcome.attempts += await field.order("ping", ids)

    fight(attack)


def test_a_thousand_node_ids_of_one_peer(fight):
    """One peer fills the routing tables with places of its own, half of them beside the key."""

    async def attack(field, outcome):
        key = int(DHTID.generate(KEY))
        ids = [hex(key ^ (7919 * number + 1)) for number in range(100)]
        ids += [hex(int(DHTID.generate(f"place {number}"))) for number in range(100)]
        outcome.attempts += await field.order("ping", ids)
        await field.lie("forget", True)

    fight(attack)


def test_a_silent_peer(fight):
    async def attack(field, outcome):
        await field.lie("silent", True)

    fight(attack)


def test_a_sybil_majority_around_a_key(fight):
    """Twelve nodes with keys of their own, all nearer to the key than anybody honest, say yes and keep nothing."""

    async def attack(field, outcome):
        await field.order("sybils", KEY, SYBILS)
        await field.lie("forget", True)

    fight(attack)


def test_poisoned_answers_of_strange_shapes(fight):
    """From all Sybils at once: a node that answered nonsense is shunned for a while."""

    async def attack(field, outcome):
        first = honest_slot(field)[:1]
        forged = [[THIEF.public_key.hex(), b"x".hex(), 1e308]]
        slots = [
            [None, now() + 600, honest_slot(field) + forged],
            [None, 1e308, forged * 300 + honest_slot(field)],
            *([size, now() + 600, first] for size in ("x", -1, 1e400, [])),
            *([None, now() + 600, [[subkey, *first[0][1:]]]] for subkey in ("", "ff" * 5000)),
            *([None, now() + 600, [[*first[0][:2], expires]]] for expires in ("nan", "inf", "-inf", 0)),
        ]
        values = ["", "c1", "00", "c450", "dfffffffff", "d850" + "00" * 16, "ff" * 10_000]
        await field.lie(
            "answer",
            KEY,
            [{"type": DICTIONARY, "slot": slot, "expiration": now() + 600} for slot in slots]
            + [
                {"type": kind, "value": value, "expiration": 1e308}
                for kind in (REGULAR, DICTIONARY)
                for value in values
            ]
            + [{"type": DICTIONARY, "bomb": depth, "expiration": "inf"} for depth in (10, 100, 1000)],
        )
        await field.look(outcome)

    fight(attack)


def test_a_sybil_majority_around_a_key_falls_silent(fight):
    async def attack(field, outcome):
        await field.lie("silent", True)

    fight(attack)
