"""From data to shards: killed anywhere it goes on, equal data give equal bytes, new samples find their cluster."""

from __future__ import annotations

import functools
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from registry_support import picture

from paris.models.text import open_text_encoder
from paris.protocol.errors import ResourceError, UsageError, VerificationError
from paris.registry import clusters, features, looks, shards
from paris.registry.catalogue import Catalogue, Rows
from paris.registry.centroids import CENTROIDS, Centroids
from paris.registry.clusters import Cut
from paris.registry.judging import Filters
from paris.registry.preparation import REJECTS, Wanted, alone_in, assign, compare, prepare
from paris.registry.samples import Rejects
from paris.registry.sources import open_source
from paris.registry.store import Store

THINGS = {"red": "a ripe red strawberry on a plate", "blue": "a fast blue racing car", "green": "a tall green tree"}
STAGES = ["read", "encode", "shard"]
opened = functools.cache(open_text_encoder)


def text():
    return opened("minilm", "all-MiniLM-L6-v2", 16)


def pictures(folder: Path, count: int = 40, first: int = 0) -> Path:
    """A folder of pictures with captions; one file of it is cut short."""
    for number in range(first, first + count):
        for colour, caption in THINGS.items():
            path = folder / colour / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(colour, side=8 + number % 50))
            path.with_suffix(".txt").write_text(f"{caption}, number {number}")
    broken = folder / "blue" / f"{first + 3:03d}.png"
    broken.write_bytes(broken.read_bytes()[:45])
    return folder


def prepared(data: Path, folder: Path, wanted=None, progress=lambda *_: None, count: int = 3):
    wanted = wanted or Wanted("text+pixels")
    return prepare(open_source(str(data)), count, wanted, text(), folder / "work", folder / "cache", progress)


def digest(made, folder: Path) -> str:
    return Store(folder / "store").add_tree(folder / "work", made.files).digest


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("data") / "things")


