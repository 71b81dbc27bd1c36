"""Our validator in front of hivemind's storage: nothing foreign gets in, on a store or on a find, unchecked.

hivemind asks a validator about single records only. Three gaps are closed here: one bad entry would make it refuse a
whole dictionary (so anybody could hide everybody), it believes the expiration a peer reports for a dictionary (so one
peer reporting "infinity" could end every search early), and a peer that names the asker as nearest to a key makes it
fail at its own assertion (so anybody could keep everybody from storing).
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any

from paris.protocol.book import RecordBook
from paris.protocol.errors import ParisError, RecordError
from paris.protocol.identity import public_key_of
from paris.protocol.limits import LIMITS
from paris.protocol.transport.libp2p import (
    DHTID,
    DHTRecord,
    DictionaryDHTValue,
    MSGPackSerializer,
    PeerID,
    RecordValidatorBase,
)
from paris.protocol.validation import UNKNOWN_RUN, Received, RunRules, check_record

logger = logging.getLogger(__name__)

_MSGPACK_HEADER_BYTES = 3
_REFUSALS_KEPT = 256
_CHECKED_KEPT = 2048  # a search returns each record once per replica; equal bytes need one look


class Guard(RecordValidatorBase):
    """Record validator of one node.

    Attributes:
        book: Memory of the newest records.
        refusals: The last refusals, as sentences.
    """

    def __init__(self, book: RecordBook, clock: Callable[[], float] = time.time) -> None:
        self.book = book
        self.refusals: deque[str] = deque(maxlen=_REFUSALS_KEPT)
        self._clock = clock
        self._checked: OrderedDict[DHTRecord, tuple[Received, RunRules]] = OrderedDict()

    def attach(self, protocol: Any) -> None:
        """Close the gaps named above in one hivemind DHTProtocol."""
        find = protocol.call_find

        async def call_find(peer: PeerID, keys: Any) -> Any:
            found = await find(peer, keys)
            return found and {
                key: (_believable(item), {place: who for place, who in nearest.items() if place != protocol.node_id})
                for key, (item, nearest) in found.items()
            }

        protocol.call_find = call_find
        protocol._validate_dictionary = self.filter_dictionary  # noqa: SLF001 - hivemind has no hook for this

    def validate(self, record: DHTRecord) -> bool:
        """Whether hivemind may keep or return a record: foreign, or our own on its way out."""
        return self.receive(record) is not None

    def receive(self, record: DHTRecord) -> Received | None:
        """The record, checked and remembered; None where it is refused."""
        try:
            received = self.check(record)
            self.book.offer(received, self._clock())
        except ParisError as error:
            self.refusals.append(str(error))
            logger.debug("refused a record: %s", error)
            return None
        return received

    def check(self, record: DHTRecord) -> Received:
        """Check a record and its place: key, subkey and expiration follow from what is signed.

        Raises:
            EnvelopeError: The value is no envelope of ours.
            RecordError: The content is not valid, or lies in the wrong place.
            SignatureError: A signature fails, or the signer may not sign this.
        """
        now_s, remembered = self._clock(), self._checked.get(record)
        if remembered and remembered[1] is self._rules(remembered[0]) and remembered[0].record.exp > now_s:
            return remembered[0]
        received = check_record(_envelope_of(record.value), now_s, self.book.rules)
        if record.key != DHTID.generate(received.key).to_bytes():
            raise RecordError(f"a {received.record.kind} lies under a foreign key", "kind, run and unit make the key")
        if record.subkey != MSGPackSerializer.dumps(public_key_of(received.record.signer)):
            raise RecordError("a record does not lie under its signer's key", "each signer has one entry, its own")
        if record.expiration_time != received.record.exp:
            why = f"the DHT was told {record.expiration_time}, the signature says {received.record.exp}"
            raise RecordError("a record's expiration is not the signed one", why)
        if not received.record.credentials:  # those end by themselves
            self._checked[record] = received, self._rules(received)
            if len(self._checked) > _CHECKED_KEPT:
                self._checked.popitem(last=False)
        return received

    def _rules(self, received: Received) -> RunRules:
        return self.book.rules.get(received.record.run, UNKNOWN_RUN)

    def filter_dictionary(self, key: bytes, dictionary: Any) -> bool:
        """Drop what is not valid from a slot somebody stores or returns; what remains may pass."""
        if not isinstance(dictionary, DictionaryDHTValue):
            return False
        dictionary.maxsize = math.inf
        with dictionary.freeze():
            entries = list(dictionary.items())
        dictionary.clear()
        dictionary.latest_expiration_time = -math.inf
        for subkey, (value, expiration) in entries[: 2 * LIMITS.signers_per_slot]:
            if isinstance(value, bytes) and self.validate(
                DHTRecord(key, MSGPackSerializer.dumps(subkey), value, expiration)
            ):
                dictionary.store(subkey, value, expiration)
        return True


def _envelope_of(value: bytes) -> bytes:
    """The bytes inside a msgpack `bin`, without parsing anything of foreign making."""
    if len(value) > LIMITS.record_bytes + _MSGPACK_HEADER_BYTES:
        raise RecordError(f"a record is too big: {len(value)} bytes", f"the limit is {LIMITS.record_bytes} bytes")
    inner = value[2:] if value[:1] == b"\xc4" else value[3:]
    if MSGPackSerializer.dumps(inner) != value:
        raise RecordError("a DHT value does not hold an envelope's bytes")
    return inner


def _believable(item: Any) -> Any:
    """What a peer found, with the expiration its entries have rather than the one the peer reports."""
    if item is None or not isinstance(item.value, DictionaryDHTValue) or not len(item.value):
        return None
    return type(item)(item.value, item.value.latest_expiration_time)
