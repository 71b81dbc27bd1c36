"""Where captioned pictures and clips come from: one door for folders, shards, tables, the Hub, the packaged sample.

A source only finds candidates, part by part; `judging.py` says which are good, so every source refuses the same things.
A new kind of source is one class with a `parts` method and one line in `open_source`.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from webdataset.shardlists import expand_urls

from paris.protocol.errors import UsageError
from paris.registry.judging import caption_of, read_samples
from paris.registry.media import PICTURE_SUFFIXES, SUFFIXES, frames_apart, joined
from paris.registry.remote import RemoteFile, is_remote, open_remote
from paris.registry.samples import Candidate, Part, Rejects, Sample, Source
from paris.registry.tables import Columns, is_saved_dataset, open_dataset, open_parquet
from paris.registry.tars import members_by_key

__all__ = [
    "Candidate",
    "Columns",
    "FolderSource",
    "Part",
    "Rejects",
    "Sample",
    "Source",
    "WebdatasetSource",
    "open_source",
    "read_samples",
]

SAMPLE_FOLDER = Path(__file__).parent / "sample"
SAMPLE_LICENSES = {"emoji": "MIT AND Apache-2.0 AND CC-BY-4.0", "emoji-clips": "MIT"}
FILES_PER_PART = 1024
FIELDS_BYTES = 2**20
"""Largest file that says something about one sample; what is larger is about a whole data set, and not read."""

_CAPTION_TABLES = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")


@dataclass(frozen=True)
class Shard:
    """One webdataset shard."""

    file: Path | RemoteFile

    def candidates(self, rejects: Rejects) -> Iterator[Candidate]:
        """Yield its samples in order; see `Part`."""
        path = self.file.local() if isinstance(self.file, RemoteFile) else self.file
        for key, parts in members_by_key(path, lambda what, reason: rejects.add(what, reason, self.file.name)):
            try:
                yield _candidate(key, parts, self.file.name)
            except ValueError as error:
                rejects.add(key, str(error), self.file.name)


@dataclass(frozen=True)
class WebdatasetSource:
    """Webdataset shards (`.tar`, `.tar.gz`): `<key>.<suffix>` with `<key>.json` or `<key>.txt`.

    The suffix is one of a picture or a clip; a clip's frames may also lie apart, see `paris.registry.media`.
    """

    name: str
    shards: tuple[Path | RemoteFile, ...]
    license: str = "unknown"
    split_key: str = "key"

    def parts(self, rejects: Rejects) -> Iterator[Part]:  # noqa: ARG002
        """Yield the shards in order; see `Source`."""
        return map(Shard, self.shards)


@dataclass(frozen=True)
class Files:
    """Some pictures and clips of a folder, by their names in it, with what tables say about them."""

    folder: Path
    names: tuple[str, ...]
    fields: Mapping[str, Mapping[str, Any]]

    def candidates(self, rejects: Rejects) -> Iterator[Candidate]:
        """Yield them in order; see `Part`."""
        for name in self.names:
            path = self.folder / name
            try:
                fields = {**self.fields.get(name, {}), **_fields_beside(path)}
                if path.is_dir():
                    clip = joined(picture.read_bytes() for picture in _pictures_in(path))
                    yield Candidate(name.replace(".", "-"), clip, fields, name)
                else:
                    yield Candidate(name[: -len(path.suffix)].replace(".", "-"), path.read_bytes(), fields, name)
            except (OSError, ValueError) as error:
                rejects.add(name, f"unreadable: {error}", name)


@dataclass(frozen=True)
class FolderSource:
    """A folder of pictures and clips, captioned by `x.txt` or `x.json` beside `x.png`, or by a table at its top.

    The table is captions.csv, captions.jsonl, metadata.csv or metadata.jsonl with columns `file_name` and `caption`
    (or `text`). A folder with pictures that has a caption itself is one clip, its pictures are the frames; one beside
    which other things are said, such as the annotations of a whole data set, holds pictures.
    """

    folder: Path
    license: str = "unknown"
    split_key: str = "key"

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    def parts(self, rejects: Rejects) -> Iterator[Part]:
        """Yield `FILES_PER_PART` pictures and clips at a time, in order of their names; see `Source`."""
        table = _caption_table(self.folder, rejects)
        names = self._names(self.folder, "", table, rejects)
        while some := tuple(islice(names, FILES_PER_PART)):
            yield Files(self.folder, some, {name: table[name] for name in some if name in table})

    def _names(self, folder: Path, prefix: str, table: Mapping[str, Any], rejects: Rejects) -> Iterator[str]:
        """Yield names in order as if all of them were sorted, holding one folder's at a time."""
        try:
            found = _entries(folder)
        except OSError as error:
            rejects.add(prefix.rstrip("/") or self.name, f"unreadable folder: {error}")
            return
        for entry in found:
            name = f"{prefix}{entry}".rstrip("/")
            path = self.folder / name
            if not entry.endswith("/"):
                if path.suffix[1:].lower() in SUFFIXES:
                    yield name
            elif _is_clip(path, table.get(name, {})):
                yield name
            else:
                yield from self._names(path, f"{prefix}{entry}", table, rejects)


