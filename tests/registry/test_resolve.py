"""From a run key to verified lineages: every way peers can lie about a run, and what an honest observer makes of it."""

from __future__ import annotations

import asyncio
import dataclasses
import json

import pytest
from network_simulator import ANN, BEN, CURATOR, EVE, ROUTER, TARGET, NetworkSimulator, genesis_fields, person
from resolve_support import UNIT, refusal, resolved, resolved_run

from paris.protocol import envelope
from paris.protocol.digests import sha256_of
from paris.protocol.errors import DigestError, NetworkError, RecordError, SignatureError, UnavailableError
from paris.protocol.limits import LIMITS
from paris.registry import resolve as resolve_module
from paris.registry.library import Library
from paris.registry.resolve import known_peers, load_genesis, resolve

MODEL, TEXT, TRAINING = (genesis_fields()[name] for name in ("model", "text", "training"))


# Honest runs.


def test_a_run_nobody_trains_yet(library):
    run = resolved_run(library)
    assert list(run.units) == ["cluster-0", "cluster-1", "router"]
    assert not run.usable
    assert not run.complete
    unit = run.units[UNIT]
    assert (unit.step, unit.checkpoint, unit.manifest, unit.holders, unit.complete) == (0, None, None, (), False)


def test_a_run_trained_to_its_end(library, network):
    chains = network.train()
    run = resolved_run(library)
    assert run.complete
    assert run.usable
    assert run.run == network.run
    for unit, digests in chains.items():
        found = run.units[unit]
        assert list(found.digests) == digests
        assert found.checkpoint == digests[-1]
        assert [segment.to_step for segment in found.lineage] == [TARGET // 2, TARGET]
        assert found.manifest == found.lineage[-1].manifest
        assert found.providers == (ANN.peer_id,)
        assert found.refused == ()


def test_a_run_with_one_checkpoint_each_is_usable_and_not_complete(library, network):
    for unit in network.genesis.units():
        network.publish(ANN, unit, 3)
    assert resolved_run(library).usable
    assert not resolved_run(library).complete


def test_a_takeover_shows_both_names_each_once_in_a_row(library, network):
    chain: list[str] = [network.publish(ANN, UNIT, 10)]
    for who, step in ((ANN, 20), (BEN, 30), (BEN, 40), (ANN, 50)):
        chain.append(network.publish(who, UNIT, step, chain[-1]))
        network.mirror(who, UNIT, chain[-1])
    assert resolved(library).holders == (ANN.peer_id, BEN.peer_id, ANN.peer_id)


def test_ancestors_come_from_peers_that_are_no_tip_holders(library, network):
    first = network.publish(ANN, UNIT, 10)
    network.publish(BEN, UNIT, 20, first)
    found = asyncio.run(resolve(library, network.run, (CURATOR.peer_id, ANN.peer_id), units=[UNIT]))
    assert found.units[UNIT].step == 20


def test_what_was_resolved_once_costs_no_second_transfer(library, network):
    network.train()
    resolved_run(library)
    before = len(network.transfers)
    assert resolved_run(library).complete
    assert len(network.transfers) == before


# The genesis.


def test_a_genesis_changed_after_signing(library, network):
    forged = json.loads(network.bytes_of(network.run))
    other = envelope.sign("genesis", {**network.genesis.model_dump(mode="json"), "replicas": 9}, CURATOR)
    forged["payload"] = json.loads(other)["payload"]
    run = network.serve(CURATOR, json.dumps(forged, sort_keys=True, separators=(",", ":")).encode())
    with pytest.raises(SignatureError, match="does not verify") as caught:
        asyncio.run(resolve(library, run, network.providers))
    assert caught.value.exit_code == 3


def test_a_genesis_signed_by_a_stranger(library, network):
    run = network.serve(CURATOR, envelope.sign("genesis", network.genesis, EVE))
    with pytest.raises(SignatureError, match="names other curators") as caught:
        asyncio.run(load_genesis(library, run, network.providers))
    assert caught.value.exit_code == 3


def test_a_genesis_signed_by_too_few(library, network):
    two = {"keys": [CURATOR.peer_id, ANN.peer_id], "threshold": 2}
    genesis = NetworkSimulator().genesis.model_dump(mode="json") | {"curators": two}
    run = network.serve(CURATOR, envelope.sign("genesis", genesis, CURATOR))
    with pytest.raises(SignatureError, match="enough curators"):
        asyncio.run(load_genesis(library, run, network.providers))


def test_a_genesis_of_another_digest(library, network):
    network.replace(network.run, envelope.sign("genesis", network.genesis, EVE))
    with pytest.raises(DigestError) as caught:
        resolved_run(library)
    assert caught.value.exit_code == 3


def test_a_genesis_of_another_shape(library, network):
    fields = network.genesis.model_dump(mode="json") | {"replicas": 0}
    run = network.serve(CURATOR, envelope.sign("genesis", fields, CURATOR))
    with pytest.raises(RecordError, match="replicas"):
        asyncio.run(load_genesis(library, run, network.providers))


def test_a_genesis_nobody_serves(library, network):
    network.leave(CURATOR)
    with pytest.raises(UnavailableError) as caught:
        resolved_run(library)
    assert caught.value.exit_code == 4
    assert f"the genesis of run paris://{network.run[7:23]}" in caught.value.what


def test_a_genesis_comes_from_a_peer_that_only_announced_itself(library, network):
    network.serve(BEN, network.bytes_of(network.run))
    network.leave(CURATOR)
    network.greet(BEN)
    assert asyncio.run(load_genesis(library, network.run)) == network.genesis


@pytest.mark.parametrize(("hints", "said"), [((), True), (("/ip4/1.1.1.1/tcp/1/p2p/x",), False), (None, False)])
def test_a_key_that_names_nobody_is_told_so(library, network, hints, said):
    with pytest.raises(UnavailableError, match="the genesis of run") as caught:
        asyncio.run(load_genesis(library, network.run, hints=hints))
    assert ("this key names no peers: give one with --peer" in caught.value.hint) is said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"preset": "giant", "expert": {}, "router": {}}}, "preset 'giant'"),
        ({"model": {**MODEL, "expert": {**MODEL["expert"], "width": 2**20}}}, "not those of the preset micro"),
        ({"model": {**MODEL, "expert": {}}}, "not those of the preset micro"),
        ({"model": {**MODEL, "router": {**ROUTER, "clusters": 3}}}, "not those of the preset micro"),
        ({"model": {**MODEL, "preset": "tiny"}}, "not those of the preset tiny"),
        ({"text": {**TEXT, "tokens": 2**40}}, "text encoder"),
        ({"text": {**TEXT, "name": "../../etc"}}, "text encoder"),
        ({"text": {**TEXT, "kind": "clip"}}, "text encoder"),
        ({"training": {**TRAINING, "expert": {**TRAINING["expert"], "lr": "0"}}}, "lr 0.0"),
    ],
)
def test_a_genesis_that_asks_for_the_absurd_is_refused_before_anything_is_built(store, changes, said):
    network = NetworkSimulator(**changes)
    with pytest.raises(RecordError, match="cannot train the run 'squares'") as caught:
        asyncio.run(load_genesis(Library(store, network), network.run, network.providers))
    assert said in caught.value.why
    assert caught.value.exit_code == 3


