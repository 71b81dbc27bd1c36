"""The training child, as a real process: interrupted anywhere, its weights equal an uninterrupted training's bits."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from paris.models.presets import PRESETS
from paris.models.text import open_text_encoder
from paris.node.jobs import Event, Job, Means, checkpoint_folders
from paris.registry.clusters import cluster
from paris.registry.features import open_features, survey
from paris.registry.recipes import PLANS
from paris.registry.shards import write_shards
from paris.registry.sources import open_source, read_samples

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
STEPS = 800


@pytest.fixture(scope="module")
def job(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """An expert's job on the first of two clusters; micro preset."""
    folder, preset = tmp_path_factory.mktemp("shards"), PRESETS["micro"]
    text = open_text_encoder("minilm", "all-MiniLM-L6-v2", preset.text_tokens)
    source = open_source(str(pictures))
    seen = survey(read_samples(source), open_features("text", text))
    parts = write_shards(read_samples(source), seen, cluster(seen, 2), folder)
    recipe = PLANS["micro"].expert.model_dump(mode="json") | {"steps": STEPS, "publish_every": 200}
    return Job(
        run="sha256:" + "0" * 64,
        unit="cluster-0",
        network=preset.expert,
        recipe=recipe,
        shards=tuple(str(folder / name) for name in parts[0].shards),
        holdout=tuple(str(folder / name) for name in parts[0].holdout),
        codec={"kind": "pixels", "folder": None},
        text={**text.identity(), "tokens": preset.text_tokens},
        start=None,
        resume=None,
        resume_step=0,
        evaluate=None,
        claimed_loss_micro=None,
        work="",
        cache=str(folder / "cache"),
        means=Means(threads=1),
    )


def start(job: Job) -> subprocess.Popen[bytes]:
    path = Path(job.work) / "job.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    job.write(path)
    return subprocess.Popen([sys.executable, "-m", "paris.node.worker", str(path)], stdout=subprocess.PIPE)


def events(child: subprocess.Popen[bytes]) -> Iterator[Event]:
    assert child.stdout
    yield from (event for line in child.stdout if (event := Event.parse(line)))


def run_to_end(job: Job) -> list[Event]:
    with start(job) as child:
        told = list(events(child))
    assert child.returncode == 0, told
    return told


