"""The chain of checkpoints behind a tip, down to what the genesis says training starts from.

Says who trained which steps on which shards, as far as signatures can say it. Weights are not looked at here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from paris.protocol import digests
from paris.protocol.checkpoint import Checkpoint, open_checkpoint
from paris.protocol.credentials import authority
from paris.protocol.curation import Admission
from paris.protocol.errors import LineageError, VerificationError
from paris.protocol.genesis import Genesis
from paris.protocol.limits import LIMITS
from paris.protocol.progress import stale


def chain(
    tip_digest: str,
    get: Callable[[str], bytes | None],
    genesis: Genesis,
    run: str,
    *,
    bases: Collection[str] = (),
    shard_digests: Mapping[str, str] | None = None,
    admission: Admission | None = None,
) -> tuple[Checkpoint, ...]:
    """Verify every checkpoint from the first to a tip.

    Args:
        tip_digest: Digest of the newest checkpoint's envelope.
        get: Envelope bytes by digest, or None; its answers are hashed here.
        genesis: The verified genesis, of the newest version known.
        run: Its run id.
        bases: Where experts start from the run's base unit: manifest digests of verified complete base checkpoints.
        shard_digests: Digests by file name from the data manifest, where it is at hand.
        admission: The admission list in force, where a head names one; otherwise the genesis' own.

    Returns:
        The checkpoints, first to newest.

    Raises:
        LineageError: Says which rule broke, and at which checkpoint.
    """
    newest_first: list[Checkpoint] = []
    digest: str | None = tip_digest
    while digest is not None:
        if len(newest_first) == LIMITS.lineage_checkpoints:
            raise LineageError("this lineage is too long", f"more than {LIMITS.lineage_checkpoints} checkpoints")
        checkpoint = _open(digest, get)
        _check_own(checkpoint, genesis, run, shard_digests)
        _check_signer(checkpoint, genesis, run, admission or genesis.admission)
        if newest_first:
            _check_link(checkpoint, newest_first[-1])
        newest_first.append(checkpoint)
        digest = checkpoint.parent
    _check_first(newest_first[-1], genesis, bases)
    lineage = tuple(reversed(newest_first))
    if late := stale(lineage):
        raise LineageError(f"{_name(late)} is stale", f"its signer had replaced claim {late.fence} by a later one")
    return lineage


def _open(digest: str, get: Callable[[str], bytes | None]) -> Checkpoint:
    data = get(digest)
    if data is None:
        raise LineageError(f"checkpoint {digest} is missing", "a later one names it as its parent", "fetch it")
    try:
        digests.check(data, digest, "a checkpoint")
        return open_checkpoint(data)
    except VerificationError as error:
        raise LineageError(f"checkpoint {digest} is not valid", str(error)) from error


def _check_own(checkpoint: Checkpoint, genesis: Genesis, run: str, shard_digests: Mapping[str, str] | None) -> None:
    unit, name = checkpoint.unit, _name(checkpoint)
    if checkpoint.run != run:
        raise LineageError(f"{name} belongs to another run", f"it names {checkpoint.run}, this is {run}")
    if unit not in genesis.units():
        raise LineageError(f"{name} is of no unit of this run", f"its units are {', '.join(genesis.units())}")
    recipe = genesis.recipe(unit)
    if checkpoint.to_step > recipe.steps:
        raise LineageError(f"{name} went past the end", f"the genesis asks for {recipe.steps} steps")
    if checkpoint.seed != recipe.seed:
        raise LineageError(f"{name} used seed {checkpoint.seed}", f"the genesis says {recipe.seed}")
    cluster = genesis.cluster(unit)
    expected = set(cluster.shards if cluster else (file for each in genesis.clusters for file in each.shards))
    shards = checkpoint.shards()
    if set(shards) != expected:
        odd = ", ".join(sorted(set(shards) ^ expected)[:3])
        raise LineageError(f"{name} was not trained on the shards of its unit", f"they differ in {odd}")
    if shard_digests is not None:
        wrong = sorted(file for file, digest in shards.items() if shard_digests.get(file) != digest)
        if wrong:
            raise LineageError(f"{name} was trained on other data", f"{wrong[0]} is not the file the genesis means")


def _check_signer(checkpoint: Checkpoint, genesis: Genesis, run: str, admission: Admission) -> None:
    finished_s = checkpoint.finished_s
    try:
        acting = authority(checkpoint.signer, checkpoint.credentials, run, finished_s, genesis.curators)
    except VerificationError as error:
        raise LineageError(f"{_name(checkpoint)} relies on credentials that do not hold", str(error)) from error
    if not admission.admitted(acting.name, finished_s):
        raise LineageError(f"{_name(checkpoint)} is by {acting.name}", "the run does not admit this key")


def _check_link(parent: Checkpoint, child: Checkpoint) -> None:
    if parent.unit != child.unit:
        raise LineageError(f"{_name(child)} has a parent of another unit", f"the parent is {_name(parent)}")
    if parent.to_step != child.from_step:
        why = f"it starts at step {child.from_step}, its parent ends at {parent.to_step}"
        raise LineageError(f"{_name(child)} does not continue its parent", why)
    if child.start is not None:
        raise LineageError(
            f"{_name(child)} has a parent and a start", "only the first checkpoint of a unit has a start"
        )


def _check_first(first: Checkpoint, genesis: Genesis, bases: Collection[str]) -> None:
    name = _name(first)
    if first.from_step != 0:
        raise LineageError(f"{name} has no parent", f"it starts at step {first.from_step}, a first one starts at 0")
    if genesis.cluster(first.unit) is None:
        allowed: set[str | None] = {None}
    elif genesis.start.kind == "base":
        allowed = set(bases)
    else:
        allowed = {genesis.start.manifest}
    if first.start not in allowed:
        why = f"it names {first.start or 'nothing'}, the genesis allows {genesis.start.kind}"
        raise LineageError(f"{name} does not start where the genesis says", why)


def _name(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.unit} at step {checkpoint.to_step}"