# Tips that lie.


def test_a_tip_that_names_a_checkpoint_of_another_unit(library, network):
    other = network.publish(ANN, "cluster-1", 10)
    network.tip(EVE, UNIT, other)
    network.serve(EVE, network.bytes_of(other))
    assert "names a checkpoint of cluster-1" in refusal(library)
    assert resolved(library, "cluster-1").step == 10


@pytest.mark.parametrize("claimed", [0, 9, 11, TARGET, 2**53])
def test_a_tip_that_lies_about_its_step(library, network, claimed):
    checkpoint = network.publish(ANN, UNIT, 10, tip=False)
    network.tip(ANN, UNIT, checkpoint, step=claimed)
    assert f"the tip says step {claimed}, the checkpoint 10" in refusal(library)


def test_a_liar_beside_an_honest_holder_of_the_same_checkpoint(library, network):
    checkpoint = network.publish(ANN, UNIT, 10)
    network.tip(EVE, UNIT, checkpoint, step=TARGET)
    found = resolved(library)
    assert found.step == 10
    assert len(found.refused) == 1


def test_a_tip_to_nothing(library, network):
    network.tip(EVE, UNIT, sha256_of(b"nothing"), step=TARGET)
    assert "nobody serves" in refusal(library)


def test_a_tip_to_bytes_that_are_no_checkpoint(library, network):
    network.tip(EVE, UNIT, network.serve(EVE, b"\x00" * 100), step=TARGET)
    assert "not JSON" in refusal(library)


def test_a_tip_to_the_genesis(library, network):
    network.tip(EVE, UNIT, network.run, step=TARGET)
    assert "not a checkpoint" in refusal(library)


