"""Tables of pictures and captions: parquet files through pyarrow, and data sets of the `datasets` library.

A picture is a column of bytes, of {bytes, path} as `datasets` writes them, or of paths from the table's folder.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paris.protocol.errors import ResourceError, UsageError
from paris.registry.remote import RemoteFile
from paris.registry.samples import Candidate, Part, Rejects

ROWS_AT_ONCE = 32
ROWS_PER_PART = 1024
PICTURE_COLUMNS = ("image", "picture", "img", "jpg", "jpeg", "png", "webp", "mp4", "video", "file_name", "image_path")
CAPTION_COLUMNS = ("caption", "text", "prompt", "TEXT", "txt", "description")
KEY_COLUMNS = ("key", "__key__", "id")


@dataclass(frozen=True)
class Columns:
    """Which columns hold what; None: the first of the usual names that the table has."""

    picture: str | None = None
    caption: str | None = None
    key: str | None = None

    def among(self, names: Iterable[str], table: str) -> Columns:
        """Return the columns of one table.

        Raises:
            ValueError: a column is not there; with the reason.
        """
        there = list(names)

        def find(wanted: str | None, usual: tuple[str, ...], what: str, *, needed: bool = True) -> str | None:
            found = next((name for name in ([wanted] if wanted else usual) if name in there), None)
            if found is None and (needed or wanted):
                tried = wanted or ", ".join(usual)
                raise ValueError(f"no column of {what} in {table}: it has {', '.join(there)}; looked for {tried}")
            return found

        picture, caption = (
            find(self.picture, PICTURE_COLUMNS, "pictures"),
            find(self.caption, CAPTION_COLUMNS, "captions"),
        )
        return Columns(picture, caption, find(self.key, KEY_COLUMNS, "keys", needed=False))


@dataclass(frozen=True)
class _Rows:
    """Turns the rows of one table into candidates.

    Attributes:
        table: its name, for people and for keys.
        folder: where paths of pictures begin; None: there are none.
        columns: which hold what.
    """

    table: str
    folder: Path | None
    columns: Columns

    def candidate(self, number: int, row: Mapping[str, Any]) -> Candidate:
        """Return row number `number` as a candidate.

        Raises:
            ValueError, OSError: its picture lies in a file that cannot be read.
        """
        stem = re.sub(r"\.(parquet|arrow)$", "", self.table).replace(".", "-")
        given = row.get(self.columns.key or "")
        key = str(given).replace(".", "-") if isinstance(given, str | int) else f"{stem}/{number:09d}"
        pictures = self.columns.picture or ""
        fields = {name: _text(value) for name, value in row.items() if name not in {pictures, self.columns.caption}}
        fields["caption"] = row.get(self.columns.caption or "")
        return Candidate(key, self._picture(row.get(pictures)), fields, f"{self.table}, row {number}")

    def _picture(self, value: object) -> bytes | None:
        if isinstance(value, Mapping):
            value = value.get("bytes") or value.get("path")
        if not isinstance(value, str):
            return value if isinstance(value, bytes) else None
        if self.folder is None or not (self.folder / value).resolve().is_relative_to(self.folder.resolve()):
            raise ValueError(f"unreadable: {value} is not beside the table")
        return (self.folder / value).read_bytes()

    def judged(self, numbered: Iterable[tuple[int, Mapping[str, Any]]], rejects: Rejects) -> Iterator[Candidate]:
        """Yield candidates; rows whose picture cannot be read go to `rejects`."""
        for number, row in numbered:
            try:
                yield self.candidate(number, row)
            except (OSError, ValueError) as error:
                where = f"{self.table}, row {number}"
                rejects.add(where, str(error) if str(error).startswith("unreadable") else f"unreadable: {error}", where)


def _text(value: object) -> object:
    """Whole numbers become text, so that they can name groups."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


@dataclass(frozen=True)
class ParquetPart:
    """One row group of a parquet file."""

    file: Path | RemoteFile
    group: int
    columns: Columns

    def candidates(self, rejects: Rejects) -> Iterator[Candidate]:
        """Yield its rows; see `Part`."""
        import pyarrow as pa  # noqa: PLC0415 (an extra)
        import pyarrow.parquet as pq  # noqa: PLC0415

        path = self.file.local() if isinstance(self.file, RemoteFile) else self.file
        folder = None if isinstance(self.file, RemoteFile) else path.parent
        try:
            with pq.ParquetFile(path) as file:
                rows = _Rows(self.file.name, folder, self.columns.among(file.schema_arrow.names, self.file.name))
                first = sum(file.metadata.row_group(group).num_rows for group in range(self.group))
                batches = file.iter_batches(ROWS_AT_ONCE, row_groups=[self.group])
                yield from rows.judged(enumerate((row for b in batches for row in b.to_pylist()), first), rejects)
        except (OSError, ValueError, pa.ArrowException) as error:
            where = f"{self.file.name}, row group {self.group}"
            rejects.add(where, f"unreadable table: {error}", self.file.name)


