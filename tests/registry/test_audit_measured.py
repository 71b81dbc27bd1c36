"""Audits that measure: what they say of a run that was really trained, and to whom."""

from __future__ import annotations

import asyncio
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from audit_support import STEPS, UNIT, TrainedNetwork, deep, resolved, unit_of
from google.protobuf.json_format import MessageToDict, ParseDict
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.predicates.vsa.v1 import vsa_pb2
from in_toto_attestation.v1.statement import Statement
from in_toto_attestation.v1.statement_pb2 import Statement as Message
from network_simulator import ANN, BEN, CURATOR, EVE, NOW_S, NetworkSimulator, spoiled
from securesystemslib.dsse import Envelope

from paris.models.filenames import WEIGHTS
from paris.protocol.envelope import verify
from paris.protocol.errors import UsageError
from paris.protocol.identity import verification_key
from paris.protocol.manifest import Manifest, describe
from paris.protocol.records import Verdict
from paris.registry.assemble import fetch_ensemble
from paris.registry.findings import Audit, Check, Opinion, UnitAudit
from paris.registry.folder import Fetched
from paris.registry.library import Library
from paris.registry.provenance import IN_TOTO, bundle
from paris.registry.report import html_report
from paris.registry.store import Store
from paris.registry.verdicts import sign_verdict

HOSTILE = "<script>alert(1)</script>\"'&--><img src=x onerror=alert(1)>]]>"


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def trained(store: Store, tmp_path: Path) -> tuple[TrainedNetwork, Library]:
    """Both experts and the router."""
    network = TrainedNetwork(tmp_path / "ann")
    library = Library(store, network)
    for unit in network.genesis.units():
        network.train_really(library, unit)
    return network, library


def test_what_an_honest_run_is_evaluated_and_replayed_as(trained, tmp_path):
    network, library = trained
    report = deep(network, library, tmp_path / "auditor", evaluate=True, replay=6)
    assert report.ok, report.verdict()
    for unit in report.units:
        assert unit.level == "replayed"
        names = [check.name for check in unit.checks if check.level == "evaluated"]
        assert names[:6] == ["answers", "claim", "secret", "learned", "sign", "public-only"]
        assert [check.ok for check in unit.checks if check.level == "replayed"] == [True, True]
        assert unit.measured
        assert unit.not_checked[0] == "training was re-executed for the named steps only"
    json.dumps(report.as_json(), allow_nan=True)


def test_an_inflated_claim_is_measured_and_said_in_a_verdict(trained, tmp_path):
    network, library = trained
    files = {path.name: path.read_bytes() for path in (network.folder / f"{UNIT}-{STEPS}").iterdir()}
    network.publish(EVE, UNIT, STEPS, network.chains[UNIT][0], files=files, holdout_loss_micro=1_000)
    report = deep(network, library, tmp_path / "auditor", evaluate=True)
    unit = unit_of(report)
    assert not report.ok
    assert unit.level == "consistent"
    assert {check.name for check in unit.failed()} >= {"claim"}
    verdict = Verdict.parse(verify(sign_verdict(unit, network.run, BEN, NOW_S, None) or b"", "verdict").payload)
    assert (verdict.level, verdict.holds, verdict.signer) == ("evaluated", False, BEN.peer_id)
    assert verdict.checkpoint == unit.lineage[-1]["checkpoint"]
    assert "claims 0.0010" in verdict.note


@pytest.mark.parametrize(("value", "said"), [(float("nan"), "not finite"), (3e38, "answers are not finite")])
def test_broken_weights_of_a_rival_convict_no_honest_expert(trained, tmp_path, value, said):
    """What is not finite compares as worse than anything: one cheater would have every other expert refuted."""
    network, library = trained
    rival = "cluster-1"
    weights = spoiled({path.name: path.read_bytes() for path in (network.folder / f"{rival}-{STEPS}").iterdir()},
                      "proj_out.bias", value)  # fmt: skip
    network.publish(ANN, rival, STEPS, network.chains[rival][0], files=weights, holdout_loss_micro=1_000)
    report = deep(network, library, tmp_path / "auditor", evaluate=True)
    assert unit_of(report, rival).failed()
    honest = unit_of(report)
    assert honest.failed() == ()
    assert honest.measured
    assert any(f"not compared with {rival}" in note and said in note for note in honest.not_checked)


def test_a_sample_looks_at_few_and_says_so(trained, tmp_path):
    network, library = trained
    report = deep(network, library, tmp_path / "auditor", evaluate=True, share=0.01)
    assert sorted(unit.level for unit in report.units) == ["attested", "attested", "evaluated"]
    assert sum("no checkpoint of it was drawn" in " ".join(unit.not_checked) for unit in report.units) == 2


