"""Following curators against those who would rather have it otherwise: TUF's attacks on real files, and the choice of
what an ensemble is made of."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from network_simulator import ANN, BEN, CURATOR, EVE, NOW_S, TARGET, NetworkSimulator, person

from paris.protocol import envelope
from paris.protocol.charter import Charter
from paris.protocol.curation import Admission
from paris.protocol.digests import sha256_of
from paris.protocol.ensemble import Ensemble
from paris.protocol.errors import LineageError, RecordError, SignatureError, UnavailableError, UsageError
from paris.protocol.limits import LIMITS
from paris.protocol.records import Head
from paris.registry import governance as governance_module
from paris.registry.governance import Governance, follow_curators
from paris.registry.library import Library
from paris.registry.proposals import (
    amend,
    changed_admission,
    changed_curators,
    check_amends_only,
    check_promotes_only,
    complete,
    promote,
    sign,
)
from paris.registry.resolve import resolve
from paris.registry.selection import HEAD, LATEST, Wish, as_of, choose_policy, moment_s, select
from paris.registry.store import Store

DAY_S = LIMITS.life_s["head"]
DEE, FAY = person(11), person(12)


@pytest.fixture
def memory(tmp_path) -> Path:
    return tmp_path / "charters"


def follow(library: Library, memory: Path, now_s: float = NOW_S) -> Governance:
    network = library.network
    return asyncio.run(follow_curators(library, network.run, memory, now_s, network.providers))


def head(network: NetworkSimulator, charter, version: int, *signers, ensemble: Ensemble | None = None, **changes):
    people = signers or (CURATOR,)
    fields = {
        "run": network.run, "signer": people[0].peer_id, "seq": version, "iat": NOW_S, "exp": NOW_S + 600 + version,
        "version": version, "genesis": charter.digest,
    }  # fmt: skip
    named = {"ensemble": ensemble.digest} if ensemble else {}
    return envelope.sign("head", Head.parse({**fields, **named, **changes}), *people)


def promoted(network: NetworkSimulator, chains: dict[str, list[str]], *units: str, back: int = 1) -> Ensemble:
    return Ensemble(run=network.run, units={unit: chains[unit][-back] for unit in units or chains})


def publish(network: NetworkSimulator, charter, proposal, who=CURATOR, now_s: int = NOW_S):
    """Sign alone, serve everything, and return what is in force then."""
    whole = sign(proposal, charter, who, now_s)
    network.rule(*whole.blobs, whole.head)
    return complete(whole, charter)


def newcomer(tmp_path: Path, network: NetworkSimulator, name: str) -> Library:
    return Library(Store(tmp_path / name), network)


class TestFollowing:
    def test_without_a_head_the_first_genesis_alone_is_in_force(self, library, network, memory):
        governance = follow(library, memory)
        assert governance.charter.versions == (network.run,)
        assert network.rules[network.run] == governance.charter.rules
        assert not memory.exists()

    def test_a_head_is_taken_over_with_what_it_names_and_kept(self, library, network, memory):
        chains = network.train()
        charter = follow(library, memory).charter
        after = publish(network, charter, promote(charter, promoted(network, chains).units, 2, DAY_S, None))
        assert follow(library, memory).charter == after
        network.heads.clear()
        assert follow(library, memory).charter == after
        assert library.store.path(sha256_of(after.envelope))

    def test_the_newest_genesis_is_found_through_the_heads_that_name_it(self, library, network, memory):
        charter = follow(library, memory).charter
        for replicas in (3, 4, 5):
            charter = publish(network, charter, amend(charter, CURATOR, NOW_S, changes={"replicas": replicas}))
        network.heads = network.heads[-1:]
        found = follow(library, memory).charter
        assert found == charter
        assert (found.genesis.version, found.genesis.replicas, found.head.version) == (4, 5, 3)
        assert network.rules[network.run].genesis == charter.digest

    def test_a_handover_to_other_curators(self, library, network, memory):
        charter = follow(library, memory).charter
        board = changed_curators(charter.genesis.curators, [DEE.peer_id, FAY.peer_id], [CURATOR.peer_id], 2)
        proposal = amend(charter, CURATOR, NOW_S, changes={"curators": board})
        for who in (DEE, FAY):
            proposal = sign(proposal, charter, who, NOW_S)
        proposal = sign(proposal, charter, DEE, NOW_S)
        network.rule(*proposal.blobs, proposal.head)
        found = follow(library, memory).charter
        assert found.genesis.curators.keys == (DEE.peer_id, FAY.peer_id)
        assert found.signers == tuple(sorted((DEE.peer_id, FAY.peer_id)))
        network.rule(head(network, charter, 99))
        assert follow(library, memory).charter == found

    def test_the_same_head_renewed_lives_longer(self, library, network, memory):
        charter = publish(network, *begun(library, memory, network))
        network.rule(head(network, charter, 1, ensemble=charter.ensemble, seq=9, exp=NOW_S + DAY_S, iat=NOW_S + 100))
        charter = follow(library, memory, NOW_S + 200).charter
        assert charter.head.exp == NOW_S + DAY_S
        assert charter.live(NOW_S + DAY_S - 1)


def begun(library: Library, memory: Path, network: NetworkSimulator):
    """A charter, and a proposal to promote all there is."""
    charter = follow(library, memory).charter
    units = promoted(network, network.train()).units
    return charter, promote(charter, units, None, 600, None)


class TestTufAttacks:
    """The attacks of TUF's specification on what a node follows, files and all; on single records they are in
    `tests/protocol/attacks/test_tuf_attacks.py`."""

    def test_arbitrary_installation_heads_of_strangers_are_nothing(self, library, network, memory):
        charter, proposal = begun(library, memory, network)
        network.serve(EVE, proposal.ensemble)
        network.rule(head(network, charter, 9, EVE, ensemble=Ensemble.from_bytes(proposal.ensemble)))
        network.rule(b"no envelope at all")
        assert follow(library, memory).charter == charter

    def test_arbitrary_installation_a_genesis_the_curators_did_not_sign(self, library, network, memory):
        charter = follow(library, memory).charter
        fields = charter.genesis.model_dump(mode="json", exclude_none=True)
        board = {"keys": [EVE.peer_id], "threshold": 1}
        forged = envelope.sign("genesis", {**fields, "version": 2, "prev": network.run, "curators": board}, EVE)
        network.serve(CURATOR, forged)
        network.rule(head(network, dataclasses.replace(charter, versions=(network.run, sha256_of(forged))), 1, EVE))
        governance = follow(library, memory)
        assert governance.charter == charter
        assert "not signed by enough curators" in governance.troubles[0]

    def test_endless_data_a_flood_of_heads_costs_a_few_looks_each_time(self, library, network, memory):
        """64 heads that name as many versions nobody has; the true one behind them is found all the same."""
        charter = follow(library, memory).charter
        for number in range(60):
            coming = sha256_of(f"version {number}".encode())
            network.rule(head(network, charter, 9, person(100 + number), genesis=coming))
        after = publish(network, charter, amend(charter, CURATOR, NOW_S, changes={"replicas": 3}))
        governance = follow(library, memory)
        assert governance.charter == after
        assert len(governance.troubles) == governance_module.STRANGERS_FOLLOWED

    def test_endless_data_strangers_have_their_turn_one_after_the_other(self, library, network, memory):
        """Curators who share no key with those before them are found behind a flood of their likes."""
        charter = follow(library, memory).charter
        for number in range(10):
            coming = sha256_of(f"version {number}".encode())
            network.rule(head(network, charter, 9, person(100 + number), genesis=coming))
        board = changed_curators(charter.genesis.curators, [DEE.peer_id], [CURATOR.peer_id], 1)
        proposal = amend(charter, CURATOR, NOW_S, changes={"curators": board})
        proposal = sign(proposal, charter, DEE, NOW_S)
        network.rule(*proposal.blobs, proposal.head)
        governance = asyncio.run(Governance.recall(library, network.run, network.genesis, memory, network.providers))

        async def looks() -> int:
            for number in range(1, 9):
                if await governance.refresh(NOW_S, network.providers):
                    return number
            return 0

        assert asyncio.run(looks()) == 3
        assert governance.charter.genesis.curators.keys == (DEE.peer_id,)

    def test_endless_data_a_genesis_that_counts_down_for_ever(self, library, network, memory):
        charter = follow(library, memory).charter
        fields = charter.genesis.model_dump(mode="json", exclude_none=True)
        far = envelope.sign("genesis", {**fields, "version": 300, "prev": sha256_of(b"299")}, EVE)
        stuck = envelope.sign("genesis", {**fields, "version": 7, "prev": sha256_of(far)}, EVE)
        for data in (far, stuck):
            network.serve(CURATOR, data)
            network.rule(head(network, charter, 9, EVE, genesis=sha256_of(data)))
        governance = follow(library, memory)
        assert governance.charter == charter
        assert all("does not follow from the one that is known" in trouble for trouble in governance.troubles)
        assert not any(library.store.path(sha256_of(data)) for data in (far, stuck))

    def test_fast_forward_is_undone_by_other_curators(self, library, network, memory):
        charter = follow(library, memory).charter
        network.rule(head(network, charter, LIMITS.integer, exp=NOW_S + 600))
        charter = follow(library, memory).charter
        board = changed_curators(charter.genesis.curators, [DEE.peer_id], [CURATOR.peer_id], 1)
        proposal = sign(amend(charter, CURATOR, NOW_S, changes={"curators": board}), charter, DEE, NOW_S)
        network.rule(*proposal.blobs, proposal.head)
        for _ in range(2):
            assert follow(library, memory).charter.head.version == 1
        assert [path.name for path in sorted(memory.iterdir())] == ["charter-002-0000000000000001.json"]

    def test_indefinite_freeze_an_expired_head_decides_nothing_and_says_so(self, library, network, memory):
        charter = publish(network, *begun(library, memory, network))
        frozen = follow(library, memory, charter.head.exp).charter
        assert not frozen.live(charter.head.exp)
        with pytest.raises(UnavailableError, match=r"head 1 expired at 2027-01-15 08:10 UTC.*stays so"):
            asyncio.run(select(library, follow(library, memory).charter, network.providers, charter.head.exp))
        taken = asyncio.run(
            select(library, follow(library, memory).charter, network.providers, charter.head.exp, Wish(LATEST))
        )
        assert taken.policy == LATEST

    def test_malicious_mirror_another_list_under_the_right_name(self, library, network, memory, tmp_path):
        charter = follow(library, memory).charter
        after = publish(
            network, charter, amend(charter, CURATOR, NOW_S, admission=Admission(policy="list", keys=(ANN.peer_id,)))
        )
        lenient = Admission(policy="list", keys=(EVE.peer_id,))
        other = sign(amend(charter, CURATOR, NOW_S, admission=lenient), charter, CURATOR, NOW_S)
        network.replace(after.head.admission, other.listed)
        governance = follow(newcomer(tmp_path, network, "new"), tmp_path / "new memory")
        assert governance.charter == charter
        assert "sent other bytes" in governance.troubles[0]

    def test_malicious_mirror_withheld_blobs_hold_nobody_back_to_what_was_before(self, library, network, memory):
        """Who cannot get what a live head names must not go on as if there were none."""
        charter, proposal = begun(library, memory, network)
        after = publish(network, charter, proposal)
        network.forget(after.head.ensemble)
        with pytest.raises(UnavailableError, match=r"head 1 is in force, and nobody serves what it names"):
            follow(library, memory)

    def test_malicious_mirror_a_head_that_names_a_blob_of_ours_as_genesis_does_not_lose_it(
        self, library, network, memory
    ):
        """What is refused is not kept, unless it was there before."""
        charter = follow(library, memory).charter
        kept = library.store.put_bytes(b"weights, perhaps")
        network.rule(head(network, charter, 9, EVE, genesis=kept))
        assert len(follow(library, memory).troubles) == 1
        assert library.store.path(kept)

    def test_mix_and_match_an_ensemble_of_another_run_or_of_units_it_lacks(self, library, network, memory):
        charter, _ = begun(library, memory, network)
        odd = Ensemble(run=network.run, units={"cluster-9": sha256_of(b"x")})
        network.rule(odd.to_bytes(), head(network, charter, 1, ensemble=odd))
        governance = follow(library, memory)
        assert governance.charter.head is None
        assert "cluster-9" in governance.troubles[0]

    @pytest.mark.parametrize("expired", [False, True])
    def test_rollback_of_the_head_after_a_restart_also_when_it_has_expired(self, library, network, memory, expired):
        charter, proposal = begun(library, memory, network)
        network.rule(proposal.ensemble, head(network, charter, 7))
        assert follow(library, memory).charter.floor == 7
        old = head(network, charter, 6, exp=NOW_S + DAY_S)
        network.heads = [old]
        later = follow(library, memory, NOW_S + (5000 if expired else 0)).charter
        assert (later.floor, later.head.version) == (7, 7)

    def test_rollback_of_the_genesis_after_a_restart(self, library, network, memory):
        charter = follow(library, memory).charter
        after = publish(network, charter, amend(charter, CURATOR, NOW_S, changes={"replicas": 5}))
        assert follow(library, memory).charter == after
        network.heads = [head(network, charter, 50)]
        governance = follow(library, memory)
        assert (governance.charter, governance.troubles) == (after, [])

    def test_rollback_to_a_branch_that_was_not_taken(self, library, network, memory):
        charter = follow(library, memory).charter
        taken = publish(network, charter, amend(charter, CURATOR, NOW_S, changes={"replicas": 5}))
        assert follow(library, memory).charter == taken
        branch = sign(amend(charter, CURATOR, NOW_S, changes={"replicas": 9}), charter, CURATOR, NOW_S)
        deeper = complete(branch, charter)
        deeper = complete(sign(amend(deeper, CURATOR, NOW_S, changes={"replicas": 8}), deeper, CURATOR, NOW_S), deeper)
        network.rule(*branch.blobs, branch.head)
        network.rule(head(network, deeper, 60))
        governance = follow(library, memory)
        assert governance.charter == taken
        assert len(governance.troubles) == 2

    def test_rollback_by_a_damaged_memory_falls_to_the_note_before_not_to_nothing(
        self, library, network, memory, caplog
    ):
        charter = follow(library, memory).charter
        network.rule(head(network, charter, 3))
        assert follow(library, memory).charter.floor == 3
        (memory / "charter-001-9999999999999999.json").write_bytes(b"{")
        network.heads = [head(network, charter, 2)]
        assert follow(library, memory).charter.floor == 3
        assert "passed over" in caplog.text

    def test_a_store_that_lost_what_memory_names_is_told_not_led_back(self, library, network, memory):
        charter = follow(library, memory).charter
        after = publish(network, charter, amend(charter, CURATOR, NOW_S, changes={"replicas": 5}))
        follow(library, memory)
        library.store.remove(after.digest)
        network.forget(after.digest)
        with pytest.raises(UnavailableError, match="has seen version 2 of the genesis"):
            follow(library, memory)

    def test_wrong_software_a_version_nobody_can_train(self, library, network, memory, monkeypatch):
        """Signed by the right people, and useless here: it is told, and what was in force stays."""
        charter = follow(library, memory).charter
        publish(network, charter, amend(charter, CURATOR, NOW_S, changes={"replicas": 5}))

        def refuse(genesis):
            raise RecordError(f"version {genesis.version} is not for this release")

        monkeypatch.setattr(governance_module, "require_trainable", refuse)
        governance = follow(library, memory)
        assert governance.charter == charter
        assert "not for this release" in governance.troubles[0]


class TestMemory:
    def test_processes_of_one_home_write_beside_each_other(self, library, network, memory):
        """A slow process writes an older charter after a fast one wrote a newer: the newer counts."""
        charter = follow(library, memory).charter
        network.rule(head(network, charter, 1))
        slow = follow(library, memory)
        network.rule(head(network, charter, 2, seq=20, exp=NOW_S + 900))
        assert follow(library, memory).charter.floor == 2
        slow._take(dataclasses.replace(slow.charter, floor=1, head=None, envelope=b"", signers=()))
        assert follow(library, memory).charter.floor == 2

    def test_a_version_without_a_head_is_remembered_with_the_highest_head_of_before(self, library, network, memory):
        charter = follow(library, memory).charter
        network.rule(head(network, charter, 4))
        charter = follow(library, memory).charter
        proposal = sign(amend(charter, CURATOR, NOW_S, changes={"replicas": 3}), charter, CURATOR, NOW_S)
        network.serve(CURATOR, proposal.genesis)
        network.heads = [head(network, charter, 9, EVE, genesis=sha256_of(proposal.genesis))]
        for _ in range(2):
            found = follow(library, memory).charter
            assert (found.genesis.version, found.head, found.floor) == (2, None, 4)
            network.heads = []


@settings(max_examples=20)
@given(st.data())
def test_whatever_peers_show_and_hide_in_whatever_order_nothing_ever_goes_back(tmp_path_factory, data):
    """Curators go on publishing; the network shows any of it, again and again, between restarts with or without it."""
    folder = tmp_path_factory.mktemp("property")
    network = NetworkSimulator()
    library, newest = Library(Store(folder / "store"), network), Charter.begin(network.genesis, network.run)
    published: list[bytes] = []
    seen = (1, 0)
    for now_s in range(NOW_S, NOW_S + data.draw(st.integers(1, 6))):
        change = data.draw(st.sampled_from(["head", "genesis", "list", "nothing"]))
        if change == "head":
            units = {"router": sha256_of(str(now_s).encode())}
            listed = newest.head and newest.head.admission
            kept = network.bytes_of(listed) if listed else None
            newest = publish(network, newest, promote(newest, units, None, 600, kept), now_s=now_s)
        elif change == "genesis":
            replicas = newest.genesis.replicas % 60 + 1
            newest = publish(
                network, newest, amend(newest, CURATOR, now_s, changes={"replicas": replicas}), now_s=now_s
            )
        elif change == "list":
            admitted = changed_admission(newest.admission, now_s, expel=[person(now_s - NOW_S + 50).peer_id])
            newest = publish(network, newest, amend(newest, CURATOR, now_s, admission=admitted), now_s=now_s)
        if change != "nothing":
            published.append(network.heads[-1])
        network.heads = [each for each in published if data.draw(st.booleans())]
        shown = network.heads
        found = follow(library, folder / "memory", now_s).charter
        assert (len(found.versions), found.floor) >= seen
        seen = len(found.versions), found.floor
        if published and published[-1] in shown:
            assert found == newest
    network.heads = []
    again = follow(library, folder / "memory").charter
    assert (len(again.versions), again.floor) == seen


class TestAdmission:
    def test_an_expelled_key_keeps_what_it_finished_and_gets_no_further(self, library, network, memory):
        first = network.publish(ANN, "cluster-0", TARGET // 2)
        charter = follow(library, memory).charter
        out = changed_admission(charter.admission, NOW_S + TARGET // 2, expel=[ANN.peer_id])
        publish(network, charter, amend(charter, CURATOR, NOW_S, admission=out))
        network.publish(ANN, "cluster-0", TARGET, first)
        charter = follow(library, memory).charter
        assert not network.rules[network.run].admission.admits(ANN.peer_id)

        def unit(charter):
            return asyncio.run(resolve(library, network.run, network.providers, charter=charter)).units["cluster-0"]

        now, before = unit(charter), unit(None)
        assert (now.step, before.step) == (0, TARGET)
        assert "does not admit this key" in now.refused[0]
        network.tip(BEN, "cluster-0", first)
        assert unit(charter).step == TARGET // 2

    def test_readmitted_keys_are_former_no_more(self):
        admission = Admission(policy="list", keys=(ANN.peer_id, BEN.peer_id))
        out = changed_admission(admission, 7, expel=[ANN.peer_id])
        assert out.keys == (BEN.peer_id,)
        assert [(each.key, each.until) for each in out.former] == [(ANN.peer_id, 7)]
        assert changed_admission(out, 8, admit=[ANN.peer_id]).former == ()
        assert changed_admission(out, 9, expel=[ANN.peer_id]).former[0].until == 9
        assert changed_admission(out, 9, policy="open").policy == "open"
        with pytest.raises(UsageError, match="at once"):
            changed_admission(admission, 7, admit=[ANN.peer_id], expel=[ANN.peer_id])


class TestProposals:
    @pytest.fixture
    def network(self):
        keys = [CURATOR.peer_id, DEE.peer_id, FAY.peer_id]
        return NetworkSimulator(curators={"keys": keys, "threshold": 1})

    @pytest.fixture
    def shared(self, network, library, memory):
        """A run that two of three curators decide about."""
        charter = follow(library, memory).charter
        board = changed_curators(charter.genesis.curators, [], [], 2)
        proposal = amend(charter, CURATOR, NOW_S, changes={"curators": board})
        proposal = sign(sign(proposal, charter, DEE, NOW_S), charter, FAY, NOW_S)
        return complete(proposal, charter)

    def test_two_of_three_promote_in_one_round(self, network, shared):
        units = {"cluster-0": sha256_of(b"a"), "router": sha256_of(b"b")}
        half = sign(promote(shared, units, 2, 600, None), shared, DEE, NOW_S)
        with pytest.raises(SignatureError, match="not signed by enough"):
            complete(half, shared)
        carried = type(half).parse(half.to_bytes())
        assert carried == half
        whole = sign(carried, shared, CURATOR, NOW_S)
        after = complete(whole, shared)
        assert after.ensemble.units == units
        assert (after.head.signer, after.head.top_k, after.floor) == (DEE.peer_id, 2, shared.floor + 1)

    def test_two_of_three_amend_in_two_rounds(self, network, shared):
        admission = Admission(policy="list", keys=(ANN.peer_id,))
        first = amend(shared, CURATOR, NOW_S, admission=admission)
        assert sign(first, shared, CURATOR, NOW_S) == first
        second = sign(first, shared, DEE, NOW_S)
        assert second.head
        with pytest.raises(SignatureError):
            complete(second, shared)
        assert complete(sign(second, shared, FAY, NOW_S), shared).admission == admission

    @pytest.mark.parametrize("part", ["genesis", "listed", "head"])
    def test_strangers_sign_nothing(self, network, shared, part):
        changes = {"replicas": 4}
        proposal = {
            "genesis": lambda: amend(shared, CURATOR, NOW_S, changes=changes),
            "listed": lambda: amend(shared, CURATOR, NOW_S, admission=Admission(policy="list")),
            "head": lambda: promote(shared, {"router": sha256_of(b"r")}, None, 600, None),
        }[part]()
        with pytest.raises(SignatureError, match="may not sign"):
            sign(proposal, shared, EVE, NOW_S)
        if part != "head":
            made = {"changes": changes} if part == "genesis" else {"admission": Admission(policy="list")}
            with pytest.raises(SignatureError, match="may not sign"):
                amend(shared, EVE, NOW_S, **made)

    def test_a_proposal_that_does_not_say_what_it_carries_is_not_signed(self, network, shared):
        """The first signer swaps the ensemble after signing; the second would sign a digest it never saw."""
        half = sign(promote(shared, {"router": sha256_of(b"r")}, None, 600, None), shared, DEE, NOW_S)
        other = promote(shared, {"router": sha256_of(b"evil")}, None, 600, None)
        with pytest.raises(RecordError, match="something else than this proposal"):
            sign(dataclasses.replace(half, ensemble=other.ensemble), shared, FAY, NOW_S)
        with pytest.raises(RecordError, match="another run"):
            sign(dataclasses.replace(half, run=sha256_of(b"x")), shared, FAY, NOW_S)

    def test_nothing_is_signed_along_unseen(self, network, shared):
        """A proposal to amend brings another ensemble along, one to promote an admission list."""
        units = {"router": sha256_of(b"r")}
        admission = Admission(policy="list", keys=(ANN.peer_id,))
        amended, promoting = amend(shared, CURATOR, NOW_S, admission=admission), promote(shared, units, None, 600, None)
        check_amends_only(amended, shared)
        check_promotes_only(promoting, shared)
        for sneaky in ({"ensemble": promoting.ensemble}, {"top_k": 1}):
            with pytest.raises(RecordError, match="changes the ensemble too"):
                check_amends_only(dataclasses.replace(amended, **sneaky), shared)
        versioned = amend(shared, CURATOR, NOW_S, changes={"replicas": 4})
        for sneaky in ({"listed": amended.listed}, {"genesis": versioned.genesis}):
            with pytest.raises(RecordError, match="more than the ensemble"):
                check_promotes_only(dataclasses.replace(promoting, **sneaky), shared)
        listed = complete(sign(sign(amended, shared, DEE, NOW_S), shared, FAY, NOW_S), shared)
        check_promotes_only(promote(listed, units, None, 600, listed_bytes(amended, DEE)), listed)
        with pytest.raises(RecordError, match="more than the ensemble"):
            check_promotes_only(promote(listed, units, None, 600, None), listed)

    def test_a_proposal_from_before_another_was_published_is_stale(self, network, shared):
        half = sign(promote(shared, {"router": sha256_of(b"r")}, None, 600, None), shared, DEE, NOW_S)
        other = sign(promote(shared, {"router": sha256_of(b"s")}, None, 600, None), shared, CURATOR, NOW_S)
        newer = complete(sign(other, shared, FAY, NOW_S), shared)
        with pytest.raises(RecordError, match="the next one is"):
            sign(half, newer, FAY, NOW_S)
        amended = amend(shared, CURATOR, NOW_S, changes={"replicas": 4})
        moved = complete(sign(sign(amended, shared, DEE, NOW_S), shared, FAY, NOW_S), shared)
        with pytest.raises(LineageError, match="does not follow"):
            sign(amended, moved, FAY, NOW_S)

    def test_what_would_be_another_run_or_nothing(self, network, shared):
        with pytest.raises(RecordError, match="changes name"):
            amend(shared, CURATOR, NOW_S, changes={"name": "other"})
        with pytest.raises(UsageError, match="nothing would change"):
            amend(shared, CURATOR, NOW_S)
        with pytest.raises(UsageError, match="is no curator"):
            changed_curators(shared.genesis.curators, [], [EVE.peer_id], None)

    def test_later_heads_of_one_key_expire_later(self, network, shared):
        """The DHT keeps the record that expires last: a shorter head after a longer one would never be seen."""
        units = {"router": sha256_of(b"r")}
        long = complete(
            sign(sign(promote(shared, units, None, DAY_S, None), shared, DEE, NOW_S), shared, FAY, NOW_S), shared
        )
        short = sign(promote(long, {"router": sha256_of(b"s")}, None, 600, None), long, DEE, NOW_S + 5)
        made = Head.parse(envelope.verify(short.head, "head").payload)
        assert (made.exp, made.seq > long.head.seq) == (long.head.exp + 1, True)
        assert made.exp - made.iat <= DAY_S

    @pytest.mark.parametrize("text", [b"[]", b"{}", b'{"run": 1}', b"\xff", b'{"run": "sha256:x"}'])
    def test_files_that_are_no_proposals(self, network, shared, text):
        with pytest.raises(envelope.EnvelopeError):
            type(promote(shared, {"router": sha256_of(b"r")}, None, 1, None)).parse(text)


def listed_bytes(proposal, *signers) -> bytes:
    """The admission list of a proposal with more signatures."""
    data = proposal.listed
    for who in signers:
        data = envelope.cosign(data, "admission", who)
    return data


class TestSelection:
    def test_the_head_decides_and_the_revoked_disappear_at_the_next(self, library, network, memory):
        chains = network.train()
        charter = follow(library, memory).charter
        all_units = promoted(network, chains, back=2)
        charter = publish(network, charter, promote(charter, all_units.units, 2, 600, None))
        chosen = asyncio.run(select(library, charter, network.providers, NOW_S))
        assert (chosen.policy, chosen.resolved.top_k) == (HEAD, 2)
        assert {name: unit.checkpoint for name, unit in chosen.resolved.units.items()} == all_units.units
        assert all(unit.step == TARGET // 2 and unit.providers for unit in chosen.resolved.units.values())
        fewer = promoted(network, chains, "cluster-0", "router")
        charter = publish(network, charter, promote(charter, fewer.units, None, 600, None), now_s=NOW_S + 1)
        chosen = asyncio.run(select(library, follow(library, memory).charter, network.providers, NOW_S + 1))
        assert list(chosen.resolved.units) == ["cluster-0", "router"]
        assert "without cluster-1" in chosen.why
        assert json.loads(json.dumps(chosen.why))
        with pytest.raises(UnavailableError, match="cluster-1 is not in the curators' head"):
            asyncio.run(select(library, charter, network.providers, NOW_S, Wish(experts="0,1,router")))
        latest = asyncio.run(select(library, charter, network.providers, NOW_S, Wish(LATEST)))
        assert list(latest.resolved.units) == ["cluster-0", "cluster-1", "router"]
        assert "not the curators' head 2" in latest.why

    def test_without_a_head_the_newest(self, library, network, memory):
        network.train()
        charter = follow(library, memory).charter
        chosen = asyncio.run(select(library, charter, network.providers, NOW_S, Wish(experts="router 1")))
        assert (chosen.policy, list(chosen.resolved.units)) == (LATEST, ["cluster-1", "router"])
        assert "no head of the curators names an ensemble" in chosen.why
        with pytest.raises(UnavailableError, match="have promoted no ensemble"):
            choose_policy(charter, Wish(HEAD), NOW_S)
        bare = charter.adopt(head(network, charter, 1))
        assert choose_policy(bare, Wish(), NOW_S)[0] == LATEST

    def test_a_promoted_checkpoint_that_does_not_verify_is_refused_by_name(self, library, network, memory):
        """Curators may be mistaken: a checkpoint by somebody who never was admitted stays out."""
        chains = network.train()
        charter = follow(library, memory).charter
        only_ben = Admission(policy="list", keys=(BEN.peer_id,))
        charter = publish(network, charter, amend(charter, CURATOR, NOW_S, admission=only_ben))
        proposal = promote(
            charter, promoted(network, chains).units, None, 600, network.bytes_of(charter.head.admission)
        )
        charter = publish(network, charter, proposal, now_s=NOW_S + 1)
        with pytest.raises(LineageError, match=r"of cluster-0 does not hold.*does not admit"):
            asyncio.run(select(library, charter, network.providers, NOW_S))

    def test_lineages_as_they_stood_then(self, library, network):
        network.train()
        unit = asyncio.run(resolve(library, network.run, network.providers)).units["cluster-0"]
        half = TARGET // 2
        assert [as_of(unit, str(step)).step for step in (half - 1, half, TARGET - 1, TARGET)] == [0, half, half, TARGET]
        moments = [NOW_S + half - 1, NOW_S + half, NOW_S + TARGET]
        texts = [governance_time(moment) for moment in moments]
        assert [as_of(unit, text).step for text in texts] == [0, half, TARGET]
        assert as_of(unit, "2027-01-15").step == TARGET
        assert as_of(unit, "2027-01-14").step == 0
        assert as_of(unit, "") is unit

    def test_moments_as_people_write_them(self):
        assert moment_s("2027-01-15T08:00:00Z") == NOW_S
        assert moment_s("2027-01-15T08:00") == NOW_S
        assert moment_s("2027-01-15T09:00+01:00") == NOW_S
        assert moment_s("2027-01-15") == NOW_S + 16 * 3600 - 1

    @pytest.mark.parametrize(
        "wish", [{"policy": "newest"}, {"at": "yesterday"}, {"at": "2026-13-01"}, {"policy": HEAD, "at": "4"}]
    )
    def test_wishes_that_make_no_sense(self, wish):
        with pytest.raises(UsageError):
            Wish(**wish)

    @pytest.mark.parametrize("experts", ["7", "router,moon", "cluster-x"])
    def test_units_the_run_does_not_have(self, network, experts):
        with pytest.raises(UsageError, match="this run has no"):
            Wish(experts=experts).units(network.genesis)


def governance_time(moment: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(moment, UTC).isoformat()
