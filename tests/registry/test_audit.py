"""What an audit says of honest runs, and what of every lie that signatures alone do not show."""

from __future__ import annotations

import asyncio
import json

import pytest
from network_simulator import (
    ANN,
    BEN,
    CURATOR,
    EVE,
    PRESET,
    TARGET,
    NetworkSimulator,
    configured,
    exported,
    spoiled,
)
from safetensors.torch import load, save
from test_store import flip_a_byte

from paris.models.filenames import CONFIG, WEIGHTS
from paris.models.inspect import check_config
from paris.protocol.digests import sha256_of
from paris.protocol.errors import RecordError, UnavailableError
from paris.protocol.manifest import Manifest, describe
from paris.registry.audit import audit
from paris.registry.findings import Audit, UnitAudit
from paris.registry.library import Library
from paris.registry.report import html_report
from paris.registry.resolve import resolve
from paris.registry.weights import model_files

UNIT = "cluster-0"
TENSOR = "proj_out.weight"


async def _audited(library: Library, **options) -> Audit:
    network = library.network
    run = await resolve(library, network.run, network.providers)
    return await audit(library, run, network.providers, **options)


def audited(library: Library, **options) -> Audit:
    return asyncio.run(_audited(library, **options))


def unit_of(report: Audit, unit: str = UNIT) -> UnitAudit:
    return next(found for found in report.units if found.unit == unit)


def failures(library: Library, unit: str = UNIT, level: str = "attested") -> dict[str, str]:
    """Checks of a unit that did not hold, all other units being honest; the report as a whole must not say ok."""
    report = audited(library)
    others = [found for found in report.units if found.unit != unit]
    assert all(found.ok and found.level == "consistent" for found in others)
    assert not report.ok
    assert unit in report.verdict()
    assert unit_of(report, unit).level == level
    return {check.name: check.detail for check in unit_of(report, unit).checks if not check.ok}


@pytest.fixture
def others_trained(network: NetworkSimulator) -> NetworkSimulator:
    """The run with everything but UNIT trained to its end."""
    network.train(["cluster-1", "router"])
    return network


def a_tensor() -> str:
    return next(name for name, tensor in load(exported(UNIT)[WEIGHTS]).items() if tensor.ndim > 1)


# Honest runs.


def test_an_honest_run_is_consistent_and_no_more_is_said(library, network):
    network.train()
    report = audited(library)
    assert report.ok
    assert report.verdict() == "ok"
    assert report.run == network.run
    assert report.curators == (CURATOR.peer_id,)
    assert report.data == "squares (CC0-1.0), 2 + 2"
    assert report.start == "scratch"
    for unit in report.units:
        assert (unit.step, unit.target, unit.level) == (TARGET, TARGET, "consistent")
        expected = ["lineage", "complete", "data", "start", "claims", "files", "weights", "distinct"]
        assert [check.name for check in unit.checks] == expected + (["copies"] if unit.unit != "router" else [])
        assert unit.not_checked == ("training itself was not re-executed", "hold-out loss was not measured again")


def test_the_report_is_plain_json(library, network):
    network.train()
    said = json.loads(json.dumps(audited(library).as_json(), allow_nan=False))
    assert said["audit"] == "ok"
    assert said["units"][0]["lineage"][0]["signer"] == ANN.peer_id
    assert said["units"][0]["checks"][0]["ok"] is True


def test_a_takeover_is_a_row_of_its_own(library, network):
    network.train(["cluster-1", "router"])
    first = network.publish(ANN, UNIT, 20)
    second = network.publish(BEN, UNIT, TARGET, first, fence=7)
    network.mirror(BEN, UNIT, second)
    unit = unit_of(audited(library))
    assert unit.checks[0].detail == f"2 signed segments by 2 contributor(s), without a gap from step 0 to {TARGET}"
    older, newer = unit.lineage
    assert (older["signer"], older["from_step"], older["to_step"], older["parent"]) == (ANN.peer_id, 0, 20, None)
    assert (newer["signer"], newer["from_step"], newer["parent"], newer["fence"]) == (BEN.peer_id, 20, first, 7)
    assert newer["checkpoint"] == second
    assert newer["claimed_holdout_loss_micro"] == 500_000 - TARGET
    assert newer["finished"] == "2027-01-15T08:01:00Z"
    assert "torch" in newer["versions"]


def test_training_states_are_neither_asked_for_nor_fetched(library, network):
    network.train()
    audited(library)
    state = sha256_of(exported(UNIT)["state.safetensors"])
    assert state not in network.transfers


def test_only_the_newest_weights_are_fetched(library, network):
    chains = network.train()
    audited(library)
    for first, last in chains.values():
        assert network.entry(last, WEIGHTS).sha256 in network.transfers
        assert network.entry(first, WEIGHTS).sha256 not in network.transfers


