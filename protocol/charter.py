"""What the curators of a run have said, as one observer knows it: the newest genesis, who may contribute, the ensemble.

Pure rules; fetching is the registry's. A charter only moves forward. A version of the genesis follows from the one
before (`paris.protocol.succession`). Under the same curators heads count up and say one thing a version; under one
version of the genesis, admission lists count up too and do not go away. Other curators begin to count anew: whoever
took the old keys could have counted to the end. A head that expired stays known, so that nobody leads back behind it,
and decides nothing any more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from paris.protocol import digests, envelope
from paris.protocol.curation import Admission, AdmissionList, open_admission
from paris.protocol.ensemble import Ensemble
from paris.protocol.errors import LineageError, RecordError
from paris.protocol.genesis import Genesis
from paris.protocol.limits import LIMITS
from paris.protocol.records import Head
from paris.protocol.succession import succeed
from paris.protocol.validation import RunRules, check_head


@dataclass(frozen=True)
class Charter:
    """What is in force in a run.

    Attributes:
        run: Run id.
        genesis: The newest version known.
        versions: Digests of all its versions, oldest first.
        floor: The highest version of a head seen under these curators; 0: none.
        head: The highest head of this version of the genesis; it may have expired. None: there was none yet.
        envelope: Its bytes.
        signers: The curators who signed it.
        listed: The admission list it names; None: the genesis' own answer counts.
        ensemble: The checkpoints it names; None: none were promoted yet.
    """

    run: str
    genesis: Genesis
    versions: tuple[str, ...]
    floor: int = 0
    head: Head | None = None
    envelope: bytes = b""
    signers: tuple[str, ...] = ()
    listed: AdmissionList | None = None
    ensemble: Ensemble | None = None

    @classmethod
    def begin(cls, genesis: Genesis, run: str) -> Self:
        """What holds while nobody has seen more than the first version of the genesis, whose digest is `run`."""
        return cls(run, genesis, (run,))

    @property
    def digest(self) -> str:
        """Digest of the newest version of the genesis."""
        return self.versions[-1]

    @property
    def admission(self) -> Admission:
        """Who may contribute."""
        return self.listed.admission if self.listed else self.genesis.admission

    @property
    def rules(self) -> RunRules:
        """The same as records are checked by."""
        return RunRules(self.admission, self.genesis.curators, self.digest)

    def live(self, now_s: float) -> bool:
        """Whether there is a head that has not expired."""
        return self.head is not None and self.head.exp > now_s

    def succeed(self, data: bytes) -> Charter:
        """What is in force once the next version of the genesis is.

        Its own answer to who may contribute replaces any list before it, and no head of an older version counts.

        Raises:
            EnvelopeError, SignatureError, RecordError, LineageError: See `paris.protocol.succession.succeed`.
            LineageError: There are too many versions.
        """
        if len(self.versions) >= LIMITS.genesis_versions:
            raise LineageError("this run has too many versions", f"more than {LIMITS.genesis_versions}")
        genesis, digest = succeed(self.genesis, self.digest, data)
        floor = self.floor if genesis.curators == self.genesis.curators else 0
        return Charter(self.run, genesis, (*self.versions, digest), floor)

    def adopt(self, data: bytes, listed: bytes | None = None, ensemble: bytes | None = None) -> Charter:
        """What is in force once this head is. Times are not looked at: an expired head is adopted to be remembered.

        Args:
            data: Envelope of the head.
            listed: The admission list it names, if it names one.
            ensemble: The ensemble it names, if it names one.

        Raises:
            EnvelopeError, SignatureError: It is no head, or not signed by enough curators, or its list is not.
            RecordError: It is of another run or version of the genesis, older than one known, or contradicts it; the
                list is older than one known, or gone; the ensemble is of another run, or of units this one lacks.
            DigestError: The list or the ensemble is not the one the head names.
        """
        verified = envelope.verify(data, "head")
        head = Head.parse(verified.payload)
        if head.run != self.run or head.genesis != self.digest:
            why = f"it names {head.genesis} of {head.run}, the newest version known is {self.digest} of {self.run}"
            raise RecordError("this head is of another genesis", why)
        if head.signer not in verified.signers:
            raise RecordError("this head is not signed by who publishes it", f"it names {head.signer}")
        check_head(head, verified.signers, self.rules)
        self._check_version(head)
        admission = self._open_list(head, listed)
        promoted = self._open_ensemble(head, ensemble)
        signers = tuple(sorted(verified.signers))
        return replace(
            self, floor=head.version, head=head, envelope=data, signers=signers, listed=admission, ensemble=promoted
        )

    def newer(self, head: Head) -> bool:
        """Whether a head of this version of the genesis would change anything: a higher one, or the same for longer."""
        if head.genesis != self.digest or head.version < self.floor:
            return False
        return self.head is None or (head.version, head.exp) > (self.head.version, self.head.exp)

    def _check_version(self, head: Head) -> None:
        if head.version < self.floor:
            why = f"it is version {head.version}, we know version {self.floor}"
            raise RecordError("this head is an old one", why, "somebody may be leading you back; ask other peers")
        if head.version == self.floor and (self.head is None or head.says != self.head.says):
            raise RecordError(f"there are two heads of version {head.version}", "the curators must agree on one")

    def _open_list(self, head: Head, data: bytes | None) -> AdmissionList | None:
        if head.admission is None:
            if self.listed:
                why = f"version {self.listed.version} was in force under this version of the genesis"
                raise RecordError("this head names no admission list", why, "the curators name the newest in each head")
            return None
        digests.check(data or b"", head.admission, "the admission list")
        listed = open_admission(data or b"", self.run, self.genesis.curators)
        known = self.listed
        if known and (listed.version < known.version or (listed.version == known.version and listed != known)):
            why = f"it is version {listed.version}, version {known.version} was in force"
            raise RecordError("this head names an old admission list, or another of the same version", why)
        return listed

    def _open_ensemble(self, head: Head, data: bytes | None) -> Ensemble | None:
        if head.ensemble is None:
            return None
        digests.check(data or b"", head.ensemble, "the ensemble")
        ensemble = Ensemble.from_bytes(data or b"")
        if ensemble.run != self.run:
            raise RecordError("this ensemble belongs to another run", f"it names {ensemble.run}, this is {self.run}")
        if odd := sorted(set(ensemble.units) - set(self.genesis.units())):
            raise RecordError(f"this ensemble names {odd[0]}", f"the run has {', '.join(self.genesis.units())}")
        return ensemble
