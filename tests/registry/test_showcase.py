"""Pictures of a card: from shards that are here, drawn by an expert alone, and none where something is missing."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hub_run import filled
from network_simulator import ANN, NetworkSimulator, exported
from PIL import Image

from paris.models.filenames import WEIGHTS
from paris.protocol.checkpoint import open_checkpoint
from paris.registry import showcase
from paris.registry.showcase import THUMB_PX, contact_sheet, drawn_sheet
from paris.registry.store import Store


def sheet(data: bytes | None) -> np.ndarray:
    assert data
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=float)


def drawn(network: NetworkSimulator, store: Store, unit: str = "cluster-0", **options: object) -> bytes | None:
    checkpoint = network.publish(ANN, unit, 60, **options)
    filled(store, network)
    return drawn_sheet(store, network.genesis, open_checkpoint(network.bytes_of(checkpoint)))


def test_the_contact_sheet_shows_the_clusters_own_pictures(network: NetworkSimulator, store: Store) -> None:
    filled(store, network)
    sheets = [sheet(contact_sheet(store, network.genesis, f"cluster-{k}")) for k in (0, 1)]
    assert [picture.shape for picture in sheets] == [(THUMB_PX, THUMB_PX, 3)] * 2
    assert contact_sheet(store, network.genesis, "router") is None


def test_an_expert_draws_the_same_sheet_again_and_other_weights_another(
    network: NetworkSimulator, store: Store
) -> None:
    first, again = drawn(network, store), drawn(network, store)
    assert first == again
    other = sheet(drawn(network, store, files=exported("cluster-0", seed=7)))
    assert sheet(first).std() > 1, "it is no empty picture"
    assert np.abs(sheet(first) - other).mean() > 1


@pytest.mark.parametrize("missing", ["shards", "weights"])
def test_nothing_is_drawn_where_something_is_missing(network: NetworkSimulator, store: Store, missing: str) -> None:
    checkpoint = network.publish(ANN, "cluster-0", 60)
    filled(store, network)
    gone = network.shard_digests["cluster-000-holdout-000.tar"] if missing == "shards" else (
        network.entry(checkpoint, WEIGHTS).sha256
    )  # fmt: skip
    store.remove(gone)
    assert drawn_sheet(store, network.genesis, open_checkpoint(network.bytes_of(checkpoint))) is None


def test_a_router_draws_nothing_and_a_large_expert_not_on_a_cpu(
    network: NetworkSimulator, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = network.publish(ANN, "router", 60)
    filled(store, network)
    assert drawn_sheet(store, network.genesis, open_checkpoint(network.bytes_of(checkpoint))) is None
    monkeypatch.setattr(showcase, "MOST_PARAMETERS", 10)
    monkeypatch.setattr(showcase, "local_device", lambda: torch.device("cpu"))
    assert drawn(network, store) is None
