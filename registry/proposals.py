"""What curators change, from one curator's proposal to signatures of enough of them.

Two rounds where several must sign, because a head names what comes before it by digest, signatures included: first the
next version of the genesis or the next admission list; whoever completes these also begins the head, which the others
then sign. A proposal travels as one file from hand to hand. Two people who sign the same file apart make two versions
that exclude each other.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from paris.protocol import digests, envelope, strict_json
from paris.protocol.charter import Charter
from paris.protocol.curation import Admission, AdmissionList, Curators, Former
from paris.protocol.digests import sha256_of
from paris.protocol.ensemble import Ensemble
from paris.protocol.errors import EnvelopeError, RecordError, SignatureError, UsageError
from paris.protocol.genesis import Genesis
from paris.protocol.identity import Identity
from paris.protocol.limits import LIMITS
from paris.protocol.records import Head
from paris.protocol.succession import check_follows

LIFE_ROOM_S = 60
"""Left of a head's longest life, so that one made in the same minute can expire later, as the DHT wants it."""
_FILE_BYTES = 3 * LIMITS.blob_bytes


@dataclass(frozen=True)
class Proposal:
    """Envelopes on their way to enough signatures, and what the head shall say.

    Attributes:
        run: Run id.
        genesis: The next version of the genesis, where that changes.
        listed: The next admission list, or the one in force, which the head goes on naming.
        ensemble: The ensemble the head shall name.
        top_k: Experts a sample that serve it best.
        life_s: How long the head lives.
        head: The head, once the rest is whole.
    """

    run: str
    genesis: bytes | None = None
    listed: bytes | None = None
    ensemble: bytes | None = None
    top_k: int | None = None
    life_s: int = LIMITS.life_s["head"]
    head: bytes | None = None

    @classmethod
    def parse(cls, data: bytes) -> Proposal:
        """A proposal as `to_bytes` writes it. Signatures are checked when somebody signs or completes it.

        Raises:
            EnvelopeError: The bytes are something else.
        """
        fields = strict_json.loads(data, _FILE_BYTES)
        run, top_k, life_s = fields.get("run"), fields.get("top_k"), fields.get("life_s")
        parts = {name: fields.get(name) for name in ("genesis", "listed", "ensemble", "head")}
        whole = all(isinstance(part, dict | None) for part in parts.values()) and isinstance(top_k, int | None)
        if not digests.is_digest(run) or not whole or not isinstance(life_s, int):
            raise EnvelopeError("this holds no proposal", "its form is another", "use a file that --out has written")
        genesis, listed, ensemble, head = (strict_json.dumps(part) if part else None for part in parts.values())
        return cls(str(run), genesis, listed, ensemble, top_k, life_s, head)

    def to_bytes(self) -> bytes:
        """JSON for people to carry about; indented, a newline at its end."""
        parts = {"genesis": self.genesis, "listed": self.listed, "ensemble": self.ensemble, "head": self.head}
        fields: dict[str, Any] = {"run": self.run, "top_k": self.top_k, "life_s": self.life_s}
        fields |= {name: json.loads(part) if part else None for name, part in parts.items()}
        return (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode()

    @property
    def blobs(self) -> tuple[bytes, ...]:
        """What has to be served beside the head."""
        return tuple(part for part in (self.genesis, self.listed, self.ensemble) if part)


@dataclass(frozen=True)
class Wanting:
    """What a proposal still lacks.

    Attributes:
        what: The part that needs signatures next; empty: nothing.
        signed: Curators who signed it.
        missing: How many more must.
        among: Who may.
    """

    what: str
    signed: tuple[str, ...]
    missing: int
    among: tuple[str, ...]


def promote(charter: Charter, units: Mapping[str, str], top_k: int | None, life_s: int, kept: bytes | None) -> Proposal:
    """Propose an ensemble.

    Args:
        charter: What is in force.
        units: Digest of a checkpoint by unit.
        top_k: Experts a sample that serve it best; None: not measured.
        life_s: How long the head shall live.
        kept: The admission list in force, if there is one.
    """
    ensemble = Ensemble.parse({"run": charter.run, "units": dict(units)})
    return Proposal(charter.run, None, kept, ensemble.to_bytes(), top_k, life_s)


def amend(
    charter: Charter,
    me: Identity,
    now_s: int,
    *,
    admission: Admission | None = None,
    changes: Mapping[str, Any] | None = None,
    life_s: int = LIMITS.life_s["head"],
) -> Proposal:
    """Propose, with a first signature, who may contribute or a next version of the genesis; the ensemble stays.

    Args:
        charter: What is in force.
        me: A curator's key, of before or of afterwards.
        now_s: UNIX seconds.
        admission: Who may contribute from now on; None: as before.
        changes: Fields of the genesis that become others; a new version takes the admission in force over.
        life_s: How long the head shall live.

    Raises:
        UsageError: Nothing would change.
        RecordError: The change is impossible, or would make another run.
        SignatureError: This key is no curator's.
    """
    ensemble = charter.ensemble.to_bytes() if charter.ensemble else None
    top_k = charter.head.top_k if charter.head else None
    standing = Proposal(charter.run, None, None, ensemble, top_k, life_s)
    wanted, curators = admission or charter.admission, charter.genesis.curators.keys
    if changes:
        fields = charter.genesis.model_dump(mode="json", exclude_none=True)
        fields |= {"version": charter.genesis.version + 1, "prev": charter.digest, "created": now_s}
        new = Genesis.parse({**fields, "admission": wanted.model_dump(mode="json"), **changes})
        check_follows(charter.genesis, charter.digest, new)
        _require_curator(me, (*curators, *new.curators.keys), "genesis")
        return replace(standing, genesis=envelope.sign("genesis", new, me))
    if wanted == charter.admission:
        raise UsageError("nothing would change", hint="Say what to change; `--help` lists what can be")
    _require_curator(me, curators, "admission list")
    version = charter.listed.version + 1 if charter.listed else 1
    fields = {"run": charter.run, "version": version, "created": now_s, "admission": wanted.model_dump(mode="json")}
    return replace(standing, listed=envelope.sign("admission", AdmissionList.parse(fields), me))


def changed_admission(
    admission: Admission, now_s: int, *, admit: Collection[str] = (), expel: Collection[str] = (), policy: str = ""
) -> Admission:
    """Who may contribute after some came and some went. What those who went finished until now goes on counting.

    Raises:
        UsageError: One key is to come and go.
        RecordError: Too many, or no peer ids.
    """
    if both := sorted({*admit} & {*expel}):
        raise UsageError(f"{both[0]} cannot be admitted and expelled at once")
    keys = [key for key in dict.fromkeys((*admission.keys, *admit)) if key not in expel]
    gone = [Former(key=key, until=now_s) for key in dict.fromkeys(expel)]
    former = [each for each in admission.former if each.key not in admit and each.key not in expel]
    fields = {"policy": policy or admission.policy, "keys": keys}
    return Admission.parse({**fields, "former": [each.model_dump() for each in (*former, *gone)]})


def changed_curators(curators: Curators, add: Collection[str], remove: Collection[str], threshold: int | None) -> Any:
    """Curators after some came and some went, as a genesis names them; `Genesis.parse` judges them.

    Raises:
        UsageError: One that is no curator is to go.
    """
    if odd := sorted(set(remove) - set(curators.keys)):
        raise UsageError(f"{odd[0]} is no curator of this run", f"curators are {', '.join(curators.keys)}")
    keys = [key for key in dict.fromkeys((*curators.keys, *add)) if key not in remove]
    return {"keys": keys, "threshold": threshold or min(curators.threshold, len(keys))}


def sign(proposal: Proposal, charter: Charter, me: Identity, now_s: int, own: Iterable[Head] = ()) -> Proposal:
    """Sign what this key may sign next; begin the head where the rest is whole.

    Args:
        proposal: From `promote` or `amend`, or from another curator.
        charter: What is in force; a proposal must follow from it.
        me: A curator's key.
        now_s: UNIX seconds.
        own: Heads this key has published: a newer one counts on from them.

    Raises:
        SignatureError: This key may not sign it, or somebody did who may not.
        EnvelopeError, RecordError, LineageError, DigestError: What is proposed does not follow from what is in force.
    """
    if proposal.run != charter.run:
        raise RecordError("this proposal is for another run", f"it names {proposal.run}, this is {charter.run}")
    begun, lacks = proposal, _lacking(proposal, charter)
    if lacks and lacks.what == "genesis":
        _require_curator(me, lacks.among, lacks.what)
        proposal = replace(proposal, genesis=envelope.cosign(proposal.genesis or b"", "genesis", me))
    elif lacks:
        _require_curator(me, lacks.among, lacks.what)
        proposal = replace(proposal, listed=envelope.cosign(proposal.listed or b"", "admission", me))
    if _lacking(proposal, charter):
        return proposal
    after = charter.succeed(proposal.genesis) if proposal.genesis else charter
    curators = after.genesis.curators.keys
    if me.peer_id not in curators and proposal != begun:
        return proposal
    _require_curator(me, curators, "head")
    if proposal.head is None:
        made = envelope.sign("head", _head(proposal, after, me, now_s, own), me)
    else:
        _check_head_says(proposal, after)
        made = envelope.cosign(proposal.head, "head", me)
    return replace(proposal, head=made)


def wanting(proposal: Proposal, charter: Charter) -> Wanting:
    """What a proposal lacks before it can be published.

    Raises:
        EnvelopeError, SignatureError, RecordError, LineageError: It does not follow from what is in force.
    """
    if lacks := _lacking(proposal, charter):
        return lacks
    after = charter.succeed(proposal.genesis) if proposal.genesis else charter
    signed = tuple(sorted(envelope.verify(proposal.head, "head").signers)) if proposal.head else ()
    missing = _missing(after.genesis.curators, signed)
    return Wanting("head" if missing else "", signed, missing, after.genesis.curators.keys)


def complete(proposal: Proposal, charter: Charter) -> Charter:
    """What would be in force once this is published.

    Raises:
        SignatureError: Signatures are missing.
        EnvelopeError, RecordError, LineageError, DigestError: It does not follow from what is in force.
    """
    lacks = wanting(proposal, charter)
    if lacks.what or proposal.head is None:
        raise SignatureError(f"the {lacks.what or 'head'} is not signed by enough curators", f"{lacks.missing} more")
    after = charter.succeed(proposal.genesis) if proposal.genesis else charter
    return after.adopt(proposal.head, proposal.listed, proposal.ensemble)


def check_promotes_only(proposal: Proposal, charter: Charter) -> None:
    """Raise where a proposal to promote also changes who decides or who may contribute: nobody signs that unseen.

    Raises:
        RecordError: It does.
    """
    listed = sha256_of(proposal.listed) if proposal.listed else None
    if proposal.genesis or listed != (charter.head.admission if charter.head else None):
        hint = "look at it and sign it with `paris-node run amend --cosign`"
        raise RecordError(
            "this proposal changes more than the ensemble", "it brings a genesis or an admission list", hint
        )


def check_amends_only(proposal: Proposal, charter: Charter) -> None:
    """Raise where a proposal to amend also changes the ensemble: nobody signs that unseen.

    Raises:
        RecordError: It does.
    """
    standing = charter.ensemble.to_bytes() if charter.ensemble else None
    if proposal.ensemble != standing or proposal.top_k != (charter.head.top_k if charter.head else None):
        hint = "look at it and sign it with `paris-node run promote --cosign`"
        raise RecordError("this proposal changes the ensemble too", "it names another than the one in force", hint)


def renewed(charter: Charter, me: Identity, now_s: int, life_s: int, own: Iterable[Head] = ()) -> bytes:
    """The head in force, for longer: the same version says the same again. For runs where one curator is enough.

    Raises:
        SignatureError: It takes more signatures than this one.
        RecordError: There is no head to renew.
    """
    if charter.head is None:
        raise RecordError("there is no head to renew", "none was promoted under this version of the genesis")
    charter.genesis.curators.check({me.peer_id}, "a renewed head")
    fields = charter.head.model_dump(mode="json", exclude_none=True)
    times = _times(me, now_s, life_s, (*own, charter.head))
    return envelope.sign("head", Head.parse({**fields, **times}), me)


def _head(proposal: Proposal, after: Charter, me: Identity, now_s: int, own: Iterable[Head]) -> Head:
    known = (after.head,) if after.head else ()
    says = {
        "run": after.run,
        "version": after.floor + 1,
        "genesis": after.digest,
        "admission": sha256_of(proposal.listed) if proposal.listed else None,
        "ensemble": sha256_of(proposal.ensemble) if proposal.ensemble else None,
        "top_k": proposal.top_k,
    }
    times = _times(me, now_s, proposal.life_s, (*own, *known))
    return Head.parse({name: value for name, value in {**says, **times}.items() if value is not None})


def _times(me: Identity, now_s: int, life_s: int, before: Iterable[Head]) -> dict[str, Any]:
    """Who signs, and when: later in every respect than what the same key signed before."""
    mine = [head for head in before if head.signer == me.peer_id]
    life_s = min(life_s, LIMITS.life_s["head"] - LIFE_ROOM_S)
    return {
        "signer": me.peer_id,
        "seq": max([now_s, *(head.seq + 1 for head in mine)]),
        "iat": now_s,
        "exp": max([now_s + life_s, *(head.exp + 1 for head in mine)]),
    }


def _lacking(proposal: Proposal, charter: Charter) -> Wanting | None:
    """What the genesis or the list still lacks; None: nothing. Their content is checked before anybody signs."""
    if proposal.genesis:
        verified, old = envelope.verify(proposal.genesis, "genesis"), charter.genesis
        new = Genesis.parse(verified.payload)
        check_follows(old, charter.digest, new)
        missing = max(_missing(old.curators, verified.signers), _missing(new.curators, verified.signers))
        if missing:
            among = tuple(dict.fromkeys((*old.curators.keys, *new.curators.keys)))
            return Wanting("genesis", tuple(sorted(verified.signers)), missing, among)
        charter = charter.succeed(proposal.genesis)
    if proposal.listed:
        verified, curators = envelope.verify(proposal.listed, "admission"), charter.genesis.curators
        listed = AdmissionList.parse(verified.payload)
        if listed.run != charter.run or (charter.listed and listed.version < charter.listed.version):
            why = f"it is version {listed.version} of {listed.run}"
            raise RecordError("this admission list does not follow from the one in force", why)
        if missing := _missing(curators, verified.signers):
            return Wanting("admission list", tuple(sorted(verified.signers)), missing, curators.keys)
    return None


def _check_head_says(proposal: Proposal, after: Charter) -> None:
    """Raise where a head says something else than the proposal it came with."""
    head = Head.parse(envelope.verify(proposal.head or b"", "head").payload)
    named = tuple(sha256_of(part) if part else None for part in (proposal.listed, proposal.ensemble))
    if head.says != (after.floor + 1, after.digest, *named, proposal.top_k):
        why = f"it is version {head.version}, the next one is {after.floor + 1}; or it names other digests"
        raise RecordError("the head says something else than this proposal", why, "ask for a new proposal")


def _missing(curators: Curators, signed: Collection[str]) -> int:
    return max(0, curators.threshold - len({*signed} & {*curators.keys}))


def _require_curator(me: Identity, keys: Collection[str], what: str) -> None:
    if me.peer_id not in keys:
        hint = "Use the curator's home, with --home; `paris-node key show` prints whose it is"
        raise SignatureError(f"{me.peer_id} may not sign this {what}", f"curators are {', '.join(keys)}", hint)