def test_many_liars_do_not_hide_the_one_that_tells_the_truth(library, network):
    network.publish(ANN, UNIT, 10)
    for number in range(40):
        network.tip(person(100 + number), UNIT, sha256_of(bytes([number])), step=TARGET)
    assert resolved(library).step == 10
    assert len(resolved(library).refused) == 40


def test_a_false_tip_that_is_never_served_holds_up_no_other(library, network, monkeypatch):
    """Its digest comes first, and whoever is asked for it answers only once the honest one was fetched: or never."""
    honest = network.publish(ANN, UNIT, 10)
    false = "sha256:" + "0" * 64
    network.tip(EVE, UNIT, false, step=TARGET)
    fetched, plain = asyncio.Event(), network.fetch_blob

    async def stalling(digest, providers):
        if digest == false:
            await fetched.wait()
        data = await plain(digest, providers)
        if digest == honest:
            fetched.set()
        return data

    monkeypatch.setattr(network, "fetch_blob", stalling)
    found = resolved(library)
    assert found.step == 10
    assert "nobody serves" in found.refused[0]


def test_a_tip_whose_lineage_never_comes_is_passed_over_in_bounded_time(library, network, monkeypatch):
    network.publish(ANN, UNIT, 10)
    resolved(library)
    network.tip(EVE, UNIT, sha256_of(b"nothing"), step=TARGET)

    async def silence(_digest, _providers):
        await asyncio.Event().wait()

    monkeypatch.setattr(network, "fetch_blob", silence)
    monkeypatch.setattr(resolve_module, "TIP_S", 0.2)
    found = resolved(library)
    assert found.step == 10
    assert "did not come in" in found.refused[0]


def test_chains_that_share_ancestors_fetch_each_once(library, network, monkeypatch):
    chain = [network.publish(ANN, UNIT, 10)]
    for step in (20, 30):
        chain.append(network.publish(ANN, UNIT, step, parent=chain[-1]))
    network.tip(BEN, UNIT, chain[0], step=10)
    network.tip(EVE, UNIT, chain[1], step=20)
    plain = network.fetch_blob

    async def slow(digest, providers):
        await asyncio.sleep(0)
        return await plain(digest, providers)

    monkeypatch.setattr(network, "fetch_blob", slow)
    assert resolved(library).step == 30
    assert sorted(network.transfers) == sorted({*chain, network.run})


# Statements that lie.


def test_a_forged_statement(library, network):
    real = json.loads(network.bytes_of(network.publish(ANN, UNIT, 10, tip=False)))
    other = json.loads(network.bytes_of(network.publish(ANN, UNIT, 50, tip=False)))
    forged = json.dumps({**real, "payload": other["payload"]}, sort_keys=True, separators=(",", ":")).encode()
    network.tip(EVE, UNIT, network.serve(EVE, forged), step=50)
    assert "does not verify" in refusal(library)


def test_a_statement_signed_by_somebody_else_than_its_builder(library, network):
    network.publish(ANN, UNIT, 10, signed_by=EVE)
    assert "not signed by its builder" in refusal(library)


def test_a_statement_of_another_run(library, network):
    other = NetworkSimulator(name="other squares")
    assert other.run != network.run
    network.publish(ANN, UNIT, 10, run=other.run)
    assert "belongs to another run" in refusal(library)


def test_a_copied_statement_stays_its_authors(library, network):
    """A plagiarist can serve a checkpoint, that is what mirrors do; the lineage names who trained it."""
    network.mirror(EVE, UNIT, network.publish(ANN, UNIT, 10))
    network.leave(ANN)
    found = resolved(library)
    assert found.holders == (ANN.peer_id,)
    assert set(found.providers) == {ANN.peer_id, EVE.peer_id}


def test_a_statement_of_a_unit_the_run_has_not(library, network):
    network.publish(ANN, UNIT, 10, unit="cluster-7")
    assert "of no unit of this run" in refusal(library)


def test_a_signer_that_the_list_does_not_admit(store):
    network = NetworkSimulator(admission={"policy": "list", "keys": [ANN.peer_id]})
    library = Library(store, network)
    network.publish(EVE, UNIT, TARGET)
    assert "does not admit" in refusal(library)
    network.publish(ANN, UNIT, 10)
    assert resolved(library).holders == (ANN.peer_id,)


def test_a_stranger_in_the_middle_of_an_admitted_chain(store):
    network = NetworkSimulator(admission={"policy": "list", "keys": [ANN.peer_id]})
    middle = network.publish(EVE, UNIT, 10, tip=False)
    network.publish(ANN, UNIT, 20, middle)
    network.serve(ANN, network.bytes_of(middle))
    assert "does not admit" in refusal(Library(store, network))


