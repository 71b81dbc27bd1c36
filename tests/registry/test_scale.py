"""Ray: looking and encoding elsewhere gives the same bytes as here."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path

import pytest
from registry_support import picture

from paris.models.text import open_text_encoder
from paris.protocol.errors import ResourceError
from paris.registry import looks, scale
from paris.registry.judging import Filters
from paris.registry.preparation import Wanted, prepare
from paris.registry.sources import open_source
from paris.registry.store import Store

COLOURS = ("red", "blue", "green")
opened = functools.cache(open_text_encoder)


@pytest.fixture
def data(tmp_path) -> Path:
    for number in range(40):
        for colour in COLOURS:
            path = tmp_path / "things" / colour / f"{number:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture(colour, side=16 + number))
            path.with_suffix(".txt").write_text(f"a {colour} square, number {number}")
    (tmp_path / "things" / "red" / "007.png").write_bytes(b"broken")
    return tmp_path / "things"


def made(data: Path, folder: Path, engine: str, filters: Filters):
    text = opened("minilm", "all-MiniLM-L6-v2", 16)
    wanted = Wanted("text+pixels", filters, engine=engine)
    found = prepare(open_source(str(data)), 3, wanted, text, folder / "work", folder / "cache")
    assert len(found.rejects) == 1
    return Store(folder / "store").add_tree(folder / "work", found.files).digest


@pytest.fixture
def two_workers(monkeypatch):
    import ray

    here = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100_000_000,
        runtime_env={"env_vars": {"PYTHONPATH": here}},
    )
    yield ray
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own, of several kinds
def test_two_workers_of_a_ray_cluster_give_the_same_digest(data, tmp_path, two_workers, monkeypatch):
    monkeypatch.setattr("paris.registry.sources.FILES_PER_PART", 25)
    monkeypatch.setattr("paris.registry.features.TEXT_BATCH", 16)
    local = made(data, tmp_path / "local", "local", Filters())
    with monkeypatch.context() as patched:
        patched.setattr(looks.Looker, "_see", lambda *_: pytest.fail("a picture was looked at here"))
        patched.setattr(type(opened("minilm", "all-MiniLM-L6-v2", 16)), "encode", _unused)
        assert made(data, tmp_path / "ray", "ray", Filters()) == local


def _unused(*_args):
    pytest.fail("a text was encoded here")


def test_without_ray_the_engine_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ResourceError, match="not installed") as caught:
        scale._ray()
    assert "paris-node[scale]" in caught.value.hint
