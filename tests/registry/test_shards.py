"""Shards: equal bytes for equal input, hold-out groups never cross, interrupted work goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from registry_support import coloured, sample, survey_of

from paris.models.shards import read_shard
from paris.models.text import open_text_encoder
from paris.protocol.errors import DigestError, ResourceError, UsageError
from paris.registry.clusters import Cluster, Clustering, cluster
from paris.registry.features import open_features, survey
from paris.registry.shards import PLAN_NAME, is_holdout, shard_names, write_shards
from paris.registry.sources import open_source, read_samples
from paris.registry.store import Store

SAMPLES = coloured(60)


@pytest.fixture(scope="module")
def cut():
    found = survey_of(SAMPLES)
    return found, cluster(found, 4)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


def test_shards_hold_every_sample_once_untouched(tmp_path, cut):
    result = write_shards(SAMPLES, *cut, tmp_path, samples_per_shard=50)
    assert sorted(contents(tmp_path)) == shard_names(result)
    back = [one for name in shard_names(result) for one in read_shard(tmp_path / name)]
    assert {(one.key, one.picture, one.caption) for one in back} == {(s.key, s.picture, s.caption) for s in SAMPLES}
    assert len(back) == len(SAMPLES)
    clustering = cut[1]
    group_of = {one.key: one.group for one in SAMPLES}
    assert all(one.cluster == clustering.cluster_of[group_of[one.key]] for one in back)


def test_names_counts_and_words_are_those_of_a_genesis(tmp_path, cut):
    result = write_shards(SAMPLES, *cut, tmp_path, samples_per_shard=50)
    assert [one.id for one in result] == [0, 1, 2, 3]
    for one, described in zip(result, cut[1].clusters, strict=True):
        assert one.words == described.words
        assert one.samples + one.holdout_samples == described.samples
        assert one.shards[0] == f"cluster-{one.id:03d}-train-000.tar"
        assert one.holdout == (f"cluster-{one.id:03d}-holdout-000.tar",)
        assert len(one.shards) == -(-one.samples // 50)
        assert sum(1 for name in one.shards for _ in read_shard(tmp_path / name)) == one.samples
        assert sum(1 for name in one.holdout for _ in read_shard(tmp_path / name)) == one.holdout_samples


def test_groups_never_cross_from_training_to_hold_out(tmp_path, cut):
    result = write_shards(SAMPLES, *cut, tmp_path)
    group_of = {one.key: one.group for one in SAMPLES}
    train, holdout = (
        {group_of[one.key] for cluster in result for name in names(cluster) for one in read_shard(tmp_path / name)}
        for names in (lambda one: one.shards, lambda one: one.holdout)
    )
    assert not train & holdout
    assert train | holdout == set(group_of.values())
    assert all(is_holdout(group) for group in holdout)
    assert not any(is_holdout(group) for group in train)


@given(group=st.text())
def test_the_hold_out_rule_is_the_published_one(group):
    first_four = hashlib.sha256(group.encode("utf-8", "surrogatepass")).digest()[:4]
    if group.isprintable():
        assert is_holdout(group) == (int.from_bytes(first_four, "big") % 10 == 0)


def test_the_hold_out_rule_never_changes():
    codes = [f"1F6{last:02X}" for last in range(64)]
    assert [code[-2:] for code in codes if is_holdout(code)] == ["1A", "1E", "24", "25", "28", "29", "33", "35"]


def test_equal_input_gives_equal_bytes(tmp_path, cut):
    write_shards(SAMPLES, *cut, tmp_path / "one")
    again = survey_of(coloured(60))
    write_shards(coloured(60), again, cluster(again, 4), tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    stores = [Store(tmp_path / f"store-{name}").add_tree(tmp_path / name) for name in ("one", "two")]
    assert stores[0].digest == stores[1].digest


def test_members_carry_no_time_owner_or_order_of_arrival(tmp_path, cut):
    result = write_shards(SAMPLES, *cut, tmp_path)
    for name in shard_names(result):
        with tarfile.open(tmp_path / name) as tar:
            members = tar.getmembers()
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o444)}
        assert [m.name for m in members] == sorted(m.name for m in members)


def test_the_licence_of_each_picture_goes_with_it(tmp_path, cut):
    result = write_shards(SAMPLES, *cut, tmp_path)
    with tarfile.open(tmp_path / result[0].shards[0]) as tar:
        first = next(member for member in tar if member.name.endswith(".json"))
        fields = json.load(tar.extractfile(first))
    assert fields["license"] == "CC0-1.0"
    assert set(fields) == {"caption", "cluster", "group", "license"}


def test_our_own_source_reads_our_own_shards(tmp_path, cut):
    write_shards(SAMPLES, *cut, tmp_path)
    back = list(read_samples(open_source(str(tmp_path), split_key="license")))
    assert {one.key for one in back} == {one.key for one in SAMPLES}


def test_an_interrupted_run_keeps_its_finished_shards(tmp_path, cut):
    whole = tmp_path / "whole"
    write_shards(SAMPLES, *cut, whole, samples_per_shard=20)

    def dying():
        for number, one in enumerate(SAMPLES):
            if number == 300:
                raise KeyboardInterrupt
            yield one

    folder = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        write_shards(dying(), *cut, folder, samples_per_shard=20)
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("*.tar")}
    assert 0 < len(finished) < len(contents(whole))
    write_shards(SAMPLES, *cut, folder, samples_per_shard=20)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "finished shards are not written again"
    assert contents(folder) == contents(whole)


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from registry_support import coloured, survey_of
from paris.registry.clusters import cluster
from paris.registry.features import open_features, survey
from paris.registry.shards import write_shards
def waiting(samples):
    for number, sample in enumerate(samples):
        if number == 300:
            print("middle", flush=True)
            sys.stdin.read()
        yield sample
found = survey_of(coloured(60))
write_shards(waiting(coloured(60)), found, cluster(found, 4), Path(sys.argv[2]), samples_per_shard=20)
"""


