"""Following curators against those who would rather have it otherwise: TUF's attacks on real files."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest
from governance_support import DAY_S, DEE, FAY, follow, head, newcomer, promoted, publish
from hypothesis import given, settings
from hypothesis import strategies as st
from network_simulator import ANN, BEN, CURATOR, EVE, NOW_S, TARGET, NetworkSimulator, person

from paris.protocol import envelope
from paris.protocol.charter import Charter
from paris.protocol.curation import Admission
from paris.protocol.digests import sha256_of
from paris.protocol.ensemble import Ensemble
from paris.protocol.errors import RecordError, UnavailableError, UsageError
from paris.protocol.limits import LIMITS
from paris.registry import governance as governance_module
from paris.registry.governance import Governance
from paris.registry.library import Library
from paris.registry.proposals import (
    amend,
    changed_admission,
    changed_curators,
    complete,
    promote,
    sign,
)
from paris.registry.resolve import resolve
from paris.registry.selection import LATEST, Wish, select
from paris.registry.store import Store


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
