"""The peers file of a run on the Hugging Face Hub: `peers.json`, the signed `peer` records of its nodes.

    {"peers": [<envelope>, ...], "v": 1}

The Hub is a source like any other: every record is verified as if it came from the DHT, so the worst it can do is name
nobody. It is read through the Hub's own client (endpoint, token, proxies), within a size and a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from huggingface_hub import get_session, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

from paris.node.abandon import abandonable
from paris.protocol import strict_json
from paris.protocol.errors import EnvelopeError, NetworkError, ParisError, VerificationError
from paris.protocol.records import Peer as PeerRecord
from paris.protocol.transport.daemon import dialable
from paris.protocol.validation import check_record

FILE = "peers.json"
FILE_BYTES = 512 * 2**10
MOST_RECORDS = 64
LIMIT_S = 8.0


def peers_file(envelopes: Iterable[bytes]) -> bytes:
    """The bytes of a peers file that names these records."""
    peers = [strict_json.loads(envelope, FILE_BYTES) for envelope in envelopes][:MOST_RECORDS]
    return strict_json.dumps({"v": 1, "peers": peers})


def peers_in(data: bytes, run: str, now_s: int) -> tuple[str, ...]:
    """Addresses in a peers file, of records of the run that verify now, the longest valid first.

    Raises:
        EnvelopeError: It is no peers file.
        NetworkError: Nothing in it holds now.
    """
    file = strict_json.loads(data, FILE_BYTES)
    listed = file.get("peers")
    if not isinstance(listed, list) or file.get("v") != 1:
        raise EnvelopeError(f"it is no {FILE}", "it has no list of peers")
    found: dict[str, PeerRecord] = {}
    for item in listed[:MOST_RECORDS]:
        try:
            record = check_record(strict_json.dumps(item), now_s, {}).record
        except VerificationError:
            continue
        if isinstance(record, PeerRecord) and record.run == run:
            found[record.signer] = record
    newest = sorted(found.values(), key=lambda record: (-record.exp, record.signer))
    places = tuple(place for record in newest for place in dialable(record.signer, record.addrs))
    if not places:
        raise NetworkError(f"none of its {len(listed)} records is a peer of this run that is valid now")
    return places


async def read_peers(repository: str, run: str, now_s: int, limit_s: float = LIMIT_S) -> tuple[str, ...]:
    """Addresses that a repository's peers file names.

    Args:
        repository: `owner/name` of a model repository.
        run: The run's digest.
        now_s: UNIX seconds.
        limit_s: Longest time; without a network a name service may take far longer.

    Raises:
        NetworkError: The Hub cannot be asked, has no such file, or the file names nobody.
        EnvelopeError: It holds something else.
    """
    deadline_s = time.monotonic() + limit_s
    try:
        data = await abandonable(lambda: _download(repository, deadline_s), limit_s, name="peers file")
    except TimeoutError as error:
        raise NetworkError(f"no answer in {limit_s:g} s") from error
    return peers_in(data, run, now_s)


def _download(repository: str, deadline_s: float) -> bytes:
    headers = {**build_hf_headers(library_name="paris-node"), "accept-encoding": "identity"}
    left_s = max(0.1, deadline_s - time.monotonic())
    try:
        with get_session().stream("GET", hf_hub_url(repository, FILE), headers=headers, timeout=left_s) as answer:
            hf_raise_for_status(answer)
            return _bounded(answer.iter_raw(), deadline_s)
    except ParisError:
        raise
    except OfflineModeIsEnabled as error:
        raise NetworkError("the Hub is switched off here (HF_HUB_OFFLINE)") from error
    except HfHubHTTPError as error:
        raise NetworkError(f"the Hub answered {error.response.status_code}") from error
    except Exception as error:  # whatever else its client raises means that the Hub was not reached
        raise NetworkError(f"the Hub cannot be reached ({str(error) or type(error).__name__})") from error


def _bounded(chunks: Iterable[bytes], deadline_s: float) -> bytes:
    data = bytearray()
    for chunk in chunks:
        data += chunk
        if len(data) > FILE_BYTES:
            raise EnvelopeError(f"its {FILE} is too big", f"the limit is {FILE_BYTES} bytes")
        if time.monotonic() > deadline_s:
            raise NetworkError("the Hub sends too slowly")
    return bytes(data)
