"""Where captioned pictures and clips come from: folders, webdataset shards, packaged samples; one door for all.

A source only finds candidates; `read_samples` judges them, so every source refuses the same things: a bad sample is
counted and listed with its reason, never fatal. A new kind of source (parquet, the Hub) is one class with a
`candidates` method and one line in `open_source`.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeGuard

from webdataset.shardlists import expand_urls

from paris.protocol.errors import UsageError
from paris.protocol.manifest import name_problem
from paris.registry.media import PICTURE_SUFFIXES, SUFFIXES, checked_suffix, frames_apart, joined
from paris.registry.tars import members_by_key

KEY_CHARS = 200
SAMPLE_FOLDER = Path(__file__).parent / "sample"
SAMPLE_LICENSES = {"emoji": "MIT AND Apache-2.0 AND CC-BY-4.0", "emoji-clips": "MIT"}
_CAPTION_TABLES = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
_OWN_FIELDS = frozenset({"caption", "text", "cluster", "group"})


@dataclass(frozen=True)
class Candidate:
    """What a source found under one key, not judged yet.

    Attributes:
        key: name of the sample, webdataset style: no dot in the last part.
        picture: encoded picture or clip, None if there is none.
        fields: the caption (under "caption") and whatever else is known; the values come from JSON.
    """

    key: str
    picture: bytes | None
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Sample:
    """One good captioned picture or clip.

    Attributes:
        key: unique within its source.
        picture: encoded picture or clip, untouched; frames that lay apart are one clip here.
        suffix: "webp", "png", "jpg", "gif", "mp4" or "webm", after its content.
        caption: not empty.
        group: samples of one group are near-duplicates and stay together; the key if nothing is known.
        fields: further fields of text, such as the licence.
    """

    key: str
    picture: bytes
    suffix: str
    caption: str
    group: str
    fields: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Rejects:
    """The samples that were left out: (key or shard, reason), and a way to read them aloud."""

    entries: list[tuple[str, str]] = field(default_factory=list)

    def add(self, key: str, reason: str) -> None:
        """Note that `key` is left out because of `reason`."""
        self.entries.append((key, reason))

    def __len__(self) -> int:
        return len(self.entries)

    def summary(self) -> str:
        """Return one line: how many for which reason, most frequent first."""
        counts = Counter(reason.partition(":")[0] for _, reason in self.entries)
        return ", ".join(f"{count} x {reason}" for reason, count in counts.most_common())


class Source(Protocol):
    """A finite, re-readable, ordered collection of candidates: equal content gives the same order every time."""

    @property
    def name(self) -> str:
        """Short name for people."""

    @property
    def license(self) -> str:
        """SPDX expression of the pictures' licences, or "unknown"."""

    @property
    def split_key(self) -> str:
        """Field that names a sample's group; "key" if each sample stands alone."""

    def candidates(self, rejects: Rejects) -> Iterator[Candidate]:
        """Yield what is there; what cannot even be read goes to `rejects`."""


@dataclass(frozen=True)
class WebdatasetSource:
    """Webdataset shards (`.tar`, `.tar.gz`): `<key>.<suffix>` with `<key>.json` or `<key>.txt`.

    The suffix is one of a picture or a clip; a clip's frames may also lie apart, see `paris.registry.media`.
    """

    name: str
    shards: tuple[Path, ...]
    license: str = "unknown"
    split_key: str = "key"

    def candidates(self, rejects: Rejects) -> Iterator[Candidate]:
        """Yield the samples of all shards in order; see `Source`."""
        for shard in self.shards:
            for key, parts in members_by_key(shard, rejects.add):
                try:
                    yield _candidate(key, parts)
                except ValueError as error:
                    rejects.add(key, str(error))


@dataclass(frozen=True)
class FolderSource:
    """A folder of pictures and clips, captioned by `x.txt` or `x.json` beside `x.png`, or by a table at its top.

    The table is captions.csv, captions.jsonl, metadata.csv or metadata.jsonl with columns `file_name` and `caption`
    (or `text`). A folder with pictures that has a caption itself is one clip, its pictures are the frames.
    """

    folder: Path
    license: str = "unknown"
    split_key: str = "key"

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.folder.resolve().name

    def candidates(self, rejects: Rejects) -> Iterator[Candidate]:
        """Yield the pictures and clips in order of their names; see `Source`."""
        table = _caption_table(self.folder, rejects)
        clips: set[Path] = set()
        for path in sorted(self.folder.rglob("*"), key=lambda path: path.relative_to(self.folder).as_posix()):
            name = path.relative_to(self.folder).as_posix()
            if clips.intersection(path.parents):
                continue
            try:
                if path.is_dir():
                    fields = {**table.get(name, {}), **_fields_beside(path)}
                    if fields and (pictures := _pictures_in(path)):
                        clips.add(path)
                        yield Candidate(name.replace(".", "-"), joined(p.read_bytes() for p in pictures), fields)
                elif path.suffix[1:].lower() in SUFFIXES and path.is_file():
                    key = name[: -len(path.suffix)].replace(".", "-")
                    yield Candidate(key, path.read_bytes(), {**table.get(name, {}), **_fields_beside(path)})
            except (OSError, ValueError) as error:
                rejects.add(name, f"unreadable: {error}")


