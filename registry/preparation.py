"""From a source of captioned pictures to the shards of its clusters: two passes, with everything between them on disk.

The first pass looks at every picture (`looks.py`), judges it (`judging.py`), and writes down what there is
(`catalogue.py`); then groups are encoded and clustered; the second pass writes the samples into shards. Killed
anywhere, the same call goes on: looks and encoded texts are remembered batch by batch, finished shards stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from paris.models.text import TextEncoder
from paris.protocol.errors import UsageError, VerificationError
from paris.registry import atomic
from paris.registry.catalogue import Catalogue, Vectors, explained_database_errors
from paris.registry.centroids import CENTROIDS, Centroids
from paris.registry.choice import Row, choices
from paris.registry.clusters import Clustering, Cut, cut_up
from paris.registry.datareport import Sheets, write_report
from paris.registry.encoders import HASH_NAME, ImageEncoder, open_image_encoder
from paris.registry.features import (
    Features,
    Progress,
    Survey,
    fingerprint,
    open_features,
    open_image_encoders,
    opened_text,
    survey,
)
from paris.registry.judging import Filters, judge, read_samples
from paris.registry.looks import Look, LookCache, Looker
from paris.registry.samples import Rejects, Sample, Source
from paris.registry.shards import ClusterShards, shard_names, write_shards

REJECTS: Final = "rejects.jsonl"
SURVEY: Final = ".paris-survey"
LOCK: Final = ".lock"
ENGINES: Final = ("local", "ray")


@dataclass(frozen=True)
class Wanted:
    """What data are prepared for.

    Attributes:
        features: what clusters are made of, see `parse_features`.
        filters: what is left out.
        weights: (encoder, folder or name on the Hub) where it is not the published one.
        cut: how the groups are cut into clusters.
        engine: "local", or "ray" to look and encode on the machines of a Ray cluster.
    """

    features: str = "text"
    filters: Filters = field(default_factory=Filters)
    weights: tuple[tuple[str, str], ...] = ()
    cut: Cut = field(default_factory=Cut)
    engine: str = "local"

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UsageError(f"there is no engine called {self.engine!r}", hint=f"Choose {' or '.join(ENGINES)}")


@dataclass(frozen=True)
class Surveyed:
    """What the first pass found, and what it left out."""

    survey: Survey
    rejects: Rejects


@dataclass(frozen=True)
class Prepared:
    """Shards in the work folder, and how they came about.

    Attributes:
        survey: what was found.
        clustering: which group is where.
        clusters: the shards, as a genesis names them.
        files: names of all files of the run's data: shards and centroids.
        rejects: what was left out; all of it is listed in `REJECTS` beside the shards.
    """

    survey: Survey
    clustering: Clustering
    clusters: tuple[ClusterShards, ...]
    files: list[str]
    rejects: Rejects


@contextmanager
def alone_in(work: Path) -> Iterator[None]:
    """Hold a work folder, so that no two processes write into it; the system lets go of it when a process dies.

    Raises:
        UsageError: another process holds it.
    """
    lock = FileLock(atomic.make_directory(work) / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(
            "another process is at work on the same data",
            f"it holds {lock.lock_file}; two of them would write into each other's files",
            "Wait until it is done, or stop it: the same command then goes on from there",
        ) from error
    try:
        yield
    finally:
        lock.release()


def look_around(
    source: Source,
    wanted: Wanted,
    text: TextEncoder,
    work: Path,
    cache: Path,
    progress: Progress = lambda *_: None,
    means: Mapping[str, Vectors] | None = None,
) -> Surveyed:
    """The first pass, and the vectors of all groups.

    Args:
        source: of captioned pictures or clips.
        wanted: features, filters, engine.
        text: the run's text encoder.
        work: folder of this one preparation.
        cache: folder of looks, for preparations of all kinds.
        progress: told ("read", ...), then ("encode", ...).
        means: what other data's features took off, to see samples as those did.

    Raises:
        UsageError: there is no usable sample, or no such features.
        ResourceError: an encoder's weights or a library are not here, or the disk is full.
        NetworkError: a remote file cannot be fetched.
    """
    encoders = _encoders(wanted)
    looks = LookCache(cache)
    features: Features = open_features(
        wanted.features, text, images=encoders, cache=looks, weights=dict(wanted.weights), means=means
    )
    if wanted.engine == "ray":
        from paris.registry.scale import Ahead  # noqa: PLC0415 (an extra)

        ahead = Ahead(wanted.features, wanted.weights, wanted.filters.dedupe is not None, looks)
        ahead.look(source, progress)
        features = ahead.encoding(features, text)
    folder = atomic.make_directory(work) / SURVEY
    with explained_database_errors(folder), atomic.explained_disk_errors(folder), Rejects(work / REJECTS) as rejects:
        catalogue = Catalogue(folder)
        samples = read_samples(source, rejects, Looker(encoders, looks), wanted.filters, catalogue)
        found = survey(samples, features, progress, catalogue)
    return Surveyed(found, rejects)


def _encoders(wanted: Wanted) -> tuple[ImageEncoder, ...]:
    """What must look at the pictures: features and, against near-duplicates, the perceptual hash."""
    hashing = () if wanted.filters.dedupe is None else (open_image_encoder(HASH_NAME),)
    return (*open_image_encoders(wanted.features, dict(wanted.weights)), *hashing)


def prepare(
    source: Source,
    count: int,
    wanted: Wanted,
    text: TextEncoder,
    work: Path,
    cache: Path,
    progress: Progress = lambda *_: None,
) -> Prepared:
    """Make the shards of `count` clusters in the work folder. Equal data and choices give equal bytes.

    Whoever calls it holds the folder, until the shards are where they belong: see `alone_in`. Arguments and errors are
    those of `look_around`, and further:

    Raises:
        UsageError: too few different groups for so many clusters, or a cluster has no hold-out sample.
        DigestError: the data changed meanwhile.
    """
    seen = look_around(source, wanted, text, work, cache, progress)
    clustering = cut_up(seen.survey, count, wanted.cut)
    sheets = Sheets(seen.survey, clustering)
    samples = sheets.watch(reread(source, seen.survey))
    clusters = write_shards(samples, seen.survey, clustering, work, progress=progress)
    write_report(work, source.name, seen.survey, clustering, sheets, seen.rejects)
    assert clustering.centroids is not None
    note = {"features": wanted.features, "text": {**text.identity(), "tokens": text.tokens}}
    clustering.centroids.save(work / CENTROIDS, note, seen.survey.means)
    return Prepared(seen.survey, clustering, clusters, [*shard_names(clusters), CENTROIDS], seen.rejects)


def compare(
    source: Source,
    counts: Sequence[int],
    wanted: Wanted,
    text: TextEncoder,
    work: Path,
    cache: Path,
    progress: Progress = lambda *_: None,
    report: int | None = None,
) -> tuple[list[Row], Surveyed]:
    """Say what each number of clusters would be, see `choice.py`, and write a page about one of them.

    Args:
        source: of captioned pictures or clips.
        counts: the Ks.
        wanted: features, filters, engine.
        text: the text encoder of the run to come.
        work: folder of the survey.
        cache: folder of looks.
        progress: told of the stages of `look_around`, then ("cluster", Ks done, all Ks).
        report: the K to write `report.html` and `report.png` about, into the work folder; None: no page.

    Raises:
        UsageError: as `look_around` and `alone_in`, or the page's K is impossible.
    """
    with alone_in(work):
        seen = look_around(source, wanted, text, work, cache, progress)
        rows = list(choices(seen.survey, counts, wanted.cut, text, progress))
        if report:
            clustering = cut_up(seen.survey, report, wanted.cut)
            sheets = Sheets(seen.survey, clustering)
            for _ in sheets.watch(reread(source, seen.survey)):
                pass
            write_report(work, source.name, seen.survey, clustering, sheets, seen.rejects, rows)
    return rows, seen


def assign(
    source: Source,
    centroids: Path,
    weights: Mapping[str, str],
    work: Path,
    cache: Path,
    progress: Progress = lambda *_: None,
) -> tuple[Iterator[tuple[str, int]], Surveyed]:
    """Say which cluster of an existing run each sample of a source belongs to: (key, cluster), in order.

    Whoever calls it holds the folder until the pairs are read, see `alone_in`: they are read out of it.

    Args:
        source: of captioned pictures or clips.
        centroids: the file that lies beside the run's shards.
        weights: of encoders, as they were used for the run.
        work: folder of this assignment.
        cache: folder of looks.
        progress: told of the stages of `look_around`.

    Raises:
        VerificationError: the file holds no centroids, or those of other features than can be seen here.
        UsageError: there is no usable sample.
    """
    points, note, means = Centroids.load(centroids)
    wanted = Wanted(str(note.get("features", "text")), weights=tuple(sorted(weights.items())))
    named = note.get("text")
    if not isinstance(named, dict) or not {"kind", "name", "tokens"} <= named.keys():
        raise VerificationError(f"{centroids} does not say which text encoder saw the run's captions")
    text = opened_text(named["kind"], named["name"], named["tokens"])
    seen = look_around(source, wanted, text, work, cache, progress, means)
    if seen.survey.vectors.shape[1] != points.vectors_MD.shape[1]:
        raise VerificationError(
            "these centroids lie among other vectors",
            f"they have {points.vectors_MD.shape[1]} numbers, the samples {seen.survey.vectors.shape[1]}",
            "Use the weights of encoders (--encoder) that the run was made with",
        )
    labels_G, catalogue = points.assign(seen.survey.vectors), seen.survey.catalogue
    assert catalogue is not None
    return ((row.key, int(labels_G[row.group])) for row in catalogue.rows()), seen


def reread(source: Source, found: Survey) -> Iterator[Sample]:
    """Yield the surveyed samples once more, in order, without decoding them again.

    It ends early where the data have changed, which `write_shards` notices.
    """
    assert found.catalogue is not None
    rows = found.catalogue.rows()
    row = next(rows, None)
    ignored = Rejects()
    for part in source.parts(ignored):
        for candidate in part.candidates(ignored):
            if row is None:
                return
            if candidate.key != row.key:
                continue
            try:
                sample = judge(candidate, Look(row.suffix, "", 0, 0, {}), source.split_key, Filters())
            except ValueError:
                continue
            if fingerprint(sample) == row.fingerprint:
                yield sample
                row = next(rows, None)
