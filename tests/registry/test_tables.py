"""Tables: parquet in the shapes that are met, data sets of the `datasets` library, here and on a loopback Hub."""

from __future__ import annotations

import io

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_testing import point_client_at
from huggingface_hub import HfApi
from loopback_hub import LoopbackHub
from registry_support import picture

from paris.protocol.errors import ResourceError, UsageError
from paris.registry import tables
from paris.registry.samples import Rejects
from paris.registry.sources import Columns, open_source, read_samples

PICTURES = [picture("red"), picture("blue"), picture("green")]
CAPTIONS = ["a red square", "a blue square", "a green square"]


def table(**columns) -> pa.Table:
    return pa.table({"image": PICTURES, "caption": CAPTIONS, **columns})


def read(where, **options):
    rejects = Rejects()
    return list(read_samples(open_source(str(where), **options), rejects)), rejects


SHAPES = {
    "bytes": lambda: {"image": PICTURES, "caption": CAPTIONS},
    "struct": lambda: {"image": [{"bytes": one, "path": None} for one in PICTURES], "text": CAPTIONS},
    "paths": lambda: {"file_name": ["0.png", "1.png", "sub/2.png"], "prompt": CAPTIONS},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_table_of_any_usual_shape(tmp_path, shape):
    (tmp_path / "sub").mkdir()
    for name, data in zip(("0.png", "1.png", "sub/2.png"), PICTURES, strict=True):
        if shape == "paths":
            (tmp_path / name).write_bytes(data)
    pq.write_table(pa.table(SHAPES[shape]()), tmp_path / "train-00.parquet")
    samples, rejects = read(tmp_path / "train-00.parquet")
    assert [(s.key, s.caption, s.picture) for s in samples] == [
        (f"train-00/{n:09d}", caption, one) for n, (caption, one) in enumerate(zip(CAPTIONS, PICTURES, strict=True))
    ]
    assert not len(rejects)


def test_keys_groups_and_licences_are_columns(tmp_path):
    columns = {"key": ["a.b", "c", "c"], "thing": [7, 8, 8], "license": ["MIT", "CC0-1.0", "MIT"], "width": [1, 2, 3]}
    pq.write_table(table(**columns), tmp_path / "t.parquet")
    samples, rejects = read(tmp_path / "t.parquet", split_key="thing")
    assert [(s.key, s.group, s.fields["license"]) for s in samples] == [("a-b", "7", "MIT"), ("c", "8", "CC0-1.0")]
    assert [tuple(reject) for reject in rejects.entries] == [("c", "duplicate key", "t.parquet, row 2")]


def test_columns_can_be_named_and_a_wrong_name_says_what_there_is(tmp_path):
    pq.write_table(pa.table({"photo": PICTURES, "headline": CAPTIONS}), tmp_path / "t.parquet")
    assert len(read(tmp_path / "t.parquet", columns=Columns("photo", "headline"))[0]) == 3
    samples, rejects = read(tmp_path / "t.parquet", columns=Columns("photo", "title"))
    assert samples == []
    assert "it has photo, headline; looked for title" in rejects.entries[0].reason


def test_row_groups_are_read_in_order_and_each_is_a_part(tmp_path):
    pq.write_table(table(), tmp_path / "b.parquet", row_group_size=2)
    pq.write_table(table(), tmp_path / "a.parquet", row_group_size=1)
    source = open_source(str(tmp_path))
    assert len(list(source.parts(Rejects()))) == 5
    assert [s.key for s in read_samples(source)] == [f"{name}/{row:09d}" for name in "ab" for row in range(3)]


@pytest.mark.parametrize("cut", [0, 40, -30, -4], ids=["empty", "start", "footer", "end"])
def test_a_damaged_table_is_reported_by_name_and_the_others_count(tmp_path, cut):
    pq.write_table(table(), tmp_path / "good.parquet")
    (tmp_path / "bad.parquet").write_bytes((tmp_path / "good.parquet").read_bytes()[:cut])
    samples, rejects = read(tmp_path)
    assert len(samples) == 3
    assert [(reject.key, reject.reason.partition(":")[0]) for reject in rejects.entries] == [
        ("bad.parquet", "unreadable table")
    ]


def test_a_page_damaged_in_the_middle_does_not_end_the_others(tmp_path):
    plain = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table(), tmp_path / "t.parquet", row_group_size=1, **plain)
    data = bytearray((tmp_path / "t.parquet").read_bytes())
    place = data.index(PICTURES[1])
    data[place - 20 : place] = b"\xff" * 20
    (tmp_path / "t.parquet").write_bytes(data)
    samples, rejects = read(tmp_path / "t.parquet")
    assert {s.caption for s in samples} == {CAPTIONS[0], CAPTIONS[2]}
    assert [reject.key for reject in rejects.entries] == ["t.parquet, row group 1"]


