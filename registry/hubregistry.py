"""A curator's repository on the Hub: where a run is to be found when nobody of its network is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from paris.protocol.errors import UnavailableError
from paris.protocol.genesis import Genesis
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import Manifest
from paris.registry.hubcheckpoint import GENESIS, SMALL_BYTES
from paris.registry.hubindex import Index, Lying, described
from paris.registry.hubnetwork import RECORD_FILES, record_file
from paris.registry.hubwriter import Change
from paris.registry.modelcard import CARD, registry_card
from paris.registry.store import Store

DATA_MANIFEST, CODEC_MANIFEST, START_MANIFEST = (f"provenance/{n}.manifest.json" for n in ("data", "codec", "start"))


def registry_change(
    store: Store,
    genesis: Genesis,
    run: str,
    repository: str,
    *,
    repositories: Iterable[str] = (),
    records: Mapping[str, Sequence[bytes]] | None = None,
    blobs: Iterable[str] = (),
    data: bool = False,
) -> Callable[[Index], Change | None]:
    """What a run's registry still lacks, as a function of its table of contents.

    Args:
        store: Holds the genesis and what it names.
        genesis: Of the run.
        run: The run's digest.
        repository: `owner/name`, for the card.
        repositories: Contributors' repositories to name; those named before stay.
        records: Envelopes by kind ("peer", "head"); kinds that are not given stay as they are.
        blobs: Small blobs to keep too, such as the ensembles and admission lists that heads name.
        data: Publish the data's shards too, so that contributors can train from the Hub alone.

    Raises:
        UnavailableError: the store lacks a part.
    """
    files: dict[str, Path | bytes] = {GENESIS: store.get_bytes(run, LIMITS.blob_bytes)}
    digests: dict[str, Lying] = {}
    for manifest, path, folder, with_files in (
        (genesis.data.manifest, DATA_MANIFEST, "data", data),
        (genesis.codec.manifest, CODEC_MANIFEST, "vae", True),
        (genesis.start.manifest, START_MANIFEST, "start", True),
    ):
        if manifest:
            listing = files[path] = store.get_bytes(manifest, LIMITS.blob_bytes)
            if with_files:
                _add_tree(store, Manifest.from_bytes(listing), folder, files, digests)
    for digest in blobs:
        files[f"provenance/{digest.removeprefix('sha256:')}.json"] = store.get_bytes(digest, LIMITS.blob_bytes)
    for kind, envelopes in (records or {}).items():
        files[RECORD_FILES[kind]] = record_file(kind, envelopes)
    named = tuple(name for name in dict.fromkeys(repositories) if name != repository)

    def change(index: Index) -> Change | None:
        every = {*index.repositories, *named}
        files[CARD] = registry_card(genesis, run, repository, every).encode()
        lying = {**digests, **described(files)}
        lacking = {path: content for path, content in files.items() if index.files.get(path) != lying[path]}
        if not lacking and every == set(index.repositories):
            return None
        return Change(f"Registry of {genesis.name}", lacking, repositories=named, digests=lying)

    return change


def _add_tree(
    store: Store, manifest: Manifest, folder: str, files: dict[str, Path | bytes], digests: dict[str, Lying]
) -> None:
    """The files of a manifest, under a folder."""
    for entry in manifest.files:
        path = store.path(entry.sha256)
        if path is None:
            raise UnavailableError(
                f"{entry.name} is not in the store", "a registry holds it", "run this where the run was created"
            )
        small = entry.name.endswith(".json") and entry.size <= SMALL_BYTES
        files[f"{folder}/{entry.name}"] = store.get_bytes(entry.sha256, SMALL_BYTES) if small else path
        digests[f"{folder}/{entry.name}"] = Lying(sha256=entry.sha256, size=entry.size)