# Chains that do not hold.


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"from_step": 11}, "does not continue its parent"),
        ({"from_step": 9}, "does not continue its parent"),
        ({"from_step": 0}, "does not continue its parent"),
        ({"seed": 99}, "used seed 99"),
        ({"shards": {}}, "not trained on the shards"),
        ({"shards": {"cluster-001-train-000.tar": sha256_of(b"x")}}, "not trained on the shards"),
        ({"start": sha256_of(b"mine")}, "a parent and a start"),
    ],
)
def test_a_broken_link(library, network, changes, reason):
    first = network.publish(ANN, UNIT, 10, tip=False)
    network.publish(ANN, UNIT, 20, first, **changes)
    assert reason in refusal(library)


def test_a_gap_at_the_beginning(library, network):
    network.publish(ANN, UNIT, 20, from_step=10)
    assert "a first one starts at 0" in refusal(library)


def test_more_steps_than_the_genesis_asks_for(library, network):
    network.publish(ANN, UNIT, TARGET + 1)
    assert "went past the end" in refusal(library)


def test_a_parent_that_is_lost(library, network):
    first = network.publish(ANN, UNIT, 10, tip=False)
    network.publish(ANN, UNIT, 20, first)
    network.forget(first)
    assert "nobody serves" in refusal(library)


def test_a_parent_with_a_broken_signature(library, network):
    real = json.loads(network.bytes_of(network.publish(ANN, UNIT, 10, tip=False)))
    real["signatures"][0]["sig"] = json.loads(network.bytes_of(network.run))["signatures"][0]["sig"]
    broken = network.serve(ANN, json.dumps(real, sort_keys=True, separators=(",", ":")).encode())
    network.publish(ANN, UNIT, 20, broken, from_step=10)
    assert "does not verify" in refusal(library)


def test_a_parent_of_another_unit(library, network):
    other = network.publish(ANN, "cluster-1", 10, tip=False)
    network.publish(ANN, UNIT, 20, other)
    assert "a parent of another unit" in refusal(library)


def test_circular_parents_need_bytes_that_do_not_match_their_digest(library, network):
    """No statement can name a parent made after itself, so a circle is only ever a provider's lie."""
    first = network.publish(ANN, UNIT, 10, tip=False)
    second = network.publish(ANN, UNIT, 20, first)
    circle = network.publish(ANN, UNIT, 10, parent=second, from_step=0, tip=False)
    network.replace(first, network.bytes_of(circle))
    assert "sent other bytes" in refusal(library)


def test_a_lineage_without_end(library, network, monkeypatch):
    monkeypatch.setattr(resolve_module, "LIMITS", dataclasses.replace(LIMITS, lineage_checkpoints=3))
    chain: list[str | None] = [None]
    for step in (10, 20, 30):
        chain.append(network.publish(ANN, UNIT, step, chain[-1]))
    assert resolved(library).step == 30
    network.publish(ANN, UNIT, 40, chain[-1])
    assert "too long to follow" in refusal(library)


def test_a_start_from_other_weights(store):
    allowed = sha256_of(b"the start everybody knows")
    network = NetworkSimulator(start={"kind": "checkpoint", "manifest": allowed})
    library = Library(store, network)
    for wrong in (None, sha256_of(b"mine")):
        network.publish(EVE, UNIT, 10, start=wrong)
        assert "does not start where the genesis says" in refusal(library)
    network.publish(ANN, UNIT, 5)
    assert resolved(library).lineage[0].start == allowed
    network.publish(ANN, "router", 5)
    assert resolved(library, "router").lineage[0].start is None


def test_a_start_where_the_genesis_starts_from_nothing(library, network):
    network.publish(EVE, UNIT, 10, start=sha256_of(b"mine"))
    assert "does not start where the genesis says" in refusal(library)


# Peers.


def test_peers_that_announce_themselves_are_known(library, network):
    network.greet(ANN)
    network.greet(BEN)
    found = asyncio.run(known_peers(library, network.run))
    assert {record.signer for record in found} == {ANN.peer_id, BEN.peer_id}


def test_a_dead_network_means_no_known_peers(store, network):
    class Dead(NetworkSimulator):
        async def records(self, kind, run, slot):
            raise NetworkError("nobody answers")

    assert asyncio.run(known_peers(Library(store, Dead()), network.run)) == ()
