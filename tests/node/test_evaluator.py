"""What a node makes of a measurement, what it tells others, and what it keeps copies of meanwhile."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from paris.node.evaluator import MOST_REFUTED, Evaluator
from paris.node.home import Home
from paris.node.jobs import Means
from paris.node.mirror import Mirror
from paris.node.session import Place
from paris.protocol.identity import Identity
from paris.protocol.records import Verdict
from paris.registry.library import Library
from paris.registry.resolve import ResolvedUnit, resolve

sys.path.insert(0, str(Path(__file__).parent.parent / "registry"))
UNIT = "cluster-0"
NOTHING = 2_000_000


class Told:
    """An announcer that writes down what it would announce."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    async def keep(self, kind: str, slot: str, model: Any, life_s: int, fields: Any) -> bool:
        if model is Verdict:
            Verdict.parse({"run": "sha256:" + "0" * 64, "signer": EVERYBODY, **TIMES, **fields()})
        self.said.append({"kind": kind, **fields()})
        return True


TIMES = {"seq": 1, "iat": 1_800_000_000, "exp": 1_800_000_600}
EVERYBODY = Identity.from_seed(b"e" * 32).peer_id


@pytest.fixture
def network() -> Any:
    from network_simulator import NetworkSimulator

    return NetworkSimulator()


@pytest.fixture
def place(network: Any, tmp_path: Path) -> Place:
    home = Home(tmp_path / "home")
    library = Library(home.store, network)
    swarm = SimpleNamespace(book=SimpleNamespace(proven=set()))
    peer = SimpleNamespace(home=home, peer_id=home.identity().peer_id, library=library, swarm=swarm)
    return Place(cast("Any", peer), network.run, network.genesis, means=Means(threads=1))


def look(place: Place, network: Any, evaluator: Evaluator) -> ResolvedUnit:
    found = resolve(
        place.peer.library, place.run, network.providers, evaluator.judge, units=[UNIT], proven=evaluator.proven
    )
    return asyncio.run(found).units[UNIT]


def conclude(evaluator: Evaluator, unit: ResolvedUnit, measured: int) -> bool:
    found = {"measured_loss_micro": measured, "nothing_micro": NOTHING, "samples": 256}
    return asyncio.run(evaluator._conclude(unit, found))


def test_what_was_measured_good_counts_and_what_was_not_is_pending(place: Place, network: Any) -> None:
    from network_simulator import ANN

    told = Told()
    evaluator = Evaluator(place, cast("Any", told))
    first = network.publish(ANN, UNIT, 10)
    unit = look(place, network, evaluator)
    assert (unit.step, unit.pending and unit.pending.checkpoint) == (0, first)
    assert unit.pending
    claimed = unit.pending.lineage[-1].holdout_loss_micro or 0
    assert conclude(evaluator, unit.pending, claimed)
    assert (look(place, network, evaluator).step, look(place, network, evaluator).pending) == (10, None)
    assert evaluator.proven == place.peer.swarm.book.proven == {ANN.peer_id}
    assert [(said["kind"], said["holds"], said["checkpoint"]) for said in told.said] == [("verdict", True, first)]


def test_garbage_with_a_high_step_moves_nobody(place: Place, network: Any) -> None:
    """It claims the end and a fine loss; measured, the unit stands where it stood, and the verdict says why."""
    from network_simulator import ANN, EVE

    told = Told()
    evaluator = Evaluator(place, cast("Any", told))
    first = network.publish(ANN, UNIT, 10)
    evaluator.trusted.add(first)
    network.publish(EVE, UNIT, network.genesis.target_steps(UNIT), first, holdout_loss_micro=1_000)
    unit = look(place, network, evaluator)
    assert (unit.step, unit.complete) == (10, False)
    assert unit.pending
    assert unit.pending.complete
    assert not conclude(evaluator, unit.pending, NOTHING)
    assert (look(place, network, evaluator).checkpoint, look(place, network, evaluator).pending) == (first, None)
    assert told.said[-1]["holds"] is False
    assert "it claims 0.0010" in told.said[-1]["note"]


def test_honest_bad_loss_is_refused_without_a_measurement(place: Place, network: Any) -> None:
    from network_simulator import ANN, EVE

    evaluator = Evaluator(place, cast("Any", Told()))
    first = network.publish(ANN, UNIT, 10)
    evaluator.trusted.add(first)
    network.publish(EVE, UNIT, 20, first, holdout_loss_micro=5_000_000)
    assert look(place, network, evaluator).pending is None


def test_a_flood_of_garbage_costs_so_many_measurements_and_no_more(place: Place, network: Any) -> None:
    from network_simulator import ANN, EVE

    evaluator = Evaluator(place, cast("Any", Told()))
    for number in range(MOST_REFUTED):
        network.publish(EVE, UNIT, 10 + number, holdout_loss_micro=1_000 + number)
        pending = look(place, network, evaluator).pending
        assert pending
        assert evaluator.worth_measuring(pending)
        conclude(evaluator, pending, NOTHING)
    network.publish(EVE, UNIT, 60, holdout_loss_micro=1_000)
    pending = look(place, network, evaluator).pending
    assert pending
    assert not evaluator.worth_measuring(pending)
    evaluator.proven.add(ANN.peer_id)
    honest = network.publish(ANN, UNIT, 10)
    pending = look(place, network, evaluator).pending
    assert pending
    assert pending.checkpoint == honest, "proven work is measured before a stranger's better claim"
    assert evaluator.worth_measuring(pending)


def test_own_work_counts_for_oneself_unless_it_cannot_be_built_on(place: Place, network: Any) -> None:
    evaluator, me = Evaluator(place, cast("Any", Told())), place.peer.home.identity()
    mine = network.publish(me, UNIT, 10)
    unit = look(place, network, evaluator)
    assert (unit.checkpoint, unit.evaluated) == (mine, True)
    evaluator.distrust(unit)
    assert look(place, network, evaluator).lineage == ()


def test_copied_garbage_displaces_no_training_state_that_counts(place: Place, network: Any) -> None:
    from network_simulator import ANN, EVE, exported

    state = {"state.json": b"{}", "metrics.json": b"{}"}
    told = Told()
    evaluator, mirror = Evaluator(place, cast("Any", told)), Mirror(place, cast("Any", told))
    good = network.publish(ANN, UNIT, 10, files=exported(UNIT, 1) | state | {"state.safetensors": b"good"})
    evaluator.trusted.add(good)
    place.work(UNIT).mkdir(parents=True)

    async def mirrored() -> list[str]:
        seen = await resolve(place.peer.library, place.run, network.providers, evaluator.judge, units=[UNIT])
        return await mirror.round(seen.units, [ANN.peer_id, EVE.peer_id])

    def held(checkpoint: str) -> bool:
        return place.peer.home.store.path(network.entry(checkpoint, "state.safetensors").sha256) is not None

    assert asyncio.run(mirrored()) == [UNIT]
    for number in range(3):
        files = exported(UNIT, 2) | state | {"state.safetensors": f"garbage {number}".encode()}
        garbage = network.publish(EVE, UNIT, 20 + number, good, files=files, holdout_loss_micro=1_000 - number)
        assert asyncio.run(mirrored()) == [UNIT]
        assert held(garbage)
        assert held(good)
