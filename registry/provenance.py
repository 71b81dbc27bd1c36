"""What an audit leaves for other tools: an in-toto attestation bundle, one DSSE envelope a line (`.intoto.jsonl`).

First, as they are, the builders' signed statements: in-toto Statement v1 with SLSA provenance v1 about every segment.
Then, signed by the auditor as `application/vnd.in-toto+json`, a SLSA verification summary (VSA v1) of every unit: which
of those statements it read, whether its checks held, and up to which level. Keys are Ed25519; a keyid is the libp2p
peer id, which holds the public key itself.

Sources: in-toto attestation bundle v1, https://github.com/in-toto/attestation/blob/main/spec/v1/bundle.md;
https://slsa.dev/spec/v1.0/verification_summary.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from securesystemslib.dsse import Envelope

from paris.protocol.digests import hex_of
from paris.protocol.identity import Identity
from paris.protocol.limits import LIMITS
from paris.registry.findings import NOTHING, Audit, UnitAudit
from paris.registry.library import Library
from paris.registry.resolve import ResolvedRun, ResolvedUnit

IN_TOTO: Final = "application/vnd.in-toto+json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
SUMMARY: Final = "https://slsa.dev/verification_summary/v1"
LEVEL_PREFIX: Final = "PARIS_"


def bundle(library: Library, resolved: ResolvedRun, audit: Audit, identity: Identity, made_s: int) -> bytes:
    """The statements behind an audit and the auditor's summaries, as JSON lines.

    Args:
        library: Its store holds every statement.
        resolved: The run that was audited.
        audit: What was found.
        identity: The auditor.
        made_s: When, UNIX seconds.
    """
    lines = [
        library.store.get_bytes(digest, LIMITS.blob_bytes)
        for unit in resolved.units.values()
        for digest in unit.digests
    ]
    lines += [
        signed(summary(audit, found, resolved.units[found.unit], identity, made_s), identity)
        for found in audit.units
        if found.lineage
    ]
    return b"".join(line + b"\n" for line in lines)


def summary(audit: Audit, found: UnitAudit, unit: ResolvedUnit, identity: Identity, made_s: int) -> dict[str, Any]:
    """An in-toto statement that says how far a unit's newest checkpoint was verified, and nothing beyond it."""
    newest = unit.lineage[-1]
    checkpoint = f"urn:paris-node:checkpoint:{hex_of(unit.digests[-1])}"
    return {
        "_type": STATEMENT,
        "subject": [{"name": f"{unit.unit}@{unit.step}", "digest": {"sha256": hex_of(newest.manifest)}}],
        "predicateType": SUMMARY,
        "predicate": {
            "verifier": {"id": f"urn:libp2p:{identity.peer_id}"},
            "timeVerified": f"{datetime.fromtimestamp(made_s, UTC):%Y-%m-%dT%H:%M:%SZ}",
            "resourceUri": checkpoint,
            "policy": {"uri": f"paris://{hex_of(audit.run)}", "digest": {"sha256": hex_of(audit.run)}},
            "inputAttestations": _inputs(unit.digests),
            "verificationResult": "PASSED" if all(check.ok for check in found.checks if check.level) else "FAILED",
            "verifiedLevels": [] if found.level == NOTHING else [LEVEL_PREFIX + found.level.upper()],
            "slsaVersion": "1.0",
        },
    }


def signed(statement: dict[str, Any], identity: Identity) -> bytes:
    """A statement in a DSSE envelope of in-toto's own type, on one line."""
    envelope = Envelope(json.dumps(statement, sort_keys=True).encode(), IN_TOTO, {})
    envelope.sign(identity.signer)
    return json.dumps(envelope.to_dict(), sort_keys=True).encode()


def _inputs(digests: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"uri": f"urn:paris-node:checkpoint:{hex_of(digest)}", "digest": {"sha256": hex_of(digest)}}
        for digest in digests
    ]
