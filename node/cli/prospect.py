"""`paris-node data survey | assign | push`: data before a run is made of them, beside one, and on the Hub."""

from __future__ import annotations

import hashlib
import json as json_lines
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from paris.node.cli.dataset import (
    BalanceOption,
    ColumnOption,
    DataArgument,
    DedupeOption,
    EncoderOption,
    EngineOption,
    EuclideanOption,
    FeaturesOption,
    FineOption,
    LettersOption,
    MaxAspectOption,
    MaxCaptionOption,
    MinCaptionOption,
    MinPxOption,
    SplitKeyOption,
    open_data,
    preparation_bar,
    tell_rejects,
    wanted_of,
    weights_of,
)
from paris.node.cli.options import HomeOption, JsonOption, RunKeyArgument
from paris.node.console import emit, err, errors_to_exit_codes, out
from paris.node.settings import Settings

if TYPE_CHECKING:
    from paris.registry.choice import Row

USUAL_COUNTS = (2, 4, 8, 16)


def survey(
    data: DataArgument,
    clusters: Annotated[
        list[int] | None, typer.Option("--clusters", min=1, max=4096, help="A number to try; repeat (2, 4, 8, 16).")
    ] = None,
    report: Annotated[
        int | None,
        typer.Option("--report", min=1, metavar="K", help="Write a page about K clusters: pictures, words, map."),
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Folder of the page and of rejects.jsonl.")] = None,
    model: Annotated[str, typer.Option("--model", help="Preset whose text encoder reads the captions.")] = "tiny",
    features: FeaturesOption = "text",
    encoder: EncoderOption = None,
    split_key: SplitKeyOption = None,
    column: ColumnOption = None,
    min_px: MinPxOption = 0,
    max_aspect: MaxAspectOption = 0.0,
    min_caption: MinCaptionOption = 0,
    max_caption: MaxCaptionOption = 0,
    letters: LettersOption = 0.0,
    dedupe: DedupeOption = None,
    balance: BalanceOption = 2.0,
    fine: FineOption = 0,
    euclidean: EuclideanOption = False,
    engine: EngineOption = "local",
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Say what each number of clusters would be, before a run is made: compactness, sizes, how well captions tell them.

    What it sees is remembered: `run create` and further surveys of the same data go on from there. Stop it as you like.
    """
    with errors_to_exit_codes(as_json=json):
        from paris.models.video_presets import EVERY_PRESET
        from paris.node.home import Home
        from paris.registry.preparation import compare
        from paris.registry.runs import Choices, fetched_folder, looks_folder, open_text_of

        wanted = wanted_of(
            features=features,
            encoder=encoder,
            min_px=min_px,
            max_aspect=max_aspect,
            min_caption=min_caption,
            max_caption=max_caption,
            letters=letters,
            dedupe=dedupe,
            balance=balance,
            fine=fine,
            euclidean=euclidean,
            engine=engine,
        )
        preset = EVERY_PRESET[Choices.default("survey", 2, model).preset]
        text, path = open_text_of(preset), Home(Settings.load(home=home).home).path
        work = to or path / "create" / f"survey-{hashlib.sha256(data.encode()).hexdigest()[:16]}"
        source = open_data(data, split_key, None, column, fetched_folder(path))
        counts = sorted(set(clusters or USUAL_COUNTS))
        with preparation_bar() as progress:
            rows, seen = compare(source, counts, wanted, text, work, looks_folder(path), progress, report)
        page = work / "report.html" if report else None
        if json:
            emit({
                "samples": int(sum(seen.survey.samples)),
                "groups": len(seen.survey.groups),
                "features": seen.survey.features,
                "choices": [asdict(row) for row in rows],
                "left_out": [reject._asdict() for reject in seen.rejects.entries],
                "left_out_count": len(seen.rejects),
                "report": str(page) if page else None,
            })  # fmt: skip
            return
        _show(rows)
        tell_rejects(seen.rejects)
        if page:
            out.print(str(page), markup=False)


def _show(rows: list[Row]) -> None:
    table = Table("K", "inertia", "silhouette", "largest : smallest", "moved", "told by caption", "by chance")
    for row in rows:
        if row.problem:
            table.add_row(str(row.clusters), row.problem)
            continue
        shares = [f"{share:.1%}" for share in (row.moved, row.separability, row.chance)]
        table.add_row(
            str(row.clusters), f"{row.inertia:.4f}", f"{row.silhouette:.3f}", f"{row.size_ratio:.2f}", *shares
        )
    out.print(table)


def assign(
    centroids: Annotated[
        Path, typer.Argument(help="centroids.safetensors of a run, or the folder it lies in (`paris-node data fetch`).")
    ],
    data: DataArgument,
    to: Annotated[Path | None, typer.Option("--to", help="File for one JSON line a sample: key, cluster.")] = None,
    encoder: EncoderOption = None,
    split_key: SplitKeyOption = None,
    column: ColumnOption = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Say which cluster of a run new samples belong to."""
    with errors_to_exit_codes(as_json=json):
        from paris.node.home import Home
        from paris.protocol.errors import UsageError
        from paris.registry.centroids import CENTROIDS
        from paris.registry.preparation import alone_in
        from paris.registry.preparation import assign as assigned
        from paris.registry.runs import fetched_folder, looks_folder

        path = Home(Settings.load(home=home).home).path
        file = centroids / CENTROIDS if centroids.is_dir() else centroids
        if not file.is_file():
            why = f"it is neither a file nor a folder with a {CENTROIDS}"
            hint = "Fetch the run's data with `paris-node data fetch RUN --to FOLDER` and name that folder."
            raise UsageError(f"there are no centroids at {centroids}", why, hint)
        source = open_data(data, split_key, None, column, fetched_folder(path))
        work = path / "create" / f"assign-{hashlib.sha256(data.encode()).hexdigest()[:16]}"
        counts: dict[int, int] = {}
        with alone_in(work):
            with preparation_bar() as progress:
                pairs, seen = assigned(source, file, weights_of(encoder), work, looks_folder(path), progress)
            with (to or work / "assigned.jsonl").open("w", encoding="utf-8") as lines:
                for key, cluster in pairs:
                    counts[cluster] = counts.get(cluster, 0) + 1
                    lines.write(json_lines.dumps({"key": key, "cluster": cluster}) + "\n")
        shown = {"file": lines.name, "clusters": {str(k): n for k, n in sorted(counts.items())}}
        if json:
            emit({**shown, "left_out_count": len(seen.rejects)})
            return
        for cluster, count in sorted(counts.items()):
            err.print(f"  cluster-{cluster}: {count} samples", markup=False)
        tell_rejects(seen.rejects)
        out.print(lines.name, markup=False)


def push(
    run: RunKeyArgument,
    repo: Annotated[
        str, typer.Option("--repo", metavar="OWNER/NAME", help="Data-set repository; made if it is not there.")
    ],
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Publish a run's shards as a data-set repository on the Hugging Face Hub, from the home that made the run.

    Killing it is safe: what the Hub has is not sent again, and nobody sees half of it.
    """
    with errors_to_exit_codes(as_json=json):
        shown = _pushed(run, repo, Settings.load(home=home))
        if json:
            emit(shown)
            return
        state = "published" if shown["changed"] else "is up to date"
        err.print(f"  {shown['files']} files, {shown['bytes'] / 1e6:,.1f} MB: {state}", markup=False)
        out.print(f"hf://datasets/{shown['repository']}", markup=False)


def _pushed(run: str, repo: str, settings: Settings) -> dict[str, Any]:
    from paris.node.home import Home
    from paris.protocol.limits import LIMITS
    from paris.protocol.manifest import Manifest
    from paris.protocol.records import open_genesis
    from paris.registry.datacard import dataset_change
    from paris.registry.hubwriter import HubWriter
    from paris.registry.runkey import RunKey, hub_repository

    key, repository = RunKey.parse(run), hub_repository(repo)
    store = Home(settings.home).store
    genesis, _ = open_genesis(store.get_bytes(key.run, LIMITS.blob_bytes))
    change = dataset_change(store, genesis, key.run, repository)
    committed = HubWriter(kind="dataset").update(repository, key.run, change)
    files = Manifest.from_bytes(store.get_bytes(genesis.data.manifest, LIMITS.blob_bytes)).files
    return {
        "run": str(key),
        "repository": repository,
        "commit": committed.commit,
        "changed": committed.made,
        "files": len(files),
        "bytes": sum(entry.size for entry in files),
    }