@dataclass(frozen=True)
class ParquetSource:
    """Parquet files; each row group is a part."""

    name: str
    files: tuple[Path | RemoteFile, ...]
    license: str = "unknown"
    split_key: str = "key"
    columns: Columns = Columns()

    def parts(self, rejects: Rejects) -> Iterator[Part]:
        """Yield the row groups of all files in order; see `Source`."""
        import pyarrow as pa  # noqa: PLC0415 (an extra)
        import pyarrow.parquet as pq  # noqa: PLC0415

        for file in self.files:
            path = file.local() if isinstance(file, RemoteFile) else file
            try:
                groups = pq.read_metadata(path).num_row_groups
            except (OSError, pa.ArrowException) as error:
                rejects.add(file.name, f"unreadable table: {error}", file.name)
                continue
            yield from (ParquetPart(file, group, self.columns) for group in range(groups))


@dataclass(frozen=True)
class DatasetPart:
    """Some rows of a data set of the `datasets` library."""

    source: DatasetSource
    start: int
    stop: int

    def candidates(self, rejects: Rejects) -> Iterator[Candidate]:
        """Yield its rows; see `Part`."""
        data, columns = self.source.opened()
        rows = _Rows(self.source.name, self.source.folder, columns)
        numbered = ((number, data[number]) for number in range(self.start, self.stop))
        yield from rows.judged(numbered, rejects)


@dataclass(frozen=True)
class DatasetSource:
    """A data set of the `datasets` library: saved to a folder, or by its name on the Hub.

    Attributes:
        where: a folder that `save_to_disk` wrote, or a name on the Hub.
        split: which of its splits.
    """

    name: str
    where: str
    split: str = "train"
    license: str = "unknown"
    split_key: str = "key"
    columns: Columns = Columns()

    @property
    def folder(self) -> Path | None:
        """Where it was saved; None: it is on the Hub."""
        return Path(self.where) if Path(self.where).is_dir() else None

    def parts(self, rejects: Rejects) -> Iterator[Part]:  # noqa: ARG002
        """Yield pieces of `ROWS_PER_PART` rows; see `Source`."""
        rows = len(self.opened()[0])
        for start in range(0, rows, ROWS_PER_PART):
            yield DatasetPart(self, start, min(rows, start + ROWS_PER_PART))

    def opened(self) -> tuple[Any, Columns]:
        """Return the data set, its pictures not decoded, and the columns that matter.

        Raises:
            UsageError: it is not there, or has no such split or columns.
        """
        return _opened(self)


@functools.cache
def _opened(source: DatasetSource) -> tuple[Any, Columns]:
    import datasets  # noqa: PLC0415 (an extra)

    try:
        if source.folder:
            loaded = datasets.load_from_disk(source.where)
            data = loaded[source.split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            data = datasets.load_dataset(source.where, split=source.split)
        columns = source.columns.among(data.column_names, source.name)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        why = f"{error}".strip().partition("\n")[0]
        hint = "Give its name as owner/name, and a split after a colon, such as hf-dataset:owner/name:train"
        raise UsageError(f"the data set {source.where} ({source.split}) cannot be used", why, hint) from error
    for name, feature in data.features.items():
        if isinstance(feature, datasets.Image):
            data = data.cast_column(name, datasets.Image(decode=False))
    return data, columns


def open_dataset(where: str, columns: Columns, license_id: str, split_key: str) -> DatasetSource:
    """Return the data set saved at a folder, or called `owner/name` or `owner/name:split` on the Hub.

    Raises:
        ResourceError: the library is not installed.
        UsageError: it is not there.
    """
    require("datasets")
    name, colon, split = where.partition(":")
    source = DatasetSource(Path(name).name, name, split if colon else "train", license_id, split_key, columns)
    source.opened()
    return source


def open_parquet(
    name: str, files: tuple[Path | RemoteFile, ...], columns: Columns, license_id: str, split_key: str
) -> ParquetSource:
    """Return the source that parquet files are.

    Raises:
        ResourceError: pyarrow is not installed.
    """
    require("pyarrow")
    return ParquetSource(name, files, license_id, split_key, columns)


def is_saved_dataset(folder: Path) -> bool:
    """Say whether `datasets` saved a data set in a folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def require(library: str) -> None:
    """Raise ResourceError if a library of the extra `data` is not installed."""
    try:
        __import__(library)
    except ImportError as error:
        why = f"the library {library} is not installed"
        raise ResourceError("such data cannot be read here", why, "pip install 'paris-node[data]'") from error
