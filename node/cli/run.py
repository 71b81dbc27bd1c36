"""`paris-node run`: what a curator does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from paris.node.cli.amend import amend
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
    LicenseOption,
    MaxAspectOption,
    MaxCaptionOption,
    MinCaptionOption,
    MinPxOption,
    SplitKeyOption,
    open_data,
    preparation_bar,
    tell_rejects,
    wanted_of,
)
from paris.node.cli.options import HomeOption, JsonOption
from paris.node.cli.promote import promote
from paris.node.console import emit, err, errors_to_exit_codes, out, printable
from paris.node.settings import Settings

MODELS = "tiny, tiny-pixels, dit-s-2, dit-b-2, dit-b-2-pooled, dit-xl-2, video-nano, video-micro, video-tiny"
app = typer.Typer(help="Make runs and decide about them.", no_args_is_help=True)
app.command()(promote)
app.command()(amend)


@app.command()
def create(
    data: DataArgument,
    clusters: Annotated[int, typer.Option("--clusters", min=1, max=4096, help="How many experts.")] = 8,
    model: Annotated[
        str, typer.Option("--model", help=f"Preset: {MODELS}, or micro (for tests); see `paris-node models`.")
    ] = "tiny",
    name: Annotated[str | None, typer.Option("--name", help="Name of the run.")] = None,
    codec: Annotated[
        Path | None, typer.Option("--codec", help="Folder of the autoencoder, for presets that bring none.")
    ] = None,
    start: Annotated[str | None, typer.Option("--start", help="scratch, base, or a folder of weights.")] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Training steps of each expert.")] = None,
    router_steps: Annotated[
        int | None, typer.Option("--router-steps", min=1, help="Training steps of the router.")
    ] = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Samples a step.")] = None,
    publish_every: Annotated[
        int | None, typer.Option("--publish-every", min=1, help="Steps from checkpoint to checkpoint.")
    ] = None,
    lr: Annotated[str | None, typer.Option("--lr", help="Peak learning rate of the experts, a decimal number.")] = None,
    features: FeaturesOption = "text",
    encoder: EncoderOption = None,
    split_key: SplitKeyOption = None,
    license_id: LicenseOption = None,
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
    admit: Annotated[
        list[str] | None, typer.Option("--admit", help="Peer id that may contribute; repeat; none: everybody.")
    ] = None,
    lease_s: Annotated[int | None, typer.Option("--lease", min=5, help="Seconds a claim lives unrenewed.")] = None,
    settle_s: Annotated[
        int | None, typer.Option("--settle", min=1, help="Seconds a claimant waits before reading back.")
    ] = None,
    copies: Annotated[
        int | None, typer.Option("--copies", min=1, help="Copies of each checkpoint beside its trainer's.")
    ] = None,
    home: HomeOption = None,
    json: JsonOption = False,
) -> None:
    """Embed and cluster captioned pictures, shard them, sign a genesis; print the run key.

    Interrupting is safe, kill -9 too: the same command goes on with what it has seen and the shards that are whole.
    """
    with errors_to_exit_codes(as_json=json):
        from paris.registry.runs import Choices

        choices = Choices.default(name or default_name(data), clusters, model)
        choices = replace(
            choices,
            features=features,
            wanted=wanted_of(
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
            ),
            start=start or choices.start,
            admitted=tuple(admit or ()),
            codec=codec,
            plan=_adjusted(
                choices.plan,
                steps,
                router_steps,
                batch,
                publish_every,
                lr,
                {"life_s": lease_s, "settle_s": settle_s, "replicas": copies},
            ),
        )
        created = make_run(data, choices, Settings.load(home=home), split_key, license_id, column)
        if json:
            emit(created)
        else:
            out.print(created["run"])
            err.print(f"Serve it with: paris-node start --no-train {created['run']}", markup=False)


def make_run(
    data: str,
    choices: Any,
    settings: Settings,
    split_key: str | None = None,
    license_id: str | None = None,
    columns: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Create a run in the home's store and return what a person wants to know of it."""
    from paris.node.clock import now_s
    from paris.node.home import Home
    from paris.registry.runs import create_run, fetched_folder, work_folder

    home = Home(settings.home)
    source = open_data(data, split_key, license_id, columns, fetched_folder(home.path))
    with preparation_bar() as progress:
        work = work_folder(home.path, data, choices)
        created = create_run(source, choices, home.identity(), home.store, work, now_s(), progress)
    genesis = created.genesis
    for cluster in genesis.clusters:
        words = printable(", ".join(cluster.words[:8]))
        counts = f"{cluster.samples} + {cluster.holdout_samples} held out"
        err.print(f"  {cluster.unit}: {counts}: {words}", markup=False)
    tell_rejects(created.rejects)
    return {
        "run": str(created.key),
        "name": genesis.name,
        "curator": genesis.curators.keys[0],
        "clusters": [c.model_dump(mode="json") for c in genesis.clusters],
        "samples": genesis.data.samples,
        "holdout_samples": genesis.data.holdout_samples,
        "data": genesis.data.manifest,
        "left_out": [reject._asdict() for reject in created.rejects.entries],
        "left_out_count": len(created.rejects),
        "work": str(work),
    }


def default_name(data: str) -> str:
    """What a run is called after its data: the last part of the path, with only what a run's name may hold."""
    name = re.sub(r"[^A-Za-z0-9._-]+", " ", re.sub(r"[{}]", "", Path(data).absolute().name))
    return re.sub(r"^[^A-Za-z0-9]+", "", name)[:64].strip() or "run"


def _adjusted(
    plan: Any,
    steps: int | None,
    router_steps: int | None,
    batch: int | None,
    publish_every: int | None,
    lr: str | None,
    others: dict[str, int | None],
) -> Any:
    """The preset's plan with the curator's own numbers in it."""
    from paris.protocol.errors import UsageError, VerificationError
    from paris.protocol.records import Recipe

    def recipe(old: Recipe, changes: dict[str, Any]) -> Recipe:
        given = {key: value for key, value in changes.items() if value is not None}
        if "steps" in given and "publish_every" not in given:
            given["publish_every"] = max(1, given["steps"] // 4)
        try:
            return Recipe.parse({**old.model_dump(mode="json"), **given})
        except VerificationError as error:
            raise UsageError("nobody could train with these numbers", error.why or error.what) from error

    return replace(
        plan,
        expert=recipe(plan.expert, {"steps": steps, "batch": batch, "lr": lr, "publish_every": publish_every}),
        router=recipe(plan.router, {"steps": router_steps or steps, "batch": batch, "publish_every": publish_every}),
        **{key: value for key, value in others.items() if value is not None},
    )
