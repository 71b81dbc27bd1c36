"""A hostile node without any validator, in a process of its own, against three honest ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path

import pytest
from protocol_support import digest_of, make_claim, make_tip, person, signed, swarm_of

from paris.protocol.records import record_key
from paris.protocol.transport.dht import Swarm

RUN = digest_of("run")
KEY = record_key("claim", RUN, "cluster-0")
ATTACKER = Path(__file__).parent.parent / "peers" / "attacker.py"
HONEST = (1, 2, 3)

pytestmark = pytest.mark.slow


@contextlib.asynccontextmanager
async def attacker(address: str, entries: list[dict]):
    """A hostile process that has stored its entries wherever it could; yields what the honest nodes answered."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(ATTACKER), address, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        process.stdin.write(json.dumps(entries).encode() + b"\n")
        answers = json.loads(await asyncio.wait_for(process.stdout.readline(), 60))
        yield answers
    finally:
        process.stdin.close()
        await process.wait()


def entry(value: bytes, expiration, subkey: bytes | None = None, key: str = KEY, **more) -> dict:
    return {"key": key, "value": value.hex(), "expiration": expiration, "subkey": subkey and subkey.hex()} | more


async def publish_honest(swarms: list[Swarm], now_s: int) -> None:
    for number, swarm in zip(HONEST, swarms, strict=True):
        await swarm.publish(signed(make_claim(person(number), seq=5, iat=now_s, exp=now_s + 300), person(number)))


async def view(swarm: Swarm) -> list:
    return [(record.signer, record.seq) for record in await swarm.records("claim", RUN, "cluster-0")]


def attack_changes_nothing(tmp_path, run_async, make_entries, *, publish_first=True):
    """Run an attack and demand that every honest view is what it would be without it."""

    async def scene():
        now_s = int(time.time())
        expected = sorted((person(number).peer_id, 5) for number in HONEST)
        async with swarm_of(tmp_path, *HONEST) as swarms:
            if publish_first:
                await publish_honest(swarms, now_s)
            async with attacker(swarms[0].addrs[0], make_entries(now_s)) as answers:
                assert len(answers[0]) == 2 * len(HONEST), "the attacker must have reached every honest node"
                if not publish_first:
                    await publish_honest(swarms, now_s)
                for swarm in swarms:
                    assert await view(swarm) == expected
            return answers, [list(swarm.refusals) for swarm in swarms]

    return run_async(scene())


def all_refused(answers) -> bool:
    return not any(stored for entry_answers in answers for answer in entry_answers for stored in answer)


@pytest.mark.parametrize("publish_first", [True, False], ids=["after", "before"])
def test_a_plain_record_with_later_expiry_wipes_no_slot(tmp_path, run_async, publish_first):
    """hivemind alone loses every signed subkey to this one store."""

    def entries(now_s):
        return [entry(b"wiped", now_s + 10**6), entry(b"wiped", 1e308)]

    answers, refusals = attack_changes_nothing(tmp_path, run_async, entries, publish_first=publish_first)
    assert all_refused(answers)
    assert all(refusals)


def test_forged_records(tmp_path, run_async):
    """Signed by somebody else, bent after signing, or put under another's subkey."""

    def entries(now_s):
        victim, thief = person(1), person(66)
        newer = make_claim(victim, seq=9, iat=now_s, exp=now_s + 400)
        good = signed(newer, victim)
        return [
            entry(signed(newer, thief), now_s + 400, victim.public_key),
            entry(good.replace(b"A", b"B", 1), now_s + 400, victim.public_key),
            entry(good, now_s + 400, thief.public_key),
            entry(good, now_s + 401, victim.public_key),
            entry(good, now_s + 400),
            entry(good, now_s + 400, victim.public_key, record_key("claim", RUN, "cluster-1")),
            entry(good, now_s + 400, victim.public_key, record_key("tip", RUN, "cluster-0")),
            entry(b"junk", now_s + 400, victim.public_key),
            entry(b"\xc1\xff", now_s + 400, victim.public_key, raw=True),
        ]

    answers, _ = attack_changes_nothing(tmp_path, run_async, entries)
    assert all_refused(answers)