@pytest.mark.slow
def test_kill_9_in_the_middle_then_restart_gives_the_same_bytes(tmp_path, cut):
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path / "cut")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"middle\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    write_shards(SAMPLES, *cut, tmp_path / "cut", samples_per_shard=20)
    write_shards(SAMPLES, *cut, tmp_path / "whole", samples_per_shard=20)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_two_writers_in_one_folder_never_make_a_whole_shard_of_wrong_samples(tmp_path, cut):
    def stopped():
        yield from SAMPLES[:150]
        raise KeyboardInterrupt

    def disturbed():
        for number, one in enumerate(SAMPLES):
            if number == 200:
                with pytest.raises(KeyboardInterrupt):
                    write_shards(stopped(), *cut, tmp_path)
            yield one

    with pytest.raises(DigestError, match="what was written"):
        write_shards(disturbed(), *cut, tmp_path)
    write_shards(SAMPLES, *cut, tmp_path)
    write_shards(SAMPLES, *cut, tmp_path / "undisturbed")
    assert contents(tmp_path) == contents(tmp_path / "undisturbed")


def test_another_plan_replaces_old_shards(tmp_path, cut):
    write_shards(SAMPLES, *cut, tmp_path, samples_per_shard=20)
    result = write_shards(SAMPLES, *cut, tmp_path, samples_per_shard=500)
    assert sorted(contents(tmp_path)) == shard_names(result)


def test_shards_of_unknown_origin_are_never_removed(tmp_path, cut):
    (tmp_path / "cluster-000-train-000.tar").write_bytes(b"somebody's")
    with pytest.raises(UsageError, match="another origin"):
        write_shards(SAMPLES, *cut, tmp_path)
    assert contents(tmp_path) == {"cluster-000-train-000.tar": b"somebody's"}


@pytest.mark.parametrize("change", ["caption", "dropped", "added"])
def test_data_that_change_between_the_passes_are_noticed(tmp_path, cut, change):
    changed = list(SAMPLES)
    match change:
        case "caption":
            changed[7] = dataclasses.replace(changed[7], caption="rewritten")
        case "dropped":
            del changed[7]
        case "added":
            changed.append(sample("new", group="never surveyed"))
    with pytest.raises(DigestError, match="changed") as caught:
        write_shards(changed, *cut, tmp_path, samples_per_shard=20)
    assert caught.value.exit_code == 3
    assert contents(tmp_path) == {}


def test_a_full_disk_stops_with_a_sentence_and_goes_on_later(tmp_path, cut, full_disk):
    with full_disk(20_000), pytest.raises(ResourceError, match="no room"):
        write_shards(SAMPLES, *cut, tmp_path)
    assert contents(tmp_path) == {}
    assert len(shard_names(write_shards(SAMPLES, *cut, tmp_path))) == len(contents(tmp_path)) == 8


def test_a_cluster_without_a_hold_out_is_refused(tmp_path):
    few = [one for one in coloured(3) if not is_holdout(one.group)]
    found = survey_of(few)
    clustering = Clustering((Cluster(0, len(few), ()),), found.groups, np.zeros(len(found.groups), dtype=np.int64))
    with pytest.raises(UsageError, match="no hold-out sample"):
        write_shards(few, found, clustering, tmp_path)
    assert not (tmp_path / PLAN_NAME).exists()


def test_progress_counts_the_samples(tmp_path, cut):
    told = []
    write_shards(SAMPLES, *cut, tmp_path, progress=lambda *now: told.append(now))
    assert told[0] == ("shard", 0, len(SAMPLES))
    assert told[-1] == ("shard", len(SAMPLES), len(SAMPLES))


@pytest.mark.slow
def test_the_packaged_sample_becomes_four_balanced_clusters_with_meaning(tmp_path):
    source = open_source("sample:emoji")
    encoder = open_text_encoder("minilm", "all-MiniLM-L6-v2", 16)
    found = survey(read_samples(source), open_features("text", encoder))
    clustering = cluster(found, 4)
    result = write_shards(read_samples(source), found, clustering, tmp_path)
    assert sum(one.samples + one.holdout_samples for one in result) == 8486
    sizes = [one.samples for one in clustering.clusters]
    assert max(sizes) <= 2 * min(sizes)
    assert all(0.05 < one.holdout_samples / one.samples < 0.2 for one in result)
    homes = {word: [one.id for one in result if word in one.words] for word in ("flag", "face", "animal", "woman")}
    assert sorted(home for home, *more in homes.values() if not more) == [0, 1, 2, 3], homes
