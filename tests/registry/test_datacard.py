"""A run's data as a data-set repository: published once, read back by anybody, the same bytes."""

from __future__ import annotations

import pytest
from hub_run import filled
from hub_testing import point_client_at
from loopback_hub import LoopbackHub

from paris.protocol.errors import UnavailableError
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import Manifest
from paris.registry.datacard import dataset_card, dataset_change
from paris.registry.hubwriter import HubWriter
from paris.registry.sources import open_source, read_samples

REPOSITORY = "ann/squares"


@pytest.fixture
def publish(tmp_path, monkeypatch, store, network):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))
    with LoopbackHub(tmp_path / "hub") as hub:
        point_client_at(hub.endpoint, monkeypatch, token="hf_ann")
        change = dataset_change(filled(store, network), network.genesis, network.run, REPOSITORY)
        writer = HubWriter(hub.endpoint, "hf_ann", sleep=lambda _: None, kind="dataset")
        yield hub, lambda: writer.update(REPOSITORY, network.run, change)


def test_the_shards_are_published_in_one_commit_and_only_once(publish, network):
    hub, push = publish
    assert push().made
    assert not push().made
    assert len(hub.commits(REPOSITORY, "datasets")) == 1
    manifest = Manifest.from_bytes(network.bytes_of(network.genesis.data.manifest))
    files = hub.commits(REPOSITORY, "datasets")[0].files
    assert {entry.name for entry in manifest.files} <= set(files)
    assert all(f"sha256:{files[entry.name].sha256}" == entry.sha256 for entry in manifest.files)


def test_what_was_published_is_a_source_again(publish, network):
    _, push = publish
    push()
    samples = list(read_samples(open_source(f"hf://datasets/{REPOSITORY}/*-train-*.tar")))
    assert len(samples) == network.genesis.data.samples
    assert all(sample.caption for sample in samples)


def test_data_that_are_not_here_are_not_half_published(store, network):
    filled(store, network)
    manifest = Manifest.from_bytes(store.get_bytes(network.genesis.data.manifest, LIMITS.blob_bytes))
    store.path(manifest.files[0].sha256).unlink()
    with pytest.raises(UnavailableError, match="not in the store"):
        dataset_change(store, network.genesis, network.run, REPOSITORY)


def test_the_card_says_what_the_clusters_are_and_strangers_words_stay_words(network):
    hostile = network.genesis.model_copy(deep=True)
    object.__setattr__(hostile.data, "name", "<script>alert(1)</script> | [x](http://evil)")
    card = dataset_card(hostile, network.run, REPOSITORY)
    assert "<script>" not in card
    assert "](http" not in card
    assert card.startswith("---\nlicense: ")
    for cluster in network.genesis.clusters:
        assert f"| {cluster.id} | {cluster.samples:,} |" in card
