"""What commands that read a curator's data have in common: how a source is opened, and what is wanted of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paris.node.console import err, printable, progress_bar

if TYPE_CHECKING:
    from paris.registry.preparation import Wanted
    from paris.registry.samples import Rejects, Source

UNITS = {"encode": "groups", "cluster": "choices", "look": "parts", "encode ahead": "batches"}
"""What is counted in stages that do not count samples."""

DataArgument = Annotated[
    str,
    typer.Argument(
        help="sample:emoji; a folder of captioned pictures or clips; shards like 'shards-{000..099}.tar' or parquet "
        "tables, here, at https:// or hf://; hf-dataset:owner/name[:split]."
    ),
]
FeaturesOption = Annotated[
    str,
    typer.Option(
        "--features",
        metavar="LIST",
        help="What clusters are made of: text, minilm, clip-text, pixels, mobilenet, dinov2, clip; joined by +, and "
        "weighed like dinov2+text:0.3.",
    ),
]
EncoderOption = Annotated[
    list[str] | None,
    typer.Option("--encoder", metavar="NAME=FOLDER", help="Weights of an encoder, instead of the published; repeat."),
]
SplitKeyOption = Annotated[
    str | None, typer.Option("--split-key", help="Metadata field that keeps near-duplicates together.")
]
LicenseOption = Annotated[str | None, typer.Option("--license", help="Licence of the data (SPDX).")]
ColumnOption = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="WHAT=NAME", help="Column of a table: image=, caption= or key=; repeat."),
]
MinPxOption = Annotated[int, typer.Option("--min-px", min=0, help="Leave out pictures whose shorter side is less.")]
MaxAspectOption = Annotated[
    float,
    typer.Option("--max-aspect", min=0, help="Leave out pictures longer than so many times their width; 0: none."),
]
MinCaptionOption = Annotated[int, typer.Option("--min-caption", min=0, help="Leave out shorter captions (characters).")]
MaxCaptionOption = Annotated[
    int, typer.Option("--max-caption", min=0, help="Leave out longer captions (characters); 0: none.")
]
LettersOption = Annotated[
    float, typer.Option("--letters", min=0, max=1, help="Leave out captions with a smaller share of letters.")
]
DedupeOption = Annotated[
    int | None,
    typer.Option(
        "--dedupe", metavar="BITS", help="Leave out near-duplicates: perceptual hashes at most so many bits apart, 0-3."
    ),
]
BalanceOption = Annotated[
    float, typer.Option("--balance", min=0, help="Largest cluster : smallest cluster, at most; 0: as they fall.")
]
FineOption = Annotated[
    int, typer.Option("--fine", min=0, help="Cut so many small cells first, such as 1024, then clusters of cells.")
]
EuclideanOption = Annotated[bool, typer.Option("--euclidean", help="k-means by distance instead of by angle.")]
EngineOption = Annotated[
    str, typer.Option("--engine", help="local, or ray: look and encode on a Ray cluster (extra: scale).")
]


def open_data(
    data: str, split_key: str | None, license_id: str | None, columns: Sequence[str] | None, folder: Path
) -> Source:
    """Open what a person named; files that are fetched over http are kept in the folder."""
    from paris.registry.sources import open_source
    from paris.registry.tables import Columns

    named = _pairs(columns, "--column", {"image", "caption", "key"})
    return open_source(
        data,
        split_key=split_key,
        license_id=license_id,
        columns=Columns(named.get("image"), named.get("caption"), named.get("key")),
        cache=folder,
    )


def wanted_of(
    *,
    features: str,
    encoder: Sequence[str] | None,
    min_px: int,
    max_aspect: float,
    min_caption: int,
    max_caption: int,
    letters: float,
    dedupe: int | None,
    balance: float,
    fine: int,
    euclidean: bool,
    engine: str,
) -> Wanted:
    """Put a person's options together, and refuse what makes no sense before the data are read."""
    from paris.registry.clusters import Cut
    from paris.registry.features import parse_features
    from paris.registry.judging import Filters
    from paris.registry.preparation import Wanted

    parse_features(features)
    filters = Filters(min_px, max_aspect, min_caption, max_caption, letters, dedupe)
    weights = tuple(sorted(weights_of(encoder).items()))
    return Wanted(features, filters, weights, Cut(0, balance, fine, not euclidean), engine)


def weights_of(encoder: Sequence[str] | None) -> dict[str, str]:
    """Return the folders of weights by encoder."""
    from paris.registry.encoders import NETWORKS

    return _pairs(encoder, "--encoder", {*NETWORKS, "mobilenet", "clip-text"})


def _pairs(given: Sequence[str] | None, option: str, known: set[str]) -> dict[str, str]:
    from paris.protocol.errors import UsageError

    pairs = dict[str, str]()
    for one in given or ():
        name, _, value = one.partition("=")
        if name not in known or not value:
            choice = ", ".join(f"{name}=..." for name in sorted(known))
            raise UsageError(f"{option} {one} makes no sense", hint=f"It takes one of {choice}")
        pairs[name] = value
    return pairs


@contextmanager
def preparation_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Show the stages of a preparation, with rate and time left; Ctrl-C is safe."""
    with progress_bar() as bar:
        tasks: dict[str, Any] = {}

        def progress(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=None, unit=UNITS.get(what, "samples"))
            bar.update(tasks[what], completed=done, total=total or None)
            speed = bar.tasks[tasks[what]].speed
            rate = f"{speed:,.0f}/s, " if speed else ""
            bar.update(tasks[what], description=f"{what} {rate}Ctrl-C is safe")

        yield progress


def tell_rejects(rejects: Rejects) -> None:
    """Say what was left out: how many for which reason, the first of them, and where all are listed."""
    if not len(rejects):
        return
    err.print(f"  left out {len(rejects)} samples: {printable(rejects.summary())}", markup=False)
    for reject in rejects.entries[:10]:
        err.print(f"    {printable(str(reject))}", markup=False)
    if rejects.path and len(rejects) > 10:
        err.print(f"    and {len(rejects) - 10} more, all in {rejects.path}", markup=False)