def test_verdicts_of_others_are_shown_with_their_signers(trained, tmp_path):
    network, library = trained
    tip = network.chains[UNIT][-1]
    network.verdict(BEN, UNIT, tip, holds=False)
    network.verdict(ANN, UNIT, tip)
    network.verdict(EVE, "cluster-1", tip)
    opinions = unit_of(deep(network, library, tmp_path)).opinions
    assert {(o.signer, o.holds, o.own) for o in opinions} == {(BEN.peer_id, False, False), (ANN.peer_id, True, True)}
    assert unit_of(deep(network, library, tmp_path), "cluster-1").opinions == (), "on no checkpoint of that lineage"


# Verdicts.


def a_unit(*checks: Check, **fields: object) -> UnitAudit:
    row = {
        "checkpoint": "sha256:" + "1" * 64, "signer": ANN.peer_id, "acts_for": HOSTILE, "from_step": 0, "to_step": 1,
        "claimed_holdout_loss_micro": 5,
    }  # fmt: skip
    return UnitAudit(UNIT, 1, 1, "attested", checks, (row,), **fields)


RUN = "sha256:" + "0" * 64


def test_who_measured_nothing_has_no_verdict():
    assert sign_verdict(a_unit(Check("files", ok=True, detail="")), RUN, BEN, NOW_S, None) is None


def test_a_verdict_replaces_the_one_before_and_says_what_was_executed():
    replay = Check("replay", ok=True, detail="steps 0 to 1 executed again", level="replayed")
    first = sign_verdict(a_unit(replay, replayed=(1,)), RUN, BEN, NOW_S, None)
    before = Verdict.parse(verify(first or b"", "verdict").payload)
    after = Verdict.parse(
        verify(sign_verdict(a_unit(replay, replayed=(1,)), RUN, BEN, NOW_S, before) or b"", "verdict").payload
    )
    assert (before.level, before.holds, before.note) == ("replayed", True, "replay: steps 0 to 1 executed again")
    assert after.seq == before.seq + 1
    assert after.exp > before.exp


def test_an_older_segment_alone_makes_no_verdict_on_the_newest_checkpoint():
    held = Check("replay", ok=True, detail="", level="replayed")
    assert sign_verdict(a_unit(held, replayed=(0,)), RUN, BEN, NOW_S, None) is None
    failed = sign_verdict(
        a_unit(Check("replay", ok=False, detail="", level="replayed"), replayed=(0,)), RUN, BEN, NOW_S, None
    )
    assert verify(failed or b"", "verdict").payload["holds"] is False


# For people: nothing a stranger writes is markup.


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_hostile_names_and_notes_stay_text():
    opinion = Opinion(EVE.peer_id, HOSTILE, False, RUN, 1, HOSTILE, False, 1, 1, 1, HOSTILE, NOW_S)
    unit = a_unit(Check(HOSTILE, ok=False, detail=HOSTILE), not_checked=(HOSTILE,), opinions=(opinion,))
    page = html_report(Audit(RUN, HOSTILE, (HOSTILE,), HOSTILE, HOSTILE, (unit,), HOSTILE), NOW_S)
    tags = Tags()
    tags.feed(page)
    names = {name for name, _ in tags.seen}
    assert not names & {"script", "img", "iframe", "object", "link", "a", "base", "form"}
    assert not [name for _, attributes in tags.seen for name in attributes if name.startswith("on")]
    assert "alert(1)" in page, "it is shown"
    assert "default-src 'none'" in page
    assert not any(word in page for word in ("<script", "<img", "http://", "https://"))


def test_the_lineage_is_drawn(trained, tmp_path):
    page = html_report(deep(*trained, tmp_path), NOW_S)
    assert page.count("<svg") == 3
    assert page.count("<rect") == 6
    assert f"steps 0 to {STEPS // 2}" in page


# For other tools.


def test_the_bundle_is_read_by_public_tools(trained, tmp_path):
    network, library = trained
    run, report = resolved(network, library), deep(network, library, tmp_path)
    lines = bundle(library, run, report, BEN, NOW_S).splitlines()
    envelopes = [Envelope.from_dict(json.loads(line)) for line in lines]
    assert len(envelopes) == 6 + 3
    for envelope in envelopes:
        summary = envelope.payload_type == IN_TOTO
        signer = BEN.peer_id if summary else ANN.peer_id
        assert envelope.verify([verification_key(signer)], 1)
        message = ParseDict(json.loads(envelope.payload), Message())
        Statement.copy_from_pb(message).validate()
        kind = vsa_pb2.VerificationSummary if summary else provenance_pb2.Provenance
        predicate = MessageToDict(message.predicate)
        predicate.pop("verifiedLevels", None)  # a list in SLSA's specification, one text in the package's schema
        ParseDict(predicate, kind(), ignore_unknown_fields=False)
    said = json.loads(envelopes[-1].payload)["predicate"]
    assert (said["verificationResult"], said["verifiedLevels"]) == ("PASSED", ["PARIS_CONSISTENT"])
    assert said["inputAttestations"][0]["digest"]["sha256"] == network.chains["router"][0].removeprefix("sha256:")


