"""Checkpoints on their way to disk while training goes on: whole, in order, one at a time, failures not forgotten."""

from __future__ import annotations

import threading

import pytest
import torch
from test_training import assert_equal, new_trainer

from paris.models.snapshots import BackgroundWriter


def test_a_snapshot_is_of_its_step_whatever_training_does_meanwhile(tmp_path, cache):
    trainer, alone, writer, go_on = new_trainer(cache), new_trainer(cache), BackgroundWriter(), threading.Event()
    trainer.train(5)
    snapshot = trainer.snapshot()

    def write() -> None:
        assert go_on.wait(60)
        snapshot.save(tmp_path)

    writer.submit(write)
    trainer.train(9)
    go_on.set()
    writer.wait()
    alone.train(5)
    resumed = new_trainer(cache, seed=8)
    resumed.load(tmp_path)
    assert_equal(resumed, alone)
    assert snapshot.digest() == alone.snapshot().digest() != trainer.snapshot().digest()


def test_a_failed_write_surfaces_at_the_next_step_and_once():
    writer = BackgroundWriter()

    def fail() -> None:
        raise OSError(28, "No space left on device")

    writer.submit(fail)
    with pytest.raises(OSError, match="No space"):
        check_until_it_fails(writer)
    writer.check()
    writer.wait()


def check_until_it_fails(writer: BackgroundWriter) -> None:
    while True:
        writer.check()


def test_a_failed_write_stops_training_with_everything_consistent(cache):
    trainer, whole, writer = new_trainer(cache), new_trainer(cache), BackgroundWriter()

    def fail() -> None:
        raise OSError(28, "No space left on device")

    def stop() -> bool:
        if trainer.step == 3:
            writer.submit(fail)
        if trainer.step == 5:
            writer.wait()
        return False

    with pytest.raises(OSError, match="No space"):
        trainer.train(20, stop=stop)
    assert trainer.step == 5
    trainer.train(20)
    whole.train(20)
    assert_equal(trainer, whole)


def test_one_write_is_in_flight_and_the_order_is_kept():
    writer, done, go_on = BackgroundWriter(), [], threading.Event()

    def first() -> None:
        assert go_on.wait(60)
        done.append(1)

    writer.submit(first)
    writer.check()
    assert done == [], "asking must not wait"
    threading.Timer(0.05, go_on.set).start()
    writer.submit(lambda: done.append(2))
    assert done[0] == 1
    writer.wait()
    assert done == [1, 2]


def test_poisoned_snapshot_is_never_written(tmp_path, cache):
    trainer = new_trainer(cache)
    trainer.train(2)
    snapshot = trainer.snapshot()
    snapshot.groups["average"]["patch_in.weight"][0, 0] = float("nan")
    for write in (snapshot.save, snapshot.export):
        with pytest.raises(ValueError, match="poisoned"):
            write(tmp_path / "out")
    assert not list(tmp_path.rglob("*.safetensors"))
    assert torch.isfinite(trainer.average["patch_in.weight"]).all()
