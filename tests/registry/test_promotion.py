"""Which checkpoints a curator promotes: the best somebody measured, or those named; never one that does not verify."""

from __future__ import annotations

import asyncio

import pytest
from network_simulator import ANN, CURATOR, EVE, TARGET, NetworkSimulator

from paris.protocol.charter import Charter
from paris.protocol.digests import sha256_of
from paris.protocol.ensemble import Ensemble
from paris.protocol.errors import EnvelopeError, UnavailableError, UsageError, VerificationError
from paris.registry.library import Library
from paris.registry.promotion import Choice, choose, proposed, read_picks

HALF = TARGET // 2


def choices(library: Library, picked=(), without=()) -> dict[str, Choice]:
    network = library.network
    charter = Charter.begin(network.genesis, network.run)
    made = choose(
        library, charter, network.providers, CURATOR.peer_id, picked=read_picks(picked), without=tuple(without)
    )
    return {choice.name: choice for choice in asyncio.run(made)}


def test_what_nobody_measured_is_promoted_as_claimed_and_said_so(library, network):
    chains = network.train()
    found = choices(library)
    assert {name: choice.unit.checkpoint for name, choice in found.items()} == {n: c[-1] for n, c in chains.items()}
    assert all("nobody here measured it" in choice.why for choice in found.values())


def test_what_the_curators_own_node_measured_goes_before_what_is_newer(library, network):
    chains = network.train()
    network.verdict(CURATOR, "cluster-0", chains["cluster-0"][0])
    network.verdict(EVE, "cluster-1", chains["cluster-1"][0])
    found = choices(library)
    first = found["cluster-0"]
    assert (first.unit.step, first.newest, first.unit.evaluated) == (HALF, TARGET, True)
    assert first.why == f"measured; step {TARGET} was not"
    assert found["cluster-1"].unit.step == TARGET


def test_what_the_curators_own_node_found_bad_is_not_promoted(library, network):
    chains = network.train()
    network.verdict(CURATOR, "cluster-0", chains["cluster-0"][-1], holds=False)
    assert choices(library)["cluster-0"].unit.step == HALF


@pytest.mark.parametrize("by_step", [True, False])
def test_a_named_checkpoint(library, network, by_step):
    chains = network.train()
    named = str(HALF) if by_step else chains["router"][0].removeprefix("sha256:")
    found = choices(library, [f"router={named}"])
    assert (found["router"].unit.checkpoint, found["router"].why) == (chains["router"][0], "named")
    assert found["cluster-0"].unit.step == TARGET


def test_units_left_out_or_not_there_yet(library, network):
    chains = network.train(["cluster-0", "router"])
    found = choices(library, without=["cluster-0"])
    assert [found[name].unit is None for name in ("cluster-0", "cluster-1", "router")] == [True, True, False]
    assert found["cluster-1"].why == "it has no checkpoint yet"
    said = found["router"].as_json()
    assert (said["checkpoint"], said["step"], said["trained_by"]) == (chains["router"][-1], TARGET, [ANN.peer_id])
    assert found["cluster-0"].as_json()["checkpoint"] is None


@pytest.mark.parametrize(
    ("picked", "without", "said"),
    [
        (["moon=4"], [], "no moon"),
        ([], ["cluster-9"], "no cluster-9"),
        (["router=10"], ["router"], "at once"),
        (["router=7"], [], "no checkpoint at step 7"),
        (["router"], [], "names no checkpoint"),
        (["router=x"], [], "names no checkpoint"),
        (["=4"], [], "names no checkpoint"),
    ],
)
def test_what_cannot_be_promoted(library, network, picked, without, said):
    network.train()
    with pytest.raises(UsageError, match=said):
        choices(library, picked, without)


def test_a_named_checkpoint_that_nobody_has_or_that_is_another_units(library, network):
    chains = network.train()
    with pytest.raises(UnavailableError, match="nowhere to be had"):
        choices(library, [f"router={sha256_of(b'nothing')}"])
    with pytest.raises(VerificationError, match="of router does not hold"):
        choices(library, [f"router={chains['cluster-0'][0]}"])


class TestWhatAnotherCuratorProposes:
    @pytest.fixture
    def charter(self, network: NetworkSimulator) -> Charter:
        return Charter.begin(network.genesis, network.run)

    def look(self, library, charter, ensemble):
        return asyncio.run(proposed(library, charter, library.network.providers, ensemble))

    def test_is_verified_here(self, library, network, charter):
        chains = network.train()
        good = Ensemble(run=network.run, units={"router": chains["router"][0]})
        found = {choice.name: choice for choice in self.look(library, charter, good.to_bytes())}
        assert (found["router"].unit.step, found["cluster-0"].unit) == (HALF, None)
        swapped = Ensemble(run=network.run, units={"router": chains["cluster-0"][0]})
        with pytest.raises(VerificationError, match="does not hold"):
            self.look(library, charter, swapped.to_bytes())

    def test_names_an_ensemble(self, library, charter):
        with pytest.raises(UsageError, match="names no ensemble"):
            self.look(library, charter, None)
        with pytest.raises(EnvelopeError):
            self.look(library, charter, b"{")
