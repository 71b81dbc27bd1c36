"""Worlds to cheat in, and every cheat: a signed checkpoint that takes the place of an honest one.

A world is a run of the packaged pictures with three experts, trained honestly (the router is left out). Cheats claim
the loss their weights really have, unless the claim is the lie: so it is not the claim that gives them away.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from paris.models.cache import LatentCache
from paris.models.evaluation import public_probe
from paris.models.filenames import CONFIG, WEIGHTS
from paris.models.objectives import Draw
from paris.models.randomness import Stream
from paris.models.training import Trainer
from paris.protocol import envelope
from paris.protocol.charter import Charter
from paris.protocol.genesis import Genesis, open_genesis
from paris.protocol.identity import Identity
from paris.protocol.records import Recipe, Record, open_checkpoint, statement
from paris.registry.evidence import HOLDOUT, TRAIN, Evidence
from paris.registry.library import Library
from paris.registry.recipes import PLANS
from paris.registry.resolve import ResolvedRun, resolve_named
from paris.registry.runs import Choices, create_run
from paris.registry.samples import Candidate, Part, Rejects, Source
from paris.registry.sources import open_source
from paris.registry.store import Store
from paris.registry.weights import network_of
from paris.registry.workshop import EVALUATION_SAMPLES, cache_path, new_trainer

CLUSTERS, STEPS, BATCH, EVERY = 3, 400, 16, 2
EXPERTS = tuple(f"cluster-{number}" for number in range(CLUSTERS))
VICTIM, OTHER = "cluster-0", "cluster-1"
CURATOR, CONTRIBUTOR = (Identity.from_seed(bytes([number]) * 32) for number in (1, 2))
NOW_S = 1_800_000_000
CODEC = {"kind": "pixels", "folder": None}
Weights = dict[str, Tensor]
Change = Callable[[Weights], Weights]


@dataclass(frozen=True)
class Thinned:
    """Every so many-th sample of a source."""

    source: Source
    every: int

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def license(self) -> str:
        return self.source.license

    @property
    def split_key(self) -> str:
        return self.source.split_key

    def parts(self, rejects: Rejects) -> Iterator[Part]:  # noqa: ARG002
        yield self

    def candidates(self, rejects: Rejects) -> Iterator[Candidate]:
        every = (one for part in self.source.parts(rejects) for one in part.candidates(rejects))
        return islice(every, 0, None, self.every)


class Silent:
    """A network without anybody in it: the store holds everything."""

    async def records(self, *_: str) -> list[Record]:
        return []


@dataclass
class World:
    """One run with its honest contributors."""

    library: Library
    charter: Charter
    folder: Path
    steps: int
    caches: dict[tuple[str, str], LatentCache] = field(default_factory=dict)
    honest: dict[str, list[str]] = field(default_factory=dict)
    states: dict[str, Path] = field(default_factory=dict)

    @property
    def run(self) -> str:
        return self.charter.run

    def trainer(self, unit: str, cache: LatentCache | None = None, **changes: Any) -> Trainer:
        """A trainer as a contributor has it; `changes` are what a cheat does otherwise."""
        genesis = self.charter.genesis
        recipe = {**genesis.recipe(unit).model_dump(mode="json"), **changes}
        options = {name: recipe.pop(name) for name in ("threads", "precision_here") if name in recipe}
        return new_trainer(
            self.run, unit, network_of(genesis, unit)[1], recipe, cache or self.caches[unit, TRAIN],
            threads=options.get("threads", 1), precision=options.get("precision_here"),
        )  # fmt: skip

    def claim(self, unit: str, trainer: Trainer) -> float:
        return trainer.evaluate(self.caches[unit, HOLDOUT], EVALUATION_SAMPLES)

    def publish(
        self, unit: str, folder: Path, parent: str | None, steps: tuple[int, int], loss: float, **versions: str
    ) -> str:
        """Sign and store a checkpoint folder as the publisher does."""
        store, genesis = self.library.store, self.charter.genesis
        manifest = store.add_tree(folder)
        cluster = genesis.cluster(unit)
        names = [name for c in ([cluster] if cluster else genesis.clusters) for name in c.shards]
        data = asyncio.run(self.library.manifest(genesis.data.manifest))
        here = {"torch": torch.__version__, "threads": "1", "precision": "fp32"}
        made = statement(
            run=self.run, unit=unit, from_step=steps[0], to_step=steps[1], fence=1, seed=genesis.recipe(unit).seed,
            manifest=manifest.digest, parent=parent, start=None, shards={n: data.entry(n).sha256 for n in names},
            signer=CONTRIBUTOR.peer_id, versions={**here, **versions}, invocation=f"{unit}-{steps[1]}",
            started_s=NOW_S, finished_s=NOW_S + steps[1], holdout_loss_micro=max(0, round(loss * 1e6)),
            internal={"begun_from": "memory" if parent else "start"},
        )  # fmt: skip
        return store.put_bytes(envelope.sign("checkpoint", made, CONTRIBUTOR))

    def written(self, trainer: Trainer, name: str) -> Path:
        """A trainer's state and weights as a checkpoint folder."""
        folder = self.folder / name
        trainer.save(folder)
        trainer.export(folder)
        return folder

    async def resolved(self, **cheats: str) -> ResolvedRun:
        """The run as its newest checkpoints leave it, with a cheat's in the place of an honest one."""
        named = {unit: chain[-1] for unit, chain in self.honest.items()} | {
            unit.replace("_", "-"): digest for unit, digest in cheats.items()
        }
        return await resolve_named(self.library, self.charter, named)


