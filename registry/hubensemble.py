"""A whole fetched ensemble as one repository on the Hub, and back.

The folder lies there as `fetch` wrote it, so that a snapshot of the repository is again a `ParisPipeline` folder that
can be audited by itself. Beside it: the model card, `paris.json` (the table of contents, by which `fetch` finds every
file) and a `model.sig` of who exported it. Networks and the autoencoder are sent from what an audit has checked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from huggingface_hub import snapshot_download

from paris.models.filenames import CONFIG, WEIGHTS
from paris.protocol.errors import UsageError, VerificationError
from paris.protocol.identity import Identity
from paris.protocol.limits import LIMITS
from paris.protocol.manifest import FileEntry, Manifest
from paris.registry.assemble import PIPELINE_PARTS
from paris.registry.findings import Audit
from paris.registry.folder import CODEC, NOTE, PROVENANCE, Fetched
from paris.registry.huberrors import HubError, explained
from paris.registry.hubindex import INDEX, Index, Lying, Newest, described, folder_of
from paris.registry.hubwriter import Change
from paris.registry.modelcard import CARD, CardUnit, ensemble_card
from paris.registry.offline import NOBODY_ASKED, ONCE_ONLINE
from paris.registry.oms import KEY_STATEMENT, PUBLIC_KEY, SIGNATURE, seal
from paris.registry.resolve import ResolvedRun, ResolvedUnit
from paris.registry.store import Store

MADE_HERE: Final = frozenset({CARD, INDEX, SIGNATURE, PUBLIC_KEY, KEY_STATEMENT})
"""What an export adds to a folder: in one that was exported before, these are made anew."""


def require_verified(report: Audit) -> None:
    """Let an ensemble pass of which everything that was looked at held. It may be unfinished.

    Raises:
        VerificationError: Something did not.
    """
    if wrong := [f"{unit.unit}: {check.name}: {check.detail}" for unit in report.units for check in unit.failed()]:
        hint = "Fetch the ensemble anew, and export that one; `paris-node audit FOLDER` shows every check"
        raise VerificationError("this ensemble is not exported: its audit failed", "; ".join(wrong[:5]), hint)


def ensemble_change(
    fetched: Fetched, resolved: ResolvedRun, repository: str, identity: Identity
) -> Callable[[Index], Change | None]:
    """What a repository lacks of an ensemble, and has too much, as a function of its table of contents.

    Args:
        fetched: The folder, audited: its library's store holds what was checked.
        resolved: What it holds.
        repository: `owner/name`.
        identity: Seals the repository, see `oms.py`.

    Raises:
        UsageError: the folder holds what is no part of an ensemble.
    """
    genesis, units = resolved.genesis, list(resolved.units.values())
    files, digests = _checked(fetched.library.store, resolved)
    for path in _beside(fetched.folder, {folder_of(unit.unit) for unit in units}):
        files[path.relative_to(fetched.folder).as_posix()] = _small(path)
    absent = sorted({*genesis.units()} - {*resolved.units})
    rows = [_card_unit(unit) for unit in units]
    files[CARD] = ensemble_card(genesis, resolved.run, repository, rows, absent).encode()
    beside, sealing = seal(repository, identity)
    files |= beside
    digests |= described(files)
    newest = {unit.unit: Newest(checkpoint=str(unit.checkpoint), step=unit.step) for unit in units}

    def change(index: Index) -> Change | None:
        if index.files and NOTE not in index.files:
            why = "a contributor's checkpoints or a registry lie there, and an ensemble has a repository of its own"
            raise HubError(f"{repository} is not written over", why, "give another name", lasting=True)
        lacking = {path: data for path, data in files.items() if index.files.get(path) != digests[path]}
        gone = tuple(sorted({*index.files} - {*files}))
        if not lacking and not gone:
            return None
        title = f"{genesis.name}: {len(units)} networks"
        return Change(title, lacking, newest, digests=digests, gone=gone, seal=sealing)

    return change


def download(repository: str, *, offline: bool = False) -> Path:
    """An ensemble's repository as a folder in the Hub client's own cache: its networks and proofs, nothing verified.

    Args:
        repository: `owner/name`.
        offline: Take what was downloaded before.

    Raises:
        HubError: the Hub does not give it, or it was not downloaded before.
    """
    parts = [*(f"{part}*" for part in PIPELINE_PARTS), "expert_*"]
    try:
        return Path(snapshot_download(repository, allow_patterns=parts, local_files_only=offline))
    except Exception as error:
        if offline:
            raise HubError(f"{repository} was not downloaded before", NOBODY_ASKED, ONCE_ONLINE) from error
        raise explained(error, repository) from error


def _checked(store: Store, resolved: ResolvedRun) -> tuple[dict[str, Path | bytes], dict[str, Lying]]:
    """The networks and the autoencoder, from the store in which an audit has verified them."""
    entries: dict[str, FileEntry] = {}
    for unit in resolved.units.values():
        signed = Manifest.from_bytes(store.get_bytes(str(unit.manifest), LIMITS.blob_bytes))
        entries |= {f"{folder_of(unit.unit)}/{name}": signed.entry(name) for name in (CONFIG, WEIGHTS)}
    if codec := resolved.genesis.codec.manifest:
        named = Manifest.from_bytes(store.get_bytes(codec, LIMITS.blob_bytes))
        entries |= {f"{CODEC}/{entry.name}": entry for entry in named.files}
    digests = {path: Lying(sha256=entry.sha256, size=entry.size) for path, entry in entries.items()}
    files: dict[str, Path | bytes] = {}
    for path, entry in entries.items():
        checked = store.verify(entry)
        files[path] = checked if path.endswith(".safetensors") else checked.read_bytes()
    return files, digests


def _beside(folder: Path, networks: set[str]) -> Iterator[Path]:
    """What else is a part of the ensemble: the pipeline's own settings, and the proofs."""
    checked, others = {*networks, CODEC}, PIPELINE_PARTS - {CODEC, "router", "base"}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        top = name.partition("/")[0]
        if name in MADE_HERE or top in checked or top.startswith("."):
            continue
        if top not in others or (top == PROVENANCE and path.suffix != ".json"):
            raise UsageError(f"{folder} holds {name}", "it is no part of an ensemble", "Take it out of there first")
        yield path


def _small(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(LIMITS.blob_bytes + 1)
    if len(data) > LIMITS.blob_bytes:
        why = f"it holds more than {LIMITS.blob_bytes:,} bytes"
        raise UsageError(f"{path} is too large to be what its name says", why)
    return data


def _card_unit(unit: ResolvedUnit) -> CardUnit:
    return CardUnit(unit.unit, unit.step, str(unit.checkpoint), unit.lineage[-1].holdout_loss_micro, unit.holders)
