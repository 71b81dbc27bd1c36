"""Peers that answered before, kept in the home: the way back in when every other source is down.

The file is only ever a list of hints. Whatever stands in it is checked for form and bounded, and who answers at an
address still has to own the name it ends in. What today's sources name does not push out who answered before: whoever
controls them must not be all a node knows.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from paris.protocol import strict_json
from paris.protocol.errors import ParisError
from paris.protocol.records import Peer as PeerRecord
from paris.protocol.schema import Count, One, Payload, PeerId, Text
from paris.protocol.transport.daemon import Dial, dialable
from paris.registry.atomic import write_bytes

log = logging.getLogger(__name__)

FILE_BYTES = 128 * 2**10
MOST_PEERS = 32
KEEP_S = 14 * 86_400
"""How long a peer is kept after its record ended: a node that was off for a week must still find its way."""
MOST_FAILURES = 5
"""Times in a row a peer may stay silent while others answered."""


class Known(Payload):
    """One peer that answered.

    Attributes:
        peer: Its name.
        addrs: Where, all ending in its name.
        answered: When it last did, UNIX seconds.
        ends: When the newest record of it that was seen ends, UNIX seconds.
        failures: Times in a row it did not answer since.
    """

    peer: PeerId
    addrs: Annotated[tuple[Text, ...], Field(max_length=32)]
    answered: Count
    ends: Count
    failures: Count = 0


class _File(Payload):
    v: One = 1
    peers: tuple[Known, ...]


class PeerCache:
    """The good peers of one run.

    Contract: at most `MOST_PEERS`, those that answered last; a peer falls out when its record ended `KEEP_S` ago, or
    when it failed `MOST_FAILURES` times in a row. A damaged file counts as none; a write is whole or not there, and one
    that fails is only told.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def peers(self, now_s: int) -> list[Known]:
        """Peers that may still be there, the one that answered last first."""
        return sorted(self._read(now_s).values(), key=lambda known: (-known.answered, known.peer))

    def addresses(self, now_s: int) -> tuple[str, ...]:
        """Where they are, those that answered last first."""
        return tuple(address for known in self.peers(now_s) for address in known.addrs)

    def remember(self, records: Iterable[PeerRecord], company: Collection[str], now_s: int) -> None:
        """Keep those of the run's peers that are connected now, at the addresses they signed."""
        found = self._read(now_s)
        for record in records:
            if record.signer in company and (places := dialable(record.signer, record.addrs)):
                found[record.signer] = Known(peer=record.signer, addrs=places, answered=now_s, ends=record.exp)
        self._write(found)

    def note(self, dials: Iterable[Dial], now_s: int) -> None:
        """Take down who answered, by address, and who did not.

        Where nobody answered it says more about this machine's network than about them: nothing is held against them.
        """
        answered = {dial.address.rpartition("/p2p/")[2]: dial.address for dial in dials if dial.answered}
        silent = {dial.address.rpartition("/p2p/")[2] for dial in dials if not dial.answered} - set(answered)
        if not answered:
            return
        found = self._read(now_s)
        for peer in silent & set(found):
            found[peer] = found[peer].model_copy(update={"failures": found[peer].failures + 1})
        for peer, address in answered.items():
            if places := dialable(peer, (address, *(found[peer].addrs if peer in found else ()))):
                ends = found[peer].ends if peer in found else now_s
                addrs = tuple(dict.fromkeys(places))
                found[peer] = Known(peer=peer, addrs=addrs, answered=now_s, ends=max(ends, now_s))
        self._write(found)

    def _read(self, now_s: int) -> dict[str, Known]:
        try:
            with self._path.open("rb") as handle:
                file = _File.parse(strict_json.loads(handle.read(FILE_BYTES + 1), FILE_BYTES))
        except FileNotFoundError:
            return {}
        except (ParisError, OSError) as error:
            log.warning("the peers remembered in %s are left out: %s", self._path, error)
            return {}
        usable = {
            known.peer: known.model_copy(update={"addrs": places})
            for known in file.peers
            if known.ends + KEEP_S > now_s and known.failures < MOST_FAILURES and known.answered <= now_s + KEEP_S
            if (places := dialable(known.peer, known.addrs))
        }
        return _newest(usable)

    def _write(self, found: Mapping[str, Known]) -> None:
        kept = _newest({peer: known for peer, known in found.items() if known.failures < MOST_FAILURES})
        try:
            write_bytes(self._path, strict_json.dumps(_File(peers=tuple(kept.values())).model_dump(mode="json")))
        except (ParisError, OSError) as error:
            log.warning("the peers that answered could not be remembered: %s", error)


def _newest(found: Mapping[str, Known]) -> dict[str, Known]:
    """The `MOST_PEERS` that answered last; of those, ones that have failed since come last."""
    order = sorted(found.values(), key=lambda known: (known.failures, -known.answered, known.peer))
    return {known.peer: known for known in order[:MOST_PEERS]}