def digest_of(work: Path) -> str:
    folder = checkpoint_folders(work)[STEPS]
    return hashlib.sha256((folder / "state.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def uninterrupted(job: Job, tmp_path_factory: pytest.TempPathFactory) -> str:
    work = tmp_path_factory.mktemp("uninterrupted")
    told = run_to_end(replace(job, work=str(work)))
    assert [event.fields["step"] for event in told if event.kind == "checkpoint"] == [200, 400, 600, 800]
    return digest_of(work)


@pytest.mark.parametrize("at_step", [10, 200, 330])
def test_sigterm_anywhere_then_resume_is_bit_exact(job: Job, uninterrupted: str, tmp_path: Path, at_step: int) -> None:
    with start(replace(job, work=str(tmp_path))) as child:
        for event in events(child):
            if event.kind == "step" and event.fields["step"] >= at_step:
                child.send_signal(signal.SIGTERM)
    assert child.returncode == 0
    stopped = max(checkpoint_folders(tmp_path))
    assert at_step <= stopped < STEPS, "it was not interrupted"
    resume = str(tmp_path / f"checkpoint-{stopped}")
    run_to_end(replace(job, work=str(tmp_path), resume=resume, resume_step=stopped))
    assert digest_of(tmp_path) == uninterrupted


def test_kill_9_then_resume_from_the_last_checkpoint_is_bit_exact(job: Job, uninterrupted: str, tmp_path: Path) -> None:
    with start(replace(job, work=str(tmp_path))) as child:
        for event in events(child):
            if event.kind == "checkpoint" and event.fields["step"] == 200:
                child.kill()
    assert child.returncode == -signal.SIGKILL
    saved = max(checkpoint_folders(tmp_path))
    resume = str(tmp_path / f"checkpoint-{saved}")
    run_to_end(replace(job, work=str(tmp_path), resume=resume, resume_step=saved))
    assert digest_of(tmp_path) == uninterrupted


def test_child_ends_when_its_parent_is_killed(job: Job, tmp_path: Path) -> None:
    """A peer that dies by kill -9 leaves no training process behind."""
    endless = replace(job, work=str(tmp_path), recipe=job.recipe | {"steps": 10_000_000, "publish_every": 10_000_000})
    path = tmp_path / "job.json"
    endless.write(path)
    code = (
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-m', 'paris.node.worker', {str(path)!r}], stdout=sys.stdout); "
        "child.wait()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        for line in parent.stdout:
            if (event := Event.parse(line)) and event.kind == "step":
                parent.kill()
                break
        # End of file comes only when the last holder of the pipe, the orphan, has ended.
        assert b'"stopped"' in parent.stdout.read()


def failed(job: Job) -> dict[str, Any]:
    with start(job) as child:
        told = list(events(child))
    assert child.returncode != 0
    return {"event": told[-1].kind, **told[-1].fields}


def test_checkpoint_worse_than_it_claims_is_refused(job: Job, tmp_path: Path) -> None:
    run_to_end(replace(job, work=str(tmp_path), recipe=job.recipe | {"steps": 20}))
    resume = str(tmp_path / "checkpoint-20")
    error = failed(replace(job, work=str(tmp_path / "next"), resume=resume, resume_step=20, claimed_loss_micro=1000))
    assert error["event"] == "refused"
    assert "it claims 0.0010" in error["why"]


def test_training_state_of_other_steps_than_signed_is_refused(job: Job, tmp_path: Path) -> None:
    run_to_end(replace(job, work=str(tmp_path), recipe=job.recipe | {"steps": 20}))
    resume = str(tmp_path / "checkpoint-20")
    error = failed(replace(job, work=str(tmp_path / "next"), resume=resume, resume_step=1000))
    assert error["event"] == "refused"
    assert "20 steps, its statement says 1000" in error["why"]


def test_poisoned_training_state_is_refused_and_not_a_failure_of_this_node(job: Job, tmp_path: Path) -> None:
    run_to_end(replace(job, work=str(tmp_path), recipe=job.recipe | {"steps": 20}))
    state = tmp_path / "checkpoint-20" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    error = failed(replace(job, work=str(tmp_path / "next"), resume=str(state.parent), resume_step=20))
    assert error["event"] == "refused"


def test_other_text_encoder_than_the_genesis_names_is_refused(job: Job, tmp_path: Path) -> None:
    text = job.text | {"sha256": "sha256:" + "1" * 64}
    error = failed(replace(job, work=str(tmp_path), text=text, cache=str(tmp_path / "cache")))
    assert error["exit_code"] == 3
    assert "not the one of this run" in error["what"]


def test_truncated_shard_is_named(job: Job, tmp_path: Path) -> None:
    cut = tmp_path / "cut.tar"
    cut.write_bytes(Path(job.shards[0]).read_bytes()[:-3000])
    error = failed(replace(job, work=str(tmp_path), shards=(str(cut),), cache=str(tmp_path / "cache")))
    assert "cut.tar" in error["what"]


def test_two_processes_train_one_unit_and_a_stop_writes_a_checkpoint(job: Job, tmp_path: Path) -> None:
    """The child becomes `torchrun`, under the same process id: what the peer sees and signals stays one child."""
    together = replace(
        job,
        work=str(tmp_path / "two"),
        means=Means(threads=1, processes=2),
        recipe=job.recipe | {"publish_every": 10, "steps": 40},
    )
    with start(together) as child:
        told = []
        for event in events(child):
            told.append(event)
            if event.kind == "checkpoint":
                child.send_signal(signal.SIGTERM)
    assert next(event for event in told if event.kind == "resumed").fields["ranks"] == 2
    assert [event.fields["step"] for event in told if event.kind == "step"][:1] == [10]
    assert [event.kind for event in told].count("resumed") == 1, "one rank speaks"
    stopped = max(checkpoint_folders(tmp_path / "two"))
    resume = str(tmp_path / "two" / f"checkpoint-{stopped}")
    alone = replace(together, work=str(tmp_path / "one"), means=Means(threads=1), resume=resume, resume_step=stopped)
    assert run_to_end(alone)[-1].fields["step"] == 40


def test_published_weights_are_measured_beside_what_knowing_nothing_is_worth(job: Job, tmp_path: Path) -> None:
    """Only hold-out shards are needed; the same weights measure the same, and what cannot be loaded is refused."""
    claimed = run_to_end(replace(job, work=str(tmp_path), recipe=job.recipe | {"steps": 60}))[-2].fields
    weights = tmp_path / "checkpoint-60"
    measuring = replace(job, work=str(tmp_path / "measured"), shards=(), evaluate=str(weights), claimed_loss_micro=1)
    (measured,) = [event.fields for event in run_to_end(measuring) if event.kind == "measured"]
    assert measured["measured_loss_micro"] == pytest.approx(claimed["holdout_loss_micro"], rel=0.02)
    assert measured["measured_loss_micro"] < measured["nothing_micro"]
    assert measured["samples"] > 0
    file = weights / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert failed(measuring)["event"] == "refused"


def test_warm_start_goes_on_from_weights_says_so_and_its_state_resumes_bit_for_bit(job: Job, tmp_path: Path) -> None:
    """The training state of step 40 is lost, its published weights are not."""
    recipe = job.recipe | {"steps": 80, "publish_every": 20}
    run_to_end(replace(job, work=str(tmp_path / "lost"), recipe=recipe | {"steps": 40}))
    weights = str(tmp_path / "lost" / "checkpoint-40")
    warm = replace(job, work=str(tmp_path / "warm"), recipe=recipe, start=weights, resume_step=40)
    told = run_to_end(warm)
    (resumed,) = [event.fields for event in told if event.kind == "resumed"]
    assert (resumed["step"], resumed["begun_from"]) == (40, "weights")
    folders = checkpoint_folders(tmp_path / "warm")
    notes = {step: json.loads((folder / "metrics.json").read_text()) for step, folder in folders.items()}
    assert (notes[60]["from_step"], notes[60]["begun_from"], notes[80]["begun_from"]) == (40, "weights", "memory")
    again = replace(warm, work=str(tmp_path / "again"), start=None, resume=str(folders[60]), resume_step=60)
    run_to_end(again)
    state = "state.safetensors"
    there, here = folders[80] / state, checkpoint_folders(tmp_path / "again")[80] / state
    assert there.read_bytes() == here.read_bytes()
