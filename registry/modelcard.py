"""The model card of a repository: what it is, how good, from whom, how to verify and load it.

Every text that a stranger chose is reduced to letters, digits and plain punctuation before it gets into Markdown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from huggingface_hub import EvalResult, ModelCardData

from paris.models.inspect import opened_by
from paris.protocol.genesis import Genesis
from paris.registry.hubindex import folder_of
from paris.registry.weights import network_of

CARD: Final = "README.md"
SHEET: Final = "contact.png"
DRAWN: Final = "samples.png"
CAPTIONS: Final = {
    SHEET: "Training pictures of {unit}",
    DRAWN: "Drawn by {unit} alone, from captions it was not trained on",
}
LICENSES: Final = frozenset({
    "apache-2.0", "mit", "openrail", "bigscience-openrail-m", "creativeml-openrail-m", "afl-3.0", "artistic-2.0",
    "bsl-1.0", "bsd", "bsd-2-clause", "bsd-3-clause", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0",
    "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nd-4.0",
    "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0",
    "cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "wtfpl", "ecl-2.0", "epl-1.0", "epl-2.0",
    "etalab-2.0", "eupl-1.1", "eupl-1.2", "agpl-3.0", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "lgpl", "lgpl-2.1",
    "lgpl-3.0", "isc", "h-research", "mpl-2.0", "odc-by", "odbl", "ofl-1.1", "postgresql", "ncsa", "unlicense",
    "zlib", "pddl", "unknown", "other",
})  # fmt: skip
"""Licences the Hub knows (https://huggingface.co/docs/hub/repositories-licenses)."""


@dataclass(frozen=True)
class CardUnit:
    """What a card says of one unit.

    Attributes:
        loss_micro: Hold-out loss its trainer claims, in millionths.
        holders: Peer ids of who trained it, in order.
        pictures: Which of the card's pictures lie beside it.
    """

    unit: str
    step: int
    checkpoint: str
    loss_micro: int | None = None
    holders: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    has_state: bool = False


def contributor_card(genesis: Genesis, run: str, repository: str, units: Sequence[CardUnit]) -> str:
    """The card of one contributor's repository of one run."""
    title = f"{genesis.name}: {', '.join(unit.unit for unit in units)}"
    shown = [(name, unit.unit) for unit in units for name in unit.pictures]
    first = next((unit for unit in units if unit.unit != "router"), units[0])
    body = [
        f"# {title}",
        _PARTS.format(name=genesis.name),
        "## What is here",
        _table(genesis, units),
        *_states(units),
        *(f"{CAPTIONS[name].format(unit=unit)}:\n\n![]({folder_of(unit)}/{name})" for name, unit in shown),
        _CLAIMS,
        "## Load",
        _load(genesis, repository, first),
        "The whole ensemble, which is what draws, comes with `paris-node fetch`, see below.",
        "## Verify",
        _verify(run, repository),
        "## Lineage",
        _LINEAGE.format(manifest="`manifest.json` beside the weights"),
        _checkpoints(units),
        *_about(genesis, run),
    ]
    return _page(genesis, run, repository, title, body, units)


def ensemble_card(
    genesis: Genesis, run: str, repository: str, units: Sequence[CardUnit], absent: Sequence[str] = ()
) -> str:
    """The card of a whole ensemble's repository.

    Args:
        genesis: Of the run.
        run: The run's digest.
        repository: `owner/name`.
        units: What is in it.
        absent: Units of the run that are not.
    """
    experts = [unit for unit in units if genesis.cluster(unit.unit)]
    missing = f"Not in it, because they were revoked or not chosen: {', '.join(absent)}." if absent else ""
    body = [
        f"# {genesis.name}",
        _WHOLE.format(name=genesis.name, experts=len(experts)),
        "## What is here",
        _table(genesis, units),
        missing,
        _CLAIMS,
        "## Draw",
        _draw(genesis, repository),
        "## Load a part",
        _load(genesis, repository, (experts or list(units))[0]),
        "## Verify",
        _verify_whole(run, repository),
        "## Lineage",
        _LINEAGE.format(manifest="`provenance/<unit>.manifest.json`"),
        _checkpoints(units),
        *_about(genesis, run),
    ]
    return _page(genesis, run, repository, genesis.name, body, units)


def registry_card(genesis: Genesis, run: str, repository: str, repositories: Iterable[str]) -> str:
    """The card of a curator's repository: where a run is to be found without its network."""
    parts = sorted(set(repositories))
    listed = "\n".join(f"* [{name}](https://huggingface.co/{name})" for name in parts) or "None yet."
    body = [
        f"# {genesis.name}",
        _REGISTRY.format(name=genesis.name, experts=len(genesis.clusters)),
        "## Contributors' repositories",
        listed,
        "## Use",
        _verify(run, repository),
        *_about(genesis, run),
    ]
    return _page(genesis, run, repository, genesis.name, body, ())


def plain(text: str) -> str:
    """A stranger's text without anything Markdown or HTML could read."""
    return re.sub(r"[^\w .,:;+-]", "", text)[:200].strip()


def license_of(genesis: Genesis, repository: str) -> dict[str, str]:
    """The licence of the data, which the weights follow, in the Hub's terms; one it does not know is in the card."""
    name = genesis.data.license.strip().casefold()
    if name in LICENSES:
        return {"license": name}
    if not name:
        return {"license": "unknown"}
    slug = re.sub(r"[^a-z0-9.-]+", "-", name).strip("-")[:96] or "other"
    return {"license": "other", "license_name": slug, "license_link": f"https://huggingface.co/{repository}"}


def _page(
    genesis: Genesis, run: str, repository: str, title: str, body: Sequence[str], units: Sequence[CardUnit]
) -> str:
    task = "text-to-video" if "frames" in genesis.model.expert else "text-to-image"
    results = [
        EvalResult(
            task_type=task,
            dataset_type="paris-run",
            dataset_name=plain(genesis.data.name) or "data",
            dataset_split="holdout",
            metric_type="loss",
            metric_name=f"{unit.unit} hold-out loss, claimed",
            metric_value=unit.loss_micro / 1e6,
        )
        for unit in units
        if unit.loss_micro is not None
    ]
    data = ModelCardData(
        library_name="diffusers",
        pipeline_tag=task,
        tags=["paris", "decentralized-training", "mixture-of-experts", "diffusion", f"run-{run[7:23]}"],
        model_name=title,
        eval_results=results or None,
        **license_of(genesis, repository),
    )
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(part for part in body if part) + "\n"


def _table(genesis: Genesis, units: Sequence[CardUnit]) -> str:
    head = "| unit | folder | about | steps | claimed hold-out loss | trained by |\n|---|---|---|---|---|---|"
    return "\n".join((head, *(_row(genesis, unit) for unit in units)))


def _row(genesis: Genesis, unit: CardUnit) -> str:
    cluster = genesis.cluster(unit.unit)
    words = ", ".join(filter(None, map(plain, cluster.words[:6]))) if cluster else "all clusters"
    loss = f"{unit.loss_micro / 1e6:.4f}" if unit.loss_micro is not None else ""
    trainers = " then ".join(f"`{holder[:16]}…`" for holder in unit.holders)
    steps = f"{unit.step} of {genesis.target_steps(unit.unit)}"
    return f"| {unit.unit} | `{folder_of(unit.unit)}/` | {words} | {steps} | {loss} | {trainers} |"


def _checkpoints(units: Sequence[CardUnit]) -> str:
    return "\n".join(f"* {unit.unit}, step {unit.step}: `{unit.checkpoint}`" for unit in units)


def _states(units: Sequence[CardUnit]) -> list[str]:
    named = [f"`{folder_of(unit.unit)}/state.safetensors`" for unit in units if unit.has_state]
    return [f"Full training state, for who wants to train on: {', '.join(named)}."] if named else []


def _load(genesis: Genesis, repository: str, unit: CardUnit) -> str:
    kind, architecture = network_of(genesis, unit.unit)
    module, name = opened_by(dict(architecture), kind)
    recipe = genesis.recipe(unit.unit)
    opens = "the class comes with `pip install paris-node`"
    if module == "diffusers":
        clip = "frames" in architecture
        opens = (
            f"an expert opens with `pip install diffusers` alone, takes {1000 if clip else 999} t as its timestep, t "
            f"from 0 (data) to 1 (noise), and predicts `{recipe.objective}`"
        )
    return (
        f"Each folder is a diffusers model of bf16 weights, averaged over training (EMA {recipe.ema}); {opens}:\n\n"
        f"```python\nfrom {module} import {name}\n\n"
        f'network = {name}.from_pretrained("{repository}", subfolder="{folder_of(unit.unit)}")\n```'
    )


def _verify(run: str, repository: str) -> str:
    key = f"paris://{run.removeprefix('sha256:')}?hub={repository}"
    return (
        "The run key pins everything, so a mirror can withhold but not forge:\n\n"
        f'```sh\npip install paris-node\nparis-node fetch "{key}" --to ensemble\nparis-node audit "{key}"\n'
        'paris-node generate ensemble "a red fox"\n```'
    )


def _draw(genesis: Genesis, repository: str) -> str:
    what = "clips" if "frames" in genesis.model.expert else "images"
    return (
        "```python\nfrom huggingface_hub import snapshot_download\nfrom paris.models.pipeline import ParisPipeline\n\n"
        f'pipeline = ParisPipeline.from_pretrained(snapshot_download("{repository}"))\n'
        f'drawn = pipeline(["a red fox"], seed=1).{what}\n```\n\n'
        "The class comes with `pip install paris-node`. The router decides at every step which experts draw."
    )


def _verify_whole(run: str, repository: str) -> str:
    return (
        f"```sh\npip install paris-node\nparis-node audit {repository}\n```\n\n"
        "checks every signature, every digest and every parent of what lies here, and says who trained what. Compare "
        f"the run it names with the one you were given: `paris://{run.removeprefix('sha256:')}`. Without anything of "
        "ours: the [OMS](https://github.com/sigstore/model-transparency) signature of who put it here covers every "
        "file:\n\n"
        f"```sh\npip install model-signing\nhf download {repository} --local-dir ensemble\n"
        "model_signing verify key ensemble --signature ensemble/model.sig --public_key ensemble/provenance/oms.pub\n```"
    )


def _about(genesis: Genesis, run: str) -> list[str]:
    facts = [
        f"run: `{run}`",
        f"preset: {plain(genesis.model.preset)}, {len(genesis.clusters)} clusters, start {genesis.start.kind}",
        f"data: {plain(genesis.data.name)}, {genesis.data.samples} samples and {genesis.data.holdout_samples} held out",
        f"licence of the data: {plain(genesis.data.license) or 'unknown'}",
        f"curators: {', '.join(f'`{key}`' for key in genesis.curators.keys)}",
    ]
    method = "Method: Decentralized Diffusion Models (arXiv 2501.05450), Paris (arXiv 2510.03434)."
    return ["## The run", "\n".join(f"* {fact}" for fact in facts), method]


_PARTS = """\
Parts of an ensemble of diffusion experts, trained without a cluster in the run **{name}**. No gradient, parameter or
activation was exchanged in training: each expert saw one cluster of the data, and a router mixes them at every step of
drawing."""
_REGISTRY = """\
The registry of the run **{name}**: an ensemble of {experts} diffusion experts and a router, each trained by strangers
on its own cluster of the data. Here lie the signed genesis, the peers to join through and the names of the repositories
that hold checkpoints."""
_WHOLE = """\
A whole ensemble of {experts} diffusion experts and a router, trained without a cluster in the run **{name}**. No
gradient, parameter or activation was exchanged in training: each expert saw one cluster of the data, and the router
mixes them at every step of drawing."""
_CLAIMS = "The losses are what the trainers signed; `paris-node audit` says what of it was checked."
_LINEAGE = """\
Every checkpoint is named by a signed statement (in-toto, DSSE, Ed25519) in `provenance/`: who trained it, from which
parent, on which shards by digest, with which code. {manifest} lists the digest of every file and of its 4 MiB pieces,
and the statement signs the manifest's."""
