"""Versions of a genesis: the first is pinned by the run key, each next one is signed by the curators before and after.

What the experts are trained from and towards never changes; that would be another run. What may: who decides, who may
contribute, the lease, copies, how many steps are asked for, and `ext`.
"""

from __future__ import annotations

from collections.abc import Iterable

from paris.protocol import envelope
from paris.protocol.digests import sha256_of
from paris.protocol.errors import DigestError, LineageError, RecordError, SignatureError
from paris.protocol.genesis import Genesis, Training, open_genesis
from paris.protocol.limits import LIMITS

_MAY_CHANGE = {"version", "prev", "created", "curators", "admission", "training", "lease", "replicas", "ext"}


def follow(run: str, versions: Iterable[bytes]) -> tuple[Genesis, str]:
    """Walk from the pinned genesis through its successors.

    Args:
        run: Run id, the digest of the first version.
        versions: Envelopes of version 1, 2, 3, ... without a gap.

    Returns:
        The last version and its digest.

    Raises:
        EnvelopeError, SignatureError, RecordError: A version is not valid, or not signed as it must be.
        DigestError: The first is not the one the run key pins.
        LineageError: There is none, there are too many, or one does not follow from the one before.
    """
    genesis: Genesis | None = None
    digest = ""
    for number, data in enumerate(versions, start=1):
        if number > LIMITS.genesis_versions:
            raise LineageError("this run has too many versions", f"more than {LIMITS.genesis_versions}")
        if genesis is None:
            genesis, digest = open_genesis(data)
            if digest != run:
                raise DigestError("this is not the genesis the run key pins", f"it hashes to {digest}")
        else:
            genesis, digest = succeed(genesis, digest, data)
    if genesis is None:
        raise LineageError("no genesis was given", "a run begins with one")
    return genesis, digest


def succeed(old: Genesis, old_digest: str, data: bytes) -> tuple[Genesis, str]:
    """Verify the next version of a genesis.

    Args:
        old: The version before, verified.
        old_digest: Its digest.
        data: Envelope of the next one.

    Returns:
        The next version and its digest.

    Raises:
        EnvelopeError: The bytes are no genesis envelope.
        SignatureError: The curators before or after did not sign in sufficient number, or a stranger did.
        RecordError: The content is not valid, or changes what must not change.
        LineageError: It does not follow from `old`.
    """
    verified = envelope.verify(data, "genesis")
    new = Genesis.parse(verified.payload)
    check_follows(old, old_digest, new)
    strangers = verified.signers - {*old.curators.keys, *new.curators.keys}
    if strangers:
        raise SignatureError(f"{', '.join(sorted(strangers))} signed this genesis", "both versions name other curators")
    old.curators.check(verified.signers, f"version {new.version}, by the curators before,")
    new.curators.check(verified.signers, f"version {new.version}, by its own curators,")
    return new, sha256_of(data)


def check_follows(old: Genesis, old_digest: str, new: Genesis) -> None:
    """Raise unless a version may follow another, whoever has signed it so far.

    Raises:
        LineageError: It does not name the one before, or skips versions.
        RecordError: It changes what must not change.
    """
    if (new.version, new.prev) != (old.version + 1, old_digest):
        why = (
            f"it is version {new.version} after {new.prev or 'nothing'}, expected {old.version + 1} after {old_digest}"
        )
        raise LineageError("this genesis does not follow the one before", why)
    _check_same_run(old, new)


def _check_same_run(old: Genesis, new: Genesis) -> None:
    before, after = old.model_dump(), new.model_dump()
    changed = [name for name in before if before[name] != after[name] and name not in _MAY_CHANGE]
    changed += [] if _training_may_become(old.training, new.training) else ["training"]
    if changed:
        hint = "make a new run for it"
        raise RecordError(f"version {new.version} changes {changed[0]}", "that would be another run", hint)


def _training_may_become(old: Training, new: Training) -> bool:
    """Recipes stay what they are, but for how far to go (never less far) and how often to publish."""
    pairs = ((old.expert, new.expert), (old.router, new.router), (old.base, new.base))
    for before, after in pairs:
        if before is None or after is None:
            if before is not after:
                return False
            continue
        free = {"steps": before.steps, "publish_every": before.publish_every}
        if after.steps < before.steps or after.model_copy(update=free) != before:
            return False
    return True