def open_source(
    where: str,
    *,
    split_key: str | None = None,
    license_id: str | None = None,
    columns: Columns = Columns(),  # noqa: B008 - frozen
    cache: Path | None = None,
) -> Source:
    """Return the source that `where` names.

    Args:
        where: `sample:emoji` or `sample:emoji-clips`; a folder of captioned pictures or clips; a folder, brace or glob
            pattern of webdataset shards or parquet tables, local, over http(s) or `hf://`; a folder that `datasets`
            saved; `hf-dataset:owner/name` or `hf-dataset:owner/name:split`.
        split_key: field that names a sample's group, if the samples have one.
        license_id: licence of the data (SPDX), for the genesis.
        columns: of tables.
        cache: where files are kept that are fetched over http; None: this person's cache folder.

    Raises:
        UsageError: there is nothing of the kind.
        ResourceError: a library is needed that is not installed.
        NetworkError: the Hub cannot be asked.
    """
    if where.startswith("sample:"):
        return _open_packaged(where.removeprefix("sample:"))
    options = {"license_id": license_id or "unknown", "split_key": split_key or "key"}
    if where.startswith("hf-dataset:"):
        return open_dataset(where.removeprefix("hf-dataset:"), columns, **options)
    folder = Path(where).expanduser()
    files: tuple[Path | RemoteFile, ...]
    if is_remote(where):
        files = open_remote(where, cache)
    elif folder.is_dir():
        if is_saved_dataset(folder):
            return open_dataset(str(folder), columns, **options)
        files = tuple(sorted(path for path in folder.iterdir() if _is_tar(path) or _is_table(path)))
        if not files:
            return FolderSource(folder, *options.values())
    else:
        files = _expand(where)
    name = folder.resolve().name if folder.is_dir() else Path(where).name
    return _open_files(name, files, where, columns, options)


def _open_files(
    name: str, files: tuple[Path | RemoteFile, ...], where: str, columns: Columns, options: Mapping[str, str]
) -> Source:
    missing = [file for file in files if isinstance(file, Path) and not file.is_file()]
    strange = [file for file in files if not (_is_tar(file) or _is_table(file))]
    if missing or strange or not files:
        raise UsageError(
            f"There is no data at {(missing or strange or [where])[0]}",
            hint="Name a folder of captioned pictures or clips, shards like 'data/{00..31}.tar', parquet files, an "
            "https:// or hf:// pattern of these, hf-dataset:owner/name, or sample:emoji",
        )
    tables = [file for file in files if _is_table(file)]
    if tables and len(tables) < len(files):
        raise UsageError(f"{where} holds shards and tables", hint="Name one kind, such as 'folder/*.parquet'")
    if tables:
        return open_parquet(name, files, columns, **options)
    return WebdatasetSource(name, files, *options.values())


def _candidate(key: str, parts: Mapping[str, bytes], file: str) -> Candidate:
    picture = next((data for suffix, data in parts.items() if suffix in SUFFIXES), None)
    if picture is None and (apart := frames_apart(parts)):
        picture = joined(apart)
    return Candidate(key, picture, _fields(parts.get("json"), parts.get("txt")), file)