def test_a_folder_becomes_clusters_of_things_and_the_corrupted_file_is_named(data, tmp_path):
    made = prepared(data, tmp_path)
    assert [one.samples + one.holdout_samples for one in made.clusters] == [40, 40, 39]
    for one in made.clusters:
        assert one.words[0] in {word for caption in THINGS.values() for word in caption.split()}
    listed = [json.loads(line) for line in (tmp_path / "work" / REJECTS).read_text().splitlines()]
    assert [(reject["file"], reject["reason"].partition(":")[0]) for reject in listed] == [
        ("blue/003.png", "broken picture")
    ]


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """The digest of all that the data become in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return digest(prepared(data, folder), folder)


def test_equal_data_give_equal_bytes_with_and_without_memory(data, undisturbed, tmp_path, monkeypatch):
    one = undisturbed
    assert digest(prepared(data, tmp_path / "two"), tmp_path / "two") == one
    shards_there = sorted((tmp_path / "two" / "work").glob("cluster-*.tar"))
    for shard in shards_there[:2]:
        shard.unlink()
    monkeypatch.setattr(looks, "frames_of", lambda _: pytest.fail("a picture was decoded again"))
    assert digest(prepared(data, tmp_path / "two"), tmp_path / "two") == one


def test_the_report_is_one_page_without_links(data, tmp_path):
    prepared(data, tmp_path)
    page = (tmp_path / "work" / "report.html").read_text()
    assert "strawberry" in page
    assert page.count("data:image/webp;base64,") == 4
    assert "http" not in page
    assert "1 x broken picture" in page
    with Image.open(tmp_path / "work" / "report.png") as image:
        assert image.width > 1000


KILLED = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import test_preparation as here
stage, passed = sys.argv[4], [0]
def progress(what, done, total):
    if what == stage:
        passed[0] += 1
        if passed[0] == int(sys.argv[5]):
            print("here", flush=True)
            sys.stdin.read()
here.features.REPORT_EVERY = here.shards.REPORT_EVERY = 16
here.prepared(Path(sys.argv[2]), Path(sys.argv[3]), progress=progress)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "times"), [("read", 4), ("encode", 1), ("shard", 5)])
def test_kill_9_anywhere_then_the_same_call_gives_the_same_bytes(data, undisturbed, tmp_path, stage, times):
    arguments = [str(Path(__file__).parent), str(data), str(tmp_path / "killed"), stage, str(times)]
    command = [sys.executable, "-c", KILLED, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"here\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    assert digest(prepared(data, tmp_path / "killed"), tmp_path / "killed") == undisturbed


HOLDING = """
import sys
from pathlib import Path
from paris.registry.preparation import alone_in
with alone_in(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_held_work_folder_is_refused_at_once_and_kill_9_leaves_no_lock(data, tmp_path):
    command = [sys.executable, "-c", HOLDING, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="another process"):
            compare(open_source(str(data)), [2], Wanted("pixels"), text(), tmp_path, tmp_path / "cache")
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    with alone_in(tmp_path):
        pass


def test_a_change_of_the_data_is_seen_with_an_old_memory(undisturbed, tmp_path):
    copy = pictures(tmp_path / "things")
    assert digest(prepared(copy, tmp_path / "a"), tmp_path / "a") == undisturbed
    (copy / "red" / "000.txt").write_text("something else altogether")
    assert digest(prepared(copy, tmp_path / "a"), tmp_path / "a") != undisturbed


# New samples.


@pytest.mark.parametrize("cut", [Cut(), Cut(fine=12), Cut(spherical=False), Cut(fine=12, spherical=False, balance=0)])
def test_the_same_samples_find_their_own_cluster_again(data, tmp_path, cut):
    made = prepared(data, tmp_path, Wanted("text+pixels", cut=cut))
    pairs, _ = assign(open_source(str(data)), tmp_path / "work" / CENTROIDS, {}, tmp_path / "new", tmp_path / "cache")
    expected = made.clustering.cluster_of
    assert dict(pairs) == dict(expected)


def test_new_samples_go_where_their_like_are(data, tmp_path):
    made = prepared(data, tmp_path, Wanted("pixels"))
    fresh = pictures(tmp_path / "fresh", 5, first=60)
    source = open_source(str(fresh))
    pairs, seen = assign(source, tmp_path / "work" / CENTROIDS, {}, tmp_path / "new", tmp_path / "cache")
    home = {group.partition("/")[0]: cluster for group, cluster in made.clustering.cluster_of.items()}
    assert len(set(home.values())) == 3
    assert dict(pairs) == {key: home[key.partition("/")[0]] for key in seen.survey.groups}
    assert len(seen.rejects) == 1


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_file_that_holds_no_centroids(data, tmp_path, junk):
    (tmp_path / CENTROIDS).write_bytes(junk)
    with pytest.raises(VerificationError, match="no centroids"):
        assign(open_source(str(data)), tmp_path / CENTROIDS, {}, tmp_path / "new", tmp_path / "cache")


def test_centroids_of_other_features_are_refused(data, tmp_path):
    points = Centroids(np.eye(3, dtype=np.float32), np.zeros(3), np.arange(3))
    note = {"features": "pixels", "text": {"kind": "minilm", "name": "all-MiniLM-L6-v2", "tokens": 16}}
    for said, why in (
        (note, "other vectors"),
        ({"features": "pixels"}, "which text encoder"),
        ({"text": 7}, "which text"),
    ):
        points.save(tmp_path / CENTROIDS, said, {})
        with pytest.raises(VerificationError, match=why):
            assign(open_source(str(data)), tmp_path / CENTROIDS, {}, tmp_path / "new", tmp_path / "cache")


# How many clusters.


def test_the_table_of_choices_finds_what_is_there(data, tmp_path):
    rows, seen = compare(
        open_source(str(data)), [1, 2, 3, 500], Wanted("pixels"), text(), tmp_path / "w", tmp_path / "c", report=3
    )
    one, two, three, impossible = rows
    assert [row.clusters for row in rows] == [1, 2, 3, 500]
    assert three.inertia < two.inertia < one.inertia
    assert three.silhouette > two.silhouette > 0
    assert three.separability > 0.9 > three.chance
    assert 1 < three.size_ratio < 1.1
    assert "cannot be cut" in impossible.problem
    assert "cannot be cut" in (tmp_path / "w" / "report.html").read_text()
    assert len(seen.rejects) == 1


def test_a_page_about_an_impossible_number_of_clusters_is_a_usage_error(data, tmp_path):
    with pytest.raises(UsageError, match="cannot be cut"):
        compare(open_source(str(data)), [2], Wanted("pixels"), text(), tmp_path / "w", tmp_path / "c", report=500)


# Size.


def test_many_groups_are_trained_on_some_and_assigned_block_by_block(data, tmp_path, monkeypatch):
    whole = prepared(data, tmp_path / "whole", Wanted("pixels"))
    monkeypatch.setattr(clusters, "TRAIN_GROUPS", 40)
    monkeypatch.setattr(clusters, "BLOCK_ROWS", 16)
    monkeypatch.setattr(features, "BLOCK_ROWS", 16)
    monkeypatch.setattr("paris.registry.centroids._BLOCK_NUMBERS", 64)
    monkeypatch.setattr(clusters, "WORD_GROUPS", 30)
    parts = prepared(data, tmp_path / "parts", Wanted("pixels"))
    partition = [
        {frozenset(g for g, k in m.clustering.cluster_of.items() if k == n) for n in range(3)} for m in (whole, parts)
    ]
    assert partition[0] == partition[1]


def test_shards_that_grow_lie_on_disk_and_leave_nothing_behind(data, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SAMPLES_PER_SHARD", 16)
    held: list[int] = []

    def progress(stage, _done, _total):
        if stage == "shard":
            held.append(len(list((tmp_path / "work").glob(".cluster-*.growing"))))

    monkeypatch.setattr(shards, "REPORT_EVERY", 8)
    prepared(data, tmp_path, Wanted("pixels"), progress)
    assert max(held) > 1
    assert held[-1] == 0


def test_more_data_than_a_manifest_names_are_refused_before_they_are_written(data, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "MOST_BYTES", 1000)
    with pytest.raises(UsageError, match="can name"):
        prepared(data, tmp_path, Wanted("pixels"))
    assert not list((tmp_path / "work").glob("*.tar"))


def test_rows_grow_on_disk_as_in_memory(tmp_path):
    on_disk, in_memory = Rows(tmp_path / "rows.f32", 3), Rows(None, 3)
    for row in (0, 5, 2000, 5):
        for rows in (on_disk, in_memory):
            rows.add(row, np.full(3, row + 1, dtype=np.float32))
    np.testing.assert_array_equal(on_disk.array(2001), in_memory.array(2001))
    assert on_disk.array(2001)[5].tolist() == [12, 12, 12]
    assert (tmp_path / "rows.f32").stat().st_size >= 2001 * 12


def test_a_catalogue_forgets_what_lay_there_before(data, tmp_path):
    prepared(data, tmp_path, Wanted("pixels"))
    again = Catalogue(tmp_path / "work" / ".paris-survey")
    assert (again.samples, again.groups, list(again.names())) == (0, 0, [])
    assert "red/000" not in again


def test_a_full_disk_is_said_and_nothing_is_lost(data, tmp_path, full_disk):
    with full_disk(4_000), pytest.raises(ResourceError, match="room") as caught:
        prepared(data, tmp_path, Wanted("pixels"))
    assert caught.value.hint
    assert digest(prepared(data, tmp_path, Wanted("pixels")), tmp_path)


def test_filters_reach_the_shards(data, tmp_path):
    made = prepared(data, tmp_path, Wanted("pixels", Filters(min_px=20)))
    assert sum(one.samples + one.holdout_samples for one in made.clusters) == 3 * 28
    assert isinstance(made.rejects, Rejects)
    assert made.rejects.summary().startswith("35 x small picture")


def test_an_unknown_engine_names_the_known():
    with pytest.raises(UsageError, match="spark") as caught:
        Wanted(engine="spark")
    assert "ray" in caught.value.hint