def open_source(where: str, *, split_key: str | None = None, license_id: str | None = None) -> Source:
    """Return the source that `where` names.

    Args:
        where: `sample:emoji` or `sample:emoji-clips`; a folder of captioned pictures or clips; a folder, brace or glob
            pattern of webdataset shards.
        split_key: field that names a sample's group, if the samples have one.
        license_id: licence of the data (SPDX), for the genesis.

    Raises:
        UsageError: there is nothing of the kind.
    """
    if where.startswith("sample:"):
        return _open_packaged(where.removeprefix("sample:"))
    options = {"license": license_id or "unknown", "split_key": split_key or "key"}
    folder = Path(where).expanduser()
    if folder.is_dir():
        shards = tuple(sorted(path for path in folder.iterdir() if _is_tar(path)))
        return WebdatasetSource(folder.resolve().name, shards, **options) if shards else FolderSource(folder, **options)
    shards = _expand(where)
    missing = [shard for shard in shards if not shard.is_file()]
    if missing or not shards:
        raise UsageError(
            f"There is no data at {missing[0] if missing else where}",
            hint="Name a folder of captioned pictures or clips, shards like 'data/{00..31}.tar', or sample:emoji",
        )
    return WebdatasetSource(Path(where).name, shards, **options)


def read_samples(source: Source, rejects: Rejects | None = None) -> Iterator[Sample]:
    """Yield the good samples of `source` in its order; the others go to `rejects` with the reason.

    Args:
        source: what to read.
        rejects: filled while iterating.
    """
    rejects = Rejects() if rejects is None else rejects
    seen: set[str] = set()
    for candidate in source.candidates(rejects):
        try:
            sample = _judge(candidate, source.split_key)
        except ValueError as refusal:
            rejects.add(candidate.key, str(refusal))
            continue
        if sample.key in seen:
            rejects.add(sample.key, "duplicate key")
            continue
        seen.add(sample.key)
        yield sample


def _judge(candidate: Candidate, split_key: str) -> Sample:
    """Return a sample made of a candidate, or raise ValueError with the reason why not."""
    problem = "too long" if len(candidate.key) > KEY_CHARS else name_problem(candidate.key)
    if problem:
        raise ValueError(f"unsafe key: {problem}")
    caption = candidate.fields.get("caption", candidate.fields.get("text"))
    if not _is_text(caption):
        raise ValueError("missing caption")
    if candidate.picture is None:
        raise ValueError("missing picture")
    suffix = checked_suffix(candidate.picture)
    group = candidate.key if split_key == "key" else candidate.fields.get(split_key)
    if not _is_text(group):
        raise ValueError(f"missing group: its field {split_key!r} holds no text")
    fields = {
        name: value
        for name, value in candidate.fields.items()
        if name not in _OWN_FIELDS and _is_text(name) and _is_text(value)
    }
    return Sample(candidate.key, candidate.picture, suffix, " ".join(caption.split()), group, fields)


def _is_text(value: object) -> TypeGuard[str]:
    """Say whether a value is text with something in it that can be written (JSON can smuggle in lone surrogates)."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= char <= "\udfff" for char in value)


def _candidate(key: str, parts: Mapping[str, bytes]) -> Candidate:
    picture = next((data for suffix, data in parts.items() if suffix in SUFFIXES), None)
    if picture is None and (apart := frames_apart(parts)):
        picture = joined(apart)
    return Candidate(key, picture, _fields(parts.get("json"), parts.get("txt")))


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
    return _fields(*(path.read_bytes() if path.is_file() else None for path in beside))


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix[1:].lower() in PICTURE_SUFFIXES and path.is_file())


def _caption_table(folder: Path, rejects: Rejects) -> dict[str, dict[str, Any]]:
    """Return the fields of each picture by its file name from the tables at the top of a folder."""
    table: dict[str, dict[str, Any]] = {}
    for path in (folder / name for name in _CAPTION_TABLES if (folder / name).is_file()):
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = csv.DictReader(file) if path.suffix == ".csv" else _json_rows(file, path.name, rejects)
                table |= {row["file_name"]: row for row in rows if isinstance(row.get("file_name"), str)}
        except (OSError, ValueError, csv.Error) as error:
            rejects.add(path.name, f"unreadable caption table: {error}")
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
    return tuple(path for found in globbed for path in found if _is_tar(path))


def _is_tar(path: Path) -> bool:
    return path.name.endswith((".tar", ".tar.gz", ".tgz"))