def test_the_auditor_is_told_where_it_is(library, network):
    network.train()
    units: list[str] = []
    audited(library, progress=units.append)
    assert units == [f"checking {unit}" for unit in network.genesis.units()]


def test_a_named_start_is_shown_and_checked(store):
    start = sha256_of(b"published weights")
    network = NetworkSimulator(start={"kind": "checkpoint", "manifest": start, "note": "known to all"})
    network.train()
    report = audited(Library(store, network))
    assert report.ok
    assert report.start == f"checkpoint {start} known to all"
    assert next(c.detail for c in unit_of(report).checks if c.name == "start") == f"starts from {start}"
    assert "random weights" in next(c.detail for c in unit_of(report, "router").checks if c.name == "start")


# Runs that are not finished.


def test_an_unfinished_unit_keeps_its_level_and_says_how_far_it_is(library, others_trained):
    others_trained.publish(ANN, UNIT, 10)
    assert failures(library, level="consistent") == {"complete": f"10 of {TARGET} steps"}


def test_a_unit_without_a_checkpoint_has_no_level(library, others_trained):
    assert list(failures(library, level="nothing")) == ["lineage"]


def test_why_a_chain_was_refused_is_part_of_the_report(library, others_trained):
    others_trained.publish(ANN, UNIT, 10, signed_by=EVE)
    assert "not signed by its builder" in failures(library, level="nothing")["lineage"]
    assert unit_of(audited(library)).lineage == ()


# Bytes that are not what was signed.


def test_a_flipped_byte_in_the_weights_on_the_way(library, others_trained):
    tip = others_trained.train([UNIT])[UNIT][-1]
    weights = bytearray(exported(UNIT, TARGET)[WEIGHTS])
    weights[-1] ^= 1
    others_trained.replace(others_trained.entry(tip, WEIGHTS).sha256, bytes(weights))
    found = failures(library)
    assert list(found) == ["files"]
    assert "does not match its digest" in found["files"]


def test_a_flipped_byte_in_the_weights_on_our_own_disk(library, others_trained, store):
    tip = others_trained.train([UNIT])[UNIT][-1]
    assert audited(library).ok
    flip_a_byte(store.path(others_trained.entry(tip, WEIGHTS).sha256))
    assert "damaged" in failures(library)["files"]
    assert audited(library).ok, "the damaged copy was set aside and a good one fetched"


def test_weights_nobody_serves(library, others_trained):
    tip = others_trained.train([UNIT])[UNIT][-1]
    others_trained.forget(others_trained.entry(tip, WEIGHTS).sha256)
    assert "nobody serves" in failures(library)["files"]
    report = audited(library)
    assert report.absent, "nothing was found wrong"
    assert html_report(report, 0).count(">absent<") == 1
    assert unit_of(report).failed() == ()


def test_weights_nobody_serves_excuse_no_other_fault(library, network):
    tip = network.train([UNIT, "router"])[UNIT][-1]
    network.forget(network.entry(tip, WEIGHTS).sha256)
    network.publish(EVE, "cluster-1", TARGET, files=spoiled(exported("cluster-1"), a_tensor(), float("nan")))
    assert not audited(library).absent


def test_a_manifest_that_is_something_else(library, others_trained):
    junk = others_trained.serve(EVE, b"{}")
    others_trained.publish(EVE, UNIT, TARGET, manifest=junk)
    assert "manifest" in failures(library)["files"] or "valid" in failures(library)["files"]


def test_a_manifest_that_lies_about_a_size(library, others_trained):
    files = exported(UNIT)
    real = describe(WEIGHTS, [files[WEIGHTS]])
    lying = real.model_copy(update={"size": real.size + 1})
    manifest = Manifest((describe(CONFIG, [files[CONFIG]]), lying))
    others_trained.serve_tree(EVE, files)
    others_trained.publish(EVE, UNIT, TARGET, manifest=others_trained.serve(EVE, manifest.to_bytes()))
    assert "does not match its digest" in failures(library)["files"]


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_checkpoint_without_one_of_its_files(library, others_trained, name):
    files = exported(UNIT)
    del files[name]
    others_trained.publish(EVE, UNIT, TARGET, files=files)
    assert f"no file '{name}'" in failures(library)["files"]


# Signed weights that are no weights.


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite(library, others_trained, value):
    others_trained.publish(EVE, UNIT, TARGET, files=spoiled(exported(UNIT), a_tensor(), value))
    assert "not finite" in failures(library)["weights"]


@pytest.mark.parametrize("data", [b"", b"junk", b"\xff" * 100, b"\x80\x00\x00\x00\x00\x00\x00\x00{}"])
def test_a_weights_file_that_is_none(library, others_trained, data):
    others_trained.publish(EVE, UNIT, TARGET, files={**exported(UNIT), WEIGHTS: data})
    assert "not a readable safetensors file" in failures(library)["weights"]