def _fields(metadata: bytes | None, text: bytes | None) -> dict[str, Any]:
    """Return the fields of a sample from its JSON object and its caption text; unreadable ones count as absent."""
    fields: dict[str, Any] = {}
    try:
        if text is not None:
            fields["caption"] = text.decode()
        loaded = json.loads(metadata) if metadata is not None else {}
    except (ValueError, RecursionError):
        return fields
    return {**fields, **loaded} if isinstance(loaded, dict) else fields


def _fields_beside(picture: Path) -> dict[str, Any]:
    beside = [picture.with_suffix(suffix) for suffix in (".json", ".txt")]
    return _fields(*(path.read_bytes() if _is_about_one(path) else None for path in beside))


def _is_about_one(path: Path) -> bool:
    return path.is_file() and path.stat().st_size <= FIELDS_BYTES


def _entries(folder: Path) -> list[str]:
    """Return the sorted names in a folder, those of folders with a slash.

    Raises:
        OSError: it cannot be read, or it is a link to a folder that it lies in, which has no end.
    """
    if folder.is_symlink() and folder.resolve() in (parent.resolve() for parent in folder.parents):
        raise OSError("it is a link to a folder that it lies in")
    with os.scandir(folder) as entries:
        return sorted(f"{entry.name}/" if _is_folder(entry) else entry.name for entry in entries)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    return entry.is_dir(follow_symlinks=False) or (entry.is_symlink() and Path(entry).is_dir())


def _is_clip(folder: Path, fields: Mapping[str, Any]) -> bool:
    """Whether a folder has a caption and pictures; where that cannot be seen, whoever lists it is told why."""
    try:
        return caption_of({**fields, **_fields_beside(folder)}) is not None and bool(_pictures_in(folder))
    except OSError:
        return False


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix[1:].lower() in PICTURE_SUFFIXES and path.is_file())


def _caption_table(folder: Path, rejects: Rejects) -> dict[str, dict[str, Any]]:
    """Return the fields of each picture by its file name from the tables at the top of a folder."""
    table: dict[str, dict[str, Any]] = {}
    for path in (folder / name for name in _CAPTION_TABLES if (folder / name).is_file()):
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file) if path.suffix == ".csv" else _json_rows(file, path.name, rejects)
                named = {row["file_name"]: row for row in rows if isinstance(row.get("file_name"), str)}
        except (OSError, ValueError, csv.Error) as error:
            rejects.add(path.name, f"unreadable caption table: {error}")
            continue
        if not named:
            rejects.add(path.name, "caption table without file_name: no row says which picture it is about")
        table |= named
    return table


def _json_rows(lines: Iterable[str], name: str, rejects: Rejects) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else {}
        except ValueError:
            row = None
        if isinstance(row, dict):
            yield row
        else:
            rejects.add(f"{name}, line {number}", "broken line of a caption table")


def _open_packaged(name: str) -> WebdatasetSource:
    shards = tuple(sorted(SAMPLE_FOLDER.glob(f"{name}-[0-9]*.tar.gz"))) if name in SAMPLE_LICENSES else ()
    if not shards:
        known = " and ".join(f"sample:{sample}" for sample in SAMPLE_LICENSES)
        raise UsageError(f"There is no packaged sample {name!r}", hint=f"The packaged samples are {known}")
    return WebdatasetSource(f"sample-{name}", shards, SAMPLE_LICENSES[name], "codepoint")


def _expand(pattern: str) -> tuple[Path, ...]:
    """Return the local files of a brace pattern or glob pattern, in order; nothing is ever run or fetched."""
    paths = [Path(part).expanduser() for part in expand_urls(pattern)]
    globbed = [sorted(path.parent.glob(path.name)) if set(path.name) & set("*?[") else [path] for path in paths]
    return tuple(path for found in globbed for path in found if _is_tar(path) or _is_table(path))


def _is_tar(file: Path | RemoteFile) -> bool:
    return file.name.endswith((".tar", ".tar.gz", ".tgz"))


def _is_table(file: Path | RemoteFile) -> bool:
    return file.name.endswith(".parquet")