# Making worlds.


def make_run(shared: Path, every: int, steps: int) -> Genesis:
    """The rules of all worlds; pictures are clustered and captions encoded once."""
    changes = {
        "steps": steps, "batch": BATCH, "lr": "0.003", "publish_every": steps // 2, "ema": "0.99", "warmup_steps": 20,
    }  # fmt: skip
    expert = Recipe.parse({**PLANS["micro"].expert.model_dump(mode="json"), **changes})
    choices = replace(Choices.default("cheats", CLUSTERS, "micro"), plan=replace(PLANS["micro"], expert=expert))
    store, work = Store(shared / "store"), shared / "shards"
    work.mkdir(parents=True)
    source = Thinned(open_source("sample:emoji"), every)
    return create_run(source, choices, CURATOR, store, work, NOW_S, lambda *_: None).genesis


def make_world(genesis: Genesis, number: int, base: Path, shared: Path) -> World:
    """A run of its own, equal to the others but in its randomness, which follows from its name."""
    mine = genesis.model_copy(update={"created": NOW_S + number})
    store = Store(shared / "store")
    run = store.put_bytes(envelope.sign("genesis", mine, CURATOR))
    opened, _ = open_genesis(store.get_bytes(run, 1 << 22))
    steps = opened.recipe(VICTIM).steps
    world = World(Library(store, Silent()), Charter.begin(opened, run), base / f"world-{number}", steps)
    asyncio.run(_open_caches(world, shared))
    for unit in EXPERTS:
        _train_honestly(world, unit)
    return world


async def _open_caches(world: World, shared: Path) -> None:
    genesis, text = world.charter.genesis, world.charter.genesis.text.model_dump(mode="json")
    resolved = ResolvedRun(world.run, genesis)
    evidence = Evidence(world.library, resolved, (), world.folder)
    for unit, cluster in zip(EXPERTS, genesis.clusters, strict=True):
        for side in (TRAIN, HOLDOUT):
            names = cluster.shards if side == TRAIN else cluster.holdout
            files = [shared / "shards" / name for name in names]
            mine = cache_path(world.run, files, CODEC, text, genesis.model.expert, world.folder / "caches")
            kept = shared / "caches" / f"{unit}-{side}.safetensors"
            if kept.exists():
                mine.parent.mkdir(parents=True, exist_ok=True)
                os.link(kept, mine)
            world.caches[unit, side] = await evidence.data(unit, side)
            if not kept.exists():
                kept.parent.mkdir(parents=True, exist_ok=True)
                os.link(mine, kept)