def test_a_table_cannot_name_files_elsewhere(tmp_path):
    (tmp_path / "secret.png").write_bytes(PICTURES[0])
    (tmp_path / "data").mkdir()
    names = ["../secret.png", str(tmp_path / "secret.png"), "gone.png"]
    pq.write_table(pa.table({"file_name": names, "caption": CAPTIONS}), tmp_path / "data" / "t.parquet")
    samples, rejects = read(tmp_path / "data")
    assert samples == []
    assert [reject.file for reject in rejects.entries] == [f"t.parquet, row {row}" for row in range(3)]
    assert rejects.summary() == "3 x unreadable"


def test_shards_and_tables_are_not_mixed(tmp_path):
    pq.write_table(table(), tmp_path / "t.parquet")
    (tmp_path / "s.tar").write_bytes(b"")
    with pytest.raises(UsageError, match="shards and tables"):
        open_source(str(tmp_path))


def saved(folder, kind=datasets.Dataset):
    features = datasets.Features(
        {"image": datasets.Image(), "text": datasets.Value("string"), "id": datasets.Value("int64")}
    )
    rows = {"image": [{"bytes": one, "path": None} for one in PICTURES], "text": CAPTIONS, "id": [5, 6, 7]}
    made = datasets.Dataset.from_dict(rows, features=features)
    (made if kind is datasets.Dataset else datasets.DatasetDict(train=made, test=made.select([0]))).save_to_disk(folder)
    return folder


@pytest.mark.parametrize("kind", [datasets.Dataset, datasets.DatasetDict])
def test_a_data_set_saved_to_a_folder_is_read_undecoded(tmp_path, kind):
    samples, _ = read(saved(tmp_path / "things", kind))
    assert [(s.key, s.caption, s.picture) for s in samples] == list(zip("567", CAPTIONS, PICTURES, strict=True))
    assert open_source(str(tmp_path / "things")).name == "things"


def test_a_split_that_is_not_there_is_a_usage_error(tmp_path):
    saved(tmp_path / "things", datasets.DatasetDict)
    assert len(read(f"hf-dataset:{tmp_path / 'things'}:test")[0]) == 1
    with pytest.raises(UsageError, match="cannot be used"):
        open_source(f"hf-dataset:{tmp_path / 'things'}:dev")


def test_a_missing_library_says_what_to_install(tmp_path, monkeypatch):
    pq.write_table(table(), tmp_path / "t.parquet")
    monkeypatch.setattr(tables, "__import__", lambda _: (_ for _ in ()).throw(ImportError), raising=False)
    with pytest.raises(ResourceError, match=r"paris-node\[data\]"):
        open_source(str(tmp_path / "t.parquet"))


def test_a_data_set_on_the_hub_by_its_name(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    pq.write_table(table(), buffer)
    with LoopbackHub(tmp_path / "hub") as hub:
        point_client_at(hub.endpoint, monkeypatch, token="hf_ann")
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", hub.endpoint)
        api = HfApi(endpoint=hub.endpoint, token="hf_ann")
        api.create_repo("ann/things", repo_type="dataset")
        api.upload_file(
            path_or_fileobj=buffer.getvalue(),
            path_in_repo="data/train-00000-of-00001.parquet",
            repo_id="ann/things",
            repo_type="dataset",
        )
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
        for where in ("hf://datasets/ann/things/data/*.parquet", "hf-dataset:ann/things"):
            assert [sample.caption for sample in read(where)[0]] == CAPTIONS
        with pytest.raises(UsageError, match="matches"):
            open_source("hf://datasets/ann/things/data/*.tar")
