"""A run's data as a data-set repository on the Hub: the shards, the centroids, and a card that says what is where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from huggingface_hub import DatasetCardData

from paris.protocol.errors import UnavailableError
from paris.protocol.genesis import Genesis
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import Manifest
from paris.registry.centroids import CENTROIDS
from paris.registry.hubindex import Index, Lying, described
from paris.registry.hubwriter import Change
from paris.registry.modelcard import CARD, license_of, plain
from paris.registry.store import Store

MANIFEST = "manifest.json"


def dataset_change(store: Store, genesis: Genesis, run: str, repository: str) -> Callable[[Index], Change | None]:
    """What a run's data-set repository still lacks, as a function of its table of contents.

    Args:
        store: Holds the run's data.
        genesis: Of the run.
        run: The run's digest.
        repository: `owner/name`, for the card.

    Raises:
        UnavailableError: the store lacks a part.
    """
    listing = store.get_bytes(genesis.data.manifest, LIMITS.blob_bytes)
    files: dict[str, Path | bytes] = {MANIFEST: listing, CARD: dataset_card(genesis, run, repository).encode()}
    lying: dict[str, Lying] = {}
    for entry in Manifest.from_bytes(listing).files:
        path = store.path(entry.sha256)
        if path is None:
            raise UnavailableError(
                f"{entry.name} is not in the store", "its data are published from where they lie", "Run this there"
            )
        files[entry.name] = path
        lying[entry.name] = Lying(sha256=entry.sha256, size=entry.size)
    lying |= described(files)

    def change(index: Index) -> Change | None:
        lacking = {path: content for path, content in files.items() if index.files.get(path) != lying[path]}
        return Change(f"Data of {plain(genesis.name)}", lacking, digests=lying) if lacking else None

    return change


def dataset_card(genesis: Genesis, run: str, repository: str) -> str:
    """The card: what the clusters are, how to read them, how to verify them."""
    data = genesis.data
    front = DatasetCardData(
        **license_of(genesis, repository),
        pretty_name=plain(data.name),
        task_categories=["text-to-image"],
        tags=["webdataset", "paris-node"],
    )
    rows = "\n".join(
        f"| {c.id} | {c.samples:,} | {c.holdout_samples:,} | `cluster-{c.id:03d}-train-*.tar` | "
        f"{plain(', '.join(c.words[:8]))} |"
        for c in genesis.clusters
    )
    return _CARD.format(
        front=front.to_yaml(),
        name=plain(data.name),
        run=run,
        repository=repository,
        licence=plain(data.license) or "unknown",
        features=plain(data.features),
        centroids=CENTROIDS,
        rows=rows,
    )


_CARD = """\
---
{front}
---
# {name}, in clusters

The data of a run of paris-node (`{run}`): captioned samples cut into clusters by their {features} features, one in ten
groups held out. Licence: {licence}; that of a single sample may stand beside its caption.

| cluster | training | held out | shards | words |
|---|---|---|---|---|
{rows}

```python
from datasets import load_dataset

samples = load_dataset("{repository}", data_files={{"train": "*-train-*.tar", "holdout": "*-holdout-*.tar"}})
```

Shards are plain webdataset tars. `manifest.json` lists the digest of every file and of its 4 MiB pieces; the run's
signed genesis names the digest of that list. `{centroids}` says which cluster a new sample belongs to, see
`paris-node data assign`.
"""