def _train_honestly(world: World, unit: str) -> None:
    trainer, chain = world.trainer(unit), []
    for step in (trainer.recipe.steps // 2, trainer.recipe.steps):
        begun = trainer.step
        trainer.train(step)
        folder = world.written(trainer, f"{unit}-{step}")
        chain.append(
            world.publish(unit, folder, chain[-1] if chain else None, (begun, step), world.claim(unit, trainer))
        )
        world.states[f"{unit}-{len(chain)}"] = folder
    world.honest[unit] = chain


# Cheating: each returns the digest of a signed checkpoint that takes the place of the honest one of VICTIM.


def whole(world: World, trainer: Trainer, name: str, loss: float | None = None) -> str:
    """One segment from the start to the end, claimed as if it were honest."""
    claimed = world.claim(VICTIM, trainer) if loss is None else loss
    return world.publish(VICTIM, world.written(trainer, name), None, (0, world.steps), claimed)


def weights_only(world: World, name: str, change: Change, source: str, loss: float) -> str:
    """Other weights on an honest parent; the training state is said to be lost."""
    folder = world.folder / name
    folder.mkdir(parents=True)
    honest = world.states[f"{source}-2"]
    (folder / CONFIG).write_bytes((honest / CONFIG).read_bytes())
    save_file(change(load_file(honest / WEIGHTS)), folder / WEIGHTS)
    half, steps = world.steps // 2, world.steps
    return world.publish(VICTIM, folder, world.honest[VICTIM][0], (half, steps), loss)


def true_loss(world: World, change: Change, source: str) -> float:
    """What the cheat's weights are worth on the published draws."""
    trainer = world.trainer(VICTIM)
    folder = world.folder / "scratch"
    folder.mkdir(parents=True, exist_ok=True)
    honest = world.states[f"{source}-2"]
    (folder / CONFIG).write_bytes((honest / CONFIG).read_bytes())
    save_file(change(load_file(honest / WEIGHTS)), folder / WEIGHTS)
    trainer.start_from(folder)
    return world.claim(VICTIM, trainer)


def claimed_of(world: World, unit: str = VICTIM) -> float:
    data = world.library.store.get_bytes(world.honest[unit][-1], 1 << 22)
    return (open_checkpoint(data).holdout_loss_micro or 0) / 1e6


def copied(world: World) -> str:
    return weights_only(world, "copied", dict, OTHER, true_loss(world, dict, OTHER))


def copied_with_noise(world: World) -> str:
    def change(weights: Weights) -> Weights:
        generator = torch.Generator().manual_seed(7)
        spread = {n: float(w.float().std()) if w.numel() > 1 else 0.0 for n, w in weights.items()}
        return {
            n: (w.float() + 0.03 * spread[n] * torch.randn(w.shape, generator=generator)).to(w.dtype)
            for n, w in weights.items()
        }

    return weights_only(world, "noisy", change, OTHER, true_loss(world, change, OTHER))


def parent_again(world: World) -> str:
    return _still(world, "again", anew=False)


def parent_saved_anew(world: World) -> str:
    """Equal numbers in another file: its digest is new, its way is none."""
    return _still(world, "anew", anew=True)


def _still(world: World, name: str, *, anew: bool) -> str:
    half, folder = world.steps // 2, world.folder / name
    before = world.states[f"{VICTIM}-1"]
    folder.mkdir(parents=True)
    (folder / CONFIG).write_bytes((before / CONFIG).read_bytes())
    if anew:
        save_file(load_file(before / WEIGHTS), folder / WEIGHTS)
    else:
        (folder / WEIGHTS).write_bytes((before / WEIGHTS).read_bytes())
    return world.publish(VICTIM, folder, world.honest[VICTIM][0], (half, world.steps), claimed_of(world))


def not_a_number(world: World) -> str:
    def change(weights: Weights) -> Weights:
        name = next(n for n, w in weights.items() if w.ndim > 1)
        return {
            n: torch.where(torch.arange(w.numel()).view(w.shape) == 3, torch.nan, w) if n == name else w
            for n, w in weights.items()
        }

    return weights_only(world, "nan", change, VICTIM, claimed_of(world))


def untrained(world: World) -> str:
    def change(weights: Weights) -> Weights:
        generator = torch.Generator().manual_seed(11)
        return {n: (torch.randn(w.shape, generator=generator) * 0.05).to(w.dtype) for n, w in weights.items()}

    return weights_only(world, "untrained", change, VICTIM, claimed_of(world))


def wrong_sign(world: World) -> str:
    def change(weights: Weights) -> Weights:
        last = [n for n in weights if n.rpartition(".")[0] == last_layer(weights)]
        return {n: -w if n in last else w for n, w in weights.items()}

    return weights_only(world, "sign", change, VICTIM, claimed_of(world))


def last_layer(weights: Weights) -> str:
    """The linear layer whose rows are a patch's numbers."""
    rows = 3 * 8 * 8
    return next(n.rpartition(".")[0] for n, w in weights.items() if w.ndim == 2 and w.shape[0] == rows)


def wrong_cluster(world: World) -> str:
    trainer = world.trainer(VICTIM, world.caches[OTHER, TRAIN])
    trainer.train(trainer.recipe.steps)
    return whole(world, trainer, "wrong-cluster")


def public_only(world: World) -> str:
    """Trained on the published hold-out samples, on all their noise: it is honest about its loss there."""
    trainer = world.trainer(VICTIM, _published(world))
    trainer.train(trainer.recipe.steps)
    return whole(world, trainer, "public-only")


def _published(world: World) -> LatentCache:
    holdout = world.caches[VICTIM, HOLDOUT]
    probe = public_probe(world.trainer(VICTIM).objective, holdout, EVALUATION_SAMPLES)
    rows = torch.from_numpy(probe.rows)
    return LatentCache(holdout.latents_NCHW[rows], holdout.text_index_N[rows], holdout.labels_N[rows], holdout.texts)


def learned_noise(world: World) -> str:
    """Trained on the very draws behind the claim: samples, times and noise."""
    holdout = world.caches[VICTIM, HOLDOUT]
    trainer = world.trainer(VICTIM, _published(world), text_dropout="0")
    probe = public_probe(trainer.objective, holdout, EVALUATION_SAMPLES)
    count = len(probe)

    def prepare(step: int, drawn: Any = trainer.feed.prepare) -> Any:
        part = drawn(step)
        rows = Stream.of("learned", VICTIM).batch_indices(step, BATCH, count)
        return replace(part, draw=Draw(probe.draw.eps_BCHW[rows], probe.draw.t_B[rows]))

    trainer.feed.prepare = prepare  # type: ignore[method-assign]
    trainer.train(trainer.recipe.steps)
    return whole(world, trainer, "learned-noise")


def inflated(share: float) -> Callable[[World], str]:
    def cheat(world: World) -> str:
        folder, half = world.states[f"{VICTIM}-2"], world.steps // 2
        loss = claimed_of(world) * (1 - share)
        return world.publish(VICTIM, folder, world.honest[VICTIM][0], (half, 2 * half), loss)

    return cheat


def second_segment(
    name: str, cache: Callable[[World], LatentCache] | None = None, **changes: Any
) -> Callable[[World], str]:
    """An honest first segment, then one that is trained otherwise than it says."""

    def cheat(world: World) -> str:
        trainer = world.trainer(VICTIM, cache(world) if cache else None, **changes)
        return _continued(world, trainer, name, world.steps)

    return cheat


def _continued(world: World, trainer: Trainer, name: str, until: int) -> str:
    half, steps = world.steps // 2, world.steps
    trainer.load(world.states[f"{VICTIM}-1"])
    trainer.train(until)
    trainer.step = steps
    return world.publish(
        VICTIM, world.written(trainer, name), world.honest[VICTIM][0], (half, steps), world.claim(VICTIM, trainer)
    )


def skipped(share: float) -> Callable[[World], str]:
    def cheat(world: World) -> str:
        half = world.steps // 2
        return _continued(world, world.trainer(VICTIM), f"skipped-{share}", half + round(half * (1 - share)))

    return cheat


def half_the_data(world: World) -> LatentCache:
    cache = world.caches[VICTIM, TRAIN]
    rows = slice(0, len(cache) // 2)
    return LatentCache(cache.latents_NCHW[rows], cache.text_index_N[rows], cache.labels_N[rows], cache.texts)


def another_state(world: World) -> str:
    """The honest training state, beside other weights than its average."""
    folder = world.folder / "another-state"
    honest, half, steps = world.states[f"{VICTIM}-2"], world.steps // 2, world.steps
    folder.mkdir(parents=True)
    for path in honest.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(honest / WEIGHTS)
    save_file({n: (w.float() * 1.01).to(w.dtype) for n, w in weights.items()}, folder / WEIGHTS)
    return world.publish(VICTIM, folder, world.honest[VICTIM][0], (half, steps), claimed_of(world))


CHEATS: dict[str, tuple[str, Callable[[World], str]]] = {
    "another expert's weights": ("consistent", copied),
    "another expert's weights and 3 % noise": ("consistent", copied_with_noise),
    "the parent's weights again": ("consistent", parent_again),
    "a number that is none (NaN)": ("consistent", not_a_number),
    "untrained noise": ("evaluated", untrained),
    "wrong sign: predicts -v": ("evaluated", wrong_sign),
    "trained on another cluster": ("evaluated", wrong_cluster),
    "trained on the published hold-out": ("evaluated", public_only),
    "learned the published noise": ("evaluated", learned_noise),
    "claims a loss 10 % lower": ("evaluated", inflated(0.1)),
    "claims a loss 3 % lower": ("evaluated", inflated(0.03)),
    "the parent's weights, saved anew": ("replayed", parent_saved_anew),
    "skipped half of the steps": ("replayed", skipped(0.5)),
    "skipped a fifth of the steps": ("replayed", skipped(0.2)),
    "another seed": ("replayed", second_segment("seed", seed=1)),
    "half of the data": ("replayed", second_segment("half", half_the_data)),
    "another cluster's data": ("replayed", second_segment("foreign", lambda world: world.caches[OTHER, TRAIN])),
    "other weights than the state's": ("replayed", another_state),
}
"""What each cheat is called, the level that has to catch it, and how it is done."""