def test_a_missing_an_extra_and_a_misshapen_tensor(library, others_trained):
    files, tensor = exported(UNIT), a_tensor()
    weights = load(files[WEIGHTS])
    for said, changed in {
        "is missing": {name: t for name, t in weights.items() if name != tensor},
        "is not part of this expert": {**weights, "extra": weights[tensor].clone()},
        "has shape": {**weights, tensor: weights[tensor][1:].clone()},
        "has dtype": {**weights, tensor: weights[tensor].long()},
        "is constant": {**weights, tensor: weights[tensor] * 0 + 1},
    }.items():
        others_trained.publish(EVE, UNIT, TARGET, files={**files, WEIGHTS: save(changed)})
        assert said in failures(library)["weights"]


def test_a_router_in_the_place_of_an_expert(library, others_trained):
    others_trained.publish(EVE, UNIT, TARGET, files=exported("router"))
    assert "config.json says _class_name is 'Router' where 'PixArtTransformer2DModel'" in failures(library)["weights"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cross_attention_dim": 64}, "cross_attention_dim is 64 where 32"),
        ({"num_layers": None}, "num_layers is None where 2"),
        ({"norm_eps": 1e-5}, "norm_eps is 1e-05 where 1e-06"),
        ({"_class_name": "Router"}, "_class_name is 'Router' where 'PixArtTransformer2DModel'"),
        ({"surprise": 1}, "surprise is 1 where None"),
    ],
)
def test_another_architecture_in_the_config(library, others_trained, changes, said):
    """The genesis names our arguments: the class it is published under, and all of that class's own, count as much."""
    others_trained.publish(EVE, UNIT, TARGET, files=configured(exported(UNIT), **changes))
    assert said in failures(library)["weights"]


@pytest.mark.parametrize("config", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 10_000, b"1e999", b'"text"'])
def test_a_config_that_is_no_config(library, others_trained, config):
    others_trained.publish(EVE, UNIT, TARGET, files={**exported(UNIT), CONFIG: config})
    assert failures(library)["weights"] == "config.json holds no JSON object."


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_file_too_large_for_its_network_is_not_even_fetched(library, others_trained, name):
    bloated = exported(UNIT)[name] + b" " * (5 * 2**20)
    others_trained.publish(EVE, UNIT, TARGET, files={**exported(UNIT), name: bloated})
    assert f"{name} of {UNIT} is too large" in failures(library)["files"]
    assert sha256_of(bloated) not in others_trained.transfers


def test_files_nobody_asked_for_are_not_fetched(library, others_trained):
    others_trained.publish(ANN, UNIT, TARGET, files={**exported(UNIT), "films.zip": b"a gift"})
    assert audited(library).ok
    assert sha256_of(b"a gift") not in others_trained.transfers


def test_another_version_of_diffusers_is_no_fault(library, others_trained):
    files = configured(exported(UNIT), _diffusers_version="0.0.1")
    others_trained.publish(ANN, UNIT, TARGET, files=files)
    assert audited(library).ok


def test_a_genesis_with_an_impossible_architecture_is_said_and_does_not_crash():
    network = NetworkSimulator(model={"preset": "micro", "expert": {**PRESET.expert, "heads": 7}, "router": {}})
    manifest = Manifest.from_bytes(network.bytes_of(network.serve_tree(EVE, exported(UNIT))))
    for unit in ("cluster-0", "router"):
        with pytest.raises(RecordError, match="that can be built"):
            model_files(manifest, network.genesis, unit)
    assert "does not describe a expert" in check_config({}, {**PRESET.expert, "heads": 7}, "expert")[0]
    assert "does not describe a router" in check_config({}, {"colour": "red"}, "router")[0]


# Data.


def test_shards_of_the_right_name_and_other_bytes(library, others_trained):
    shards = {name: sha256_of(b"poisoned") for name in others_trained.training_shards(UNIT)}
    first = others_trained.publish(EVE, UNIT, 20, shards=shards)
    others_trained.publish(EVE, UNIT, TARGET, first)
    assert failures(library) == {"data": "segments up to steps [20] name other shards"}


def test_a_data_manifest_that_nobody_serves(library, network):
    network.train()
    network.forget(network.genesis.data.manifest)
    with pytest.raises(UnavailableError):
        audited(library)


def test_the_verdict_names_every_liar_up_to_five(library, network):
    for unit in network.genesis.units():
        network.publish(EVE, unit, 10, files={**exported(unit), WEIGHTS: b"junk"})
    report = audited(library)
    assert report.verdict().count(";") == 4
    assert len(report.verdict()) < 1000
    assert report.as_json()["audit"] == report.verdict()