def test_records_of_other_kinds_runs_and_times(tmp_path, run_async):
    def entries(now_s):
        who = person(66)
        tip = make_tip(who, iat=now_s, exp=now_s + 300)
        year = make_claim(who, iat=now_s, exp=now_s + 365 * 86_400)
        future = make_claim(who, iat=now_s + 3600, exp=now_s + 3900)
        other = make_claim(who, run=digest_of("other"), iat=now_s, exp=now_s + 300)
        records = [tip, year, future, other]
        return [entry(signed(record, who), record.exp, who.public_key) for record in records]

    answers, refusals = attack_changes_nothing(tmp_path, run_async, entries)
    assert all_refused(answers)
    reasons = " ".join(refusals[0])
    for words in ("foreign key", "lives 31536000 s", "in the future"):
        assert words in reasons


def test_replay_of_an_older_record(tmp_path, run_async):
    def entries(now_s):
        who = person(1)
        old = make_claim(who, seq=4, iat=now_s, exp=now_s + 299)
        late = make_claim(who, seq=4, iat=now_s, exp=now_s + 800)
        return [entry(signed(old, who), old.exp, who.public_key), entry(signed(late, who), late.exp, who.public_key)]

    answers, refusals = attack_changes_nothing(tmp_path, run_async, entries)
    assert all_refused(answers)
    assert any("we know seq 5" in reason for reason in refusals[0])


def test_one_bad_entry_does_not_hide_the_good_ones_of_a_slot(tmp_path, run_async):
    """A replica returns a whole slot, honest entries and one forged: plain hivemind would drop all of it."""

    def entries(now_s):
        good = [
            (
                person(n).public_key.hex(),
                signed(make_claim(person(n), seq=5, iat=now_s, exp=now_s + 300), person(n)).hex(),
            )
            for n in HONEST
        ]
        slot = [[subkey, value, now_s + 300] for subkey, value in good] + [
            [person(66).public_key.hex(), b"x".hex(), 1e308]
        ]
        return [entry(b"", now_s + 10**6, dictionary=slot)]

    attack_changes_nothing(tmp_path, run_async, entries)


def test_a_replica_reports_an_infinite_expiration_to_end_searches_early(tmp_path, run_async):
    def entries(now_s):
        who = person(1)
        slot = [
            [who.public_key.hex(), signed(make_claim(who, seq=5, iat=now_s, exp=now_s + 300), who).hex(), now_s + 300]
        ]
        return [entry(b"", "inf", dictionary=slot), entry(b"", "inf", dictionary=slot, maxsize=1)]

    attack_changes_nothing(tmp_path, run_async, entries)


def test_a_slot_of_a_strange_shape_breaks_no_search(tmp_path, run_async):
    def entries(now_s):
        odd = [b"k".hex(), b"".hex(), now_s + 300]
        return [entry(b"", "inf", dictionary=slot, maxsize="x") for slot in ([], [odd])]

    attack_changes_nothing(tmp_path, run_async, entries)


def test_two_records_under_one_sequence_number_count_for_neither(tmp_path, run_async):
    async def scene():
        now_s = int(time.time())
        who = person(66)
        one = make_claim(who, iat=now_s, exp=now_s + 300, step=0)
        two = make_claim(who, iat=now_s, exp=now_s + 301, step=9)
        async with swarm_of(tmp_path, *HONEST) as swarms:
            await publish_honest(swarms, now_s)
            stores = [entry(signed(record, who), record.exp, who.public_key) for record in (one, two)]
            async with attacker(swarms[0].addrs[0], stores):
                expected = sorted((person(number).peer_id, 5) for number in HONEST)
                for swarm in swarms:
                    assert await view(swarm) == expected

    run_async(scene())