def test_a_unit_that_failed_is_not_said_to_have_passed(trained, tmp_path):
    network, library = trained
    network.publish(EVE, UNIT, STEPS, files={"config.json": b"{}", "diffusion_pytorch_model.safetensors": b""})
    run, report = resolved(network, library), deep(network, library, tmp_path)
    said = [json.loads(json.loads(line)["payload"] and Envelope.from_dict(json.loads(line)).payload)
            for line in bundle(library, run, report, BEN, NOW_S).splitlines()[-3:]]  # fmt: skip
    failed = next(s for s in said if s["subject"][0]["name"].startswith(UNIT))
    assert failed["predicate"]["verificationResult"] == "FAILED"


# A folder by itself.


@pytest.fixture
def fetched(store: Store, tmp_path: Path) -> Path:
    network = NetworkSimulator()
    network.train()
    library = Library(store, network)
    asyncio.run(fetch_ensemble(library, resolved(network, library), tmp_path / "ensemble", network.providers))
    return tmp_path / "ensemble"


def folder_audit(folder: Path, scratch: Path) -> Audit:
    return asyncio.run(Fetched.open(folder, scratch).audited(lambda _: None))[1]


def test_a_fetched_folder_is_consistent_by_itself(fetched, tmp_path):
    report = folder_audit(fetched, tmp_path / "scratch")
    assert report.ok, report.verdict()
    assert {unit.level for unit in report.units} == {"consistent"}
    assert not any("shards were compared by name" in " ".join(unit.not_checked) for unit in report.units)
    assert all("compare its key" in unit.not_checked[-1] for unit in report.units)


def test_a_folder_without_the_list_of_shards_says_that_it_compared_names_only(fetched, tmp_path):
    (fetched / "provenance" / "data.json").unlink()
    report = folder_audit(fetched, tmp_path / "scratch")
    assert report.ok, report.verdict()
    assert all("shards were compared by name" in " ".join(unit.not_checked) for unit in report.units)


def test_a_changed_weight_in_a_folder(fetched, tmp_path):
    path = fetched / "expert_0" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.unlink()
    path.write_bytes(bytes(data))
    report = folder_audit(fetched, tmp_path / "scratch")
    assert not report.ok
    assert unit_of(report).level == "attested"
    assert "that was signed" in report.verdict()


def test_a_file_nobody_signed_beside_the_weights(fetched, tmp_path):
    (fetched / "expert_0" / "pytorch_model.bin").write_bytes(b"a gift")
    report = folder_audit(fetched, tmp_path / "scratch")
    assert "expert_0/pytorch_model.bin was signed by nobody" in report.verdict()


@pytest.fixture
def decoded(store: Store, tmp_path: Path) -> Path:
    """A fetched ensemble of a run whose genesis names an autoencoder; nobody looks into it here."""
    autoencoder = {"config.json": b"{}", WEIGHTS: b"weights"}
    named = Manifest.of(describe(name, [data]) for name, data in autoencoder.items())
    network = NetworkSimulator(codec={"kind": "autoencoder-kl", "manifest": named.digest})
    network.serve_tree(CURATOR, autoencoder)
    network.train()
    library = Library(store, network)
    asyncio.run(fetch_ensemble(library, resolved(network, library), tmp_path / "ensemble", network.providers))
    return tmp_path / "ensemble"


def test_an_autoencoder_that_was_exchanged_or_lost(decoded, tmp_path):
    """It paints every picture, and no statement names it: the genesis does."""
    assert folder_audit(decoded, tmp_path / "scratch").ok
    (decoded / "vae" / WEIGHTS).unlink()
    assert "vae/ is not the run's autoencoder" in folder_audit(decoded, tmp_path / "scratch").verdict()
    (decoded / "vae" / WEIGHTS).write_bytes(b"wEights")
    assert "vae/ is not the run's autoencoder" in folder_audit(decoded, tmp_path / "scratch").verdict()
    shutil.rmtree(decoded / "vae")
    assert "vae/ is missing" in folder_audit(decoded, tmp_path / "scratch").verdict()


def test_an_autoencoder_where_the_run_has_none(fetched, tmp_path):
    (fetched / "vae").mkdir()
    (fetched / "vae" / "config.json").write_bytes(b"{}")
    assert "vae/ is not the run's autoencoder" in folder_audit(fetched, tmp_path / "scratch").verdict()


def test_a_statement_that_was_exchanged(fetched, tmp_path):
    note = json.loads((fetched / "provenance" / "run.json").read_text())
    note["units"][UNIT]["checkpoint"] = note["units"]["cluster-1"]["checkpoint"]
    (fetched / "provenance" / "run.json").unlink()
    (fetched / "provenance" / "run.json").write_text(json.dumps(note))
    with pytest.raises(Exception, match="cluster-1"):
        folder_audit(fetched, tmp_path / "scratch")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"run": 1}', '{"run": "sha256:1", "units": {}}', '{"run": "x", "units": []}']
)
def test_a_folder_that_is_no_ensemble(tmp_path, text):
    (tmp_path / "provenance").mkdir()
    (tmp_path / "provenance" / "run.json").write_text(text)
    with pytest.raises(UsageError, match="no fetched ensemble"):
        Fetched.open(tmp_path, tmp_path / "scratch")
